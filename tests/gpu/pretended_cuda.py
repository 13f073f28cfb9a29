"""GPUs where there are none: tensors of device ``cuda:0`` and so on, with values, which the CPU computes.

They find what only a GPU would find otherwise. Code that asks for CUDA takes that branch. An operation that mixes
devices is refused. `record` tells where the processors waited for the device, and in which precision, memory layout
and on which device convolutions ran. There are no kernels, streams or memory of a GPU.

Import this before torch, in a process of its own that has the environment of fixture ``guarded``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import cuda_guard
from device_record import Record

cuda_guard.load()

import torch  # noqa: E402
from torch.optim.optimizer import _foreach_supported_types  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

import segflow  # noqa: E402

PACKAGE = str(Path(segflow.__file__).parent) + os.sep
CPU = torch.device("cpu")
DEVICE = torch.device("cuda", 0)
HALF = {torch.float16, torch.bfloat16}

WAITS = {
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "bincount", "repeat_interleave",
    "_unique2", "unique_dim", "unique_consecutive",
}  # fmt: skip
"""Operations whose result, or its shape, the processors must know."""

INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
"""Operations that take indices from main memory too. A mask among the indices is counted first, so they wait."""

MADE = [
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m",
    "randperm", "randperm.generator", "tril_indices", "triu_indices",
]  # fmt: skip
"""Operations that make a tensor from none. Others of the kind make an empty one and fill it."""


_records: list[Record] = []


@contextmanager
def record(into: Record | None = None) -> Iterator[Record]:
    """Note what happens within, in all threads; ``into`` an earlier record, or a new one."""
    noted = Record() if into is None else into
    _records.append(noted)
    try:
        yield noted
    finally:
        del _records[[each is noted for each in _records].index(True)]


class Cuda(torch.Tensor):
    """A tensor in main memory that pretends to lie on a GPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: torch.Tensor, device: torch.device) -> Cuda:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=device,
            requires_grad=False,
        )
        self.inner = real
        return self

    def __repr__(self, **_: Any) -> str:
        return f"Cuda({self.inner!r}, {self.device})"

    def tolist(self) -> Any:
        _note_wait("tolist")
        return self.inner.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        _note_wait("save")
        return self.inner.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Cuda:
        return Cuda(self.inner.detach().clone(), self.device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def on_gpu(real: torch.Tensor, device: torch.device = DEVICE) -> torch.Tensor:
    """The same values on the pretended GPU; later changes of one are not seen in the other."""
    return Cuda(real.detach().clone(), device)


def values(tensor: torch.Tensor) -> torch.Tensor:
    """The values in main memory; refuses a tensor that is not on the GPU."""
    assert isinstance(tensor, Cuda), f"not on the GPU: {tensor.device}"
    return tensor.inner


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of which some argument is on a GPU."""
    name = func.overloadpacket.__name__
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    ours = [each for each in tensors if isinstance(each, Cuda)]
    device = ours[0].device if kwargs.get("device") is None else _with_index(kwargs["device"])
    _check_devices(name, args, tensors, ours)
    _check_generator(kwargs.get("generator"))
    _note(name, args, kwargs, device)
    known = {id(each.inner): each for each in ours}
    here = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if "device" in here:
        here["device"] = CPU
    real_args, real_kwargs = tree_map(lambda each: each.inner if isinstance(each, Cuda) else each, (args, here))
    result = _on_cpu(func, real_args, real_kwargs)
    if device.type != "cuda" or (name == "copy_" and not isinstance(args[0], Cuda)):
        return args[0] if name == "copy_" else result
    for each in ours:
        assert each.shape == each.inner.shape, f"{name} resizes its argument, which this pretended GPU cannot do"

    def claim(each: Any) -> Any:
        if not isinstance(each, torch.Tensor):
            return each
        return known[id(each)] if id(each) in known else Cuda(each, device)

    return tree_map(claim, result)


def _on_cpu(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation in main memory; in single precision what a CPU cannot do in half, or not quickly."""
    if not func.overloadpacket.__name__.startswith("convolution"):
        try:
            return func(*args, **kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if "not implemented for 'Half'" not in str(error) or func._schema.is_mutable:
                raise
    half = {each.dtype for each in tree_leaves(args) if isinstance(each, torch.Tensor)} & HALF
    if not half:
        return func(*args, **kwargs)
    args, kwargs = tree_map(lambda each: _cast(each, HALF, torch.float32), (args, kwargs))
    return tree_map(lambda each: _cast(each, {torch.float32}, *half), func(*args, **kwargs))


def _cast(each: Any, before: set[torch.dtype], after: torch.dtype) -> Any:
    return each.to(after) if isinstance(each, torch.Tensor) and each.dtype in before else each


def _with_index(device: Any) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise RuntimeError("CUDA error: invalid device ordinal")
    return device


def _check_devices(name: str, args: Any, tensors: list[torch.Tensor], ours: list[Cuda]) -> None:
    """Refuse what a GPU refuses: other devices' tensors, except numbers and indices in main memory."""
    if name in ("copy_", "_to_copy"):
        return
    if name in INDEXED:
        tensors = [args[0], *args[2:3]]
    joins = name in ("cat", "stack")
    for each in tensors:
        number = each.device == CPU and each.dim() == 0 and not joins
        if each.device != ours[0].device and not number:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} found {ours[0].device} and {each.device}"
                f" {tuple(each.shape)}"
            )
        if each.device.type == "cuda" and not isinstance(each, Cuda):
            raise AssertionError(f"{name}: a tensor {tuple(each.shape)} lost its values (`x.data = …`?)")


def _note(name: str, args: Any, kwargs: dict[str, Any], device: torch.device) -> None:
    if name == "_to_copy" and device.type != "cuda":
        if not kwargs.get("non_blocking"):
            _note_wait("copy to main memory")
    elif name == "copy_" and isinstance(args[0], Cuda) != isinstance(args[1], Cuda):
        if not (kwargs.get("non_blocking") or any(args[2:3])):
            _note_wait("copy to the device" if isinstance(args[0], Cuda) else "copy to main memory")
    elif name in WAITS:
        _note_wait({"_local_scalar_dense": "item"}.get(name, name))
    elif name in INDEXED:
        _note_indices(name, args)
    elif name in ("convolution", "convolution_backward"):
        _note_convolution(args[name == "convolution_backward"])


def _note_indices(name: str, args: Any) -> None:
    indices = [index for index in args[1] if isinstance(index, torch.Tensor)]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    number = len(args) > 2 and not isinstance(args[2], Cuda)
    if masks and not (number and len(indices) == 1):  # a GPU fills a mask with a number
        _note_wait(f"{name} with a mask")
    if any(not isinstance(index, Cuda) for index in indices) or (number and not masks):
        _note_wait(f"{name} with values from main memory")


def _note_wait(what: str) -> None:
    for noted in _records:
        noted.waits[f"{what} in {_place()}"] += 1


def _note_convolution(tensor: Cuda) -> None:
    plane = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    last = tensor.shape[1] > 1 and tensor.inner.is_contiguous(memory_format=plane) and not tensor.inner.is_contiguous()
    layout = "channels last" if last else "channels first"
    key = (str(tensor.dtype).removeprefix("torch."), layout, str(tensor.device), _place("network/"))
    for noted in _records:
        noted.convolutions[key] += 1


def _place(but: str | None = None) -> str:
    """The innermost function of segflow, Lightning, or torch's optimizers and scaler; not in package `but`."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if (place := _name_of(frame.f_code, but)) is not None:
            return place
        frame = frame.f_back
    return "backward or test"


def _name_of(code: CodeType, but: str | None) -> str | None:
    file, function = code.co_filename, code.co_name
    if function.startswith("<"):  # a comprehension is a part of its function
        return None
    within = file.removeprefix(PACKAGE)
    passed = but is not None and (within.startswith(but) or function == "forward")
    if within != file and not passed:
        return f"{within}:{function}"
    for package in ("pytorch_lightning/", "lightning_fabric/", "torch/amp/", "torch/optim/"):
        _, of_package, within = file.rpartition(f"site-packages/{package}")
        if of_package:
            return f"{package}{within}:{function}"
    return None


_generators: set[int] = set()
"""torch's generators of random numbers that claim to be a GPU's."""


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> _Generator:
        self = super().__new__(cls)
        (_generators.add if torch.device(device).type == "cuda" else _generators.discard)(self._cdata)
        return self


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and generator._cdata not in _generators:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def _made_on_gpu(operation: Any) -> Any:
    def make(*args: Any, device: Any = "cuda", pin_memory: Any = None, **kwargs: Any) -> torch.Tensor:
        _check_generator(kwargs.get("generator"))
        return Cuda(operation(*args, device=CPU, **kwargs), _with_index(device))

    return make


def _copied(here: torch.Tensor, there: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return _compute(torch.ops.aten.copy_.default, (here, there, non_blocking), {})


def _apply(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    """Move or convert a module, as torch does for a GPU: its parameters stay the same objects."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for parameter in module._parameters.values():
        if parameter is None:
            continue
        gradient, parameter.grad = parameter.grad, None
        with torch.no_grad():
            changed = change(parameter)
            gradient = None if gradient is None else change(gradient)
        if changed is not parameter:
            changed = torch.nn.Parameter(changed, parameter.requires_grad)
            torch.utils.swap_tensors(parameter, changed)
        parameter.grad = gradient
    module._buffers.update({name: b if b is None else change(b) for name, b in module._buffers.items()})
    return module


def _serve() -> torch.library.Library:
    kernels = torch.library.Library("aten", "IMPL")
    for name in MADE:
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
        kernels.impl(name, _made_on_gpu(operation), "CUDA")
    kernels.impl("copy_", _copied, "CUDA")  # of torch.tensor, which does not ask for the tensor's class
    torch.inference_mode = torch.no_grad  # type: ignore[misc, assignment]  # of which such tensors cannot be
    torch.Generator = _Generator  # type: ignore[misc]
    torch._C._cuda_synchronize = lambda: _note_wait("synchronize")
    torch._C._cuda_emptyCache = lambda: _note_wait("empty_cache")
    torch.nn.Module._apply = _apply  # type: ignore[method-assign]
    _foreach_supported_types.append(Cuda)
    return kernels


_kernels = _serve()
