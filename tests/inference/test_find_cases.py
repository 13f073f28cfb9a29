"""Which cases a folder, a table or a list of files stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.inference import find_cases as module
from segflow.inference.find_cases import Input
from segflow.storage.images import readable_endings, reader_by_name

NIFTI = readable_endings(reader_by_name("SimpleITKIO"), ".nii.gz")


def find_cases(source: Input, endings: Sequence[str] = NIFTI, channels: int = 1) -> list[CaseFiles]:
    return module.find_cases(source, endings, channels)


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in names]
    for file in files:
        file.touch()
    return files


def test_channels_of_a_folder_are_grouped_and_sorted(tmp_path: Path) -> None:
    b1, a0, b0 = touch(tmp_path, "b_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz")
    touch(tmp_path, "notes.txt", ".hidden_0000.nii.gz")
    cases = find_cases(tmp_path, channels=2)
    assert [(case.case_id, case.images) for case in cases] == [("a", (a0,)), ("b", (b0, b1))]


def test_a_file_without_channel_number_is_a_case_of_its_own(tmp_path: Path) -> None:
    (file,) = touch(tmp_path, "scan.nii.gz")
    for source in (tmp_path, file, [file], [str(file)]):
        (case,) = find_cases(source)
        assert (case.case_id, case.images) == ("scan", (file,))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("kind", ["folder", "list", "table"])
def test_a_year_at_the_end_of_a_name_belongs_to_the_name(tmp_path: Path, kind: str, channels: int) -> None:
    files = touch(tmp_path / "in", "scan_2022.nii.gz", "scan_2023.nii.gz", "other_0000.nii.gz")
    table = tmp_path / "cases.csv"
    table.write_text("image\n" + "".join(f"in/{file.name}\n" for file in files))
    cases = find_cases({"folder": tmp_path / "in", "list": files, "table": table}[kind], channels=channels)
    assert [(case.case_id, case.images) for case in cases] == [
        ("other", (files[2],)),
        ("scan_2022", (files[0],)),
        ("scan_2023", (files[1],)),
    ]


@pytest.mark.parametrize("name", ["scan_2022.nii.gz", "scan_0012.nii.gz"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_file_of_a_numbered_series_keeps_its_number(
    tmp_path: Path, name: str, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = touch(tmp_path, name)
    (case,) = find_cases(file, channels=channels)
    assert (case.case_id, case.images) == (name.removesuffix(".nii.gz"), (file,))
    assert (
        f"The four digits at the end of 1 name ({name}) are no channel of this model, which has {channels}"
        in caplog.text
    )


def test_a_year_and_a_channel_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, *(f"scan_{year}_000{channel}.nii.gz" for year in (2022, 2023) for channel in (0, 1)))
    cases = find_cases(tmp_path, channels=2)
    assert [(case.case_id, len(case.images)) for case in cases] == [("scan_2022", 2), ("scan_2023", 2)]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (("a_0000", "a_0001", "b_0000", "b_0002"), 2, r"case 'b': .*expected b_0000\.nii\.gz, b_0001\.nii\.gz"),
        (("scan_0000", "scan_0001", "scan_2022"), 2, r"case 'scan': .*needs the channel's number too: scan_2022_0000"),
        (("a_0000", "b_0001"), 2, r"case 'b': .*found b_0001"),
        (
            ("c0_0001", "c1_0001"),
            1,
            r"counted from 1; found c0_0001\.nii\.gz, c1_0001\.nii\.gz\. Channels count from 0",
        ),
        (("a_0001", "a_0002"), 2, r"counted from 1; found a_0001\.nii\.gz, a_0002"),
    ],
)
def test_channels_that_do_not_fit_the_model_are_refused_and_all_their_cases_named(
    tmp_path: Path, listed: bool, names: tuple[str, ...], channels: int, message: str
) -> None:
    files = touch(tmp_path, *(f"{name}.nii.gz" for name in names))
    with pytest.raises(SegflowError, match=message):
        find_cases(files if listed else tmp_path, channels=channels)


def test_everything_that_the_reader_understands_is_taken_and_the_rest_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii", "d_0000.NII.GZ", "e_0000.mha", "f_0000.Nrrd", "plans.json")
    assert [case.case_id for case in find_cases(tmp_path)] == ["a", "b", "d", "e", "f"]
    assert not caplog.records
    touch(tmp_path, "g_0000.dcm", "h_0000.png", "i_0000.nii.bz2")
    (tmp_path / "j_0000.nii.gz").symlink_to("../.git/annex/objects/j.nii.gz")
    assert len(find_cases(tmp_path)) == 5
    (record,) = caplog.records
    assert record.message.startswith(
        f"{tmp_path}: 4 files are passed over. Links to nowhere: 1 (j_0000.nii.gz). Other endings"
    )
    assert "3 (g_0000.dcm, h_0000.png, i_0000.nii.bz2)" in record.message


def test_of_an_image_stored_twice_the_ending_of_training_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, *_ = touch(tmp_path, "a_0000.nii.gz", "a_0000.nii", "a_0000.NII.GZ", "a_0000.nrrd")
    (case,) = find_cases(tmp_path)
    assert case.images == (a,)
    assert "3 (a_0000.NII.GZ, a_0000.nii, a_0000.nrrd)" in caplog.text
    (case,) = find_cases(tmp_path, readable_endings(reader_by_name("NibabelIO"), ".nii"))
    assert case.images == (tmp_path / "a_0000.nii",)


@pytest.mark.parametrize(
    ("reader", "ending", "others"),
    [
        ("SimpleITKIO", ".nrrd", {".nii.gz", ".nii", ".mha"}),
        ("SimpleITKIOWithReorient", ".nii.gz", {".nii", ".mha"}),
        ("NibabelIO", ".nii.gz", {".nii"}),
        ("NaturalImage2DIO", ".png", {".bmp", ".tif"}),
        ("Tiff3DIO", ".tif", {".tiff"}),
    ],
)
def test_endings_of_one_family_are_read_alike(reader: str, ending: str, others: set[str]) -> None:
    found = readable_endings(reader_by_name(reader), ending)
    assert found[0] == ending
    assert others <= set(found)


def test_files_of_another_ending_than_in_training_may_be_listed(tmp_path: Path) -> None:
    files = touch(tmp_path, "a_0000.nrrd", "a_0001.nrrd", "b_0000.mha", "b_0001.mha")
    assert [case.case_id for case in find_cases(files, channels=2)] == ["a", "b"]
    dotted = touch(tmp_path, "p.1 a_0000.nrrd", "p.2.b_0000.MHA", "p.3_0000.nii", "p.4.odd")
    assert [case.case_id for case in find_cases(dotted)] == ["p.1 a", "p.2.b", "p.3", "p.4"]


def test_a_single_link_to_nowhere_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a_0000.nii.gz").symlink_to("../.git/annex/objects/a.nii.gz")
    with pytest.raises(
        SegflowError, match=r"is a link to nowhere; found → \.\./\.git/annex/objects/a\.nii\.gz\. Fetch"
    ):
        find_cases(tmp_path / "a_0000.nii.gz")
    with pytest.raises(SegflowError, match=r"holds no image; found 1 link to nowhere \(a_0000\.nii\.gz\)"):
        find_cases(tmp_path)


def test_table_names_cases_and_files_relative_to_itself(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,t1,t2,label\nx,images/1.nii.gz,images/2.nii.gz,l.nii.gz\ny,/data/3.nii.gz,4.nii.gz,\n\n")
    x, y = find_cases(table)
    assert (x.case_id, x.images) == ("x", (tmp_path / "images/1.nii.gz", tmp_path / "images/2.nii.gz"))
    assert (y.case_id, y.images) == ("y", (Path("/data/3.nii.gz"), tmp_path / "4.nii.gz"))


def test_table_without_names_takes_them_from_the_files(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("image\na_0000.nii.gz\nb.nii.gz\n")
    assert [case.case_id for case in find_cases(table)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case,image\n", "lists no case"),
        ("", "lists no case"),
        ("case,image\na,1.nii.gz\na,2.nii.gz\n", "names of their own"),
        ("case,image\n../../a,1.nii.gz\n", "name of a case cannot be part of a path"),
        ("case,image\na,1.nii.gz,2.nii.gz\n", "line 2 has another number of cells"),
    ],
)
def test_tables_that_cannot_be_understood_say_why(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(content)
    with pytest.raises(SegflowError, match=message):
        find_cases(table)


def test_nothing_to_predict_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="an empty folder"):
        find_cases(tmp_path)
    touch(tmp_path, "a_0000.dcm")
    with pytest.raises(SegflowError, match=r"a_0000\.dcm.*expected names like case_0000\.nii\.gz"):
        find_cases(tmp_path)
    with pytest.raises(SegflowError, match="there is no"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(SegflowError, match="no image to predict"):
        find_cases([])


def test_two_files_for_one_prediction_are_refused(tmp_path: Path) -> None:
    files = touch(tmp_path / "one", "a_0000.nii.gz") + touch(tmp_path / "two", "a_0000.nii.gz")
    with pytest.raises(SegflowError, match="same channel of one case"):
        find_cases(files)
