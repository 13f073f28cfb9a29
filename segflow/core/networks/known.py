"""The networks that segflow ships beside nnU-Net's U-Nets."""

from __future__ import annotations

from segflow.core.networks.kind import NetworkKind
from segflow.core.networks.mednext_kind import MedNeXtKind
from segflow.core.networks.primus_kind import PrimusKind
from segflow.core.networks.segresnet_kind import SegResNetKind
from segflow.core.networks.swin_unetr_kind import SwinUNETRKind

KINDS: dict[str, NetworkKind] = {
    kind.name: kind for kind in (MedNeXtKind(), PrimusKind(), SegResNetKind(), SwinUNETRKind())
}
"""Name in plans → what is known of the network. `segflow.network.build.SHIPPED` has the class of each."""
