"""Nothing that may be data is passed over in silence, and nothing that is none is made a fuss of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.storage.case_files import discover, find_training_cases, look_at_held_out
from segflow.storage.listing import describe_passed_over, files_ending_in, list_folder
from segflow.storage.raw_dataset import read_description


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def lose(file: Path) -> None:
    """What a clone without its content leaves."""
    file.unlink(missing_ok=True)
    file.symlink_to(f"../.git/annex/objects/{file.name}")


DATASET = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset001_Toy"
    touch(folder / "imagesTr", *(f"{case}_0000.nii.gz" for case in "abc"))
    touch(folder / "labelsTr", *(f"{case}.nii.gz" for case in "abc"))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


def test_entries_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.txt", ".hidden", "._b.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to("b.nii.gz")
    lose(tmp_path / "lost.nii.gz")
    (tmp_path / "circle.nii.gz").symlink_to("circle.nii.gz")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.nii.gz")
    found = list_folder(tmp_path)
    assert found.files == ("a.txt", "b.nii.gz", "link.nii.gz")
    assert found.lost == {"circle.nii.gz": "circle.nii.gz", "lost.nii.gz": "../.git/annex/objects/lost.nii.gz"}
    assert (found.others, found.folders) == (("pipe.nii.gz",), ("folder",))


def test_one_line_counts_and_names_what_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii", "c.NII.GZ", "d.dcm", "IM0001", "e.nii.bz2", "f.zip", "g.nii.gz.part")
    lose(tmp_path / "h.nii.gz")
    os.mkfifo(tmp_path / "i.nii.gz")
    assert files_ending_in(tmp_path, ".nii.gz") == ["a.nii.gz"]
    (record,) = caplog.records
    assert record.message.startswith(f"{tmp_path}: 9 files are passed over. Links to nowhere: 1 (h.nii.gz). ")
    assert "Other endings than .nii.gz: 7 (IM0001, b.nii, c.NII.GZ, d.dcm, e.nii.bz2 and 2 more)." in record.message
    assert "No regular files: 1 (i.nii.gz). Fetch what the links point to (git annex get" in record.message


def test_what_lies_beside_images_is_not_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.nii.gz", ".DS_Store", "._a.nii.gz", "._a.nii", "Thumbs.db", "desktop.ini", "README", "notes.txt")
    touch(tmp_path, "plans.json", "dataset.json", "predict.json", "a.json", "metrics.csv", "a.bval", "a.bvec", "a.pkl")
    touch(tmp_path / ".segflow", "a.nii.gz.json")
    touch(tmp_path / "probabilities", "a_0000.nii.gz")
    assert files_ending_in(tmp_path, ".nii.gz") == ["a.nii.gz"]
    assert not caplog.records


def test_a_single_file_is_told_of_in_the_singular() -> None:
    assert (
        describe_passed_over("x", {"no regular files": ["p"]}) == "x: 1 file is passed over. No regular files: 1 (p)."
    )


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="there is no folder"):
        list_folder(tmp_path / "nowhere")


# --- raw datasets --------------------------------------------------------------------------------------------------


def problems(raw: Path) -> list[tuple[str, str]]:
    return [(p.severity, str(p)) for p in discover(raw, read_description(raw)).problems]


def test_links_to_nowhere_are_errors_counted_per_folder(raw: Path) -> None:
    assert problems(raw) == []
    for file in (raw / "imagesTr" / "a_0000.nii.gz", raw / "labelsTr" / "a.nii.gz", raw / "labelsTr" / "b.nii.gz"):
        lose(file)
    (severity, images), (other, labels) = problems(raw)
    assert severity == other == "error"
    assert images.startswith(
        "imagesTr: 1 link to nowhere: a_0000.nii.gz; found a_0000.nii.gz → ../.git/annex/objects/a_00"
    )
    assert labels.startswith(
        "labelsTr: 2 links to nowhere: a.nii.gz, b.nii.gz; found a.nii.gz → ../.git/annex/objects/a.nii.gz. "
    )
    with pytest.raises(SegflowError, match=r"(?s)imagesTr: 1 link.*labelsTr: 2 links"):
        find_training_cases(raw, read_description(raw))


def test_a_folder_of_nothing_but_links_to_nowhere_is_not_called_empty(raw: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        for file in list((raw / folder).iterdir()):
            lose(file)
    texts = [text for _, text in problems(raw)]
    assert [text.split(":")[0] for text in texts] == ["imagesTr", "labelsTr"]
    assert all("3 links to nowhere" in text for text in texts)


def test_a_listed_file_that_is_a_link_to_nowhere_is_called_so(raw: Path) -> None:
    lose(raw / "imagesTr" / "a_0000.nii.gz")
    listing = {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps({**DATASET, "dataset": listing}))
    ((severity, text),) = problems(raw)
    assert severity == "error"
    assert "a_0000.nii.gz is a link to nowhere; found → ../.git/annex/objects/a_0000.nii.gz" in text


@pytest.mark.parametrize("name", ["d_0000.NII.GZ", "d_0000.nii", "d_0000.mha"])
def test_images_of_another_ending_are_refused(raw: Path, name: str) -> None:
    touch(raw / "imagesTr", name)
    ((severity, text),) = problems(raw)
    assert severity == "error"
    assert f"mixed file endings: imagesTr/{name}" in text


def test_doctor_looks_at_what_is_held_out_too(raw: Path) -> None:
    assert look_at_held_out(raw, ".nii.gz", ".nii.gz") == []
    touch(raw / "imagesTs", "x_0000.nii.gz", "y_0000.NII.GZ")
    lose(raw / "imagesTs" / "z_0000.nii.gz")
    (problem,) = look_at_held_out(raw, ".nii.gz", ".nii.gz")
    assert problem.severity == "warning"
    assert problem.message.startswith("imagesTs: 2 files are passed over. Links to nowhere: 1 (z_0000.nii.gz). Other")
    assert "1 (y_0000.NII.GZ)" in problem.message


def test_what_planning_passes_over_is_logged(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(find_training_cases(raw, read_description(raw))) == 3
    assert not caplog.records
    touch(raw / "imagesTr", "d_0000.nii.gz.part", "e_0000.nii.bz2")
    touch(raw / "labelsTr", "d.nii.gz", "e.nii.gz")
    assert len(find_training_cases(raw, read_description(raw))) == 3
    passed, lonely = (record.message for record in caplog.records)
    assert passed.startswith(
        "imagesTr: 2 files are passed over. Other endings than .nii.gz: 2 (d_0000.nii.gz.part, e_0"
    )
    assert passed.endswith("Convert what are images to .nii.gz.")
    assert lonely == "Dataset001_Toy: labelsTr/d.nii.gz has no image, labelsTr/e.nii.gz has no image"


def test_channels_counted_from_1_are_one_problem_for_all_cases(raw: Path) -> None:
    for case in "abc":
        (raw / "imagesTr" / f"{case}_0000.nii.gz").rename(raw / "imagesTr" / f"{case}_0001.nii.gz")
    ((severity, text),) = problems(raw)
    assert severity == "error"
    assert text.startswith("imagesTr: the channels of 3 cases are counted from 1; found a_0001.nii.gz, b_0001.nii.gz")
    assert (
        "Channels count from 0, in dataset.json and in the names of the files: case_0000 is the first channel" in text
    )


@pytest.mark.parametrize("names", [{"1": "T2"}, {"1": "T1", "2": "T2"}, {"0": "T1", "2": "T2"}])
def test_channel_names_counted_from_1_get_the_same_advice(names: dict[str, str]) -> None:
    with pytest.raises(SegflowError, match=r"must be numbered from 0 .*Channels count from 0, in dataset\.json and in"):
        DatasetDescription.from_json("X", {**DATASET, "channel_names": names})
