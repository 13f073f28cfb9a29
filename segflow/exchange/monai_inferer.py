"""The inferer of an exported MONAI bundle: from the image as read to the label map on its grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from . import predict_onnx as runner


def listed(folder: str, model_file: str, output: str) -> list[dict[str, Any]]:
    """MONAI's data list of a folder of images: one entry per case, with its channels' files in order.

    Raises:
        runner.UnusableError: The folder holds no images, or label maps in ``output`` would replace them.
    """
    cases = runner.find_cases(Path(folder), len(_model(model_file)["channels"]))
    runner.refuse_replacing(
        itertools.chain(*cases.values()), [Path(output) / files[0].name for files in cases.values()]
    )
    return [{"image": [str(file) for file in files]} for files in cases.values()]


def label_type(model_file: str) -> type[np.unsignedinteger[Any]]:
    """The type of the label maps, which the largest label decides."""
    model = _model(model_file)
    highest = max(*model["outputs"], *model.get("values", {}).values(), 0)
    return np.uint8 if highest < 256 else np.uint16


class LabelMapInferer(Inferer):
    """Predicts images as read: crops, normalises, resamples, predicts tiles, and brings the labels back.

    Args:
        model_file: The bundle's ``models/model.json``.
        overlap: Share of a tile that it shares with the next.
        mirroring: Average over the mirrored views that the network was trained with.
    """

    def __init__(self, model_file: str, overlap: float = 0.5, mirroring: bool = True) -> None:
        self.model = _model(model_file)
        self.options = runner.Options(overlap, mirroring)

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """images (B, C, X, Y, Z) or (B, C, X, Y) with their affines → label maps (B, 1, …) on the same grids."""
        result = inputs[:, :1].clone()

        def logits(batch: np.ndarray) -> np.ndarray:
            image = torch.from_numpy(np.ascontiguousarray(batch)).to(inputs.device)
            return np.asarray(network(image, *args, **kwargs).detach().float().cpu().numpy())

        for number, image in enumerate(inputs):
            affine = _affine_of(inputs, number)
            plain = np.asarray(torch.as_tensor(image).detach().float().cpu().numpy())
            oriented = runner.oriented(self.model, plain, affine)
            labels = runner.segment(self.model, [logits], oriented.voxels, oriented.spacing, self.options)
            values = np.ascontiguousarray(oriented.back(labels)).astype(np.float32)
            result[number, 0] = torch.from_numpy(values).to(result.device)
        return result


def _model(file: str) -> dict[str, Any]:
    return runner.read_model(Path(file).parent)


def _affine_of(inputs: torch.Tensor, number: int) -> np.ndarray:
    """The affine (4, 4) of an image of a batch; a grid of 1 mm for tensors without."""
    if not isinstance(inputs, MetaTensor):
        return np.eye(4)
    affine = np.asarray(inputs.affine.detach().cpu().numpy(), np.float64)
    return affine[number] if affine.ndim == 3 else affine
