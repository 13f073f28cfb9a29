"""Readers of a user's own: named in the settings or brought by a package, held to their contract, never mistaken."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_reader import Answers, Minimal, NumpyIO, OtherIO

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.geometry import Geometry
from segflow.core.plans import Plans
from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner_settings import PlannerSettings
from segflow.preprocessing.preprocess_dataset import preprocess_dataset
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.image_formats.contract import ImageHeader, ImageIO
from segflow.storage.images import choose_reader, reader_by_name, reader_of
from segflow.storage.readers import use_reader

GEOMETRY = Geometry((1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def _shipped_again() -> Iterator[None]:
    yield
    use_reader(None)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw dataset of arrays as numpy writes them."""
    folder = tmp_path / "Dataset001_Arrays"
    generator = np.random.default_rng(0)
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for number in range(5):
        image = generator.normal(100, 20, (10, 24, 20)).astype(np.float32)
        np.save(folder / "imagesTr" / f"case_{number}_0000.npy", image)
        np.save(folder / "labelsTr" / f"case_{number}.npy", (image > 120).astype(np.uint8))
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "numTraining": 5}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".npy"}))
    return folder


@pytest.mark.parametrize("processes", [0, 2])
def test_a_dataset_is_planned_and_preprocessed_with_it(raw: Path, tmp_path: Path, processes: int) -> None:
    use_reader(NumpyIO((2.0, 1.0, 1.0)))
    report = plan_dataset(raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=processes))
    assert json.loads((tmp_path / "out" / "nnUNetPlans.json").read_text())["image_reader_writer"] == "NumpyIO"
    assert report.plans.median_spacing == (2.0, 1.0, 1.0)
    settings = PreprocessSettings(processes=processes)
    done = preprocess_dataset(raw, report.plans, ["3d_fullres"], tmp_path / "out", settings)
    assert len(done.done) == 5
    assert np.load(tmp_path / "out" / "gt_segmentations" / "case_0.npy").shape == (10, 24, 20)


def test_without_it_the_error_says_how_to_bring_it(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"no reader for files of this ending; found '\.npy'"):
        plan_dataset(raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=0))
    use_reader(NumpyIO())
    plans = plan_dataset(raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=0)).plans
    use_reader(None)
    with pytest.raises(SegflowError, match="unknown reader 'NumpyIO'") as caught:
        preprocess_dataset(raw, plans, ["3d_fullres"], tmp_path / "out")
    assert "by the setting 'reader'" in str(caught.value)
    assert "segflow.readers" in str(caught.value)


def test_it_comes_before_the_shipped_ones_and_before_dataset_json() -> None:
    use_reader(OtherIO())
    assert choose_reader(".nii.gz").name == "OtherIO"
    assert choose_reader(".nii.gz", name="NibabelIO").name == "OtherIO"
    assert reader_by_name("OtherIO").name == "OtherIO"


def test_it_is_never_left_out_in_silence(tmp_path: Path) -> None:
    use_reader(NumpyIO(), "reader")
    with pytest.raises(SegflowError, match=r"'NumpyIO' of the setting 'reader' does not know.*'\.nii\.gz'.*\.npy"):
        choose_reader(".nii.gz")
    with pytest.raises(SegflowError, match=r"the plans were made with the reader 'SimpleITKIO'.*'NumpyIO'"):
        reader_by_name("SimpleITKIO")
    use_reader(OtherIO())
    (tmp_path / "a.nii.gz").write_bytes(b"no array")  # it cannot be read, and nothing else tries in its place
    assert reader_of([tmp_path / "a.nii.gz"], ".nii.gz").name == "OtherIO"


def test_answers_become_what_the_rest_expects(tmp_path: Path) -> None:
    reader = used(Minimal())
    image, geometry = reader.read_image([tmp_path / "a", tmp_path / "b"])
    assert (image.dtype, image.shape, geometry.spacing) == (np.float32, (2, 2, 3, 4), (1.0, 2.0, 3.0))
    label, _ = reader.read_label(tmp_path / "a")
    assert label.dtype == np.int16
    assert reader.endings == (".min",)
    assert pickle.loads(pickle.dumps(reader)).name == "Minimal"


def used(reader: Any) -> ImageIO:
    use_reader(reader)
    return reader_by_name(reader.name)


@pytest.mark.parametrize(
    ("reader", "found"),
    [
        (NumpyIO, "the class NumpyIO itself"),
        (object(), "name None, which"),
        (Minimal(name="SimpleITKIO"), "which one of the shipped readers has"),
        (Minimal(name="a/b"), "name 'a/b', which"),
        (Minimal(endings=".min"), "not file endings"),
        (Minimal(endings=()), "not file endings"),
        (Minimal(endings=("min",)), "not file endings"),
        (Minimal(endings=(".MIN",)), "not file endings"),
        (Minimal(read_label=None), "no method read_label"),
        (Minimal(write_map=Minimal().read_label), "write_map(file: 'Any') -> 'Any', which does not take 3"),
        (Minimal(extra=lambda: None), "processes that work on cases"),
    ],
)
def test_what_is_no_reader_is_refused_when_it_is_named(reader: Any, found: str) -> None:
    with pytest.raises(SegflowError, match=r"^reader: ") as caught:
        use_reader(reader)
    assert found in str(caught.value)
    assert "read_image" in str(caught.value) or "lambda" in str(caught.value)
    with pytest.raises(SegflowError, match="unknown reader"):
        reader_by_name("Minimal")


ARRAY = np.ones((1, 2, 3, 4), dtype=np.float32)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (None, "NoneType"),
        (ARRAY, "ndarray"),
        ((ARRAY[0], GEOMETRY), "array (2, 3, 4) of float32"),
        ((ARRAY.astype(complex), GEOMETRY), "array (1, 2, 3, 4) of complex128"),
        ((ARRAY.tolist(), GEOMETRY), "list"),
        ((ARRAY, (1.0, 1.0, 1.0)), "(1.0, 1.0, 1.0) as geometry"),
        ((ARRAY, Geometry((1.0, 1.0))), "as geometry"),  # type: ignore[arg-type]
        ((ARRAY, Geometry((1.0, 1.0, 1.0), {"affine": np.eye(4)})), "not plain JSON"),
        (KeyError("spacing"), "KeyError: 'spacing' (own_reader.py, line"),
    ],
)
def test_an_image_that_is_none_is_named_with_the_contract(answer: Any, found: str) -> None:
    with pytest.raises(SegflowError) as caught:
        used(Answers(answer)).read_image([Path("a.min")])
    text = str(caught.value)
    assert "'Minimal' (reader)" in text
    assert "a.min" in text
    assert f"found {found}" in text or found in text
    assert "float32 array (C, Z, Y, X)" in text


@pytest.mark.parametrize(
    ("method", "answer", "found"),
    [
        ("read_label", (ARRAY, GEOMETRY), "whole numbers (Z, Y, X)"),
        ("read_label", (ARRAY[0] / 2, GEOMETRY), "not whole numbers"),
        ("read_label", (ARRAY[0], Geometry((1.0, -1.0, 1.0))), "millimetres above 0"),
        ("read_header", None, "ImageHeader with three voxel counts"),
        ("read_header", ImageHeader((3, 4), 1, GEOMETRY, "int8"), "shape (3, 4)"),  # type: ignore[arg-type]
        ("read_header", ImageHeader((0, 3, 4), 1, GEOMETRY, "int8"), "shape (0, 3, 4)"),
        ("read_header", FileNotFoundError(2, "No such file or directory"), "cannot read a.min: No such file"),
    ],
)
def test_labels_and_headers_are_looked_at_too(method: str, answer: Any, found: str) -> None:
    with pytest.raises(SegflowError) as caught:
        getattr(used(Answers(answer)), method)(Path("a.min"))
    assert found in str(caught.value)


@pytest.mark.parametrize("method", ["write_label", "write_map"])
def test_what_writes_nothing_is_found_out(tmp_path: Path, method: str) -> None:
    file = tmp_path / "a.min"
    with pytest.raises(SegflowError, match=r"no file a\.min"):
        getattr(used(Answers(None)), method)(ARRAY[0], GEOMETRY, file)
    with pytest.raises(NoSpaceError, match="No space left"):
        getattr(used(Answers(OSError(28, "No space left on device"))), method)(ARRAY[0], GEOMETRY, file)
    getattr(used(Minimal()), method)(ARRAY[0], GEOMETRY, file)
    assert file.is_file()


# --- brought by installed packages --------------------------------------------------------------------------------


def install(site: Path, package: str, **readers: str) -> None:
    """What pip leaves of a package that brings readers."""
    folder = site / f"{package}-1.2.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = [f"{name} = {value}" for name, value in readers.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[segflow.readers]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks for packages in."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "broken_package.py").write_text("import a_library_that_is_not_there\n")
    (folder / "loud_package.py").write_text("raise SystemError('it was imported')\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_an_installed_reader_is_found_by_name_and_by_ending(site: Path, raw: Path, tmp_path: Path) -> None:
    install(site, "arrays", NumpyIO="own_reader:NumpyIO")
    assert reader_by_name("NumpyIO").name == "NumpyIO"
    assert choose_reader(".npy").name == "NumpyIO"
    report = plan_dataset(raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=0))
    plans = Plans.from_json(json.loads((report.folder / "nnUNetPlans.json").read_text()))
    done = preprocess_dataset(raw, plans, ["3d_fullres"], report.folder, PreprocessSettings(processes=2))
    assert len(done.done) == 5


def test_it_is_loaded_only_where_it_is_needed(site: Path) -> None:
    install(site, "loud", LoudIO="loud_package:LoudIO", OtherIO="own_reader:OtherIO")
    assert choose_reader(".nii.gz").name == "SimpleITKIO"
    assert reader_by_name("NibabelIO").name == "NibabelIO"
    assert choose_reader(".nii.gz", name="OtherIO").name == "OtherIO"


def test_a_broken_one_is_named_and_stops_no_other(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "arrays", NumpyIO="own_reader:NumpyIO")
    install(site, "broken", BrokenIO="broken_package:BrokenIO")
    assert choose_reader(".npy").name == "NumpyIO"
    assert "'BrokenIO' of the package broken 1.2 (segflow.readers: broken_package:BrokenIO)" in caplog.text
    with pytest.raises(SegflowError, match="a_library_that_is_not_there"):
        reader_by_name("BrokenIO")
    with pytest.raises(SegflowError, match="a_library_that_is_not_there"):  # nothing else is taken in its place
        choose_reader(".nii.gz", name="BrokenIO")
    with pytest.raises(SegflowError, match=r"no reader for files of this ending.*'\.xyz'.*BrokenIO"):
        choose_reader(".xyz")


def test_its_name_must_be_its_own(site: Path) -> None:
    install(site, "arrays", MyIO="own_reader:NumpyIO", Minimal="own_reader:Minimal", ImageIO="own_reader:GEOMETRY")
    with pytest.raises(SegflowError, match=r"'MyIO' of the package arrays 1\.2.*found NumpyIO; expected MyIO"):
        reader_by_name("MyIO")
    with pytest.raises(SegflowError, match="cannot be loaded"):
        reader_by_name("ImageIO")
    install(site, "copies", Minimal="own_reader:Answers")
    with pytest.raises(SegflowError, match=r"several installed packages.*arrays 1\.2.*copies 1\.2"):
        reader_by_name("Minimal")
    with pytest.raises(SegflowError, match="Did you mean 'Minimal'"):
        reader_by_name("Minimale")
