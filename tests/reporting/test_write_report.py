"""The page about a run."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.metrics import CaseMetrics, Summary
from segflow.reporting.curves import write_progress_picture
from segflow.reporting.write_report import Table, write_report
from segflow.storage.folds import Fold

DICE = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.1, "e": 0.8}


class _Checker(HTMLParser):
    """Collects text and fails on tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _write(file: Path, array: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    return file


def _summary(tmp_path: Path) -> tuple[Summary, dict[str, CaseFiles]]:
    cases, images = [], {}
    for seed, (name, dice) in enumerate(DICE.items()):
        label = np.zeros((3, 9, 9), np.uint8)
        label[1, 2:6, 2:6] = 1
        image = np.random.default_rng(seed).normal(size=label.shape).astype(np.float32)
        prediction = _write(tmp_path / "pred" / f"{name}.nii.gz", label)
        reference = _write(tmp_path / "ref" / f"{name}.nii.gz", label)
        images[name] = CaseFiles(name, (_write(tmp_path / "img" / f"{name}_0000.nii.gz", image),))
        scores = {1: {"Dice": dice}, 2: {"Dice": float("nan")}}
        cases.append(CaseMetrics(name, scores, str(prediction), str(reference)))
    return Summary.of_cases(cases, {"f": "case 'f': there is no prediction <f>"}), images


def _page(tmp_path: Path, **options: object) -> tuple[str, str]:
    fold = Fold(tiny_models.make_run(tmp_path) / "fold_0")
    write_progress_picture({"train_loss": [1.0, 0.5]}, fold.progress_png)
    summary, images = _summary(tmp_path)
    write_report(tmp_path / "report.html", [fold], summary, images=images, **options)  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text()
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    return page, " ".join(checker.text)


def test_the_page_says_what_was_trained_and_how_good_it_is(tmp_path: Path) -> None:
    tables = [Table("Scores & intervals", [["label", "Dice"], ["<organ>", "0.6 [0.3, 0.8]"]])]
    page, text = _page(tmp_path, tables=tables, notes=["A note."])
    for words in ("Dataset900_Tiny", "3d_fullres", "16 × 16 × 16", "Scores & intervals", "<organ>", "A note.", "0.600"):
        assert words in text
    assert "<organ>" not in page  # it is escaped
    assert "there is no prediction <f>" in text


def test_best_median_and_worst_case_are_shown(tmp_path: Path) -> None:
    _, text = _page(tmp_path)
    for words in ("Best: b, mean Dice 0.900", "Median: c, mean Dice 0.700", "Worst: d, mean Dice 0.100"):
        assert words in text


def test_the_page_holds_its_pictures_and_needs_nothing_else(tmp_path: Path) -> None:
    page, _ = _page(tmp_path)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 1 + 3 * 3  # curves; image, reference and prediction of three cases
    for source in sources:
        head, content = source.split(",", 1)
        assert head == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")
    assert "http" not in page
    assert "<script" not in page


def test_a_case_whose_files_are_gone_does_not_stop_the_page(tmp_path: Path) -> None:
    summary, images = _summary(tmp_path)
    Path(summary.cases[1].prediction_file).unlink()
    fold = Fold(tiny_models.make_run(tmp_path) / "fold_0")
    write_report(tmp_path / "report.html", [fold], summary, images=images)
    page = (tmp_path / "report.html").read_text()
    assert "Best: b" in page
    assert "b.nii.gz" in page


def test_without_images_and_curves_there_are_still_tables(tmp_path: Path) -> None:
    summary, _ = _summary(tmp_path)
    fold = Fold(tiny_models.make_run(tmp_path) / "fold_0")
    write_report(tmp_path / "report.html", [fold], summary)
    page = (tmp_path / "report.html").read_text()
    assert "<img" not in page
    assert "Dice of each case" in page


def test_of_many_cases_the_page_lists_the_worst_and_the_best(tmp_path: Path) -> None:
    scores = {f"case_{n:05d}": {1: {"Dice": n / 5000}, 2: {"Dice": n / 5000}} for n in range(5000)}
    failed = {f"lost_{n}": f"case 'lost_{n}': there is no prediction" for n in range(1000)}
    summary = Summary.of_cases([CaseMetrics(name, one, "p", "r") for name, one in scores.items()], failed)
    write_report(tmp_path / "report.html", [Fold(tiny_models.make_run(tmp_path) / "fold_0")], summary)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 200_000
    assert "Dice of the 400 worst and 100 best of 5000 cases; metrics.csv has all" in page
    assert [name in page for name in ("case_00000", "case_00399", "case_02500", "case_04900")] == [1, 1, 0, 1]
    assert "and 900 more; summary.json has all" in page


def test_a_run_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    summary, _ = _summary(tmp_path)
    with pytest.raises(SegflowError, match="segflow train"):
        write_report(tmp_path / "report.html", [Fold(tmp_path / "fold_0")], summary)
    with pytest.raises(SegflowError, match="segflow train"):
        write_report(tmp_path / "report.html", [], summary)
    assert not (tmp_path / "report.html").exists()
