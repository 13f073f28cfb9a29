"""The page about a raw dataset: its measurements, its outliers, and what a person does with it in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import nibabel as nib
import numpy as np
import pytest

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities, Fingerprint
from segflow.core.labels import Labels
from segflow.reporting.dataset_outliers import find_outliers
from segflow.reporting.dataset_page import write_dataset_page
from segflow.reporting.looked_case import look_at_case
from segflow.storage.images import reader_by_name
from segflow.storage.raw_dataset import read_description

EVIL = "</script><img src=x onerror=alert(1)>\"'<b>"
READER = reader_by_name("NibabelIO")
CASES = 12
SPACING = np.diag([1.0, 1.0, 2.0, 1.0])


def _save(file: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array.T), SPACING), file)
    return file


def _dataset(folder: Path) -> Path:
    """Twelve cases: the first is cut off, the second has no label map, the third a lesion that is far too large."""
    raw = folder / "Dataset900_Small"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(CASES):
        label = np.zeros((6, 20, 18), np.uint8)
        label[1:5, 4 : 10 + number % 3, 5:12] = 1
        label[2:4, 5 : 7 if number != 2 else 18, 6:9] = 2
        image = rng.normal(100, 20, label.shape).astype(np.float32) + 50 * label
        _save(raw / f"imagesTr/c{number:02d}_0000.nii.gz", image)
        _save(raw / f"labelsTr/c{number:02d}.nii.gz", label)
    broken = raw / "imagesTr/c00_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    (raw / "labelsTr/c01.nii.gz").unlink()
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, EVIL: 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    return raw


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    raw = _dataset(folder)
    channel = ChannelIntensities(200.0, 131.5, 130.0, 40.0, 60.0, 190.0, 22.5)
    fingerprint = Fingerprint(((6, 20, 18),), ((2.0, 1.0, 1.0),), (channel,), 1.0)
    errors = write_dataset_page(folder / "raw_data.html", raw, read_description(raw), READER, fingerprint=fingerprint)
    assert errors == 2
    return folder / "raw_data.html"


@pytest.fixture(scope="module")
def page(page_file: Path) -> Iterator[Any]:
    with browser.started(browser.WITHOUT_WEBGL) as running, browser.opened(running, page_file) as opened:
        yield opened


def test_it_names_bad_cases_and_values_far_from_the_others(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert EVIL not in text
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    data = json.loads(found)
    states = {row["id"]: row["state"] for row in data["cases"]}
    assert states["c00"] == states["c01"] == "error"
    assert sorted(states) == [f"c{number:02d}" for number in range(CASES)]
    (outlier,) = [one for one in data["outliers"] if one["quantity"] == f"{EVIL}: volume (ml)"]
    assert outlier["cases"] == "c02"
    assert outlier["value"] == pytest.approx(2 * 13 * 3 * 2 / 1000)
    assert outlier["usual"] == "0.024 to 0.024"
    assert [box["name"] for box in data["charts"][0]["boxes"]] == ["organ", EVIL]
    for words in ("it is truncated", "the case has no label", "131.5", "60 to 190"):
        assert words in text


def test_a_click_opens_a_case_in_three_planes(page: Any) -> None:
    page.locator(".mosaic button", has_text="c02").click()
    page.wait_for_selector("#viewer[data-shown='c02'][data-painter=slices]")
    assert page.locator(".viewer-title").inner_text().startswith(f"c02 · outlier: {EVIL}: volume (ml)")
    page.locator("#case-table .tabulator-row", has_text="c05").click()
    page.wait_for_selector("#viewer[data-shown='c05']")
    page.locator("#findings a", has_text="c00").click()
    page.wait_for_selector("#viewer[data-shown='c00'][data-painter=words]")
    assert "truncated" in page.locator(".viewer-stage").inner_text()


def test_a_table_is_not_drawn_anew_under_the_pointer_when_it_comes_into_sight(page: Any) -> None:
    page.evaluate("""() => {
        window.drawn = 0;
        Tabulator.findTable("#case-table")[0].on("renderComplete", () => { window.drawn += 1; });
    }""")
    table = page.locator("#case-table")
    for place in ("document.body.scrollHeight", "0"):
        page.evaluate(f"window.scrollTo(0, {place})")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")
        table.scroll_into_view_if_needed()
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")
    assert page.evaluate("window.drawn") == 0


def test_charts_change_and_the_table_sorts(page: Any) -> None:
    axis = page.evaluate("document.getElementById('boxes').layout.yaxis")  # logarithmic, with whole numbers
    assert axis["type"] == "log"
    assert [float(text) for text in axis["ticktext"]] == axis["tickvals"]
    first = page.locator("#boxes .xtick").all_text_contents()
    page.select_option("#chart", label="spacing (mm)")
    browser.until(lambda: page.locator("#boxes .xtick").all_text_contents() != first)
    assert page.evaluate("document.getElementById('boxes').data[0].y[0]") == 2
    column = "#case-table .tabulator-row .tabulator-cell[tabulator-field=v1]"
    title = page.locator("#case-table .tabulator-col[tabulator-field=v1] .tabulator-col-title")
    title.click()
    browser.until(lambda: page.locator(column).first.inner_text() == "0.0240")
    title.click()
    browser.until(lambda: page.locator(column).first.inner_text() == "0.156")


def test_volumes_and_parts_of_labels_and_regions(tmp_path: Path) -> None:
    label = np.zeros((4, 10, 10), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 1  # corners touch
    label[3, 8, 8] = 1
    label[3, 8, 9] = 2
    image = _save(tmp_path / "a_0000.nii.gz", np.ones(label.shape, np.float32))
    files = CaseFiles("a", (image,), _save(tmp_path / "a.nii.gz", label))
    plain = look_at_case(files, READER, Labels.from_json({"background": 0, "one": 1, "two": 2, "three": 3}))
    assert plain.volumes == pytest.approx({1: 0.006, 2: 0.002, 3: 0})
    assert plain.components == {1: 2, 2: 1, 3: 0}
    assert (plain.orientation, plain.spacing, plain.flat) == ("RAS", (2.0, 1.0, 1.0), False)
    assert plain.picture is not None
    regions = look_at_case(files, READER, Labels.from_json({"background": 0, "all": [1, 2], "two": 2}, [1, 2]))
    assert regions.volumes == pytest.approx({(1, 2): 0.008, 2: 0.002})
    assert regions.components == {(1, 2): 2, 2: 1}
    alone = look_at_case(replace(files, label=None), READER, Labels.from_json({"background": 0, "one": 1}))
    assert alone.volumes == {}
    assert alone.picture is not None


def test_outliers_are_few_and_far() -> None:
    usual = {f"c{n}": 100.0 + n for n in range(40)}
    (one,) = find_outliers({"size": {**usual, "far": 500.0, "undefined": float("nan")}})
    assert (one.case_ids, one.value, one.low, one.high) == (("far",), 500.0, 100.0, 139.0)
    (many,) = find_outliers({"size": {**usual, **{f"far{n}": 500.0 + n for n in range(6)}}})
    assert many.case_ids[0] == "far5"
    assert len(many.case_ids) == 6  # so many belong to the dataset
    assert find_outliers({"size": dict(list(usual.items())[:6]) | {"far": 500.0}}) == []  # too few to know
    assert find_outliers({"shift": {**{f"c{n}": 0.0 for n in range(9)}, "far": -5.0}})[0].case_ids == ("far",)


def test_without_cases_there_is_no_page(tmp_path: Path) -> None:
    raw = _dataset(tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        for file in (raw / folder).iterdir():
            file.unlink()
        (raw / folder).rmdir()
    with pytest.raises(SegflowError, match="imagesTr"):
        write_dataset_page(tmp_path / "raw_data.html", raw, read_description(raw), READER)
