"""What planning found on the way to its decisions, for the page that explains them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpacingWorking:
    """How the full-resolution spacing was found. Axes are those of the images, (z, y, x).

    Attributes:
        given: Whether ``planner.target_spacing`` named it.
        median: mm, the median over cases along each axis.
        shape: Voxels, the median over cases as they are, after cropping.
        coarse: The axis with the largest median spacing.
        is_coarse: Whether its spacing is larger than the others' by more than ``anisotropy_threshold``.
        has_few: Whether it has fewer voxels than the others by more than ``anisotropy_threshold``.
    """

    given: bool
    median: tuple[float, ...]
    shape: tuple[float, ...]
    coarse: int
    is_coarse: bool
    has_few: bool


@dataclass(frozen=True, slots=True)
class TriedPatch:
    """A patch that the search tried.

    Attributes:
        patch_size: Voxels, plan axes.
        levels: Resolutions of the network that the patch allows.
        outputs: Size of the network for one sample: outputs of all its convolutions, or what ``unit`` says.
    """

    patch_size: tuple[int, ...]
    levels: int
    outputs: int


@dataclass(frozen=True, slots=True)
class ConfigurationWorking:
    """How patch and batch of a configuration were found.

    Attributes:
        even_patch: Voxels of the patch that is about as long in mm along each axis, plan axes.
        first_patch: The same, cut to the median case.
        tried: Patches in the order of the search; the last one fits.
        most_outputs: The size that a patch may have.
        batch_by_memory: Samples that the memory target allows.
        batch_by_dataset: Samples that ``max_dataset_fraction`` allows.
        unit: What sizes count, in words.
        samples: Samples with which a patch must fit the memory target.
    """

    even_patch: tuple[int, ...]
    first_patch: tuple[float, ...]
    tried: tuple[TriedPatch, ...]
    most_outputs: float
    batch_by_memory: int
    batch_by_dataset: int
    unit: str
    samples: int


@dataclass(frozen=True, slots=True)
class Workings:
    """How the planner came to its plans.

    Attributes:
        spacing: How the full-resolution spacing, in mm, was found.
        configurations: Name → how patch and batch were found. A low resolution may have been tried and not made.
    """

    spacing: SpacingWorking
    configurations: dict[str, ConfigurationWorking]
