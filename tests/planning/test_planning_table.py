"""The table of `segflow plan`: no cell reads as nothing where there is something."""

from __future__ import annotations

from segflow.planning.explain import TABLE_HEADER, ConfigurationReport


def test_small_sizes_are_not_shown_as_nothing() -> None:
    row = ConfigurationReport("2d", "made", made=True, gpu_memory_gb=0.004, disk_bytes=1000).row()
    cells = dict(zip(TABLE_HEADER, row, strict=True))
    assert (cells["GPU [GB]"], cells["disk [GB]"]) == ("< 0.1", "≤ 0.01")
    large = ConfigurationReport("2d", "made", made=True, gpu_memory_gb=8.04, disk_bytes=2_000_000_000).row()
    assert large[-2:] == ("8.0", "≤ 2.00")
