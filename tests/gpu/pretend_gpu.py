"""A GPU where there is none: tensors of a device ``pretend``, which compute on the CPU and refuse what a GPU refuses.

They find what only a GPU would find otherwise: an operation that mixes devices, a tensor made on the wrong one, and
every place where the processors would wait for the device. Code that asks whether it is on the CPU takes its other
branch. torch keeps the device until the process ends, so whoever uses this has a process of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_setup_privateuseone_for_python_backend("pretend", _Module())
torch.inference_mode = torch.no_grad  # type: ignore[misc, assignment]  # of which such tensors cannot be
DEVICE = torch.device("pretend", 0)

WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "repeat_interleave"}
"""Operations whose result or its shape the processors must know."""

BETWEEN_DEVICES = {"copy_", "_to_copy"}
INDEXED = {"index", "index_put_", "index_put", "_index_put_impl_"}
"""Operations that take indices from main memory too."""


class OnGpu(torch.Tensor):
    """A tensor in main memory that pretends to lie on the GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnGpu:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
            requires_grad=False,
        )
        self.inner = real
        return self

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {}, Counter())


class PretendGpu(TorchDispatchMode):
    """Serves tensors that are made on, or copied to, it.

    Attributes:
        waits: How often the processors had to wait for the device, by operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {}, self.waits)


def on_gpu(real: torch.Tensor) -> torch.Tensor:
    """The same values on the pretended GPU; later changes of one are not seen in the other."""
    return OnGpu(real.detach().clone())


def values(tensor: torch.Tensor) -> torch.Tensor:
    """The values in main memory; refuses a tensor that is not on the GPU."""
    assert isinstance(tensor, OnGpu), f"not on the GPU: {tensor.device}"
    return tensor.inner


@contextmanager
def pretend_gpu() -> Iterator[PretendGpu]:
    """Within, `DEVICE` can be used."""
    before = torch.Generator
    torch.Generator = _Generator  # type: ignore[misc]
    try:
        with PretendGpu() as mode:
            yield mode
    finally:
        torch.Generator = before  # type: ignore[misc]


class _Generator(torch.Generator):
    def __new__(cls, device: Any = None) -> _Generator:
        return super().__new__(cls)  # whatever the device, in main memory


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    name = func.overloadpacket.__name__
    flat, _ = tree_flatten((args, kwargs))
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    ours = [each for each in tensors if isinstance(each, OnGpu)]
    target = kwargs.get("device")
    to_gpu = bool(ours) if target is None else torch.device(target).type == DEVICE.type
    if not ours and not to_gpu:
        return func(*args, **kwargs)
    _check(name, args, tensors, ours)
    to_main_memory = (name == "_to_copy" and not to_gpu) or (name == "copy_" and not isinstance(args[0], OnGpu))
    if ours and (name in WAITS or to_main_memory or _has_mask(name, args)):
        waits[name] += 1
    known = {id(each.inner): each for each in ours}
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if target is not None:
        kwargs["device"] = torch.device("cpu")
    real_args, real_kwargs = tree_map(lambda each: each.inner if isinstance(each, OnGpu) else each, (args, kwargs))
    result = func(*real_args, **real_kwargs)
    if to_main_memory:
        return args[0] if name == "copy_" else result

    def wrap(each: Any) -> Any:
        if not isinstance(each, torch.Tensor):
            return each
        return known[id(each)] if id(each) in known else OnGpu(each)

    return tree_map(wrap, result)


def _check(name: str, args: Any, tensors: list[torch.Tensor], ours: list[OnGpu]) -> None:
    if name in BETWEEN_DEVICES or not ours:
        return
    if name in INDEXED:
        tensors = [args[0]] if name == "index" else [args[0], args[2]]
    strangers = [tuple(each.shape) for each in tensors if not isinstance(each, OnGpu) and each.dim() > 0]
    if strangers:
        raise RuntimeError(f"{name}: expected all tensors on {DEVICE}, found {strangers} on cpu")


def _has_mask(name: str, args: Any) -> bool:
    return name in INDEXED and any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1])
