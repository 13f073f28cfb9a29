"""Cases that are prepared slab by slab have the arrays of those that are prepared as a whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
from raw_setup import Setup, describe, write_case

from segflow.core import image_look
from segflow.core.case import CaseFiles
from segflow.core.geometry import Box
from segflow.execution.machine import GB, held_bytes, memory_limited
from segflow.preprocessing import foreground, normalized_source
from segflow.preprocessing import preprocess_dataset as door
from segflow.preprocessing.preprocess_jobs import preprocess_job
from segflow.storage import array_writer
from segflow.storage.array_writer import WrittenLabel, write_array_as_read
from segflow.storage.images import reader_by_name
from segflow.storage.open_case import is_read_in_boxes
from segflow.storage.preprocessed_store import PreprocessedStore

KILLED = """
import os, signal, sys
from pathlib import Path
from segflow.core.plans import Plans
from segflow.preprocessing import preprocess_dataset as door, preprocess_jobs as jobs
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.json_files import read_json
jobs.draw_locations_as_read = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
door.preprocess_job = lambda as_read, *rest: jobs.preprocess_job(True, *rest)
raw, plans, out = map(Path, sys.argv[1:])
door.preprocess_dataset(raw, Plans.from_json(read_json(plans)), ["fine"], out, PreprocessSettings(processes=0))
"""
"""Kills itself when image and label are written, and foreground locations are not."""


@pytest.fixture
def by_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case is prepared slab by slab, with tiny slabs."""
    monkeypatch.setattr(door, "preprocess_job", lambda as_read, *rest: preprocess_job(True, *rest))
    for module, name in ((image_look, "SLAB_VALUES"), (normalized_source, "SLAB_VALUES"), (array_writer, "AT_ONCE")):
        monkeypatch.setattr(module, name, 300)


def content(folder: Path) -> dict[str, object]:
    store, result = PreprocessedStore(folder), {}
    for case_id in store.case_ids():
        case = store.open(case_id)
        properties = {key: value for key, value in case.properties.items() if key not in ("files", "made_from")}
        locations = np.load(folder / f"{case_id}_locations.npy")
        arrays = [array.tobytes() for array in (case.read_image(), case.read_label(), locations)]
        result[case_id] = arrays, properties, case.properties["made_from"]["files"]
        assert store.is_whole(case_id)
    return result


@pytest.mark.parametrize("in_files", [False, True])
def test_arrays_and_properties_are_the_same(
    setup: Setup, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, in_files: bool
) -> None:
    for configuration in setup.plans.configurations.values():
        configuration |= {} if "inherits_from" in configuration else {"use_mask_for_norm": [True]}
    for number in range(3):
        image = nibabel.load(file := setup.raw / "imagesTr" / f"case_{number}_0000.nii.gz")
        values = image.get_fdata(dtype=np.float32)
        values[np.random.default_rng(number).random(values.shape) < 0.3] = 0
        nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), file)
    setup.run()
    names = ("plans_2d", "plans_fine", "plans_coarse")
    expected = [content(setup.out / name) for name in names]
    request.getfixturevalue("by_slabs")
    if in_files:
        monkeypatch.setattr(array_writer, "IN_MEMORY", 0)
    setup.out = setup.out.with_name("by_slabs")
    setup.run()
    assert [content(setup.out / name) for name in names] == expected
    assert not [path for path in (setup.out / "plans_fine").iterdir() if path.name.startswith(".writing")]


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((2, 70, 60, 50), (20, 24, 28)),
        ((1, 9, 200, 300), (128, 160)),
        ((1, 3, 5, 7), (32, 32, 32)),
        ((3, 1, 90, 80), (64, 64)),
    ],
)
@pytest.mark.parametrize("in_memory", [0, 1 << 30])
def test_a_compressed_array_is_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], patch: tuple[int, ...], in_memory: int
) -> None:
    monkeypatch.setattr(array_writer, "IN_MEMORY", in_memory)
    monkeypatch.setattr(array_writer, "AT_ONCE", 10_000)
    array = np.random.default_rng(0).normal(size=shape).round(2).astype(np.float32)
    read: list[Box] = []

    def read_box(box: Box) -> np.ndarray:
        read.append(box)
        return array[(slice(None), *box.slices)]

    checks = write_array_as_read(tmp_path / "x.b2nd", shape, array.dtype, read_box, patch)
    found = blosc2.open(str(tmp_path / "x.b2nd"), mode="r")
    assert np.array_equal(found[:], array)
    assert checks["bytes"] == (tmp_path / "x.b2nd").stat().st_size
    starts = [box.start[0] for box in read[1:]]
    assert starts == sorted(set(starts))
    assert found.chunks == array_writer.array_options(shape, patch, array[:1, :1, :1, :1], 1)["chunks"]


def test_what_cannot_be_read_leaves_nothing(setup: Setup, by_slabs: None) -> None:
    setup.run(names=["fine"])
    store = PreprocessedStore(setup.out / "plans_fine")
    write_case(setup.raw, "case_1", 7)
    file = setup.raw / "imagesTr" / "case_1_0000.nii.gz"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    report = setup.run(names=["fine"])
    assert list(report.failed) == ["case_1"]
    assert "case_1" in report.failed["case_1"]
    label = nibabel.load(setup.raw / "labelsTr" / "case_0.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(label.dataobj) + np.uint8(9), label.affine),
        setup.raw / "labelsTr" / "case_0.nii.gz",
    )
    assert "does not name" in setup.run(names=["fine"]).failed["case_0"]
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".writing")]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system cannot kill a process so")
def test_a_killed_process_leaves_nothing_that_looks_whole(setup: Setup) -> None:
    plans = setup.raw.parent / "plans.json"
    plans.write_text(json.dumps(setup.plans.to_json()))
    arguments = [str(setup.raw), str(plans), str(setup.out)]
    environment = {**os.environ, "BLOSC_NTHREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    store = PreprocessedStore(setup.out / "plans_fine")
    assert (store.folder / "case_0_seg.b2nd").exists()
    assert store.case_ids() == []
    assert setup.run(names=["fine"]).done == ("case_0", "case_1", "case_2")
    assert all(store.is_whole(case_id) for case_id in store.case_ids())


def test_large_cases_are_prepared_in_parts_and_refused_where_that_is_too_much(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of a large image is enough for the choice."""
    for number in range(3):
        for kind, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
            (setup.raw / kind / f"case_{number}{suffix}.nii.gz").unlink()
    shape = (1500, 1500, 1500)
    for kind, name in (("imagesTr", "big_0000.nii"), ("labelsTr", "big.nii")):
        header = nibabel.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape(shape)
        header.set_sform(np.eye(4), code=1)
        (setup.raw / kind / name).write_bytes(header.binaryblock + bytes(4))
        os.truncate(setup.raw / kind / name, 352 + 1500**3)  # without using disk space
    describe(setup.raw, 1, ending=".nii")
    jobs = []
    monkeypatch.setattr(door, "run_jobs", lambda _, given, **__: jobs.extend(given) or [])
    setup.change("fine", spacing=[1.0, 1.0, 1.0])
    with memory_limited(held_bytes() / GB + 4):
        setup.run(names=["fine"])
    assert jobs[0].arguments[0] is True
    assert jobs[0].memory_bytes < 3 * 2**30
    monkeypatch.undo()
    with memory_limited(held_bytes() / GB + 0.6):
        assert "this case needs" in setup.run(names=["fine"]).failed["big"]


def test_formats_that_are_read_as_a_whole_are_known_by_their_names(tmp_path: Path) -> None:
    for reader, name, expected in (
        ("SimpleITKIO", "x.nii.gz", True),
        ("SimpleITKIO", "x.nrrd", False),
        ("NibabelIO", "x.nii", True),
        ("NaturalImage2DIO", "x.png", False),
        ("Tiff3DIO", "x.tif", False),
        ("Blosc2IO", "x.b2nd", True),
        ("OMEZarrIO", "x.ome.zarr", True),
    ):
        files = CaseFiles("x", (tmp_path / name,), tmp_path / name)
        assert is_read_in_boxes(files, reader_by_name(reader)) is expected


def test_a_written_label_is_read_in_parts(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(-1, 5, size=(1, 20, 30, 40)).astype(np.int16)
    file = tmp_path / "x_seg.b2nd"
    write_array_as_read(file, label.shape, label.dtype, lambda box: label[(slice(None), *box.slices)], (16, 16, 16))
    box = Box((3, 4, 5), (9, 20, 40))
    assert WrittenLabel(file).shape == (20, 30, 40)
    assert np.array_equal(WrittenLabel(file).read(box), label[0][box.slices])


def test_draws_from_very_many_voxels_need_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.ones((30, 200, 200), np.int16)
    few = foreground.draw_foreground_locations(label, [1])[1]
    monkeypatch.setattr(foreground, "_LARGEST_CHOICE", 0)
    assert np.array_equal(foreground.draw_foreground_locations(label, [1])[1], few)
    monkeypatch.setattr(foreground, "LARGEST_SHUFFLE", 0)
    other = foreground.draw_foreground_locations(label, [1])[1]
    assert other.shape == few.shape
    assert len(np.unique(other, axis=0)) == len(other)
    assert np.array_equal(foreground.draw_foreground_locations(label, [1])[1], other)
