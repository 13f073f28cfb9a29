"""Trained weights read from files that may come from anywhere: tensors and plain data, never code."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.names import is_number, safe_name, shortened
from segflow.core.run_record import RunRecord
from segflow.storage.folds import FOLD_PREFIX, Fold, find_folds
from segflow.storage.zip_files import refuse_compressed

NETWORK_PREFIX = "network."
"""Lightning stores the module's attributes by name; ours is called so."""

Folds = str | int | Sequence[int | str]
"""``all``, one fold, or several; see `choose_folds`."""

WRAPPER_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before the name of every tensor."""

MOST_ALIASES = 8
"""Names that a stored tensor may have: nnU-Net's checkpoints have each weight of the encoder four times."""

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
    """

    record: RunRecord
    weights: Mapping[str, Tensor]
    source: str


def read_fold(folder: Fold, checkpoint: str = "final") -> TrainedFold:
    """Read the weights of one of our own folds.

    Args:
        folder: The fold's folder.
        checkpoint: ``final``, ``best`` or ``last``.

    Raises:
        SegflowError: The fold was not trained, or its checkpoint cannot be read.
    """
    record = folder.read_record()
    file = folder.existing_checkpoint(checkpoint)
    return TrainedFold(record, network_weights(read_tensors(file), str(file)), str(file))


def network_weights(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The weights of the network in a checkpoint of ours.

    Args:
        content: Of the file.
        name: What to call it in messages.

    Raises:
        SegflowError: It holds no tensors, or none that are their own size.
    """
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise SegflowError(f"{name} holds no weights", found=type(state).__name__, expected="tensors by name")
    named = {key: value for key, value in state.items() if isinstance(value, Tensor) and isinstance(key, str)}
    own = {key.removeprefix(NETWORK_PREFIX): value for key, value in named.items() if key.startswith(NETWORK_PREFIX)}
    return without_wrappers(plain_weights(own or named, name))


def plain_weights(state: Any, name: str = "the checkpoint") -> dict[str, Tensor]:
    """Check that weights of any origin are tensors by name, each as large in memory as it says.

    A file may call a single number a tensor of any shape; whoever copies it needs room for all of it.

    Raises:
        SegflowError: They are something else.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise SegflowError(f"the weights of {name} are no tensors by name", found=type(state).__name__)
    held: dict[int, int] = {}
    claimed = 0
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise SegflowError(f"the weights of {name} hold what is no plain tensor", found=shortened(key))
        size = value.numel() * value.element_size()
        storage = value.untyped_storage()
        if size > storage.nbytes():
            raise SegflowError(f"a tensor of {name} is larger than what is stored of it", found=shortened(key))
        claimed += size
        held[storage.data_ptr()] = storage.nbytes()
    if claimed > MOST_ALIASES * sum(held.values()):
        raise SegflowError(f"the tensors of {name} are larger than what is stored of them", found=f"{claimed} bytes")
    return dict(state)


def read_run(path: Path, folds: Folds = "all", checkpoint: str = "final") -> list[TrainedFold]:
    """Read the weights of one of our own runs.

    Args:
        path: A fold, or the run's folder above it.
        folds: See `choose_folds`.
        checkpoint: ``final``, ``best`` or ``last``.

    Raises:
        SegflowError: A fold was not trained, or its checkpoint cannot be read.
    """
    by_name = {folder.fold: folder for folder in find_folds(path)}
    return [read_fold(by_name[name], checkpoint) for name in choose_folds(list(by_name), folds, str(path))]


def previous_run(path: Path, record: RunRecord) -> Path:
    """The run whose predictions a cascade takes as input: of the same plans, and the one that it was trained on.

    That is the run of the name that the training was given (``previous_run_name``), else of the cascade's own name; and
    where neither is there, as with runs that were renamed, the only one that there is.

    Args:
        path: The cascade's own run, or a fold of it.
        record: Of the cascade.

    Raises:
        SegflowError: It cannot be found; says how to name it.
    """
    path = path.resolve()
    run = path.parent if path.name.startswith(FOLD_PREFIX) else path
    home = run.parent.parent / str(record.plan.previous_stage)
    named = record.settings.get("previous_run_name")
    if named:
        safe_name(named, "the previous_run_name of the run's settings")
    if (place := home / str(named or run.name)).is_dir():
        return place
    others = sorted(child for child in home.iterdir() if child.is_dir()) if home.is_dir() else []
    if len(others) == 1 and not named:
        return others[0]
    raise SegflowError(
        f"configuration '{record.configuration}' needs the model of '{record.plan.previous_stage}'",
        found=", ".join(str(other) for other in others) or f"no run in {home}",
        fix=f"Train it, or say where it is: previous_stage={home}/RUN_NAME",
    )


def read_tensors(file: Path | IO[bytes], name: str | None = None, allowed: Sequence[Any] = ()) -> dict[str, Any]:
    """Read a file of ``torch.save`` into main memory, refusing everything but tensors and plain data.

    Args:
        file: A path, which is mapped rather than read, or an open binary file.
        name: What to call it in messages; the path where it is one.
        allowed: Harmless globals that the file may name beyond torch's own; see ``torch.serialization.safe_globals``.

    Raises:
        SegflowError: The file is missing, cut off, no file of ``torch.save``, or would run code.
    """
    name = str(file) if name is None else name
    try:
        with torch.serialization.safe_globals(list(allowed)):
            source = file if isinstance(file, Path) else io.BytesIO(file.read())
            if isinstance(source, Path) and source.exists() and not source.is_file():
                raise SegflowError(f"{name} is no regular file")
            mapped = refuse_compressed(source, name) and isinstance(source, Path)
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped or None)
    except FileNotFoundError:
        raise SegflowError(f"there is no checkpoint {name}", fix="Train first: segflow train") from None
    except SegflowError:
        raise
    except pickle.UnpicklingError as error:
        raise SegflowError(
            f"{name} holds more than tensors and plain data, and is refused",
            found=_reason(error),
            fix="Code in a checkpoint runs when it is loaded; ask for the weights in another form.",
        ) from error
    except Exception as error:  # a damaged file trips the reader in any way there is
        raise SegflowError(
            f"cannot read the checkpoint {name}: {_reason(error)}",
            fix="It may be cut off, as after a full disk or an interrupted copy; copy it again.",
        ) from error
    if not isinstance(content, dict):
        raise SegflowError(f"{name} is not a checkpoint", found=type(content).__name__, expected="a dictionary")
    return content


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes of torch.compile and DistributedDataParallel."""
    result = {}
    for key, value in state.items():
        for prefix in WRAPPER_PREFIXES:
            key = key.removeprefix(prefix)
        result[key] = value
    return result


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
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise SegflowError(
            f"the weights in {fold.source} do not fit the network of configuration '{fold.record.configuration}'",
            found="; ".join(problems[:SHOWN]) + more,
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


def _reason(error: BaseException) -> str:
    """The first sentence of an error; torch explains at length how to load the file nevertheless."""
    text = " ".join(str(error).split()) or type(error).__name__
    for noise in ("Weights only load failed. ", "from a trusted source. ", "WeightsUnpickler error: "):
        text = text.split(noise, 1)[-1]
    for advice in (" Please ", " Check the documentation", " This is an internal"):
        text = text.split(advice, 1)[0]
    return text[:300].rstrip(". ")
