"""How often files of a case are opened, which slow file systems answer slowly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segflow.core.geometry import Box, Geometry
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.storage.images import reader_by_name
from segflow.storage.preprocessed_store import PreprocessedStore

SHAPE = (6, 5, 4)
COUNT = """
import sys
from collections import Counter
from pathlib import Path
from segflow.core.geometry import Box
from segflow.storage.images import reader_by_name
from segflow.storage.open_volumes import open_label_source, open_source
from segflow.storage.preprocessed_store import PreprocessedStore

folder, opened = Path(sys.argv[1]), Counter()

def hear(event, args):
    if event == "open" and isinstance(args[0], (str, Path)):
        opened[Path(args[0]).name] += 1

sys.addaudithook(hear)
"""


def openings(folder: Path, code: str) -> dict[str, int]:
    """File of a case → how often a process that runs the code opens it in Python."""
    code = f"{COUNT}{code}\nprint(*(f'{{name}} {{n}}' for name, n in opened.items() if 'case_' in name), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return {name: int(count) for name, count in (line.split() for line in found.stdout.splitlines())}


@pytest.mark.parametrize("opened", ["open_source([file], reader)", "open_label_source(file, reader)"])
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_an_image_that_is_read_in_parts_is_opened_once(tmp_path: Path, reader: str, ending: str, opened: str) -> None:
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    reader_by_name(reader).write_label(labels, Geometry((1.0, 1.0, 1.0)), tmp_path / f"case_1{ending}")
    code = f"""
file, reader = folder / "case_1{ending}", reader_by_name("{reader}")
with {opened} as source:
    for start in range(6):
        source.read(Box((start, 0, 0), (start + 1, 5, 4)))
"""
    assert openings(tmp_path, code) == {f"case_1{ending}": 1}


def test_prepared_arrays_are_checked_in_one_opening(tmp_path: Path) -> None:
    whole = Box.whole(SHAPE)
    spatial = SpatialRecord(Geometry((1.0,) * 3), SHAPE, (0, 1, 2), whole, (1.0,) * 3, (1.0,) * 3, SHAPE)
    locations = {1: np.argwhere(np.ones(SHAPE))}
    case = PreprocessedCase("case_1", np.ones((1, *SHAPE), np.float32), np.ones(SHAPE, np.int16), spatial, locations)
    PreprocessedStore(tmp_path).write(case, (4, 4, 4))
    code = """
case = PreprocessedStore(folder).open("case_1")
for _ in range(3):
    case.read_image(), case.read_label(), case.foreground.location(1, 3)
"""
    found = openings(tmp_path, code)  # the library opens the arrays once more, which Python does not hear
    assert found == {"case_1.json": 1, "case_1.b2nd": 1, "case_1_seg.b2nd": 1, "case_1_locations.npy": 1}
