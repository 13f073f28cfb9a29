"""Headers are those that nibabel reads and writes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import nibabel
import numpy as np
import pytest

from segflow.storage.image_formats.nifti_fields import DATA_START, TYPES, fields_of, new_fields

KINDS: dict[int, Any] = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}


@pytest.mark.parametrize("version", KINDS)
@pytest.mark.parametrize("name", [name for name in TYPES.values() if not name.startswith("c")])
def test_a_new_header_is_that_of_nibabel(version: int, name: str) -> None:
    theirs = KINDS[version](endianness="<")
    theirs.set_data_dtype(np.dtype(name))
    theirs.set_data_shape((7, 6, 5, 2))
    theirs["vox_offset"] = DATA_START[version]
    assert new_fields(version, (7, 6, 5, 2), np.dtype(name)).tobytes() == theirs.binaryblock


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", KINDS)
def test_every_field_is_read_as_by_nibabel(version: int, order: str) -> None:
    generator = np.random.default_rng(version)
    theirs = KINDS[version](endianness=order)
    for field in ("dim", "pixdim", "srow_x", "srow_z", "quatern_d", "qoffset_x", "xyzt_units", "intent_code"):
        theirs[field] = generator.integers(0, 100, theirs[field].shape)
    for field in ("datatype", "vox_offset", "scl_slope", "scl_inter", "qform_code", "sform_code"):
        theirs[field] = generator.integers(0, 100)
    found = fields_of(theirs.binaryblock + bytes(4))
    assert found is not None
    ours, version_found, order_found = found
    assert (version_found, order_found) == (version, order)
    for field in ours.dtype.names:
        if field in theirs.keys() and field != "magic":  # noqa: SIM118 (a header is no mapping)
            assert np.array_equal(ours[field], theirs[field]), field


@pytest.mark.parametrize(("shape", "name"), [((40_000, 2, 2), "u1"), ((2,) * 8, "u1"), ((2, 2, 2), "f2")])
def test_what_the_standard_lacks_is_refused(shape: tuple[int, ...], name: str) -> None:
    with pytest.raises(ValueError, match="NIfTI"):
        new_fields(1, shape, np.dtype(name))


def test_reading_and_writing_an_ordinary_case_loads_no_other_library() -> None:
    """Workers start for a few small cases too, and libraries take longer to load than those to read."""
    code = "import sys, segflow.planning.measure_dataset; sys.exit(any(name in sys.modules for name in sys.argv[1:]))"
    slow = ["SimpleITK", "nibabel", "tifffile", "PIL", "scipy", "blosc2", "torch"]
    assert subprocess.run([sys.executable, "-c", code, *slow], check=False).returncode == 0
