"""Reading of tensors from untrusted files, without running code."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.storage.zip_files import refuse_compressed

WRAPPER_PREFIXES = ("_orig_mod.", "module.")
"""Prefixes that torch.compile and DistributedDataParallel add to the names of tensors."""

MOST_ALIASES = 8
"""Largest number of names of a stored tensor. nnU-Net's checkpoints name each weight of the encoder four times."""


def read_tensors(file: Path | IO[bytes], name: str | None = None, allowed: Sequence[Any] = ()) -> dict[str, Any]:
    """Read a file of ``torch.save`` into main memory. Everything but tensors and plain data is refused.

    Args:
        file: A path, which is memory-mapped, or an open binary file.
        name: Its name in messages; None takes the path.
        allowed: Harmless globals that the file may name besides torch's; see ``torch.serialization.safe_globals``.

    Raises:
        SegflowError: The file is missing, incomplete, not written by ``torch.save``, or would run code.
    """
    name = str(file) if name is None else name
    try:
        with torch.serialization.safe_globals(list(allowed)):
            source = file if isinstance(file, Path) else io.BytesIO(file.read())
            if isinstance(source, Path) and source.exists() and not source.is_file():
                raise SegflowError(f"{name} is not a regular file")
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
    except Exception as error:  # a damaged file may cause any error
        raise SegflowError(
            f"cannot read the checkpoint {name}: {_reason(error)}",
            fix="It may be cut off, as after a full disk or an interrupted copy; copy it again.",
        ) from error
    if not isinstance(content, dict):
        raise SegflowError(f"{name} is not a checkpoint", found=type(content).__name__, expected="a dictionary")
    return content


def plain_weights(state: Any, name: str = "the checkpoint") -> dict[str, Tensor]:
    """Check that untrusted weights are named tensors that are stored in full size.

    A file may declare a single number as a tensor of any shape, and copying it would need memory for all of it.

    Raises:
        SegflowError: They are something else.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise SegflowError(f"the weights of {name} are not named tensors", found=type(state).__name__)
    held: dict[int, int] = {}
    claimed = 0
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise SegflowError(f"the weights of {name} hold something other than plain tensors", found=shortened(key))
        size = value.numel() * value.element_size()
        storage = value.untyped_storage()
        if size > storage.nbytes():
            raise SegflowError(f"a tensor of {name} is larger than what is stored of it", found=shortened(key))
        claimed += size
        held[storage.data_ptr()] = storage.nbytes()
    if claimed > MOST_ALIASES * sum(held.values()):
        raise SegflowError(f"the tensors of {name} are larger than what is stored of them", found=f"{claimed} bytes")
    return dict(state)


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes of torch.compile and DistributedDataParallel."""
    result = {}
    for key, value in state.items():
        for prefix in WRAPPER_PREFIXES:
            key = key.removeprefix(prefix)
        result[key] = value
    return result


def _reason(error: BaseException) -> str:
    """The first sentence of an error. torch goes on to explain how to load the file anyway."""
    text = " ".join(str(error).split()) or type(error).__name__
    for noise in ("Weights only load failed. ", "from a trusted source. ", "WeightsUnpickler error: "):
        text = text.split(noise, 1)[-1]
    for advice in (" Please ", " Check the documentation", " This is an internal"):
        text = text.split(advice, 1)[0]
    return text[:300].rstrip(". ")
