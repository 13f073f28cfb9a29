"""The mean of the weights of several folds or runs, as one model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.missing_channels import missing_in_all
from segflow.core.run_record import RunRecord
from segflow.core.wording import some
from segflow.exchange.export_model import read_with_stages, refuse_existing, write_model
from segflow.models.open_model import open_model
from segflow.models.trained_fold import SHOWN, Folds, TrainedFold
from segflow.storage.runs import Run

logger = logging.getLogger(__name__)

ALL_CASES = "all"
"""Name of the fold of a mean, which has seen the cases of all its members."""
OURS = "segflow.network.build.build_network"
SCORE_IT = "Score the mean on cases that no member has seen, beside its members."


def average_models(
    models: Sequence[Path],
    target: Path,
    *,
    folds: Folds = "all",
    checkpoint: str = "final",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write the mean of the weights of several folds as a bundle with one fold, which `Predictor.load` reads directly.

    Its record has ``mean_of``: the members, with a digest of the weights of each. Running statistics of batch norm are
    averaged too, with a warning. A cascade includes its previous stage as it is.

    Args:
        models: Runs or other models of one configuration; see `open_model`.
        target: The file, such as ``liver_mean.segflow``.
        folds: ``all``, or names, of each model.
        checkpoint: ``final``, ``best`` or ``last``.
        facts: Plain JSON to keep with the model, such as licence and authors.

    Returns:
        The file.

    Raises:
        SegflowError: There are fewer than two members, one is named twice, members differ in network, plans or labels,
            or the file exists or cannot be written.
    """
    refuse_existing(target)
    opened = [open_model(path, checkpoint=checkpoint) for path in models]
    members = [fold for model in opened for fold in model.read(folds)]
    _check_members(members)
    _warn_of_basins(members)
    first = members[0].record
    record = replace(
        first,
        fold=ALL_CASES,
        train_cases=tuple(sorted({case for m in members for case in (*m.record.train_cases, *m.record.val_cases)})),
        val_cases=(),
        missing=missing_in_all([member.record.missing for member in members]),
        mean_of=tuple(_described(member) for member in members),
    )
    weights = mean_weights([member.weights for member in members])
    stages = []
    if first.plan.previous_stage is not None:
        stages = read_with_stages([opened[0].previous_stage(first)], checkpoint=checkpoint)
    return write_model(target, [TrainedFold(record, weights, str(target)), *stages], facts)


def mean_weights(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, taken with 64 bits; the largest value of whole numbers, which count steps.

    Args:
        members: Tensors of any shape by their names, which are the same in all.
    """
    result = {}
    for name, value in members[0].items():
        values = torch.stack([member[name].cpu() for member in members])
        if value.is_floating_point():
            result[name] = values.double().mean(dim=0).to(value.dtype)
        else:
            result[name] = values.amax(dim=0)
    return result


def _described(member: TrainedFold) -> dict[str, Any]:
    """A member in the record of the mean: where it stood, and what its weights were."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in member.weights.items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    run = {} if member.folder is None else {"run": Run.of(member.folder).path.name}
    return {**run, "fold": member.record.fold, "weights": digest.hexdigest()}


def _check_members(members: Sequence[TrainedFold]) -> None:
    if len(members) < 2:
        raise SegflowError(
            "a mean of weights needs at least two folds",
            found=some([member.source for member in members]),
            fix="Name more: folds=[0,1,2], or model=RUN,RUN for runs with other seeds.",
        )
    first, *others = members
    for number, member in enumerate(members):
        if member.source in [before.source for before in members[:number]]:
            raise SegflowError("a member is named twice", found=member.source)
    wanted = _decisive(first.record)
    for other in others:
        own = _decisive(other.record)
        name = next((name for name, value in wanted.items() if own[name] != value), None)
        if name is not None:
            raise SegflowError(
                f"weights can only be averaged within one network: {other.source} has other {name} than {first.source}",
                found=own[name] if name == "labels" else None,
                expected=wanted[name] if name == "labels" else None,
                fix="Average their predictions instead: segflow ensemble.",
            )
        problems = _different_tensors(first.weights, other.weights)
        if problems:
            raise SegflowError(
                f"{other.source} is of another network than {first.source}",
                found=some(problems, SHOWN, "; "),
                fix="Average their predictions instead: segflow ensemble.",
            )
    if any(name.endswith("running_mean") for name in first.weights):
        logger.warning(
            "the network has batch norm, whose running statistics are averaged too. They are those of the members, and "
            "not of the mean of the weights. %s",
            SCORE_IT,
        )


def _decisive(record: RunRecord) -> dict[str, Any]:
    """What must be the same in all members, by its name in messages."""
    return {
        "configuration": record.configuration,
        "labels": record.dataset.labels.to_json(),
        "order of regions": record.dataset.labels.regions_class_order,
        "channels": record.dataset.channels,
        "plans": (record.plan, record.plans.axis_order, record.plans.intensities),
        "network": _own_network(record),
        "mirror axes": record.mirror_axes,
    }


def _own_network(record: RunRecord) -> Mapping[str, Any] | None:
    """The settings of a user's own network; None for ours, of which plans and tensors say all, and for bundles."""
    network = record.settings.get("network")
    if not isinstance(network, Mapping) or network.get("_target_") in (None, OURS):
        return None
    return network


def _different_tensors(first: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    problems = [f"it lacks {name}" for name in first if name not in other]
    problems += [f"it has {name} too many" for name in other if name not in first]
    return problems + [
        f"{name} is {list(other[name].shape)} instead of {list(value.shape)}"
        for name, value in first.items()
        if name in other and other[name].shape != value.shape
    ]


def _warn_of_basins(members: Sequence[TrainedFold]) -> None:
    """Warn unless all members started from the same trained weights."""
    settings = [member.record.settings.get("training") for member in members]
    started = {str(own.get("initial_weights")) if isinstance(own, Mapping) else "" for own in settings}
    if len(started) == 1 and started.isdisjoint({"", "None"}):
        return
    known = "the members did not start from the same trained weights (training.initial_weights)"
    if "" in started:  # bundles do not say it
        known = f"it is not recorded what {'' if started == {''} else 'some of '}the members started from"
    logger.warning(
        "%s. Networks that were trained apart do the same with other weights, whose mean can be worse than each of "
        "them. %s",
        known,
        SCORE_IT,
    )
