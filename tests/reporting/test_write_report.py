"""The page about a run: what is in the file. `test_page_in_browser.py` sees what a person sees."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from report_runs import make_run, reported, scores

from segflow.core.errors import SegflowError
from segflow.core.metrics import CaseMetrics, Summary
from segflow.reporting.page import in_json
from segflow.reporting.reported_run import Change, ReportedRun
from segflow.reporting.viewed_cases import LIBRARY
from segflow.reporting.write_report import Table, write_report
from segflow.storage.find_folds import find_folds
from segflow.storage.folds import Fold


class _Checker(HTMLParser):
    """Collects text, and fails on tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def read_page(file: Path) -> tuple[str, str]:
    """The page, and its text."""
    page = file.read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    return page, " ".join(" ".join(checker.text).split())


def data_of(page: str, name: str = "data") -> Any:
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found)


def _page(tmp_path: Path, **options: Any) -> tuple[str, str]:
    run, images = reported(make_run(tmp_path, folds=(0, 1)), tmp_path)
    change = Change("optimizer.lr", "0.01", "<0.02>")
    write_report(tmp_path / "report.html", [replace(run, changes=[change])], images=images, **options)
    return read_page(tmp_path / "report.html")


def test_the_page_says_what_was_trained_where_and_how(tmp_path: Path) -> None:
    tables = [Table("Scores & intervals", [["label", "Dice"], ["<organ>", "0.6 [0.3, 0.8]"]], "Of <all>.")]
    page, text = _page(tmp_path, tables=tables, notes=["A note."], headline={"mean Dice": "0.600"})
    for words in (
        *("Dataset900_Tiny: 3d_fullres", "16 × 16 × 16", "Scores & intervals", "<organ>", "Of <all>.", "A note."),
        *("NVIDIA A100 · cuda:0", "node7", "trained from 2026-11-25 08:00 UTC", "torch 2.13.0", "duration 40 min"),
        "peak memory 1.50 GiB main process",
        *("epochs 20 of 50", "learning rate 0.02", "optimizer SGD, nesterov", "DiceCrossEntropy, dice weight 1"),
        *("optimizer.lr 0.01 <0.02>", "0.600 mean Dice", "there is no prediction <f>"),
    ):
        assert words in text
    assert "<organ>" not in page  # it is escaped


def test_the_data_hold_every_score_and_curve(tmp_path: Path) -> None:
    page, _ = _page(tmp_path)
    data = data_of(page)
    (run,) = data["runs"]
    assert run["cases"] == ["a", "b", "c", "d", "e"]
    assert run["fold"] == ["0", "1", "0", "1", "0"]
    assert run["scores"]["Dice"] == [[0.5, 0.9, 0.7, 0.1, 0.8], [None] * 5]
    assert run["scores"]["hd95_mm"][1] == [None, None, None, "inf", None]
    assert [metric["key"] for metric in data["metrics"]] == ["Dice", "hd95_mm", "surface_dice"]
    assert run["curves"]["1"]["val/loss"][0] is None
    assert len(run["curves"]["1"]["train/loss"]) == 20


def test_names_that_look_like_html_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    assert "<" not in in_json({evil: [evil, "\u2028"]})
    assert json.loads(in_json({evil: [evil, "\u2028"]})) == {evil: [evil, "\u2028"]}
    run, _ = reported(make_run(tmp_path, labels={"background": 0, evil: 1, "'\"": 2}), tmp_path)
    cases = [CaseMetrics("x<img src=y onerror=z>", scores(0.5), "p", "r")]
    write_report(tmp_path / "report.html", [replace(run, name=evil, summary=Summary.of_cases(cases))])
    page, text = read_page(tmp_path / "report.html")
    assert evil not in page
    assert "<img" not in page
    assert evil in text
    assert data_of(page)["labels"][0]["name"] == evil


def test_nothing_that_is_embedded_ends_early() -> None:
    package = Path(write_report.__code__.co_filename).parent
    for file in (
        *package.glob("*.js"),
        *package.glob("vendor/*.js"),
        *package.glob("*.css"),
        *package.glob("vendor/*.css"),
    ):
        if file.name == LIBRARY:  # pages hold it compressed
            continue
        assert not re.search(r"</(script|style)|<!--|sourceMappingURL|@import", file.read_text(encoding="utf-8"), re.I)


def test_every_embedded_library_has_its_licence() -> None:
    vendor = Path(write_report.__code__.co_filename).parent / "vendor"
    told = (vendor / "README.md").read_text(encoding="utf-8")
    for file in vendor.iterdir():
        assert file.name in told or file.name == "README.md"
    assert all((vendor / licence).is_file() for licence in re.findall(r"`([\w.]+LICENSE\.txt)`", told))


def test_a_case_whose_files_are_gone_does_not_stop_the_page(tmp_path: Path) -> None:
    run, images = reported(make_run(tmp_path), tmp_path)
    Path(run.summary.cases[1].prediction_file).unlink()
    write_report(tmp_path / "report.html", [run], images=images)
    page, _ = read_page(tmp_path / "report.html")
    (entry,) = [case for case in data_of(page, "viewer-data")["cases"] if case["id"] == "b"]
    assert "b.nii.gz" in entry["notes"][0]
    assert entry["channels"] == []


def test_a_channel_that_does_not_exist_is_said(tmp_path: Path) -> None:
    run, images = reported(make_run(tmp_path), tmp_path)
    with pytest.raises(SegflowError, match="the images have no such channel; found 3; expected 0 … 0"):
        write_report(tmp_path / "report.html", [run], images=images, channel=3)


def test_a_training_without_scores_has_its_curves(tmp_path: Path) -> None:
    run = ReportedRun.of("default", find_folds(make_run(tmp_path, epochs=1)))
    write_report(tmp_path / "report.html", [run], notes=["It goes on."])
    page, text = read_page(tmp_path / "report.html")
    assert "epochs 1 of 50" in text
    assert 'id="cases"' not in page
    assert data_of(page)["runs"][0]["curves"]["0"]["train/loss"] == [1.05]


def test_a_run_of_an_earlier_version_opens(tmp_path: Path) -> None:
    run = ReportedRun.of("default", find_folds(tiny_models.make_run(tmp_path)))  # without machine, settings and curves
    write_report(tmp_path / "report.html", [run])
    page, text = read_page(tmp_path / "report.html")
    assert "cannot be compared with the defaults" in text
    assert 'id="training"' not in page


def test_of_very_many_scores_only_the_first_metrics_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segflow.reporting.page_data.MOST_NUMBERS", 25)
    page, _ = _page(tmp_path)
    assert [metric["key"] for metric in data_of(page)["metrics"]] == ["Dice", "hd95_mm"]


def test_of_many_failed_cases_the_first_are_listed(tmp_path: Path) -> None:
    run, _ = reported(make_run(tmp_path), tmp_path)
    failed = {f"lost_{n}": f"case 'lost_{n}': there is no prediction" for n in range(1000)}
    write_report(tmp_path / "report.html", [replace(run, summary=replace(run.summary, failed=failed))])
    assert "and 900 more; summary.json has all" in read_page(tmp_path / "report.html")[1]


def test_curves_that_are_no_table_are_named(tmp_path: Path) -> None:
    fold = Fold(make_run(tmp_path) / "fold_0")
    for content in (b"epoch,lr\n0,high\n", b"epoch,lr\n0\n", b"epoch,lr\n0,\xff\n"):
        fold.metrics_csv.write_bytes(content)
        with pytest.raises(SegflowError, match=r"metrics\.csv is not a table of curves"):
            ReportedRun.of("default", [fold])


def test_a_run_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    for folds in ([Fold(tmp_path / "fold_0")], []):
        with pytest.raises(SegflowError, match="segflow train"):
            ReportedRun.of("default", folds)
    with pytest.raises(SegflowError, match="segflow train"):
        write_report(tmp_path / "report.html", [])
    assert not (tmp_path / "report.html").exists()
