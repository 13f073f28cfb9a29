"""What planning and reading must know of a network, without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from segflow.core.errors import SegflowError
from segflow.core.names import shortened

if TYPE_CHECKING:
    from segflow.core.topology import NetworkTopology


@dataclass(frozen=True, slots=True)
class Limits:
    """The values that an option of a network may have.

    Attributes:
        lowest, highest: Both are allowed.
        per_level: The option has one value for each level, finest first, else it is one number.
        whole: Only whole numbers are allowed.
    """

    lowest: float
    highest: float
    per_level: bool = False
    whole: bool = True

    def allows(self, value: Any, levels: int) -> bool:
        """Whether the option may have this value in a network of so many levels."""
        if self.per_level:
            return isinstance(value, tuple) and len(value) == levels and all(map(self._allows_number, value))
        return self._allows_number(value)

    def __str__(self) -> str:
        number = f"{'a whole' if self.whole else 'a'} number from {self.lowest:g} to {self.highest:g}"
        return f"for each level {number}" if self.per_level else number

    def _allows_number(self, value: Any) -> bool:
        kinds = (int,) if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.lowest <= value <= self.highest


class NetworkKind(ABC):
    """A network that segflow ships beside nnU-Net's U-Nets: its name, its options, its size in closed form.

    Plans and ``run.json`` hold its name and plain numbers. `segflow.network.build` knows which class they mean.

    Attributes:
        name: Name in plans and in ``planner.network``.
        options: Name of each option → the values that it may have. All of them stand in the plans.
        dimensions: Spatial dimensions that it has.
    """

    name: ClassVar[str]
    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    options: ClassVar[Mapping[str, Limits]] = {}

    def check(self, topology: NetworkTopology) -> None:
        """Refuse a topology that the network cannot have.

        Raises:
            SegflowError: It has not these dimensions, or an option is unknown, missing or out of range.
        """
        self.check_dimensions(topology.spatial_dims)
        self.check_names(topology.options)
        if set(topology.options) != set(self.options):
            raise SegflowError(
                f"the network '{self.name}' lacks an option", found=list(topology.options), expected=list(self.options)
            )
        for name, limits in self.options.items():
            if not limits.allows(topology.options[name], topology.levels):
                raise SegflowError(
                    f"the network '{self.name}' cannot have this value of its option '{name}'",
                    found=shortened(topology.options[name]),
                    expected=f"{limits}" + (f"; there are {topology.levels} levels" if limits.per_level else ""),
                )

    def check_dimensions(self, dims: int) -> None:
        """Refuse dimensions that the network does not have.

        Raises:
            SegflowError: There are so many.
        """
        if dims not in self.dimensions:
            raise SegflowError(
                f"the network '{self.name}' has no {dims}D form",
                expected=" or ".join(f"{dims}D" for dims in self.dimensions),
                fix="Choose another network, or a 3D configuration, such as configuration=3d_fullres.",
            )

    def check_names(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the network does not have.

        Raises:
            SegflowError: There is one.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            raise SegflowError(
                f"the network '{self.name}' has no option {shortened(unknown[0])}", expected=list(self.options)
            )

    def features(self, first: int, most: int, levels: int) -> tuple[int, ...]:
        """Feature maps of each level, as planned.

        Args:
            first: ``planner.base_features``.
            most: Upper limit.
            levels: Number of resolutions.
        """
        return tuple(min(most, first * 2**level) for level in range(levels))

    def options_of_patch(self, patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Options that follow from the patch, which planning writes into the plans; most networks have none.

        Args:
            patch_size: Voxels, plan axes.
            strides: Strides of each level.
        """
        return {}

    def check_patch(self, topology: NetworkTopology, patch_size: Sequence[int]) -> None:
        """Refuse a patch that the network cannot take though its strides divide it; most networks take all.

        Raises:
            SegflowError: It is such a patch.
        """
        return

    @abstractmethod
    def parameters(self, topology: NetworkTopology, in_channels: int, out_channels: int) -> int:
        """Number of parameters, those of unused heads included."""

    @abstractmethod
    def kept_values(
        self, topology: NetworkTopology, patch_size: Sequence[int], in_channels: int, out_channels: int
    ) -> int:
        """Numbers that a training step keeps of one sample between its passes: all that autograd saves, once each."""
