"""The plans of a dataset, with nnU-Net v2's keys (recipe 3.11)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segflow.core.configuration_plan import ConfigurationPlan, Options
from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.fingerprint import ChannelIntensities, intensities_from_json, intensities_to_json
from segflow.core.names import safe_name, safe_names, shortened

OWN_NORMALIZATIONS = "own_normalizations"
"""Key in the plans, beside nnU-Net's; see `Plans.own_normalizations`."""

DEEPEST_INHERITANCE = 50
"""The longest chain of configurations that inherit from each other."""


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans of a dataset.

    Attributes:
        dataset_name: Name such as ``Dataset004_Hippocampus``.
        plans_name: Name of the plans file, without its ending.
        median_spacing: Median over cases in mm, plan axes.
        median_shape: Median over cases in voxels, plan axes.
        reader: nnU-Net's name of the reader and writer of images.
        axis_order: Permutation from image axes (z, y, x) to plan axes, coarsest first.
        intensities: Foreground statistics, one entry per channel.
        configurations: Name → JSON object, inheritance unresolved, in written order.
        planner: nnU-Net's name of the planner.
        label_manager: nnU-Net's name of the label rules.
        extra: Further keys, of other tools and of segflow, kept as they are.
    """

    dataset_name: str
    plans_name: str
    median_spacing: tuple[float, ...]
    median_shape: tuple[int, ...]
    reader: str
    axis_order: tuple[int, ...]
    intensities: tuple[ChannelIntensities, ...]
    configurations: Mapping[str, Options]
    planner: str = "ExperimentPlanner"
    label_manager: str = "LabelManager"
    extra: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        safe_name(self.dataset_name, "the dataset_name of the plans")
        safe_name(self.plans_name, "the plans_name of the plans")
        safe_names(self.configurations, "the name of a configuration")
        for name, value in self.configurations.items():
            if not isinstance(value, Mapping):
                raise SegflowError(f"configuration '{name}' of the plans is not an object", found=shortened(value))
        if sorted(self.axis_order) != [0, 1, 2]:
            raise SegflowError(
                "'transpose_forward' of the plans must name each axis once",
                found=shortened(list(self.axis_order)),
                expected=[0, 1, 2],
            )
        if len(self.median_spacing) != 3 or not all(math.isfinite(s) and s > 0 for s in self.median_spacing):
            raise SegflowError(
                "the median spacing of the plans must be three positive numbers", found=list(self.median_spacing)
            )

    @property
    def own_normalizations(self) -> Mapping[str, Any]:
        """Scheme → description of the user's own part that it names, as plain JSON. Nothing is built from it."""
        found = self.extra.get(OWN_NORMALIZATIONS)
        return found if isinstance(found, Mapping) else {}

    def configuration(self, name: str) -> ConfigurationPlan:
        """The configuration of this name, with ``inherits_from`` resolved.

        Raises:
            SegflowError: There is none of this name, or inheritance runs in a circle.
        """
        return ConfigurationPlan.from_json(name, self._resolve(name, ()))

    def _resolve(self, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        if name not in self.configurations:
            raise SegflowError(
                f"the plans '{self.plans_name}' of {self.dataset_name} have no configuration '{name}'",
                expected=list(self.configurations),
                fix="`segflow plan` says why a configuration was not made.",
            )
        if name in seen:
            raise SegflowError("configurations inherit from each other in a circle", found=" → ".join((*seen, name)))
        if len(seen) > DEEPEST_INHERITANCE:
            raise SegflowError("too many configurations inherit from each other", found=" → ".join(seen[:3]) + " → …")
        own = copy.deepcopy(dict(self.configurations[name]))
        parent = own.pop("inherits_from", None)
        return own if parent is None else {**self._resolve(str(parent), (*seen, name)), **own}

    def to_json(self) -> dict[str, Any]:
        """The content of the plans file, keys in nnU-Net's order."""
        order = [int(axis) for axis in self.axis_order]
        return {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_name,
            "original_median_spacing_after_transp": list(self.median_spacing),
            "original_median_shape_after_transp": list(self.median_shape),
            "image_reader_writer": self.reader,
            "transpose_forward": order,
            "transpose_backward": [order.index(axis) for axis in range(len(order))],
            "configurations": copy.deepcopy({name: dict(value) for name, value in self.configurations.items()}),
            "experiment_planner_used": self.planner,
            "label_manager": self.label_manager,
            "foreground_intensity_properties_per_channel": intensities_to_json(self.intensities),
            **copy.deepcopy(dict(self.extra)),
        }

    @classmethod
    def from_json(cls, value: Options) -> Plans:
        """Inverse of `to_json`; also reads nnU-Net's own plans.

        Raises:
            SegflowError: A key is missing, or a value cannot be used.
        """
        try:
            rest = dict(value)
            channels = rest.pop("foreground_intensity_properties_per_channel", None)
            if channels is None:  # the name in plans of early 2.x releases
                channels = rest.pop("foreground_intensity_properties_by_modality")
            rest.pop("transpose_backward", None)
            return cls(
                dataset_name=rest.pop("dataset_name"),
                plans_name=rest.pop("plans_name"),
                median_spacing=tuple(float(s) for s in rest.pop("original_median_spacing_after_transp")),
                median_shape=tuple(int(n) for n in rest.pop("original_median_shape_after_transp")),
                reader=str(rest.pop("image_reader_writer")),
                axis_order=tuple(int(axis) for axis in rest.pop("transpose_forward")),
                intensities=intensities_from_json(channels),
                configurations=copy.deepcopy(dict(rest.pop("configurations"))),
                planner=str(rest.pop("experiment_planner_used", "ExperimentPlanner")),
                label_manager=str(rest.pop("label_manager", "LabelManager")),
                extra=copy.deepcopy(rest),
            )
        except KeyError as missing:
            raise SegflowError(f"the plans lack the key {missing}", found=sorted(value)) from None
        except SegflowError:
            raise
        except UNUSABLE as error:
            raise SegflowError(f"the plans hold a value that cannot be used: {error}") from error
