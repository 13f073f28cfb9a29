"""One fold's weights with their record, and how a network takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.names import is_number
from segflow.core.run_record import RunRecord
from segflow.core.wording import some

Folds = str | int | Sequence[int | str]
"""``all``, one fold, or several; see `choose_folds`."""

FAR_MORE = 4
"""A network so many times larger than its weights is none that they were trained with."""

SHOWN = 8
"""Tensors that a message lists before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class TrainedFold:
    """One fold's weights with all that prediction needs beside them.

    Attributes:
        record: What the weights were trained for.
        weights: Tensors by the names that `segflow.network.build.build_network` gives them.
        source: Where they came from, for messages.
        folder: The fold's folder, with pictures and scores of the training; None where there is none.
    """

    record: RunRecord
    weights: Mapping[str, Tensor]
    source: str
    folder: Path | None = None


def choose_folds(present: Sequence[str], folds: Folds, source: str) -> list[str]:
    """The folds to predict with.

    Args:
        present: Names of the folds that have weights: ``0``, ``1``, …, ``all``.
        folds: ``all``: every numbered fold, or the one trained on all cases if it is the only one; or names.
        source: Where they are, for messages.

    Raises:
        SegflowError: One that is asked for is not there.
    """
    numbered = sorted((name for name in present if is_number(name)), key=int)
    if folds == "all":
        chosen = numbered or list(present)
    else:
        chosen = [str(fold) for fold in ([folds] if isinstance(folds, (int, str)) else folds)]
    missing = [fold for fold in chosen if fold not in present]
    if missing or not chosen:
        raise SegflowError(
            f"{source} has no weights of fold {', '.join(missing) or 'any'}",
            found=", ".join(sorted(present)) or "none",
            fix=None if present else "Train first: segflow train",
        )
    return chosen


def load_weights(network: nn.Module, fold: TrainedFold) -> nn.Module:
    """Put a fold's weights into a network.

    Raises:
        SegflowError: They were made for another network; names the tensors that differ.
    """
    own = network.state_dict()
    problems = [f"lacks {key}" for key in own if key not in fold.weights]
    problems += [f"has {key} too many" for key in fold.weights if key not in own]
    problems += [
        f"{key} is {list(value.shape)} instead of {list(own[key].shape)}"
        for key, value in fold.weights.items()
        if key in own and value.shape != own[key].shape
    ]
    if problems:
        raise SegflowError(
            f"the weights in {fold.source} do not fit the network of configuration '{fold.record.configuration}'",
            found=some(problems, SHOWN, "; "),
            fix=_other_network(fold),
        )
    network.load_state_dict(dict(fold.weights))
    return network


def check_size(fold: TrainedFold) -> None:
    """Hold the size of the network that the plans ask for against the weights, before it is built.

    Where it is of the weights' order, building it shows what differs; see `load_weights`.

    Raises:
        SegflowError: It is far larger.
    """
    record = fold.record
    topology = record.plan.topology
    wanted = topology.size(record.in_channels, record.dataset.labels.num_outputs)
    held = sum(value.numel() for value in fold.weights.values())
    if wanted > FAR_MORE * held or topology.blocks > FAR_MORE * len(fold.weights):
        raise SegflowError(
            f"the weights in {fold.source} do not fit the network of configuration '{record.configuration}', "
            "which is far larger",
            found=f"{wanted:,} numbers in {topology.blocks} blocks",
            expected=f"about {held:,} numbers in {len(fold.weights)} tensors",
            fix=_other_network(fold),
        )


def _other_network(fold: TrainedFold) -> str:
    """Why a network may not fit: nothing that a file names is built, so that a user's own has to be asked for."""
    settings = fold.record.settings.get("network")
    trained = settings.get("_target_") if isinstance(settings, Mapping) else None
    changed = "the plans beside the weights were changed after the training"
    if trained is None:
        return f"Either {changed}, or the trainer built another network."
    return (
        f"They were trained with a network of '{trained}': give this command the network= that the training was given "
        f"(and its --config-dir, for a network of your own). Where that is so, {changed}."
    )
