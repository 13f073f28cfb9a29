"""Other processes that predict parts of the cases make the same folder as one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from segflow.core.case_part import divided, part_of
from segflow.core.errors import SegflowError
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings

WriteImages = Callable[..., Path]
CASES = ("a", "b", "c")
TIMES = ("time_ns", "change_ns")


def settings(**options: Any) -> PredictSettings:
    return PredictSettings(device="cpu", mirroring=False, **options)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return value


def contents(folder: Path) -> dict[str, Any]:
    """All files; of stamps all but the times of files."""
    found: dict[str, Any] = {}
    for file in folder.rglob("*"):
        if file.is_file():
            is_stamp = file.parent.name == ".segflow"
            found[str(file.relative_to(folder))] = (
                without_times(json.loads(file.read_text())) if is_stamp else file.read_bytes()
            )
    return found


class Jobs:
    """Predicts the parts of the cases one after another, as jobs do, and may leave some of them."""

    def __init__(self, run: Path, images: Path, output: Path, *, left: Collection[str] = (), **options: Any) -> None:
        self.run, self.images, self.output, self.left, self.options = run, images, output, left, options
        self.asked: list[str] = []

    def __call__(self, names: Sequence[str], missing: Collection[str]) -> Mapping[str, str]:
        self.asked = list(missing)
        failed: dict[str, str] = {}
        for part in divided("0/1", 2):
            if part not in self.left and set(part_of(names, part)) & set(missing):
                report = predict_cases(self.run, self.images, self.output, settings(part=part, **self.options))
                failed |= report.failed
        return failed


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    tiny_models.make_run(tmp_path, "3d_lowres")
    return tiny_models.make_run(tmp_path, "3d_cascade_fullres")


def test_other_processes_make_the_folder_of_one(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path, folds=(0, 1)), write_images(*CASES), tmp_path / "out"
    maps = {"probabilities": True, "entropy": True, "disagreement": True}
    predict_cases(run, images, out, settings(**maps))
    wanted = contents(out)
    out.rename(tmp_path / "one")
    report = predict_cases(run, images, out, settings(**maps), elsewhere=Jobs(run, images, out, **maps))
    assert (report.done, report.skipped, report.failed) == (CASES, (), {})
    assert contents(out) == wanted
    idle = Jobs(run, images, out, **maps)
    assert predict_cases(run, images, out, settings(**maps), elsewhere=idle).skipped == CASES
    assert idle.asked == []


def test_a_cascade_too_and_what_is_lost_is_made_later(tmp_path: Path, write_images: WriteImages, cascade: Path) -> None:
    images, out = write_images(*CASES), tmp_path / "out"
    predict_cases(cascade, images, out, settings())
    wanted = contents(out)
    out.rename(tmp_path / "one")
    report = predict_cases(cascade, images, out, settings(), elsewhere=Jobs(cascade, images, out, left=["0/2"]))
    assert (report.done, [*report.failed]) == (("b",), ["a", "c"])
    assert "case 'a': its process ended without making it" in report.failed["a"]
    (out / "previous_stage" / "b.nii.gz").unlink()
    jobs = Jobs(cascade, images, out)
    again = predict_cases(cascade, images, out, settings(), elsewhere=jobs)
    assert (sorted(jobs.asked), again.done, again.failed) == (["a", "b", "c"], CASES, {})
    assert contents(out) == wanted


def test_a_case_that_fails_is_told_in_its_own_words(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images(*CASES), tmp_path / "out"
    (images / "b_0000.nii.gz").write_text("I am no image")
    alone = predict_cases(run, images, tmp_path / "one", settings()).failed
    report = predict_cases(run, images, out, settings(), elsewhere=Jobs(run, images, out))
    assert report.failed == alone
    assert report.done == ("a", "c")


def test_everything_is_made_anew_on_request(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images(*CASES), tmp_path / "out"
    predict_cases(run, images, out, settings())
    left = Jobs(run, images, out, left=["0/2"], resume=False)
    report = predict_cases(run, images, out, settings(resume=False), elsewhere=left)
    assert (report.done, [*report.failed]) == (("b",), ["a", "c"])
    assert not (out / "a.nii.gz").exists()


def test_files_of_the_user_are_refused_before_a_job_starts(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images(*CASES), tmp_path / "out"
    out.mkdir()
    (out / "b.nii.gz").write_text("mine")
    jobs = Jobs(run, images, out)
    with pytest.raises(SegflowError, match="did not write"):
        predict_cases(run, images, out, settings(), elsewhere=jobs)
    assert jobs.asked == []


def test_the_process_that_waits_needs_no_gpu(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images("a"), tmp_path / "out"
    asked: list[str] = []

    def elsewhere(names: Sequence[str], missing: Collection[str]) -> Mapping[str, str]:
        asked.extend(missing)
        return {"a": "case 'a': no GPU here"}

    of_jobs = PredictSettings(device="cuda", precision="16")
    assert predict_cases(run, images, out, of_jobs, elsewhere=elsewhere).failed == {"a": "case 'a': no GPU here"}
    assert asked == ["a"]


def test_a_folder_of_a_run_is_brought_up_to_date(tmp_path: Path, write_images: WriteImages) -> None:
    images, out = write_images(*CASES), tmp_path / "out"
    predict_cases(tiny_models.make_run(tmp_path / "old"), images, out, settings(), own=True)
    (out / "b.nii.gz").write_text("changed")
    (images / "c_0000.nii.gz").unlink()
    new = tiny_models.make_run(tmp_path / "new", folds=(1,))
    report = predict_cases(new, images, out, settings(), own=True, elsewhere=Jobs(new, images, out))
    assert (report.done, report.failed) == (("a", "b"), {})
    predict_cases(new, images, tmp_path / "fresh", settings())
    assert contents(out) == contents(tmp_path / "fresh")
