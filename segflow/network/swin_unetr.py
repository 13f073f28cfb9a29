"""Swin UNETR, by MONAI (Hatamizadeh et al. 2022, arXiv 2201.01266)."""

from __future__ import annotations

from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.networks.swin_unetr_kind import LEVELS
from segflow.core.topology import NetworkTopology
from segflow.network.segmentation_network import SegmentationNetwork


class SwinUNETR(SegmentationNetwork):
    """MONAI's Swin UNETR: attention within windows that shift, and a decoder of residual blocks.

    It gives logits of the finest level only.

    Args:
        topology: Has six levels and the options of `SwinUNETRKind`.
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        deep_supervision: Has no effect.
        memory_format: See `SegmentationNetwork`; ``auto`` is the format of the image.

    Raises:
        SegflowError: MONAI is not installed.
    """

    def __init__(
        self,
        topology: NetworkTopology,
        in_channels: int,
        out_channels: int,
        deep_supervision: bool = True,
        memory_format: str = "auto",
    ) -> None:
        super().__init__(topology, deep_supervision, "contiguous" if memory_format == "auto" else memory_format)
        try:
            import einops  # noqa: F401  MONAI needs it here, and installs it only with an extra of its own
            from monai.networks import nets
        except ImportError as error:
            raise SegflowError(
                "the network 'swin_unetr' needs MONAI",
                found=str(error),
                fix="pip install segflow[monai]",
            ) from error
        options = topology.options
        self.body = nets.SwinUNETR(
            in_channels,
            out_channels,
            depths=topology.encoder_blocks[1:-1],
            num_heads=[options["heads"] * 2**stage for stage in range(LEVELS - 2)],
            window_size=options["window"],
            feature_size=topology.features[0],
            use_checkpoint=bool(options["recompute"]),
            spatial_dims=topology.spatial_dims,
        )
        self.heads = nn.ModuleList([self.body.out.conv.conv])
        self.body.add_module("out", nn.Identity())

    def levels(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → a list of the logits (B, K, *patch)."""
        return [self.heads[0](self.body(image))]
