"""Parts of a dataset that are preprocessed by themselves make the same files as one process."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest
from raw_setup import Setup, describe, write_case

from segflow.core.case_part import divided, part_of
from segflow.core.errors import SegflowError
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.case_index import INDEX_FILE


def files(folder: Path) -> dict[str, bytes]:
    """Name → content of all files but the indices, which hold the times of others."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != INDEX_FILE
    }


def of_part(part: str, **options: bool) -> PreprocessSettings:
    return PreprocessSettings(processes=0, part=part, **options)


class Jobs:
    """Does the parts of the cases one after another, as jobs do, and may leave some of them."""

    def __init__(self, setup: Setup, count: int = 2, left: Collection[str] = (), **options: bool) -> None:
        self.setup, self.count, self.left, self.options = setup, count, left, options
        self.asked: list[str] = []

    def __call__(self, names: Sequence[str], missing: Collection[str]) -> Mapping[str, str]:
        self.asked = list(missing)
        failed: dict[str, str] = {}
        for part in divided("0/1", self.count):
            if part not in self.left and set(part_of(names, part)) & set(missing):
                failed |= self.setup.run(of_part(part, **self.options)).failed
        return failed


@pytest.fixture
def one_process(setup: Setup) -> dict[str, bytes]:
    """What one process makes of the dataset."""
    setup.run()
    made = files(setup.out)
    shutil.rmtree(setup.out)
    return made


@pytest.mark.parametrize("count", [2, 5])
def test_parts_make_the_files_of_one_process(setup: Setup, one_process: dict[str, bytes], count: int) -> None:
    reports = [setup.run(of_part(part)) for part in divided("0/1", count)]
    assert sorted(case for report in reports for case in report.done) == ["case_0", "case_1", "case_2"]
    assert files(setup.out) == one_process
    assert setup.run().skipped == ("case_0", "case_1", "case_2")


def test_other_processes_make_the_files_of_one(setup: Setup, one_process: dict[str, bytes]) -> None:
    jobs = Jobs(setup)
    report = setup.run(elsewhere=jobs)
    assert (report.done, report.skipped, report.failed) == (("case_0", "case_1", "case_2"), (), {})
    assert files(setup.out) == one_process
    assert setup.run(elsewhere=Jobs(setup, left=["0/2", "1/2"])).skipped == ("case_0", "case_1", "case_2")


def test_a_part_that_is_lost_is_named_and_only_its_cases_are_made_later(
    setup: Setup, one_process: dict[str, bytes]
) -> None:
    report = setup.run(elsewhere=Jobs(setup, left=["0/2"]))
    assert (report.done, [*report.failed]) == (("case_1",), ["case_0", "case_2"])
    assert "case 'case_0': its process ended without making it" in report.failed["case_0"]
    jobs = Jobs(setup)
    again = setup.run(elsewhere=jobs)
    assert (jobs.asked, again.skipped, again.failed) == (["case_0", "case_2"], ("case_1",), {})
    assert files(setup.out) == one_process


def test_a_case_that_fails_is_told_in_its_own_words(setup: Setup) -> None:
    (setup.raw / "imagesTr" / "case_1_0000.nii.gz").write_text("I am no image")
    alone = setup.run().failed
    shutil.rmtree(setup.out)
    report = setup.run(elsewhere=Jobs(setup))
    assert report.failed == alone
    assert report.done == ("case_0", "case_2")


def test_arrays_of_cases_that_are_gone_are_deleted_once(setup: Setup) -> None:
    setup.run()
    (setup.raw / "imagesTr" / "case_2_0000.nii.gz").unlink()
    (setup.raw / "labelsTr" / "case_2.nii.gz").unlink()
    describe(setup.raw, 2)
    write_case(setup.raw, "case_0", 7)
    jobs = Jobs(setup)
    report = setup.run(elsewhere=jobs)
    assert (report.removed, report.done, report.skipped) == (("case_2",), ("case_0",), ("case_1",))
    made = files(setup.out)
    assert not [name for name in made if "case_2" in name]
    shutil.rmtree(setup.out)
    setup.run()
    assert files(setup.out) == made


def test_what_is_to_be_made_anew_counts_as_done_only_if_it_was(setup: Setup, one_process: dict[str, bytes]) -> None:
    setup.run()
    before = setup.times(setup.plans.configuration("fine").data_identifier)
    report = setup.run(of_part("0/1", redo=True), elsewhere=Jobs(setup, left=["0/2"]))
    assert (report.done, [*report.failed]) == (("case_1",), ["case_0", "case_2"])
    setup.run(of_part("0/1", redo=True), elsewhere=Jobs(setup))
    after = setup.times(setup.plans.configuration("fine").data_identifier)
    assert all(after[name] > before[name] for name in before)
    assert files(setup.out) == one_process


@pytest.mark.parametrize("part", ["2/2", "0", "x"])
def test_a_part_that_does_not_exist_is_refused(part: str) -> None:
    with pytest.raises(SegflowError, match="part must be k/n"):
        of_part(part)
