"""Cases that lack channels, for models that were trained to do without them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.missing_channels import channel_number, missing_told, names_of_missing
from segflow.core.run_record import RunRecord
from segflow.inference.find_cases import TRAIN_WITHOUT
from segflow.storage.images import ImageIO

logger = logging.getLogger(__name__)


def holds_all(case: CaseFiles, reader: ImageIO, channels: int) -> CaseFiles:
    """The case, which lacks nothing if its only file holds all channels, as a colour picture does."""
    if not case.missing or len(case.images) > 1:
        return case
    try:
        header = reader.read_header(case.images[0])
    except SegflowError:
        return case  # told when the case is read
    return replace(case, missing=()) if header.channels == channels else case


def do_without(
    cases: Sequence[CaseFiles], names: Sequence[str], record: RunRecord
) -> tuple[list[CaseFiles], dict[str, str]]:
    """The cases without the files of some channels, and those of which nothing is left: id → message.

    Args:
        cases: The cases to predict.
        names: Names or numbers of the channels, ``inference.missing_channels``.
        record: Record of the model.

    Raises:
        SegflowError: The model was not trained to do without such a channel, the name is not one of its channels, a
            case has a file for all channels together, or nothing is left of any case.
    """
    if not names:
        return list(cases), {}
    channels = record.dataset.channels
    chosen = {_number(name, record) for name in names}
    result: list[CaseFiles] = []
    empty: dict[str, SegflowError] = {}
    for case in cases:
        if len(case.numbers) + len(case.missing) < len(channels) and len(case.images) == 1:
            raise SegflowError(
                "inference.missing_channels needs a file for each channel",
                case=case.case_id,
                found=case.images[0].name,
            )
        kept = [(number, file) for number, file in zip(case.numbers, case.images, strict=True) if number not in chosen]
        if not kept:
            left = f"without {', '.join(names)}"
            empty[case.case_id] = SegflowError("no channel is left of the case", case=case.case_id, found=left)
            continue
        missing = tuple(sorted({*case.missing, *chosen}))
        result.append(replace(case, images=tuple(file for _, file in kept), missing=missing))
    if empty and not result:
        raise next(iter(empty.values()))
    for error in empty.values():
        logger.error("%s", error)
    return result, {name: str(error) for name, error in empty.items()}


def _number(name: str, record: RunRecord) -> int:
    """The number of a channel that the model can do without."""
    channels = record.dataset.channels
    may_lack = () if record.missing is None else record.missing.may_lack
    number = channel_number(name, channels, "inference.missing_channels")
    if number in may_lack:
        return number
    raise SegflowError(
        "inference.missing_channels: the model was not trained to do without this channel",
        found=name,
        expected=names_of_missing(may_lack, channels) or "none: every channel is needed",
        fix=TRAIN_WITHOUT,
    )


def tell_missing(cases: Sequence[CaseFiles], record: RunRecord) -> dict[str, list[str]]:
    """Warn of cases that lack channels. Returns case → names of the channels that it lacks."""
    channels = record.dataset.channels
    for told in missing_told({case.case_id: case.missing for case in cases}, channels):
        logger.warning("%s; predicted without it, as the model was trained to", told)
    return {case.case_id: [channels[number] for number in case.missing] for case in cases if case.missing}
