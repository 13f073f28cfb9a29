"""A trained model for runtimes without segflow: its networks, and the JSON of everything around them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segflow.core.configuration_plan import ResamplingPlan
from segflow.core.errors import SegflowError
from segflow.core.missing_channels import names_of_missing
from segflow.core.postprocessing import PostprocessingStep
from segflow.core.run_record import RunRecord
from segflow.exchange.predict_onnx import FORMAT
from segflow.models.open_model import open_model
from segflow.models.trained_fold import Folds, check_size, load_weights
from segflow.network.build import build_network
from segflow.network.levels import logits_of_levels
from segflow.preprocessing.normalization import SCHEMES

log = logging.getLogger(__name__)

Build = Callable[..., nn.Module]
"""(topology, in_channels, out_channels, deep_supervision) → network; see `segflow.network.build.build_network`."""

TURNS_TO_RAS = {"SimpleITKIOWithReorient": "zooms", "NibabelIOWithReorient": "affine"}
"""Reader → where the spacing of an image comes from that is turned to RAS."""

AS_STORED = ("SimpleITKIO", "NibabelIO", "NaturalImage2DIO")
"""Readers of files that the runner reads, with the axes of the file."""

TOLERANCE = 1e-3
"""Largest difference between a network in torch and exported, as a share of the largest logit."""

MODEL_FILE = "model.json"
RUNNER_FILE = "predict_onnx.py"


class Finest(nn.Module):
    """A network that gives only its finest logits: image (B, C, *patch) → (B, K, *patch).

    Args:
        network: The network.
        mask: Number of further inputs by which it is told that all channels of the image are there.
    """

    def __init__(self, network: nn.Module, mask: int = 0) -> None:
        super().__init__()
        self.network = network
        self.mask = mask

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        if self.mask:
            image = torch.cat([image, torch.ones_like(image[:, : self.mask])], dim=1)
        return logits_of_levels(self.network(image))[0]


@dataclass(frozen=True, slots=True)
class RunnerModel:
    """A model that the runner can predict with.

    Attributes:
        record: Record of the first fold.
        networks: Fold → its network in evaluation mode, on the CPU.
        steps: Postprocessing of the label maps.
    """

    record: RunRecord
    networks: dict[str, nn.Module]
    steps: tuple[PostprocessingStep, ...] = ()

    @classmethod
    def load(
        cls,
        model: Path,
        *,
        folds: Folds = "all",
        checkpoint: str = "final",
        build: Build = build_network,
        steps: Sequence[PostprocessingStep] = (),
    ) -> RunnerModel:
        """Load the networks of a model.

        Args:
            model: See `open_model`.
            folds: ``all``, or names.
            checkpoint: ``final``, ``best`` or ``last``.
            build: Builds the network. It must be given for a user's own network.
            steps: Postprocessing of the label maps.

        Raises:
            SegflowError: The model cannot be read, or the runner cannot do what it needs.
        """
        trained = open_model(model, checkpoint=checkpoint).read(folds)
        record = trained[0].record
        _check(record)
        mask = len(record.dataset.channels) if record.has_channel_mask else 0
        networks: dict[str, nn.Module] = {}
        for fold in trained:
            if fold.record.plan != record.plan:
                raise SegflowError(
                    "folds of one model were trained with different plans",
                    found=f"{trained[0].source} and {fold.source}",
                    fix="Choose folds that belong together, such as folds=0.",
                )
            if getattr(build, "func", build) is build_network:  # a user's own network need not follow the plans
                check_size(fold)
            built = build(record.plan.topology, record.in_channels, record.dataset.labels.num_outputs, False)
            networks[str(fold.record.fold)] = Finest(load_weights(built, fold), mask).eval().requires_grad_(False)
        return cls(record, networks, tuple(steps))

    def example(self, batch: int) -> Tensor:
        """Input of the networks: normal noise (batch, C, *patch), always the same."""
        noise = torch.Generator().manual_seed(0)
        return torch.randn(batch, self.in_channels, *self.record.plan.patch_size, generator=noise)

    @property
    def in_channels(self) -> int:
        """Input channels of the networks, which take images with all their channels."""
        mask = len(self.record.dataset.channels) if self.record.has_channel_mask else 0
        return self.record.in_channels - mask

    @property
    def network_name(self) -> str:
        """Module and class of the networks, for messages."""
        network = next(iter(self.networks.values()))
        inner = network.network if isinstance(network, Finest) else network
        return f"{type(inner).__module__}.{type(inner).__qualname__}"

    def check_same(self, found: np.ndarray, expected: np.ndarray, form: str) -> None:
        """Refuse an exported network that computes other logits than torch.

        Args:
            found, expected: Logits (B, K, *patch) of the exported network and of torch.
            form: Words for the exported network, such as ``as ONNX``.

        Raises:
            SegflowError: They differ by more than rounding.
        """
        largest, apart = float(np.abs(expected).max()), float(np.abs(found - expected).max())
        if not apart <= TOLERANCE * max(largest, 1.0):
            raise SegflowError(
                f"the network {self.network_name} computes other logits {form} than in torch",
                found=f"a difference of {apart:.3g} where the largest logit is {largest:.3g}",
                expected=f"at most {TOLERANCE * max(largest, 1.0):.3g}",
                fix="Does it draw random numbers, keep a state between calls, or choose by values of the image?",
            )

    def to_json(self, network_files: dict[str, str]) -> dict[str, Any]:
        """The content of ``model.json``, which the runner reads.

        Args:
            network_files: Fold → its file, relative to ``model.json``.
        """
        record, plan, labels = self.record, self.record.plan, self.record.dataset.labels
        known = record.plans.intensities
        return {
            "format": FORMAT,
            "made_by": f"segflow {version('segflow')}",
            "dataset": record.dataset.name,
            "configuration": plan.name,
            "channels": list(record.dataset.channels),
            "labels": labels.to_json(),
            "regions": labels.has_regions,
            "outputs": list((labels.regions_class_order or ()) if labels.has_regions else labels.all_labels),
            "values": {str(number): labels.value_of(number) for number in labels.classes} if labels.values else {},
            "turn_to_ras": TURNS_TO_RAS.get(record.plans.reader),
            "usual_orientation": record.images.usual_orientation if record.images else None,
            "orientations": list(record.images.orientations) if record.images else [],
            "axis_order": list(record.plans.axis_order),
            "spacing": list(plan.spacing),
            "patch_size": list(plan.patch_size),
            "mirror_axes": list(record.mirror_axes),
            "normalization": [
                {
                    "scheme": scheme,
                    "use_mask": use_mask,
                    "intensities": asdict(known[number]) if number < len(known) else None,
                }
                for number, (scheme, use_mask) in enumerate(
                    zip(plan.normalization_schemes, plan.use_mask_for_norm, strict=True)
                )
            ],
            "resampling": {
                "image": _resampling(plan.resampling_image),
                "probabilities": _resampling(plan.resampling_probabilities),
            },
            "networks": [{"fold": fold, "file": file} for fold, file in network_files.items()],
            "postprocessing": [step.to_json() for step in self.steps],
        }


def script(name: str) -> str:
    """The text of a file of this package that is shipped with exported models."""
    return files("segflow.exchange").joinpath(name).read_text(encoding="utf-8")


def _resampling(plan: ResamplingPlan) -> dict[str, Any]:
    return {"method": plan.method, "options": dict(plan.options)}


def _check(record: RunRecord) -> None:
    """Refuse a model that needs more than the runner does."""
    plan, reader = record.plan, record.plans.reader
    if plan.previous_stage:
        raise SegflowError(
            f"configuration '{plan.name}' needs the label map of another, which this format cannot hold",
            found=f"previous_stage {plan.previous_stage}",
            fix="Export another configuration, or as format=segflow or format=nnunet.",
        )
    own = [scheme for scheme in plan.normalization_schemes if scheme not in SCHEMES]
    if own:
        raise SegflowError(
            "a normalisation of one's own is code, which this format cannot hold",
            found=", ".join(own),
            expected=", ".join(SCHEMES),
        )
    if record.missing is not None and record.missing.may_lack:
        names = names_of_missing(record.missing.may_lack, record.dataset.channels)
        log.warning("the model does without %s; the exported one needs all channels of an image", names)
    if reader not in (*AS_STORED, *TURNS_TO_RAS):
        log.warning(
            "the model was trained with the reader '%s'; the exported one reads NIfTI and pictures, with the axes of "
            "the file. Images must have the axes of the training images",
            reader,
        )
