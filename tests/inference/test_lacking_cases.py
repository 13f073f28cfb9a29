"""Cases to predict that lack channels: found, told and refused by what the model was trained for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from segflow.core.case import CaseFiles
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import Labels
from segflow.core.missing_channels import MissingChannels, WithPresence, with_missing
from segflow.core.training_images import ImageFacts, TrainingImages, image_quantiles, without_missing
from segflow.core.voxels import ArraySource
from segflow.inference.cascade_source import one_hot
from segflow.inference.find_cases import find_cases
from segflow.inference.image_objects import image_object
from segflow.inference.lacking_cases import do_without, holds_all, tell_missing
from segflow.inference.unlike import differences
from segflow.sampling.batch import network_input

CHANNELS = ("T1", "T2", "FLAIR")


def _folder(folder: Path, names: str) -> Path:
    for name in names.split():
        (folder / f"{name}.nii.gz").touch()
    return folder


def _found(source: Path, may_lack: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    cases = find_cases(source, [".nii.gz"], 3, may_lack=may_lack)
    return {case.case_id: (case.numbers, case.missing) for case in cases}


def test_files_that_are_not_there_are_missing_channels(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a_0000 a_0001 a_0002 b_0000 b_0002 c_0001 c_0002 d_0000 d_0001")
    assert _found(folder, (0, 1, 2)) == {
        "a": ((0, 1, 2), ()),
        "b": ((0, 2), (1,)),
        "c": ((1, 2), (0,)),
        "d": ((0, 1), (2,)),
    }


def test_a_channel_that_the_model_needs_is_refused_as_before(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "b_0000 b_0002")
    for may_lack in ((), (0, 2)):
        with pytest.raises(CaseErrors, match=r"not numbered from 0000 without gaps.*training\.drop_channels"):
            _found(folder, may_lack)


def test_an_empty_cell_of_a_table_is_a_missing_channel(tmp_path: Path) -> None:
    _folder(tmp_path, "x y z")
    table = tmp_path / "cases.csv"
    table.write_text("case,T1,T2,FLAIR\na,x.nii.gz,,z.nii.gz\nb,x.nii.gz,y.nii.gz,z.nii.gz\n")
    assert _found(table, (1,)) == {"a": ((0, 2), (1,)), "b": ((0, 1, 2), ())}


def test_a_file_of_all_channels_lacks_nothing() -> None:
    case = CaseFiles("a", (Path("a_0000.nii.gz"),), missing=(1, 2))
    reader: Any = SimpleNamespace(read_header=lambda _: SimpleNamespace(channels=3))
    assert holds_all(case, reader, 3).missing == ()
    reader = SimpleNamespace(read_header=lambda _: SimpleNamespace(channels=1))
    assert holds_all(case, reader, 3) == case


def _record(may_lack: tuple[int, ...] | None) -> Any:
    missing = None if may_lack is None else MissingChannels(may_lack, False)
    return SimpleNamespace(dataset=SimpleNamespace(channels=CHANNELS), missing=missing)


def test_channels_are_left_out_by_name_and_told(caplog: pytest.LogCaptureFixture) -> None:
    case = CaseFiles("a", tuple(Path(f"a_{n}") for n in range(3)))
    (without,), failed = do_without([case], ["T2"], _record((1, 2)))
    assert failed == {}
    assert without == replace(case, images=(Path("a_0"), Path("a_2")), missing=(1,))
    assert tell_missing([without, replace(case, case_id="b")], _record((1, 2))) == {"a": ["T2"]}
    assert "T2 (channel 1) is missing in 1 of 2 cases: a; predicted without it" in caplog.text
    assert do_without([case], [], _record(None)) == ([case], {})


def test_a_case_without_any_channel_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    whole = CaseFiles("a", tuple(Path(f"a_{n}") for n in range(3)))
    only = CaseFiles("b", (Path("b_1"),), missing=(0, 2))
    (left,), failed = do_without([whole, only], ["T2"], _record((0, 1, 2)))
    assert left == replace(whole, images=(Path("a_0"), Path("a_2")), missing=(1,))
    assert failed == {"b": "case 'b': no channel is left of the case; found without T2"}
    assert failed["b"] in caplog.text


@pytest.mark.parametrize(
    ("names", "may_lack", "problem"),
    [
        (["T1"], (1, 2), r"not trained to do without this channel; found T1; expected T2 \(channel 1\), FLAIR"),
        (["T9"], (1, 2), r"names no channel of the dataset; found T9; expected T1 \(or 0\), T2"),
        (["T2"], None, "expected none: every channel is needed"),
        (["T1", "T2", "FLAIR"], (0, 1, 2), "no channel is left of the case"),
    ],
)
def test_what_the_model_cannot_do_without_is_refused(names: list[str], may_lack: Any, problem: str) -> None:
    case = CaseFiles("a", tuple(Path(f"a_{n}") for n in range(3)))
    with pytest.raises(SegflowError, match=problem):
        do_without([case], names, _record(may_lack))


def test_an_image_that_lacks_a_channel_is_like_the_others() -> None:
    generator = np.random.default_rng(0)
    images = [generator.normal([[[[50]]], [[[200]]], [[[900]]]], 10, (3, 4, 9, 9)) for _ in range(6)]
    spacing = (1.0, 1.0, 1.0)
    facts = [ImageFacts((4, 9, 9), spacing, None, image_quantiles(image)) for image in images]
    training = TrainingImages.of(facts[:5])
    lacking = replace(facts[5], quantiles=without_missing(facts[5].quantiles, (1,)))
    assert differences(lacking, training, CHANNELS, (0, 1, 2)) == []
    other = replace(lacking, quantiles=(tuple(9.0 * v for v in lacking.quantiles[0]), *lacking.quantiles[1:]))
    assert "channel 0 (T1)" in str(differences(other, training, CHANNELS, (0, 1, 2))[0])


def test_none_in_a_list_of_images_is_a_missing_channel() -> None:
    arrays = [np.full((3, 4, 5), value, np.float32) for value in (1, 2)]
    made = image_object([arrays[0], None, arrays[1]], (1.0, 1.0, 1.0))
    assert made.case.missing == (1,)
    assert made.case.image[:, 0, 0, 0].tolist() == [1.0, 0.0, 2.0]
    images = [sitk.GetImageFromArray(array) for array in arrays]
    assert np.array_equal(image_object([images[0], None, images[1]]).case.image, made.case.image)
    with pytest.raises(SegflowError, match="all are None"):
        image_object([None, None])
    with pytest.raises(SegflowError, match="needs images of one channel each"):
        image_object([sitk.GetImageFromArray(np.stack(arrays, -1), isVector=True), None])


def test_training_and_prediction_order_the_inputs_of_a_cascade_alike() -> None:
    generator = np.random.default_rng(0)
    labels = Labels.from_json({"background": 0, "a": 1, "b": 2})
    image = with_missing(generator.normal(size=(1, 3, 4, 5)).astype(np.float32), (1,))
    both = np.concatenate((image, one_hot(generator.integers(0, 3, (3, 4, 5)), labels)))
    trained = network_input(torch.from_numpy(both)[None], torch.tensor([[True, False]]), mask=True)[0]
    predicted = WithPresence(ArraySource(both), [True, False]).read(Box.whole((3, 4, 5)))
    assert np.array_equal(trained.numpy(), predicted)
