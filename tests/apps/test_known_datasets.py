"""Public datasets by their names: from a folder or an archive, or by a download."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.apps import _datasets, _edge, _shipped
from segflow.apps._records import DatasetSettings
from segflow.core.errors import SegflowError
from segflow.exchange.convert_known import convert_known
from segflow.exchange.known_datasets import KNOWN
from segflow.storage import archives
from segflow.storage.archives import unpack
from segflow.storage.downloads import download
from segflow.storage.images import read_case, reader_by_name
from segflow.storage.raw_dataset import find_training_cases, read_description

CONTENT = bytes(range(256)) * 9000
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def write(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(file))


def image(number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).normal(0, 100, (4, 6, 6)).astype(np.int16)


def mask(*values: int) -> np.ndarray:
    result = np.zeros((4, 6, 6), np.uint8)
    for place, value in enumerate(values):
        result[place] = value
    return result


def made(folder: Path, name: str) -> tuple[list[str], dict[str, int], dict[str, str]]:
    """Names of the cases, labels and groups of a converted public dataset, whose cases can be read."""
    raw = convert_known(KNOWN[name], folder, folder.parent / "raw" / "Dataset099_New")
    description = read_description(raw)
    cases = find_training_cases(raw, description)
    for case in cases:
        read_case(case, reader_by_name("NibabelIO"), channels=len(description.channels))
    return [case.case_id for case in cases], dict(description.labels.entries), description.groups


def test_every_known_dataset_is_an_option_and_says_what_a_user_must_know() -> None:
    options = {file.stem for file in (_shipped.config_dir() / "dataset").glob("*.yaml")}
    assert options == {*KNOWN, "phantom", "raw"}
    names = {}
    for name, known in KNOWN.items():
        settings = _edge.compose("doctor", f"dataset={name}").dataset
        assert settings.known == name
        assert _datasets.as_settings(settings) == {"dataset": name}
        assert known.licence
        assert known.citation
        assert known.page.startswith("http")
        assert known.checksum is None or re.fullmatch("md5:[0-9a-f]{32}", known.checksum)
        names[settings.name] = known
    assert len(names) == len(KNOWN) - 1  # the hippocampus has two names


def test_a_decathlon_task_from_a_folder(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = test_data / "Task04_Hippocampus"
    command = _edge.compose(
        "plan", "dataset=msd_hippocampus", f"dataset.source={task}", "dataset.name=Dataset104_Hippo"
    )
    raw = _datasets.raw_folder(command.dataset, command.paths, make=True)
    told = capsys.readouterr().out
    assert "Licence: CC BY-SA 4.0" in told
    assert "Cite: Antonelli" in told
    assert raw.name == "Dataset104_Hippo"
    assert len(find_training_cases(raw, read_description(raw))) == len(list((task / "imagesTr").glob("hippo*.nii.gz")))
    again = _datasets.raw_folder(command.dataset, command.paths, make=True)
    assert (again, capsys.readouterr().out) == (raw, "")
    assert _datasets.as_settings(command.dataset) == {
        "dataset": "msd_hippocampus", "dataset__name": "Dataset104_Hippo", "dataset__source": task,
    }  # fmt: skip


def test_lits_lists_what_has_a_segmentation(tmp_path: Path) -> None:
    for number, part in ((0, "batch1"), (12, "batch2"), (7, "test")):
        write(tmp_path / f"lits/{part}/volume-{number}.nii", image(number))
        if part != "test":
            write(tmp_path / f"lits/{part}/segmentation-{number}.nii", mask(1, 2))
    cases, labels, _ = made(tmp_path / "lits", "lits")
    assert (cases, labels) == (["lits_000", "lits_012"], {"background": 0, "liver": 1, "tumour": 2})


def test_acdc_keeps_the_frames_of_a_patient_together(tmp_path: Path) -> None:
    for part, patient in (("training", "patient001"), ("training", "patient002"), ("testing", "patient101")):
        for frame in ("01", "12"):
            place = tmp_path / "ACDC/database" / part / patient
            write(place / f"{patient}_frame{frame}.nii.gz", image())
            write(place / f"{patient}_frame{frame}_gt.nii.gz", mask(1, 2, 3))
        write(place / f"{patient}_4d.nii.gz", image())
    cases, labels, groups = made(tmp_path / "ACDC", "acdc")
    assert cases == [f"patient00{n}_{frame}" for n in (1, 2) for frame in ("01", "12")]
    assert labels["myocardium"] == 2
    assert groups["patient002_12"] == "patient002"


def test_amos_takes_its_ct(tmp_path: Path) -> None:
    for number in ("0001", "0500", "0507"):
        write(tmp_path / f"x/amos22/imagesTr/amos_{number}.nii.gz", image())
        write(tmp_path / f"x/amos22/labelsTr/amos_{number}.nii.gz", mask(6, 15))
    cases, labels, _ = made(tmp_path / "x", "amos")
    assert cases == ["amos_0001", "amos_0500"]
    assert (labels["liver"], len(labels)) == (6, 16)


def test_the_masks_of_totalsegmentator_are_joined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for subject in ("s0000", "s0011"):
        write(tmp_path / f"ts/{subject}/ct.nii.gz", image())
        write(tmp_path / f"ts/{subject}/segmentations/liver.nii.gz", mask(0, 1, 1))
        write(tmp_path / f"ts/{subject}/segmentations/aorta.nii.gz", mask(1))
    write(tmp_path / "ts/s0011/segmentations/spleen.nii.gz", mask(0, 0, 1, 1))
    cases, labels, _ = made(tmp_path / "ts", "totalsegmentator")
    assert (cases, labels) == (["s0000", "s0011"], {"background": 0, "aorta": 1, "liver": 2, "spleen": 3})
    label, _ = reader_by_name("NibabelIO").read_label(tmp_path / "raw/Dataset099_New/labelsTr/s0011.nii.gz")
    assert label[:, 0, 0].tolist() == [1, 2, 3, 3]
    assert "36 voxels lie in several masks" in caplog.text


def test_a_mask_on_another_grid_is_refused_with_its_name(tmp_path: Path) -> None:
    write(tmp_path / "ts/s0000/ct.nii.gz", image())
    write(tmp_path / "ts/s0000/segmentations/liver.nii.gz", mask(1)[:2])
    with pytest.raises(SegflowError, match=r"case 's0000'.*liver\.nii\.gz.*differ in shape"):
        made(tmp_path / "ts", "totalsegmentator")
    assert not list((tmp_path / "raw").glob("D*"))


@pytest.mark.parametrize("name", ["msd_liver", "lits", "acdc", "amos", "totalsegmentator"])
def test_a_folder_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else/readme.txt").touch()
    with pytest.raises(SegflowError, match=r"does not hold this dataset; found readme|no file matches .*readme"):
        made(tmp_path / "else", name)


@pytest.mark.parametrize("name", ["lits", "acdc"])
def test_a_dataset_behind_a_form_is_not_downloaded(name: str) -> None:
    command = _edge.compose("plan", f"dataset={name}")
    with pytest.raises(SegflowError, match=rf"cannot download .*{re.escape(KNOWN[name].page)}.*dataset.source=PATH"):
        _datasets.raw_folder(command.dataset, command.paths, make=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "/nowhere", "known": "lits"}, "there is no folder or archive /nowhere"),
        ({"source": "/nowhere"}, "of which dataset"),
    ],
)
def test_a_source_that_cannot_be_used(settings: dict[str, str], message: str) -> None:
    paths = _edge.compose("plan", "dataset=phantom").paths
    with pytest.raises(SegflowError, match=message):
        _datasets.raw_folder(DatasetSettings(name="Dataset077_X", **settings), paths, make=True)
    with pytest.raises(SegflowError, match=r"unknown dataset\.source"):
        DatasetSettings(name="x", source="downlod")
    with pytest.raises(SegflowError, match=r"unknown dataset\.known"):
        DatasetSettings(name="x", known="msd_lver")


@contextmanager
def server(*, breaks_at: int | None = None, ranges: bool = True) -> Iterator[tuple[str, list[str]]]:
    """A server of `CONTENT`, which may break off once; and the ranges that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-") or 0) if ranges and wanted else 0
            self.send_response(206 if ranges and wanted else 200)
            if ranges and wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            stop = breaks_at if breaks_at is not None and len(asked) == 1 else len(CONTENT)
            self.wfile.write(CONTENT[start:stop])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/data.bin", asked
        finally:
            http.shutdown()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_broke_off(ranges: bool, tmp_path: Path) -> None:
    file = tmp_path / "down/data.bin"
    with server(breaks_at=1_500_000, ranges=ranges) as (url, asked):
        with pytest.raises(SegflowError, match=r"cannot download .*goes on from where it broke off"):
            download(url, file, MD5)
        assert not file.exists()
        assert download(url, file, MD5).read_bytes() == CONTENT
        assert download(url, file, MD5) == file
    assert asked == ["", "bytes=1500000-"]


def test_another_file_than_was_expected_is_refused(tmp_path: Path) -> None:
    wrong = MD5.replace(MD5[-4:], "0000")
    with server() as (url, _), pytest.raises(SegflowError, match=rf"data.bin is not the file .*found {MD5}"):
        download(url, tmp_path / "data.bin", wrong)
    assert not list(tmp_path.glob("data.bin*"))


def test_the_first_checksum_is_kept_where_none_is_known(tmp_path: Path) -> None:
    file = tmp_path / "data.bin"
    with server() as (url, _):
        download(url, file)
    file.write_bytes(b"changed")
    with pytest.raises(SegflowError, match="is not the file"):
        download(url, file)


def test_no_server_is_told(tmp_path: Path) -> None:
    with server() as (url, _):
        pass
    with pytest.raises(SegflowError, match=r"cannot download .*dataset\.source=PATH"):
        download(url, tmp_path / "data.bin", MD5)


def test_a_task_is_downloaded_unpacked_and_converted(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, archive = test_data / "Task04_Hippocampus", tmp_path / "there" / "Task04_Hippocampus.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        for name in ("dataset.json", "imagesTr", "labelsTr"):
            tar.add(task / name, f"Task04_Hippocampus/{name}")
    checksum = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    known = replace(KNOWN["msd_hippocampus"], url=archive.as_uri(), checksum=checksum)
    monkeypatch.setitem(KNOWN, "msd_hippocampus", known)
    command = _edge.compose("plan", "dataset=msd_hippocampus")
    raw = _datasets.raw_folder(command.dataset, command.paths, make=True)
    assert json.loads((raw / "dataset.json").read_text())["labels"]["Anterior"] == 1
    assert not [file for file in (raw.parent / ".downloads").rglob("*") if file.is_file()]


def tar_of(file: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(file, "w") as tar:
        for entry in entries:
            tar.addfile(entry)
    return file


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made_entry = tarfile.TarInfo(name)
    made_entry.type, made_entry.linkname = kind, target
    return made_entry


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry("../out.txt"), "would lie outside"),
        (entry("/tmp/out.txt"), "would lie outside"),
        (entry("a\\..\\out.txt"), "would lie outside"),
        (entry("link", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (entry("link", tarfile.LNKTYPE, "good.txt"), "is a link"),
        (entry("pipe", tarfile.FIFOTYPE), "is a device or pipe"),
        (entry("null", tarfile.CHRTYPE), "is a device or pipe"),
        (entry("a/" * 30 + "b"), "impossible path"),
    ],
)
def test_a_tar_that_reaches_out_is_refused(bad: tarfile.TarInfo, message: str, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tar", entry("good.txt"), bad)
    with pytest.raises(SegflowError, match=f"x.tar is refused: .*{message}"):
        unpack(archive, tmp_path / "unpacked")
    assert [file.name for file in tmp_path.iterdir()] == ["x.tar"]


def test_an_archive_that_swells_or_is_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 1 << 20)
    swollen = tmp_path / "swollen.tar.gz"
    with tarfile.open(swollen, "w:gz") as tar:
        zeros = tmp_path / "zeros"
        with zeros.open("wb") as stream:
            stream.truncate(2 << 20)
        tar.add(zeros, "zeros")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as bad:
        bad.writestr("../out.txt", "x")
    cut = tmp_path / "cut.tar"
    tar_of(cut, entry("a"))
    cut.write_bytes(cut.read_bytes()[:300])
    short = entry("b")
    short.size = 2000
    (tmp_path / "short.tar").write_bytes(short.tobuf() + b"x" * 1000)
    for name, message in (
        ("swollen.tar.gz", "far more than it is"), ("out.zip", "outside"), ("cut.tar", "cannot unpack"),
        ("zeros", "nothing in it"), ("short.tar", "cannot unpack"),
    ):  # fmt: skip
        with pytest.raises(SegflowError, match=message):
            unpack(tmp_path / name, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_a_zip_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", "text")
    assert (unpack(tmp_path / "x.zip", tmp_path / "new") / "a/b.txt").read_text() == "text"
