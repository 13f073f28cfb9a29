"""Image and label of a large case are read at the same time, with the results and errors of reading one by one."""

from __future__ import annotations

import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.storage import images
from segflow.storage.images import read_case, reader_by_name


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CaseFiles:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(6, 7, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a_0000.nii.gz")  # type: ignore[attr-defined]
    labels = generator.integers(0, 3, (6, 7, 8), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "a.nii.gz")  # type: ignore[attr-defined]
    monkeypatch.setattr(images, "LARGE_BYTES", 0)
    monkeypatch.setattr(images, "processor_count", lambda: 2)
    return CaseFiles("a", (tmp_path / "a_0000.nii.gz",), tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient"])
def test_the_case_is_the_same(files: CaseFiles, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    reader, threads = reader_by_name(name), set()
    kind = next(one for one in type(reader).__mro__ if "read_label_file" in vars(one))
    read_label_file = kind.read_label_file  # type: ignore[attr-defined]

    def noted(self: object, file: Path) -> object:
        threads.add(threading.get_ident())
        return read_label_file(self, file)

    monkeypatch.setattr(kind, "read_label_file", noted)
    at_once = read_case(files, reader)
    monkeypatch.setattr(images, "LARGE_BYTES", 1 << 30)
    one_by_one = read_case(files, reader)
    assert len(threads - {threading.get_ident()}) == 1
    assert np.array_equal(at_once.image, one_by_one.image)
    assert at_once.label is not None
    assert one_by_one.label is not None
    assert np.array_equal(at_once.label, one_by_one.label)
    assert at_once.geometry == one_by_one.geometry


@pytest.mark.parametrize("processors", [1, 2])
def test_undeclared_labels_are_refused_after_what_is_worse(
    files: CaseFiles, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    monkeypatch.setattr(images, "processor_count", lambda: processors)
    reader, declared = reader_by_name("SimpleITKIO"), Labels.from_json({"background": 0, "one": 1})
    assert read_case(files, reader).label is not None
    assert read_case(files, reader, labels=Labels.from_json({"background": 0, "one": 1, "two": 2})).label is not None
    with pytest.raises(SegflowError, match="does not name") as caught:
        read_case(files, reader, labels=declared)
    assert (caught.value.case, caught.value.found) == ("a", [2])
    assert files.label is not None
    other = np.full((2, 2, 2), 2, np.uint8)
    nibabel.save(nibabel.Nifti1Image(other, np.eye(4)), files.label)  # type: ignore[attr-defined]
    with pytest.raises(SegflowError, match="differ in shape"):
        read_case(files, reader, labels=declared)


@pytest.mark.parametrize("which", ["image", "label", "both"])
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_an_unreadable_file_is_named_as_before(files: CaseFiles, which: str, how: str) -> None:
    assert files.label is not None
    wrong = {"image": [files.images[0]], "label": [files.label], "both": [files.images[0], files.label]}[which]
    for file in wrong:
        if how == "missing":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(SegflowError, match=wrong[0].name) as caught:
        read_case(files, reader_by_name("SimpleITKIO"))
    assert caught.value.case == "a"
