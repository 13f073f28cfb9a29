"""The page about runs, as a person uses it in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import pytest
from report_runs import make_run, reported

from segflow.reporting.reported_run import ReportedRun
from segflow.reporting.write_report import write_report
from segflow.storage.find_folds import find_folds

EVIL = "</script><img src=x onerror=alert(1)>\"'<b>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.started() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of one run with hostile names, of two runs that share two cases, and of a training without scores."""
    folder = tmp_path_factory.mktemp("pages")
    labels = {"background": 0, "organ": 1, EVIL: 2}
    first, images = reported(make_run(folder, EVIL.replace("/", ""), folds=(0, 1), labels=labels), folder)
    second, _ = reported(make_run(folder, "other", labels=labels), folder, dice={"a": 0.6, "b": 0.4})
    training = ReportedRun.of("training", find_folds(make_run(folder, "training", epochs=1)))
    files = {name: folder / f"{name}.html" for name in ("one", "two", "training")}
    write_report(files["one"], [first], images=images)
    write_report(files["two"], [replace(second, name="second"), replace(first, name=EVIL)])
    write_report(files["training"], [training])
    return files


def column(page: Any, field: str) -> list[str]:
    """The cells of a column of the table of cases that are in view, from the top."""
    cells: list[str] = page.locator(
        f'#case-table .tabulator-row .tabulator-cell[tabulator-field="{field}"]'
    ).all_inner_texts()
    return cells


def test_the_table_of_cases_sorts_and_filters(chromium: Any, pages: dict[str, Path]) -> None:
    with browser.opened(chromium, pages["one"]) as page:
        assert column(page, "id") == ["d", "a", "c", "e", "b"]  # the worst first
        header = page.locator('.tabulator-col[tabulator-field="l0"]')
        for wanted in (["0.100", "0.500", "0.700", "0.800", "0.900"], ["0.900", "0.800", "0.700", "0.500", "0.100"]):
            header.locator(".tabulator-col-title").click()
            assert column(page, "l0") == wanted
        header.locator("input").press_sequentially("<0.6")
        browser.until(lambda: column(page, "id") == ["a", "d"])
        page.locator('.tabulator-col[tabulator-field="id"] input').press_sequentially("A")
        browser.until(lambda: column(page, "id") == ["a"])
        page.select_option("#metric", label="HD95 [mm]")
        browser.until(lambda: column(page, "l0") == ["5"])  # which "<0.6" would not keep


def test_a_click_on_a_point_or_a_row_opens_the_case(chromium: Any, pages: dict[str, Path]) -> None:
    with browser.opened(chromium, pages["one"]) as page:
        page.evaluate("segflow.openCase = (id) => { window.openedCase = id; }")
        point = page.locator("#boxes .trace.boxes .point").nth(1)  # of the second lowest Dice
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#boxes .hoverlayer .hovertext")
        page.mouse.down()
        page.mouse.up()
        browser.until(lambda: page.evaluate("window.openedCase") == "a")
        assert page.locator(".tabulator-selected .tabulator-cell").first.inner_text() == "a"
        page.locator(".tabulator-row", has_text="d").first.click()
        browser.until(lambda: page.evaluate("window.openedCase") == "d")
        assert page.evaluate("document.getElementById('boxes').data[0].selectedpoints") == [3]


def test_long_names_of_cases_are_not_cut(chromium: Any, pages: dict[str, Path]) -> None:
    with browser.opened(chromium, pages["one"]) as page:
        wanted = "segflow.columns([{ title: 'case', field: 'id' }], [{ id: 'patient002_frame01' }])[0].minWidth"
        assert page.evaluate(wanted) >= 150


def test_smoothing_moves_the_curves(chromium: Any, pages: dict[str, Path]) -> None:
    with browser.opened(chromium, pages["one"]) as page:
        epochs = page.locator("#curves .chart").first.locator(".xtick").all_text_contents()
        assert epochs == [text for text in epochs if text.isdigit()] != []
        line = page.locator("#curves .chart").first.locator(".scatterlayer .js-line")
        assert line.count() == 4  # training and validation of two folds
        before = line.first.get_attribute("d")
        roughness = """() => { const y = document.querySelector('#curves .chart').data.at(-1).y.filter(v => v === v);
            return y.slice(2).reduce((sum, v, k) => sum + Math.abs(v - 2 * y[k + 1] + y[k]), 0); }"""
        rough = page.evaluate(roughness)
        page.locator("#smoothing").fill("0.8")
        browser.until(lambda: line.count() == 8)  # faint ones behind
        assert page.evaluate(roughness) < rough / 4
        assert before in [line.nth(place).get_attribute("d") for place in range(8)]
        page.select_option("#curves select", "val/dice/organ")
        assert page.locator("#curves .chart").nth(1).locator(".scatterlayer .js-line").count() == 4


def test_names_from_files_stay_text(chromium: Any, pages: dict[str, Path]) -> None:
    with browser.opened(chromium, pages["one"]) as page:
        assert EVIL in page.locator("#case-table .tabulator-header").inner_text()
    with browser.opened(chromium, pages["two"]) as page:
        assert EVIL in page.locator("#case-table .tabulator-header").inner_text()
        page.wait_for_selector("#boxes .legendtext")
        assert EVIL in page.locator("#boxes .legendtext").all_text_contents()


def test_runs_stand_side_by_side(chromium: Any, pages: dict[str, Path]) -> None:
    with browser.opened(chromium, pages["two"]) as page:
        page.locator('.tabulator-col[tabulator-field="id"] .tabulator-col-title').click()
        assert column(page, "id")[:2] == ["a", "b"]
        assert column(page, "r0")[:3] == ["0.600", "0.400", "–"]
        assert column(page, "d1")[:3] == ["-0.100", "0.500", "–"]
        assert page.locator("tr.differs", has_text="run name").count() == 1


@pytest.mark.parametrize("width", [1400, 700])
def test_a_training_without_scores_shows_its_curves_and_nothing_wider_than_the_window(
    chromium: Any, pages: dict[str, Path], width: int
) -> None:
    for name in ("training", "one"):
        with browser.opened(chromium, pages[name], viewport={"width": width, "height": 900}) as page:
            assert page.locator("#curves .chart .main-svg").count() >= 4
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert page.locator("#cases").count() == (1 if name == "one" else 0)


def test_it_follows_the_colour_scheme(chromium: Any, pages: dict[str, Path]) -> None:
    with browser.opened(chromium, pages["one"], color_scheme="light") as page:
        seen = "(part) => { const s = getComputedStyle(document.querySelector(part)); return s.color + s.fill; }"
        parts = ("h1", "#boxes .xtick text", "#curves .ytick text", "#case-table .tabulator-cell")
        light = [page.evaluate(seen, part) for part in parts]
        page.emulate_media(color_scheme="dark")
        for part, before in zip(parts, light, strict=True):
            browser.until(lambda part=part, before=before: page.evaluate(seen, part) != before)
