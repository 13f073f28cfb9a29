"""Cases in three planes, as a person sees them in a browser with WebGL and in one without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import nibabel as nib
import numpy as np
import pytest
from report_runs import make_run, reported, scores

from segflow.core.case import CaseFiles
from segflow.core.metrics import CaseMetrics, Summary
from segflow.reporting.write_report import write_report

SHAPE_XYZ = (24, 30, 8)
EVIL = "</script><img src=x onerror=alert(1)>\"'<b>"
SHOWN = {"good": 0.9, "bad": 0.2, "lost": 0.5}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two cases that can be shown and one whose prediction is missing; each voxel is 2 by 2 by 6 mm."""
    folder = tmp_path_factory.mktemp("viewer")
    affine = np.diag([2.0, 2.0, 6.0, 1.0])  # x to the right, y to the front
    x, y, z = np.indices(SHAPE_XYZ)
    label = (((x - 6) ** 2 + (y - 15) ** 2 < 20) & (z > 2)).astype(np.uint8)  # on the patient's left
    label[6, 15, 4:] = 2
    cases, images = [], {}
    for name, dice in SHOWN.items():
        files = {side: folder / f"{side}_{name}.nii.gz" for side in ("image", "reference", "prediction")}
        arrays = (100.0 * z + 10 * x + y, label, np.roll(label, 3, axis=1))
        for file, array in zip(files.values(), arrays, strict=True):
            nib.save(nib.Nifti1Image(array.astype(np.float32 if "image" in file.name else np.uint8), affine), file)
        images[name] = CaseFiles(name, (files["image"],))
        cases.append(CaseMetrics(name, scores(dice), str(files["prediction"]), str(files["reference"])))
    (folder / "prediction_lost.nii.gz").unlink()
    run, _ = reported(make_run(folder, labels={"background": 0, "organ": 1, EVIL: 2}), folder)
    run = replace(run, summary=Summary.of_cases(cases), fold_of=dict.fromkeys(SHOWN, "0"))
    write_report(folder / "report.html", [run], images=images)
    return folder / "report.html"


class _Viewer:
    """The viewer of an open page."""

    def __init__(self, page: Any, painter: str) -> None:
        self.page = page
        self.painter = painter

    def open(self, case: str, painter: str | None = None) -> None:
        painter = painter or self.painter
        self.page.evaluate("(id) => segflow.openCase(id)", case)
        self.page.wait_for_selector(f"#viewer[data-shown='{case}'][data-painter='{painter}']")

    def picture(self) -> bytes:
        self.page.wait_for_timeout(60)  # the next frame
        shot: bytes = self.page.locator(".viewer-stage").screenshot()
        return shot

    def set(self, name: str, value: str) -> None:
        self.page.locator(f"#viewer [name={name}]").fill(value)

    def text(self, part: str) -> str:
        found: str = self.page.locator(f".viewer-{part}").inner_text()
        return found


@pytest.fixture(scope="module", params=["webgl", "slices"])
def viewer(request: pytest.FixtureRequest, page_file: Path) -> Iterator[_Viewer]:
    """The viewer of an open page, one for all tests since WebGL takes seconds to start without a graphics card."""
    flags = browser.WITH_WEBGL if request.param == "webgl" else browser.WITHOUT_WEBGL
    with browser.started(flags) as running, browser.opened(running, page_file) as page:
        yield _Viewer(page, request.param)


def test_what_is_moved_changes_the_picture(viewer: _Viewer) -> None:
    page = viewer.page
    viewer.open("bad")
    before = viewer.picture()
    for name, value in (("axial", "1"), ("coronal", "3"), ("sagittal", "20"), ("opacity", "1"), ("high", "300")):
        viewer.set(name, value)
        after = viewer.picture()
        assert after != before, name
        before = after
    viewer.set("axial", "6")
    for name in ("reference", "difference", "none"):
        page.check(f"#viewer [name=map][value={name}]")
        after = viewer.picture()
        assert after != before, name
        before = after
    assert viewer.text("title").startswith("bad")


def test_the_place_under_the_lines_is_told(viewer: _Viewer) -> None:
    viewer.open("bad")
    # The file counts x from the left and y from the back; the page from the right and from the front.
    x, y, z = 6, 15, 5
    for name, value in (("sagittal", SHAPE_XYZ[0] - 1 - x), ("coronal", SHAPE_XYZ[1] - 1 - y), ("axial", z)):
        viewer.set(name, str(value))
    value, reference, prediction = viewer.text("readout").split(" · ")
    assert abs(float(value.split()[-1]) - (100 * z + 10 * x + y)) < 3  # 256 steps over the range
    assert reference == f"reference: {EVIL}"
    assert prediction == "prediction: organ"


def test_a_click_moves_the_lines_in_the_other_planes(viewer: _Viewer) -> None:
    page = viewer.page
    viewer.open("bad")
    page.check("#viewer [name=map][value=prediction]")
    places = page.evaluate(
        "segflow.layOut(document.querySelector('.viewer-stage'), {size: [24, 30, 8], spacing: [2, 2, 6]})"
    )
    inner = page.locator(f".viewer-stage [data-name={viewer.painter}]").bounding_box()
    coronal = places["planes"][1]
    page.mouse.click(inner["x"] + coronal["left"] + coronal["width"] * 4.5 / 24, inner["y"] + coronal["top"] + 5)
    assert page.input_value("#viewer [name=sagittal]") == "4"
    assert page.input_value("#viewer [name=axial]") == "7"
    # The planes have the patient's proportions: 48 mm by 60 mm, and 48 mm by 48 mm.
    axial = places["planes"][0]
    assert abs(axial["height"] / axial["width"] - 60 / 48) < 0.01
    assert abs(coronal["height"] / coronal["width"] - 1) < 0.01
    assert viewer.text("legend").split("\n")[0].startswith("organ")


def test_other_cases_open_and_missing_ones_say_why(viewer: _Viewer) -> None:
    page = viewer.page
    viewer.open("bad")
    page.locator(".viewer-cases button", has_text="good").click()
    page.wait_for_selector("#viewer[data-shown='good']")
    viewer.open("lost", "words")
    assert "prediction_lost.nii.gz" in viewer.text("stage")
    viewer.open("elsewhere", "words")
    assert "holds no images of elsewhere" in viewer.text("stage")
    viewer.open("good")
    assert page.locator(".viewer-controls").is_visible()


def test_outlines_are_those_of_each_plane(viewer: _Viewer) -> None:
    page = viewer.page
    viewer.open("bad")
    page.check("#viewer [name=outline]")
    page.wait_for_selector("#viewer[data-painter=slices]")
    count = """() => { const canvas = document.querySelector('.viewer-plane canvas');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return [...Array(data.length / 4).keys()].filter((k) => data[4 * k] !== data[4 * k + 2]).length; }"""
    outline = page.evaluate(count)
    page.uncheck("#viewer [name=outline]")
    viewer.open("bad")
    x, y = np.indices(SHAPE_XYZ[:2])
    disk = (x - 6) ** 2 + (y - 15) ** 2 < 20
    assert 0 < outline < disk.sum()
