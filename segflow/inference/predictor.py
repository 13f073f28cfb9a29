"""A trained model as an object that turns an image into a label map, without files."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segflow.core.case import Case, OpenCase
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.image_look import look_at
from segflow.core.labels import Labels
from segflow.core.missing_channels import WithPresence
from segflow.core.preprocessed_case import PreprocessedCase, PreprocessedSources
from segflow.core.run_record import RunRecord
from segflow.core.voxels import ArraySource, VoxelSource
from segflow.execution.machine import check_room
from segflow.execution.progress import Progress, silent
from segflow.inference.cascade_source import CascadeSource, one_hot
from segflow.inference.image_checks import ImageChecks
from segflow.inference.image_objects import image_object
from segflow.inference.label_builder import LabelBuilder
from segflow.inference.load_model import Build, Model, find_previous_stage, load_model
from segflow.inference.planes import Room
from segflow.inference.predict_settings import AUTO, IGNORE, WARN, SlidingWindowSettings
from segflow.inference.sliding_window import LogitSlab, NotFiniteError, gathered, logit_slabs
from segflow.models.trained_fold import Folds
from segflow.network.build import build_network
from segflow.network.cpu.accelerate import accelerate, order_weights
from segflow.network.cpu.passes import VALUES_PER_FEATURE
from segflow.network.device_memory import is_out_of_memory
from segflow.network.devices import choose_device
from segflow.network.precision import FLOAT32, choose_precision, take_tf32_for_convolutions, without_search
from segflow.preprocessing.own_normalizations import Normalizations
from segflow.preprocessing.preprocess_case import preprocess_case
from segflow.preprocessing.restore import restore_labels, written_type
from segflow.preprocessing.streamed import open_in_plan_space
from segflow.storage.image_formats.placement import reorient
from segflow.storage.image_formats.turned_reader import TurnedReader, turned
from segflow.storage.images import ImageIO, reader_by_name

logger = logging.getLogger(__name__)


REORIENTING = "WithReorient"
"""End of the names of readers that turn images to RAS."""


class Predictor:
    """Networks of one configuration, and for a cascade the predictor of its previous stage.

    Args:
        model: The networks with their record.
        device: Device of the networks.
        settings: How images are covered with patches. ``sums=auto`` becomes nnU-Net's arithmetic for its own models, so
            that they predict the same here; ``precision=auto`` becomes what the device takes for the model.
        previous_stage: Predictor of a cascade's previous stage.
        normalizations: The user's own normalisations that the plans name, see `own_normalizations.CONTRACT`.
        on_unlike: What is done about images that are unlike the training images, see `PredictSettings`. A previous
            stage's predictor leaves that to the cascade's.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str | torch.device = "auto",
        settings: SlidingWindowSettings | None = None,
        previous_stage: Predictor | None = None,
        normalizations: Normalizations | None = None,
        on_unlike: str = WARN,
    ) -> None:
        self.record: RunRecord = model.record
        self.plan: ConfigurationPlan = model.record.plan
        self.labels: Labels = model.record.dataset.labels
        self.folds = model.folds
        self.device = choose_device(device) if isinstance(device, str) else device
        self.settings = SlidingWindowSettings() if settings is None else settings
        if self.settings.sums == "auto":
            self.settings = replace(self.settings, sums="float16" if self.record.from_nnunet else "float32")
        self._may_change_precision = self.settings.precision == AUTO
        precision = choose_precision(self.settings.precision, self.device, self.record.trained_precision)
        self.settings = replace(self.settings, precision=precision)
        if self.device.type == "cuda":
            take_tf32_for_convolutions()
        _check_memory(self.record, self.device)
        networks = _on_device(model.networks, self.device)
        self.networks = tuple(accelerate(one) if self.device.type == "cpu" else one for one in networks)
        self.previous_stage = previous_stage
        self.normalizations = normalizations or {}
        self._checks = ImageChecks(on_unlike)
        self._turns = on_unlike != IGNORE and not self.record.plans.reader.endswith(REORIENTING)
        self._turned: set[str] = set()
        if previous_stage is not None:
            previous_stage._checks.on_unlike = IGNORE

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        folds: Folds = "all",
        checkpoint: str = "final",
        configuration: str | None = None,
        device: str | torch.device = "auto",
        settings: SlidingWindowSettings | None = None,
        previous_stage: str | Path | None = None,
        with_previous_stage: bool = True,
        build: Build = build_network,
        build_previous: Build | None = None,
        normalizations: Normalizations | None = None,
        on_unlike: str = WARN,
    ) -> Predictor:
        """Load a model, and for a cascade the model of the previous stage too.

        Args:
            model: One of our folds, a checkpoint in it, the run's folder above it, a bundle, or a model of nnU-Net v2
                as a folder, a zip or one checkpoint.
            folds: ``all``, or names of folds, whose logits are averaged.
            checkpoint: ``final``, ``best`` or ``last``; ``raw`` is ``final`` before ``training.average``.
            configuration: Configuration to take if the path holds several.
            device: See `choose_device`.
            settings: How images are covered with patches.
            previous_stage: Model of a cascade's previous stage, if it does not lie beside the model.
            with_previous_stage: False if every call gets the previous stage's label map.
            build: Builds the network. It must be given only for a user's own network.
            build_previous: Builds the previous stage's network, if that is another.
            normalizations: The user's own normalisations that the plans name, see `own_normalizations.CONTRACT`.
            on_unlike: See `PredictSettings`.

        Raises:
            SegflowError: The model is missing, cannot be read, or does not fit its plans.
        """
        options: dict[str, Any] = {"folds": folds, "checkpoint": checkpoint, "build": build}
        here: dict[str, Any] = {"device": device, "settings": settings, "normalizations": normalizations}
        here["on_unlike"] = on_unlike
        loaded = load_model(Path(model), configuration=configuration, **options)
        before = None
        if loaded.record.plan.previous_stage and with_previous_stage:
            place, name = (
                (Path(previous_stage), None) if previous_stage else find_previous_stage(loaded.source, loaded.record)
            )
            options["build"] = build_previous or build
            before = cls(load_model(place, configuration=name, **options), **here)
        predictor = cls(loaded, previous_stage=before, **here)
        for stage in (predictor, before):
            if stage is not None and stage.device.type == "cpu":
                stage.networks = tuple(order_weights(network) for network in stage.networks)
        return predictor

    def predict(self, image: Any, spacing: Sequence[float] | None = None) -> Any:
        """Segment one image.

        Args:
            image: An array (C, Z, Y, X), or (Z, Y, X) with one channel; a SimpleITK or nibabel image; or a list of such
                images, one per channel, with None for a channel that the model does without.
            spacing: mm along z, y, x, for arrays only. Arrays must have the axes of the training images.

        Returns:
            The label map, with the values of the training label maps: an array uint8 or uint16 (Z, Y, X), or an image
            of the input's kind and geometry.

        Raises:
            SegflowError: The image does not fit the model.
        """
        made = image_object(image, spacing, turn=self._turn)
        label = self.labels.to_values(self.predict_case(made.case))
        return made.label_map(label.astype(written_type(self.labels), copy=False))

    def turn_to(self, orientation: str) -> str | None:
        """The orientation to which an image is turned before it is predicted; None if it stays as it is.

        Args:
            orientation: The image's, such as ``RAS``.
        """
        images = self.record.images
        to = images.turn_to(orientation) if self._turns and images is not None else None
        if to is not None and orientation not in self._turned:
            self._turned.add(orientation)
            logger.warning(
                "images of orientation %s are turned to %s, which the training images have, and their label maps back "
                "(inference.on_unlike=ignore: not)",
                orientation,
                to,
            )
        return to

    def reader(self) -> ImageIO:
        """The model's reader, which turns images where `turn_to` says so.

        Raises:
            SegflowError: There is no such reader here.
        """
        own = reader_by_name(self.record.plans.reader)
        return TurnedReader(own, self.turn_to) if self._turns and self.record.images is not None else own

    def _turn(self, voxels: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
        if self.record.plans.reader.endswith(REORIENTING):
            return reorient(voxels, geometry)
        return turned(voxels, geometry, self.turn_to)

    def predict_case(
        self, case: Case, previous: np.ndarray | None = None, *, progress: Progress = silent
    ) -> np.ndarray:
        """Segment one case.

        Args:
            case: The case in image space. Its label is not used.
            previous: For a cascade, the previous stage's classes (Z, Y, X) in image space; None predicts them.
            progress: Called with the number of finished tiles.

        Returns:
            Classes, uint8 or uint16 (Z, Y, X) in image space; see `Labels`.

        Raises:
            SegflowError: The case does not fit the model.
        """
        return self.predict_preprocessed(self.preprocess(case, previous), progress=progress)

    def preprocess(self, case: Case, previous: np.ndarray | None = None) -> PreprocessedCase:
        """Bring a case to plan space.

        Args:
            case: The case with its image as read, float32 (C, Z, Y, X).
            previous: For a cascade, the previous stage's classes (Z, Y, X) on the grid of the image.

        Raises:
            SegflowError: The case does not fit the model.
        """
        self._checks.check(case, self.record)
        if self.plan.previous_stage and previous is None:
            if self.previous_stage is None:
                raise SegflowError(
                    f"configuration '{self.plan.name}' needs the label map of '{self.plan.previous_stage}'",
                    case=case.case_id,
                )
            previous = self.previous_stage.predict_case(case)
        label = None if previous is None else previous.astype(np.int16)
        case = replace(case, label=label)
        return preprocess_case(case, self.record.plans, self.plan, self.labels, normalizations=self.normalizations)

    def preprocess_as_read(self, case: OpenCase, *, scratch: Path | None = None) -> PreprocessedSources:
        """Bring a case to plan space that does not fit into memory. Its voxels are prepared when they are read.

        Args:
            case: The case. For a cascade its label is the previous stage's label map on the grid of the image.
            scratch: Folder for a file of one bit per voxel, see `open_in_plan_space`.

        Raises:
            SegflowError: The case does not suit the model, or cannot be prepared in parts.
        """
        look = look_at(case.image)
        self._checks.check_open(case, look, self.record)
        options: dict[str, Any] = {"normalizations": self.normalizations, "scratch": scratch}
        return open_in_plan_space(case, self.record.plans, self.plan, look=look, **options)

    def slabs(
        self,
        case: PreprocessedCase | PreprocessedSources,
        *,
        progress: Progress = silent,
        fold: int | None = None,
        of_networks: bool = False,
        scratch: Path | None = None,
    ) -> Iterator[LogitSlab]:
        """Logits of a case in plan space, slab by slab along the first axis; all at once if they fit into memory.

        An image that is not finite in the precision that was chosen for it is predicted again in float32: the slabs
        then begin again with the first plane, and those before are void.

        Args:
            case: Result of `preprocess` or `preprocess_as_read`. For a cascade its label is the previous stage's label
                map.
            progress: Called with the number of finished tiles.
            fold: Index of one network; None takes the mean of all.
            of_networks: Also give the logits of each network.
            scratch: Folder for what does not fit into memory; None takes the system's for temporary files.
        """
        source = self._source(case)
        networks = self.networks if fold is None else (self.networks[fold],)
        what = (networks, source, self.plan.patch_size, self.record.mirror_axes)
        options: dict[str, Any] = {"progress": progress, "of_networks": of_networks, "room": Room.of_machine(scratch)}
        try:
            with without_search():
                try:
                    yield from logit_slabs(*what, self.settings, **options)
                    return
                except NotFiniteError:
                    if not self._may_change_precision or self.settings.precision == FLOAT32:
                        raise
                logger.warning("case '%s' is not finite in %s; again in float32", case.case_id, self.settings.precision)
                yield from logit_slabs(*what, replace(self.settings, precision=FLOAT32), **options)
        except SegflowError as error:
            raise error.of_case(case.case_id) from error

    def logits(self, case: PreprocessedCase, *, progress: Progress = silent, fold: int | None = None) -> Tensor:
        """The slabs of `slabs` as one tensor.

        Args:
            case: See `slabs`.
            progress: See `slabs`.
            fold: See `slabs`.

        Returns:
            float32 or float16 (K, Z, Y, X), see `SlidingWindowSettings.sums`.
        """
        return gathered(self.slabs(case, progress=progress, fold=fold), case.spatial.shape_plan[0])

    def _source(self, case: PreprocessedCase | PreprocessedSources) -> VoxelSource:
        cascade = self.plan.previous_stage is not None
        if cascade and case.label is None:
            raise SegflowError("the previous stage's label map is missing", case=case.case_id)
        if isinstance(case, PreprocessedSources):
            cascade_label = case.label if cascade else None
            source = case.image if cascade_label is None else CascadeSource(case.image, cascade_label, self.labels)
            return self._told(source, case.missing)
        image = np.ascontiguousarray(case.image, dtype=np.float32)
        if cascade and case.label is not None:
            image = np.concatenate((image, one_hot(case.label, self.labels)))
        return self._told(ArraySource(image), case.missing)

    def _told(self, source: VoxelSource, missing: Sequence[int]) -> VoxelSource:
        """The input of the network, which may be told which channels of the image are there."""
        if not self.record.has_channel_mask:
            return source
        return WithPresence(source, [number not in missing for number in range(len(self.record.dataset.channels))])

    def restore(self, logits: Tensor, case: PreprocessedCase) -> np.ndarray:
        """Bring logits back to image space, as classes, uint8 or uint16 (Z, Y, X)."""
        return restore_labels(logits, case.spatial, self.plan, self.labels)

    def predict_preprocessed(self, case: PreprocessedCase, *, progress: Progress = silent) -> np.ndarray:
        """Segment a case that is already preprocessed, such as for training: classes (Z, Y, X) in image space."""
        built = LabelBuilder.in_image(case.spatial, self.plan, self.labels)
        for slab in self.slabs(case, progress=progress):
            built.take(slab)
        return built.label

    def weights_digest(self) -> str:
        """A checksum of the small tensors (biases and norms), as text. Other trainings give another text.

        It covers a cascade's previous stage too, if that is predicted here.
        """
        digest = hashlib.sha256()
        for network in (*self.networks, *(self.previous_stage.networks if self.previous_stage else ())):
            for value in network.parameters():
                if value.ndim <= 1:
                    digest.update(value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def _on_device(networks: Sequence[nn.Module], device: torch.device) -> list[nn.Module]:
    """The networks, moved to the device.

    Raises:
        SegflowError: Its memory does not suffice.
    """
    try:
        return [network.to(device) for network in networks]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise SegflowError(
            f"the memory of {device} does not suffice for the networks of {len(networks)} folds",
            found=str(error).splitlines()[0][:200],
            fix="End other programs on it, predict with one fold (inference.folds=0) or with inference.device=cpu.",
        ) from error


def _check_memory(record: RunRecord, device: torch.device) -> None:
    """Refuse a patch that is too large for any case, since its size comes from an untrusted file."""
    if device.type != "cpu":
        return  # a device with its own memory reports well what it lacks
    plan, labels = record.plan, record.dataset.labels
    # The logits of a tile and their sum, and what a U-Net holds at its finest level.
    values = record.in_channels + VALUES_PER_FEATURE * plan.topology.features[0] + 2 * labels.num_outputs
    check_room(
        4 * values * math.prod(plan.patch_size),
        f"one patch of configuration '{plan.name}'",
        found=f"patch {list(plan.patch_size)}, {record.in_channels} channels, {labels.num_outputs} outputs",
    )
