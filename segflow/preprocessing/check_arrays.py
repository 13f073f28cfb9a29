"""Checks that preprocessed arrays belong to the plans and files of a training, by their recorded origin."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.core.wording import some
from segflow.preprocessing.provenance import (
    LABEL,
    choices_of,
    describe_choices,
    differing_choices,
    roles_of,
)
from segflow.storage.case_facts import VERSION, Stamps, made_from
from segflow.storage.file_stamps import digest_of, is_same_file, size_and_times
from segflow.storage.folder_files import is_image_path
from segflow.storage.preprocessed_store import PREDICTED_BY, PreprocessedStore

COMPARED_BYTES = 256 * 2**20
"""Most bytes that the start of a training compares for files whose time differs, so that it does not take long."""

log = logging.getLogger(__name__)


def check_choices(
    store: PreprocessedStore, case_ids: Iterable[str], plans: Plans, configuration: str, labels: Labels, remedy: str
) -> None:
    """Refuse arrays of other plans, or of these plans before they were changed.

    Arrays of an earlier version of preprocessing, and arrays without a recorded origin, are accepted with a message.

    Args:
        store: The arrays.
        case_ids: Cases to use.
        plans: The plans that should have made them.
        configuration: Name of the configuration.
        labels: The label definition.
        remedy: The command that makes the arrays anew.

    Raises:
        SegflowError: Some were made with other choices. The error counts them and names the difference.
    """
    case_ids = sorted(set(case_ids))
    wanted = choices_of(plans, plans.configuration(configuration), labels)
    alike: dict[str | None, list[str]] = {}
    for case_id in case_ids:
        alike.setdefault(store.facts(case_id).choices, []).append(case_id)
    unknown = len(alike.pop(None, ()))
    wrong: dict[str, Mapping[str, Any]] = {}
    older = 0
    for cases in alike.values():
        known, _ = made_from(store.properties(cases[0])) or ({}, {})
        differing = differing_choices(known, wanted)
        if differing == [VERSION]:
            older += len(cases)
        elif differing:
            wrong.update(dict.fromkeys(cases, known))
    if wrong:
        first = wrong[min(wrong)]
        keys = [key for key in differing_choices(first, wanted) if key != VERSION]
        raise SegflowError(
            f"the arrays in {store.folder} are not those of '{configuration}' in the plans: {len(wrong)} of "
            f"{len(case_ids)} cases were made by other choices ({some(sorted(wrong))})",
            found=describe_choices(first, keys),
            expected=describe_choices(wanted, keys),
            fix=f"Make them anew: {remedy}",
        )
    if older:
        log.warning("%d of %d cases were preprocessed by an earlier segflow. Anew: %s", older, len(case_ids), remedy)
    if unknown:
        log.info("%d of %d cases in %s do not say what they were made from", unknown, len(case_ids), store.folder)


def identify_arrays(
    store: PreprocessedStore,
    case_ids: Iterable[str],
    plans: Plans,
    configuration: str,
    labels: Labels,
    previous_stage: PreprocessedStore | None = None,
) -> dict[str, Any]:
    """The origin of the arrays that a run is trained on, as plain JSON for its record; empty if it is not recorded.

    Returns:
        ``choices`` as in `choices_of`, without the version; ``cases``: case → digest of version and files; and for a
        cascade ``previous_stage``: case → digest of the weights and settings that predicted its input.
    """
    cases, inputs = {}, {}
    for case_id in sorted(set(case_ids)):
        if previous_stage is not None:
            stamp = previous_stage.properties(case_id).get(PREDICTED_BY)
            if isinstance(stamp, Mapping):
                inputs[case_id] = digest_of([stamp.get("version"), stamp.get("settings")])[:16]
        identity = store.facts(case_id).identity
        if identity is not None:
            cases[case_id] = identity
    choices = choices_of(plans, plans.configuration(configuration), labels)
    del choices[VERSION]
    handed = {"previous_stage": inputs} if inputs else {}
    return {"choices": choices, "cases": cases, **handed} if cases or inputs else {}


def other_arrays(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The difference of two results of `identify_arrays`; None if all that both record agrees."""
    if not before or not now:
        return None
    keys = differing_choices(before["choices"], now["choices"])
    if keys:
        return f"{describe_choices(before['choices'], keys)} before, {describe_choices(now['choices'], keys)} now"
    for key, what in (("cases", "were made from other files"), ("previous_stage", "have another prediction as input")):
        known = before.get(key, {})
        others = [name for name, digest in now.get(key, {}).items() if known.get(name, digest) != digest]
        if others:
            return f"{len(others)} cases {what} ({some(others)})"
    return None


def check_files(
    store: PreprocessedStore, cases: Sequence[CaseFiles], references: Mapping[str, Path], remedy: str
) -> None:
    """Refuse arrays whose images or labels were replaced since, and references that are not the arrays' labels.

    Sizes and times are compared. Contents are compared only if a time differs, labels first, and at most
    `COMPARED_BYTES` in total. A warning counts the files beyond that.

    Args:
        store: The arrays.
        cases: Raw files of the cases to use, as far as they exist.
        references: Case → the copy of its label that scores it.
        remedy: The command that makes arrays and copies anew.

    Raises:
        SegflowError: Some files differ. The error counts and names the cases.
    """
    look = _Comparison()
    for case in cases:
        stamps = store.facts(case.case_id).stamps
        roles = dict(roles_of(case))
        if stamps and not {role for role in stamps if role.startswith(("image", LABEL))} <= roles.keys():
            look.changed[case.case_id] = "files"
        for role, path in roles.items():
            look.add(case.case_id, role, path, stamps)
    for case_id, path in references.items():
        if is_image_path(path):
            look.add(case_id, LABEL, path, store.facts(case_id).stamps, copied=True)
    changed, open_questions = look.compare()
    if changed:
        listed = [f"{name} of '{case_id}'" for case_id, name in changed.items()]
        raise SegflowError(
            f"the arrays in {store.folder} are out of date: files of {len(changed)} cases are not those that they "
            "were made from",
            found=some(listed),
            fix=f"Make them anew: {remedy}",
        )
    if open_questions:
        log.warning(
            "%d raw files are as large as when they were preprocessed, but of another time: a copy of the dataset, or "
            "other files. They are not compared here; this compares them: %s",
            open_questions,
            remedy,
        )


@dataclass(slots=True)
class _Comparison:
    """Files whose contents must be compared, and files that are known to differ."""

    changed: dict[str, str] = field(default_factory=dict)
    doubtful: list[tuple[str, str, Path, Mapping[str, Any]]] = field(default_factory=list)

    def add(self, case_id: str, role: str, path: Path, stamps: Stamps, *, copied: bool = False) -> None:
        stamp = stamps.get(role)
        if not isinstance(stamp, Mapping):
            return
        name = "copied label" if copied else "label" if role.startswith(LABEL) else "image"
        try:
            status = size_and_times(path)
        except OSError:
            self.changed.setdefault(case_id, name)
            return
        if status["bytes"] != stamp.get("bytes"):
            self.changed.setdefault(case_id, name)
        elif status["time_ns"] != stamp.get("time_ns") or (
            not copied and status["change_ns"] != stamp.get("change_ns", status["change_ns"])
        ):
            self.doubtful.append((case_id, name, path, stamp))

    def compare(self) -> tuple[dict[str, str], int]:
        """Case → its changed file; and the number of files that exceeded the limit of comparison."""
        left = COMPARED_BYTES
        self.doubtful.sort(key=lambda doubt: (doubt[1] == "image", doubt[3]["bytes"]))
        for number, (case_id, name, path, stamp) in enumerate(self.doubtful):
            left -= stamp["bytes"]
            if left < 0:
                return self.changed, len(self.doubtful) - number
            if not is_same_file(path, stamp):
                self.changed.setdefault(case_id, name)
        return self.changed, 0
