"""The benchmark of Dice per minute: its budgets, pieces, bars and curves, and that it goes on where it stopped."""

from __future__ import annotations

import importlib
import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "dice_per_minute.py"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("dice_per_minute")
    sys.path.remove(str(SCRIPT.parent))


def test_a_budget_is_used_up_by_time_or_by_iterations(benchmark: ModuleType) -> None:
    now = [100.0]
    by_time = benchmark.Share(20.0, None, lambda: now[0])
    by_iterations = benchmark.Share(None, 8, lambda: now[0])
    for _ in range(2):
        now[0] += 5.0
        by_time.step()
        by_iterations.step()
    assert (by_time.used, by_iterations.used, by_time.seconds) == (0.5, 0.25, 10.0)


def test_the_rate_leaves_out_the_first_iterations(benchmark: ModuleType) -> None:
    assert benchmark._rate([10.0, 15.0, 17.0, 17.5, 18.0, 18.5]) == pytest.approx(0.5)


def test_pieces_begin_with_short_budgets_of_all_sides_and_are_chosen_by_name(benchmark: ModuleType) -> None:
    found = benchmark.pieces(["a", "b"], ["nnunet", "fast"], [10, 2.5], 2)
    assert [piece.name for piece in found[:5]] == [
        "a/nnunet/2.5/0",
        "a/fast/2.5/0",
        "b/nnunet/2.5/0",
        "b/fast/2.5/0",
    ] + ["a/nnunet/2.5/1"]
    assert len(found) == 16

    def chosen(*patterns: str) -> list[str]:
        return [piece.name for piece in found if piece.is_wanted(patterns)]

    assert len(chosen()) == 16
    assert len(chosen("a")) == 8
    assert chosen("b/fast/10/1") == ["b/fast/10/1"]
    assert chosen("*/nnunet/10", "a/fast/2.5/0") == [
        "a/fast/2.5/0", "a/nnunet/10/0", "b/nnunet/10/0", "a/nnunet/10/1", "b/nnunet/10/1",
    ]  # fmt: skip
    assert chosen("a/fas") == []


def test_the_bars_are_equal_time_and_a_third_of_it(benchmark: ModuleType) -> None:
    dice = {("nnunet", 13): 0.7, ("nnunet", 40): 0.8, ("fast", 13): 0.81, ("fast", 40): 0.79, ("fast", 5): 0.5}
    found = {
        benchmark.Piece("a", side, minutes, seed): {"dice": {"mean": value + 0.01 * seed}}
        for (side, minutes), value in dice.items()
        for seed in (0, 1)
    }
    assert dict(benchmark._bars(found)) == pytest.approx(
        {
            "a: Dice of fast above nnU-Net's, 13 min both": 0.11,
            "a: Dice of fast above nnU-Net's, 40 min both": -0.01,
            "a: Dice of fast in 13 min above nnU-Net's in 40 min": 0.01,
        }
    )


def test_what_only_nnunet_has_run_is_told_too(benchmark: ModuleType, tmp_path: Path) -> None:
    told: dict[str, dict[str, Any]] = {}
    checks: dict[str, float] = {}
    record = SimpleNamespace(
        value=lambda what, unit="", **sides: told.update({what: sides}),
        check=lambda what, value, **bar: checks.update({what: value}),
        note=lambda text: None,
    )
    extra = SimpleNamespace(iterations=None, by_rate=True, features=None, mirror=False)
    chosen = SimpleNamespace(work=tmp_path, quick=False, extra=extra)
    todo = benchmark.pieces(["acdc"], ["nnunet", "fast"], [10, 40], 2)
    for piece, dice in zip(todo, (0.5, 0.85, 0.7, 0.83, 0.8, None, 0.82, None), strict=True):
        file = benchmark._file(chosen, piece)
        file.parent.mkdir(parents=True, exist_ok=True)
        if dice is not None:
            file.write_text(json.dumps({"dice": {"mean": dice, "cases": 3}, "iterations": 4}))
    benchmark.tell(record, chosen, todo)
    name = "acdc: Dice of whole cases after {} min, {}"
    assert told[name.format(10, "experiment=fast")] == pytest.approx({"nnunet": 0.6, "segflow": 0.84})
    assert told[name.format(40, "nnU-Net")] == pytest.approx({"nnunet": 0.81})
    assert told[name.format(40, "nnU-Net") + ": each seed"] == {"nnunet": "0.8000 0.8200"}
    assert len(told) == 6
    assert checks == pytest.approx(
        {
            "acdc: Dice of fast above nnU-Net's, 10 min both": 0.24,
            "acdc: Dice of fast in 10 min above nnU-Net's in 40 min": 0.03,
        }
    )


def test_seeds_of_each_side_and_the_rates_are_told(benchmark: ModuleType, tmp_path: Path) -> None:
    told: dict[str, dict[str, Any]] = {}
    record = SimpleNamespace(
        value=lambda what, **rest: told.update({what: rest}), check=lambda *_, **__: None, note=lambda text: None
    )
    extra = SimpleNamespace(iterations=None, by_rate=True, features=None, mirror=False)
    chosen = SimpleNamespace(work=tmp_path, quick=False, extra=extra)
    for minutes in (10, 40):
        for piece in benchmark.pieces(["acdc"], ["nnunet", "fast"], [minutes], 2):
            if piece.name != "acdc/fast/40/1":
                file = benchmark._file(chosen, piece)
                file.parent.mkdir(parents=True, exist_ok=True)
                rate = 0.5 if piece.side == "fast" else 0.4
                file.write_text(json.dumps({"dice": {"mean": 0.5, "cases": 3}, "iterations": 4, "rate": rate}))
    benchmark.tell(record, chosen, benchmark.pieces(["acdc"], ["nnunet", "fast"], [10, 40], 2))
    name = "acdc: Dice of whole cases after {} min, experiment=fast"
    assert told[name.format(10)]["unit"] == "mean of 2 seeds, iterations at the measured rate"
    assert told[name.format(40)]["unit"] == "mean of 2 seeds and 1 seed, iterations at the measured rate"
    rates = told["acdc: an iteration, as measured, experiment=fast"]
    assert rates == {"unit": "s", "nnunet": 0.4, "segflow": 0.5}


def test_curves_are_drawn_from_the_values(benchmark: ModuleType) -> None:
    def value(what: str, **sides: Any) -> dict[str, Any]:
        return {"what": what, "unit": "", **sides}

    name = "nuclei: Dice of whole cases after {} min, {}"
    content = {
        "values": [
            value(name.format(5, "experiment=fast"), nnunet=0.5, segflow=0.7),
            value(name.format(5, "experiment=fast") + ": each seed", nnunet="0.4 0.6", segflow="0.7"),
            value(name.format(40, "experiment=fast"), segflow=0.9),
            value(name.format(20, "nnU-Net"), nnunet=0.8),
            value(name.format(5, "experiment=fast") + ": iterations", nnunet=3, segflow=4),
        ]
    }
    curves = importlib.import_module("dice_curves")
    assert curves.curves_of(content) == {
        "nuclei": {
            "nnU-Net": {5: (0.5, [0.4, 0.6]), 20: (0.8, [0.8])},
            "segflow, experiment=fast": {5: (0.7, [0.7]), 40: (0.9, [0.9])},
        }
    }
    page = importlib.import_module("results_page")
    drawn = ElementTree.fromstring(page._svg(*curves.plots(content)))
    assert sum(one.tag.endswith("circle") for one in drawn) == 5
    assert list(page._in_a_third(content)) == [
        ("Dice, nuclei, 20 minutes of training, experiment=fast 5", "0.800", "0.700")
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of a bright square, in the place of the nuclei."""
    folder = tmp_path_factory.mktemp("data") / "Dataset123_Nuclei"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(10):
        label = np.zeros((64, 64), np.uint8)
        label[16 + number : 40, 20:44] = 1
        for file, array in ((f"imagesTr/c{number}_0000.png", 90 * label), (f"labelsTr/c{number}.png", label)):
            noise = generator.integers(0, 60, label.shape).astype(np.uint8) if "_0000" in file else np.uint8(0)
            sitk.WriteImage(sitk.GetImageFromArray(array + noise), str(folder / file))
    description = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "nucleus": 1}}
    (folder / "dataset.json").write_text(json.dumps({**description, "numTraining": 10, "file_ending": ".png"}))
    return folder.parent


@pytest.fixture
def start(benchmark: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs the script with words of a command line, in this process."""
    environment = dict(os.environ)

    def call(work: Path, *words: str) -> None:
        given = ("--quick", "--threads", "1", "--cores", "0", "--data", str(data), "--work", str(work))
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *given, *words])
        os.environ["PYTHONPATH"] = str(ROOT)
        benchmark.main()

    yield call
    os.environ.clear()
    os.environ.update(environment)


def test_a_piece_is_trained_once_and_what_is_missing_is_named(
    start: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--sides", "fast", "segflow", "--by-rate", "--only", "nuclei/fast")
    rates = tmp_path / "dice_per_minute" / "rates_nuclei_quick.json"
    rates.parent.mkdir()
    rates.write_text(json.dumps({"fast": 0.4}))  # measured earlier: a budget of 1.2 s is three iterations
    start(tmp_path, *words, "--output", str(tmp_path / "found.json"))
    assert "nuclei/fast/0.02/0 (" in capsys.readouterr().out
    (piece,) = (tmp_path / "dice_per_minute" / "nuclei_rate_quick").glob("*.json")
    found = json.loads(piece.read_text())
    assert found["iterations"] == 3
    assert found["dice"]["cases"] == 2
    assert 0 <= found["dice"]["mean"] <= 1
    content = json.loads((tmp_path / "found.json").read_text())
    assert {value["what"]: value.get("segflow") for value in content["values"]} == {
        "nuclei: Dice of whole cases after 0.02 min, experiment=fast": found["dice"]["mean"],
        "nuclei: Dice of whole cases after 0.02 min, experiment=fast: each seed": f"{found['dice']['mean']:.4f}",
        "nuclei: Dice of whole cases after 0.02 min, experiment=fast: iterations": 3,
        "nuclei: an iteration, as measured, experiment=fast": 0.4,
    }
    assert any("--only nuclei/segflow/0.02/0" in note for note in content["notes"])
    assert any(note.startswith("Budgets are iterations at the measured rate") for note in content["notes"])
    start(tmp_path, *words)
    assert "nuclei/fast/0.02/0 (" not in capsys.readouterr().out, "nothing was trained again"


def test_plans_that_another_start_changed_are_not_trained_by(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "dice_per_minute" / "prepared_nuclei_both.json"
    kept.parent.mkdir()
    folders = [tmp_path / side for side in ("theirs", "ours")]
    for folder in folders:
        folder.mkdir()
    plans = {"configurations": {"2d": {"batch_size": 2, "patch_size": [64, 64]}}}
    kept.write_text(json.dumps({"folders": [str(folder) for folder in folders], "plans": plans}))
    chosen = SimpleNamespace(work=tmp_path, quick=False, extra=SimpleNamespace(features=None))
    monkeypatch.setattr(benchmark, "_prepare", lambda *_, **__: pytest.fail("arrays of both sides serve one side too"))
    for reference in (True, False):
        found = benchmark._prepared(chosen, "nuclei", reference=reference)
        assert [found.theirs, found.ours] == folders
        assert found.plan == {"batch_size": 4, "patch_size": [64, 64]}
    for folder in folders:
        benchmark.check_plan(str(folder), "2d", found.plan)
    (folders[0] / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(RuntimeError, match=r"theirs/nnUNetPlans.json was changed after this start had written it"):
        benchmark.check_plan(str(folders[0]), "2d", found.plan)


def test_rates_alone_are_written_too(start: Callable[..., None], tmp_path: Path) -> None:
    rates = tmp_path / "dice_per_minute" / "rates_nuclei_quick.json"
    rates.parent.mkdir()
    rates.write_text(json.dumps({"fast": 0.4}))
    output = tmp_path / "found.json"
    start(tmp_path, "--sides", "fast", "--rates-only", "--only", "nuclei/fast", "--output", str(output))
    (value,) = json.loads(output.read_text())["values"]
    assert (value["what"], value["segflow"]) == ("nuclei: an iteration, as measured, experiment=fast", 0.4)
    assert not (tmp_path / "dice_per_minute" / "nuclei_rate_quick").exists(), "nothing was trained"


def test_a_rate_that_is_measured_later_is_kept_in_proportion_to_those_of_before(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dice_per_minute").mkdir()
    seconds = {"nnunet": iter((4.0, 2.0, 3.0)), "fast": iter((1.0, 1.5, 2.0)), "segflow": iter((9.0, 3.0, 4.0))}
    asked: list[str] = []

    def rate_of(chosen: object, subject: str, folders: object, side: str, recipe: object) -> SimpleNamespace:
        asked.append(side)
        return SimpleNamespace(value=next(seconds[side]), foreign_cores=0.0)

    monkeypatch.setattr(benchmark, "_rate_of", rate_of)
    machine, extra = SimpleNamespace(cores=(0,)), SimpleNamespace(features=None, rate_iterations=2)
    chosen = SimpleNamespace(work=tmp_path, quick=False, machine=machine, extra=extra)
    record = SimpleNamespace(console=SimpleNamespace(log=lambda text: None))
    kept = tmp_path / "dice_per_minute" / "rates_acdc.json"
    kept.write_text(json.dumps({"nnunet": 1.0}))
    found = benchmark._rates(record, chosen, "acdc", (tmp_path, tmp_path), {"nnunet": (), "segflow": (), "fast": ()})
    assert asked == ["nnunet", "segflow", "fast"] * 3, "in turn"
    assert found == {"nnunet": 1.0, "segflow": 1.5, "fast": 0.5}, "the machine was twice as slow as before"
    assert json.loads(kept.read_text()) == found
    assert benchmark._rates(record, chosen, "acdc", (tmp_path, tmp_path), {"fast": ()}) == found
    assert len(asked) == 9, "nothing is measured twice"


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--sides", "quick"), "--sides quick: expected"), (("--only", "brain"), "--only brain fits no piece; such as")],
)
def test_unknown_names_are_refused(
    start: Callable[..., None], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit, match=told):
        start(tmp_path, *words)
