"""A GPU of fake tensors: types, memory and traffic of full-size steps in seconds, without values.

Each tensor counts with its whole storage from its making to its end. What kernels need besides, and what torch's
allocator rounds up, is not counted. Without CUDA's libraries a convolution's result is never in channels-last memory.

Import this before torch, in a process of its own that has the environment of fixture ``guarded``.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cuda_guard

cuda_guard.load()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

GIB = 2**30
WITHOUT_TRAFFIC = {"_unsafe_view", "_reshape_alias", "detach", "device", "empty", "empty_like", "empty_strided"}

torch.cuda.is_available = lambda: True
torch.cuda.is_bf16_supported = lambda *_: True
torch.cuda.amp.common.amp_definitely_not_available = lambda: False


class Memory(TorchDispatchMode):
    """What happens on the fake GPU.

    Attributes:
        now, peak: Bytes of all tensors on it.
        traffic: Bytes that operations read and write, by operation.
        convolutions: Number of convolutions, forward and backward, by the element type of their input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.traffic: Counter[str] = Counter()
        self.convolutions: Counter[str] = Counter()
        self._storages: dict[int, Any] = {}

    def begin_anew(self) -> None:
        """Forget all but the tensors that are there."""
        gc.collect()
        self.peak = self.now
        self.traffic.clear()
        self.convolutions.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor) and each.is_cuda]
        for each in made:
            self._count(each)
        if not func.is_view and name not in WITHOUT_TRAFFIC:
            given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.is_cuda]
            self.traffic[name] += sum(each.numel() * each.itemsize for each in (*given, *made))
        if name in ("convolution", "convolution_backward"):
            self.convolutions[str(args[0].dtype).removeprefix("torch.")] += 1
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            size = storage.nbytes()
            self._storages[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        del self._storages[key]
        self.now -= size


class _OnlyGpu(TorchDispatchMode):
    """Leaves tensors in main memory real, with their values, until they meet those of the GPU."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        is_fake = any(isinstance(each, FakeTensor) for each in tree_leaves((args, kwargs)))
        if not is_fake and (device is None or torch.device(device).type != "cuda"):
            return func(*args, **kwargs)

        def faked(each: Any) -> Any:
            is_real = isinstance(each, Tensor) and not isinstance(each, FakeTensor)
            return self._fake.from_tensor(each) if is_real else each

        args, kwargs = tree_map(faked, (args, kwargs))
        with self._fake:
            return func(*args, **kwargs)


@contextmanager
def fake_gpu(*, only: bool = False) -> Iterator[Memory]:
    """Within, tensors on ``cuda`` are fake, and those in main memory as well unless it is ``only`` the GPU's."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with _OnlyGpu(fake) if only else fake, Memory() as memory:
        yield memory


def functions_behind(tensor: Tensor) -> set[str]:
    """Names of the autograd functions that made a tensor."""
    seen: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in seen}
