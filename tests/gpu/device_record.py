"""What a check notes about a device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Record:
    """What happened on the devices.

    Attributes:
        waits: How often the processors waited for a device, by operation and place: ``item in file.py:function``.
        convolutions: Number of convolutions, forward and backward, by element type, memory layout, device and place.
    """

    waits: Counter[str] = field(default_factory=Counter)
    convolutions: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
