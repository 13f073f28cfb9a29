"""Export for any runtime: networks as ONNX, and one file that predicts with them without segflow."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from segflow.core.errors import SegflowError
from segflow.exchange.exported_folder import exported_folder
from segflow.exchange.runner_model import MODEL_FILE, RUNNER_FILE, RunnerModel, script
from segflow.storage.json_files import write_json

OPSET, IR_VERSION = 18, 10
"""The newest of both that onnxruntime 1.20 reads are 21 and 10. Nothing here needs a newer opset than 18."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
REQUIREMENTS = "numpy>=1.26\nnibabel>=5.2\nonnxruntime>=1.20\n"

LARGEST_FILE = 2 * 10**9 - 10**7
"""Bytes of weights up to which they lie in the ONNX file itself, which cannot exceed 2 GB."""


def export_onnx(model: RunnerModel, target: Path) -> Path:
    """Write a model as ONNX with a runner that needs numpy, nibabel and onnxruntime only.

    Args:
        model: The model.
        target: A folder, or a name that ends in ``.zip``.

    Returns:
        The folder or zip. It holds ``predict_onnx.py``, ``model.json``, one ``fold_<k>.onnx`` for each fold, and
        ``requirements.txt``.

    Raises:
        SegflowError: A package is missing, a network cannot be exported or computes otherwise afterwards, or the target
            exists or cannot be written.
    """
    refuse_missing_packages()
    with exported_folder(target) as folder:
        names = {}
        for fold, network in model.networks.items():
            names[fold] = f"fold_{fold}.onnx"
            write_network(network, model, folder / names[fold])
            image = model.example(1)
            with torch.inference_mode():
                expected = network(image).float().numpy()
            model.check_same(_logits(folder / names[fold], image.numpy()), expected, "as ONNX")
        write_json(folder / MODEL_FILE, model.to_json(names))
        (folder / RUNNER_FILE).write_text(script(RUNNER_FILE), encoding="utf-8")
        (folder / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    return target


def refuse_missing_packages() -> None:
    """Refuse an export where a package for it is missing, before a model is read.

    Raises:
        SegflowError: One is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SegflowError(
            f"format=onnx needs {', '.join(missing)}",
            fix="Install what is missing: pip install 'segflow[onnx]'",
        )


class ExactInstanceNorm(nn.Module):
    """Torch's instance norm with sums over rows, then over their results.

    Runtimes sum all voxels of ONNX's own operation one after the other in float32, which shows in the logits of large
    patches with an even background.

    Args:
        norm: Torch's, with learnt scale and shift and without running statistics.
    """

    def __init__(self, norm: _InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) → the same shape."""
        each = (-1, *(1,) * (x.ndim - 2))
        x = x - _mean(x)
        scale = self.weight.reshape(each) / torch.sqrt(_mean(x * x) + self.eps)
        return x * scale + self.bias.reshape(each)


def _mean(x: Tensor) -> Tensor:
    """The mean over all spatial axes, which are kept: (B, C, 1, …)."""
    for axis in range(x.ndim - 1, 1, -1):
        x = x.mean(axis, keepdim=True)
    return x


def _with_exact_norms(network: nn.Module) -> nn.Module:
    """A copy of a network with `ExactInstanceNorm` in place of torch's."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _InstanceNorm) and child.affine and not child.track_running_stats:
                setattr(module, name, ExactInstanceNorm(child))
    return network


def write_network(network: nn.Module, model: RunnerModel, file: Path) -> None:
    """Write a network as ONNX: ``image`` (batch, C, *patch) → ``logits`` (batch, K, *patch), for any batch.

    Args:
        network: In evaluation mode, on the CPU.
        model: Its model.
        file: The file. Weights beyond 2 GB lie in a file beside it.

    Raises:
        SegflowError: The network cannot be exported.
    """
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    try:
        with _quiet():
            program = torch.onnx.export(
                _with_exact_norms(network),
                (model.example(2),),
                input_names=["image"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("torch returned no program")
            program.model.ir_version = IR_VERSION
            program.save(str(file), external_data=size > LARGEST_FILE)
    except OSError:
        raise
    except Exception as error:  # torch wraps whatever the network raises
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise SegflowError(
            f"the network {model.network_name} cannot be exported as ONNX: {reason}",
            fix="It must be a module that torch.export takes, without choices that depend on values of the image.",
        ) from error


def _logits(file: Path, image: np.ndarray) -> np.ndarray:
    """The logits of the network in a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' messages about their own steps, and about packages that no network here needs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
