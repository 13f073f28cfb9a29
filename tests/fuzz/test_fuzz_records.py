"""Damaged and hostile records (JSON, plans, models, zips, checkpoints, tables) end in an error with their name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import fuzzing
import numpy as np
import tiny_models
import torch

from segflow.core.case import Case
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities, Fingerprint
from segflow.core.geometry import Geometry, resampled_shape
from segflow.core.metrics import CaseMetrics, Summary
from segflow.core.plans import Plans
from segflow.core.postprocessing import PostprocessingChoice, PostprocessingStep
from segflow.core.selection import Candidate, Selection
from segflow.core.split_settings import SplitSettings
from segflow.core.splits import check_splits
from segflow.core.training_images import TRAINING_IMAGES, ImageFacts, TrainingImages
from segflow.evaluation.summary import read_summary, table_rows
from segflow.exchange.bids import find_bids
from segflow.exchange.decathlon import convert_decathlon
from segflow.exchange.export_model import export_bundle, export_nnunet_model
from segflow.exchange.file_list import convert_file_list
from segflow.exchange.import_model import import_bundle, import_nnunet_model
from segflow.inference.find_cases import find_cases
from segflow.inference.load_model import find_previous_stage, load_model
from segflow.inference.maps import output_names
from segflow.inference.predict_validation import validated_with
from segflow.inference.stored_probabilities import StoredProbabilities
from segflow.inference.unlike import differences
from segflow.models.nnunet_checkpoint import read_nnunet_weights
from segflow.planning.planner import decide
from segflow.planning.planner_settings import PlannerSettings
from segflow.planning.split_dataset import split_dataset
from segflow.postprocessing.apply_postprocessing import read_choice
from segflow.postprocessing.components import postprocess_label_map
from segflow.preprocessing.preprocess_case import preprocess_case, spacing_in_plan
from segflow.storage.dicom.segment_codes import CATEGORY, MODIFIER, TYPE, segments_of
from segflow.storage.file_stamps import Origin
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.json_files import read_json, read_json_as
from segflow.storage.predictions import Predictions, Wanted
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.raw_dataset import find_training_cases, read_description
from segflow.storage.split_files import read_splits
from segflow.training.finished_run import finished_before, goes_on
from segflow.training.initial_weights import read_initial_weights

INPUTS = 1100
Result = TypeVar("Result")
ENDING = ".nii.gz"
CASES = tuple(f"case_{k}" for k in range(6))
LABELS = DatasetDescription.from_json(tiny_models.DATASET, tiny_models.dataset_json()).labels


def mutate(name: str, content: bytes, rng: np.random.Generator) -> bytes | None:
    """Put hostile values into the tree that a file holds."""
    if name.endswith(".json"):
        return fuzzing.as_json(fuzzing.mutate_tree(json.loads(content), rng))
    if name.endswith((".segflow", ".zip")):
        return _mutate_zip(content, rng)
    if name.endswith((".ckpt", ".pth")):
        stream = io.BytesIO()
        torch.save(fuzzing.mutate_tree(torch.load(io.BytesIO(content), weights_only=False), rng), stream)
        return stream.getvalue()
    if name.endswith((".csv", ".tsv")):
        separator = "," if name.endswith(".csv") else "\t"
        rows = [line.split(separator) for line in content.decode().splitlines()]
        row = rows[int(rng.integers(len(rows)))]
        row[int(rng.integers(len(row)))] = str(fuzzing.probe("", rng))
        return "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogatepass")
    return None


def _mutate_zip(content: bytes, rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        chosen = names[int(rng.integers(len(names)))]
        for entry in names:
            text = old.read(entry)
            if entry.endswith(".json") and (entry == chosen or rng.random() < 0.5):
                text = fuzzing.as_json(fuzzing.mutate_tree(json.loads(text), rng))
            elif entry == chosen and entry.endswith(".pth"):
                text = mutate(entry, text, rng) or b""
            elif entry == chosen and rng.random() < 0.5:
                text = text[: int(rng.integers(len(text)))]
            hostile = fuzzing.NAMES[int(rng.integers(len(fuzzing.NAMES) - 1))] or "."
            new.writestr(hostile if rng.random() < 0.05 else entry, text)
    return stream.getvalue()


@cache
def _made() -> Path:
    """A folder of whole files of every kind, made once."""
    folder = Path(tempfile.mkdtemp(prefix="segflow-records-"))
    run = tiny_models.make_run(folder / "outputs", "3d_fullres", (0,), val_cases=CASES[:2])
    export_bundle(run, folder / "model.segflow")
    export_nnunet_model(run, folder / "model.zip")
    tiny_models.make_nnunet_model(folder / "results")
    reader, image = reader_by_name("SimpleITKIO"), np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    label = (image > 1).astype(np.int16)
    geometry = Geometry(
        (1.0, 1.0, 1.0), {"spacing": [1.0] * 3, "origin": [0.0] * 3, "direction": np.eye(3).ravel().tolist()}
    )
    for case_id in CASES:
        reader.write_map(image, geometry, folder / "raw" / "imagesTr" / f"{case_id}_0000{ENDING}")
        reader.write_label(label, geometry, folder / "raw" / "labelsTr" / f"{case_id}{ENDING}")
        reader.write_label(label, geometry, folder / "task" / "labelsTr" / f"{case_id}{ENDING}")
        reader.write_map(image, geometry, folder / "task" / "imagesTr" / f"{case_id}{ENDING}")
    plans = tiny_models.plans()
    case = Case("case_0", image[None], label, geometry)
    prepared = preprocess_case(case, plans, plans.configuration("3d_fullres"), LABELS)
    PreprocessedStore(folder / "store").write(prepared, (16, 16, 16))
    return folder


@cache
def _contents(folder: str) -> dict[str, bytes]:
    """Relative path → content of the whole files of one kind; held, as nothing outside is read while it is watched."""
    root = _made() / folder
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@cache
def samples() -> dict[str, bytes]:
    """Whole files by name; the name says what is read."""
    made = _made()
    fold = made / "outputs" / tiny_models.DATASET / "nnUNetPlans" / "3d_fullres" / "default" / "fold_0"
    (checkpoint,) = (made / "results").rglob("*.pth")
    listed = {c: {"images": [f"imagesTr/{c}_0000{ENDING}"], "label": f"labelsTr/{c}{ENDING}"} for c in CASES}
    intensities = (ChannelIntensities(9.0, 1.0, 1.0, 0.0, 0.1, 8.0, 1.0),)
    shapes, spacings = ((20, 21, 22),) * 6, ((1.0, 1.0, 2.0),) * 6
    seen = [ImageFacts(shapes[0], spacings[0], "RAS", ((0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0 + k),)) for k in range(6)]
    images = TrainingImages.of(seen)
    fingerprint = Fingerprint(shapes, spacings, intensities, 0.9, images)
    dice = {"Dice": 0.5, "FN": 1, "FP": 1, "IoU": 0.4, "TN": 9, "TP": 1, "n_pred": 2, "n_ref": 2}
    scores = [CaseMetrics(c, {1: dice, 2: dice}, f"/x/{c}{ENDING}", f"/y/{c}{ENDING}") for c in CASES]
    steps = (
        PostprocessingStep("keep_largest", (1, 2)),
        PostprocessingStep("remove_small", (1,), min_volume_mm3=3.0),
        PostprocessingStep("fill_holes", (2,), fill_with=2),
    )
    candidate = Candidate("2d", ("/runs/2d",), (("0",),), 0.5, {1: 0.5, (1, 2): 0.5})
    selection = Selection("D", (candidate,), CASES, "/c", "/p", 0.5, ("note",), ("command",))
    decathlon = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "name": "x", "training": []}
    code = {"CodeValue": "10200004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Liver"}
    objects: dict[str, Any] = {
        "dataset.json": tiny_models.dataset_json() | {"numTraining": 6},
        "listed.json": tiny_models.dataset_json() | {"numTraining": 6, "dataset": listed},
        "values.json": tiny_models.dataset_json() | {"labels": {"background": 0, "a": 255, "b": [2, 5]}},
        "list.json": [{"case": c, "CT": f"imagesTr/{c}_0000{ENDING}", "label": f"labelsTr/{c}{ENDING}"} for c in CASES],
        "codes.json": {key: {CATEGORY: code, TYPE: code, MODIFIER: code} for key in tiny_models.LABELS},
        "regions.json": tiny_models.dataset_json(regions=True) | {"numTraining": 6},
        "plans.json": tiny_models.plans().to_json(),
        "dataset_fingerprint.json": fingerprint.to_json(),
        "splits_final.json": [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:4], "val": CASES[4:]}],
        "run.json": json.loads((fold / "run.json").read_text()) | {TRAINING_IMAGES: images.to_json()},
        "case_0.json": json.loads((made / "store" / "case_0.json").read_text()),
        "summary.json": Summary.of_cases(scores).to_json(),
        "postprocessing.json": PostprocessingChoice(steps, {1: 0.5}, {1: 0.6}).to_json(),
        "selection.json": selection.to_json(),
        "finished.json": {"epochs": 3, "max_epochs": 4, "max_time_seconds": 9.0, "metrics": {"val/dice": 0.5}},
        "decathlon.json": decathlon,
        "outputs.json": output_names(LABELS),
        "stamp.json": _stamped(),
    }
    files = {
        "model.segflow": made / "model.segflow",
        "model.zip": made / "model.zip",
        "final.ckpt": fold / "checkpoints" / "final.ckpt",
        "checkpoint_final.pth": checkpoint,
        **{name: made / "store" / name for name in ("case_0.b2nd", "case_0_seg.b2nd", "case_0_locations.npy")},
    }
    tables = {
        "cases.csv": "case,image\n" + "".join(f"{c},imagesTr/{c}_0000{ENDING}\n" for c in CASES),
        "list.csv": "case,CT,label\n" + "".join(f"{c},imagesTr/{c}_0000{ENDING},labelsTr/{c}{ENDING}\n" for c in CASES),
        "dseg.tsv": "index\tname\n0\tbackground\n2\tliver\n5\ttumour\n",
        "splits.csv": "case,fold\n" + "".join(f"{c},{k % 2}\n" for k, c in enumerate(CASES)),
    }
    found = {name: json.dumps(value).encode() for name, value in objects.items()}
    found |= {name: file.read_bytes() for name, file in files.items()}
    return found | {name: text.encode() for name, text in tables.items()}


def read(file: Path) -> None:
    """Read a record as the command does that is given it, with whole files around it."""
    _READ[file.name](file)


def _with(file: Path, *folders: str) -> Path:
    """A folder with copies of whole files and the file among them."""
    for name in folders:
        for relative, content in _contents(name).items():
            target = file.parent / relative
            if target != file:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    return file.parent


def _as(file: Path, act: Callable[[], Result]) -> Result:
    """Do it; of an error that names the case, the plans or the copy of the file, say which file it was."""
    try:
        return act()
    except SegflowError as error:
        raise SegflowError(f"{file.name}: {error}") from error


def _read_dataset(file: Path) -> None:
    folder = _with(file, "raw")
    if file.name != "dataset.json":
        (folder / "dataset.json").write_bytes(file.read_bytes())
    _as(file, lambda: find_training_cases(folder, read_description(folder)))


def _read_plans(file: Path) -> None:
    plans = read_json_as(file, Plans.from_json)
    assert Plans.from_json(json.loads(json.dumps(plans.to_json()))).to_json()
    image = np.random.default_rng(0).normal(size=(1, 8, 9, 10)).astype(np.float32)
    case = Case("case", image, (image[0] > 1).astype(np.int16), Geometry((1.0, 1.0, 1.0)))
    for name in plans.configurations:
        plan = _as(file, partial(plans.configuration, name))
        _as(file, plan.check)
        wanted = _as(file, partial(_resampled, plan))
        if np.prod([float(n) for n in wanted]) < 1e6:  # more is a long work, and no fault
            _as(file, partial(preprocess_case, case, plans, plan, LABELS))


def _resampled(plan: ConfigurationPlan) -> tuple[int, ...]:
    return resampled_shape((8, 9, 10), (1.0,) * 3, spacing_in_plan(plan, (1.0,) * 3))


def _read_fingerprint(file: Path) -> None:
    description = DatasetDescription.from_json(tiny_models.DATASET, tiny_models.dataset_json())
    found = read_json_as(file, Fingerprint.from_json)
    _as(file, lambda: decide(found, description, PlannerSettings(), reader="SimpleITKIO"))


def _read_splits(file: Path) -> None:
    check_splits(read_splits(file), CASES, source=str(file))
    if file.suffix == ".json":
        split_dataset(file.parent, CASES, SplitSettings())


def _read_run(file: Path) -> None:
    run = _with(file, "outputs") / tiny_models.DATASET / "nnUNetPlans" / "3d_fullres" / "default"
    fold = run / "fold_0"
    if file.name == "run.json":
        (fold / "run.json").write_bytes(file.read_bytes())
    model = _as(file, partial(load_model, run))
    if model.record.images is not None and model.record.images.channels == 1:
        image = ImageFacts((20, 21, 22), (1.0, 1.0, 2.0), "LPS", ((0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 600.0),))
        differences(image, model.record.images, model.record.dataset.channels, (0, 1, 2))
        model.record.images.turn_to("LPS")
    if model.record.plan.previous_stage:
        _as(file, lambda: find_previous_stage(run, model.record))


def _read_facts(file: Path) -> None:
    finished_before(Fold(file.parent))
    goes_on(Fold(file.parent), {"max_epochs": 2, "max_time": "00:00:00:05"}, extend=True)


def _read_case(file: Path) -> None:
    store = PreprocessedStore(_with(file, "store"))
    store.is_whole("case_0")
    case = _as(file, partial(store.open, "case_0"))
    if case.channels * np.prod([float(n) for n in case.shape]) > 1e7:
        return
    _as(file, case.read_image)
    _as(file, case.read_label)
    for key in case.foreground.keys:
        _as(file, partial(case.foreground.location, key, 0))


def _read_summary(file: Path) -> None:
    summary = read_summary(file)
    assert summary.to_json()
    assert table_rows(summary, LABELS)
    assert isinstance(summary.score, float)


def _read_postprocessing(file: Path) -> None:
    label_map = (np.arange(8 * 9 * 10).reshape(8, 9, 10) % 3).astype(np.uint8)
    choice = read_choice(file)
    postprocess_label_map(label_map, choice.steps, (1.0, 1.0, 1.0))
    json.dumps(choice.to_json())


def _read_decathlon(file: Path) -> None:
    folder = _with(file, "task")
    task = folder / "Task77_Fuzz"
    task.mkdir()
    for name in ("imagesTr", "labelsTr"):
        (folder / name).rename(task / name)
    (task / "dataset.json").write_bytes(file.read_bytes())
    _as(file, lambda: convert_decathlon(task, folder / "raw"))


def _read_outputs(file: Path) -> None:
    place = file.parent / "maps" / "probabilities"
    place.mkdir(parents=True)
    shutil.copyfile(file, place / "outputs.json")
    StoredProbabilities(place.parent, LABELS, reader_by_name("SimpleITKIO"))


def _stamped() -> dict[str, Any]:
    """A stamp of a label map, with a name that leads out of its folder."""
    content = {"bytes": 8, "time_ns": 1, "digest": hashlib.blake2b(b"a result", digest_size=16).hexdigest()}
    outputs = {f"a{ENDING}": content, "entropy/a.nii.gz": content, "../victim": content}
    settings = {"weights": "w", "folds": ["0"], "checkpoint": "final"}
    return {
        **{"format": 1, "way": "predict", "version": 1, "settings": settings},
        **{"inputs": {"image_0": content}, "outputs": outputs},
    }


def _read_stamp(file: Path) -> None:
    """Whatever a stamp from elsewhere says, nothing outside its folder is touched, and nothing is done by it."""
    out, victim, image = file.parent / "out", file.parent / "victim", file.parent / "image"
    (out / ".segflow").mkdir(parents=True)
    shutil.copyfile(file, out / ".segflow" / f"a{ENDING}.json")
    for path in (out / f"a{ENDING}", victim, image):
        path.write_bytes(b"a result")
    predictions = Predictions(out, ENDING)
    wanted = {"a": Wanted(Origin("predict", 1, {"weights": "other"}, {"image_0": image}))}
    with contextlib.suppress(SegflowError):
        predictions.prepare(wanted)
    record = dataclasses.replace(tiny_models.record(), val_cases=("a",))
    fold = Fold(file.parent / "fold_0")
    shutil.copytree(out, fold.validation)
    with contextlib.suppress(SegflowError):
        validated_with(fold, record)
    if Predictions(out, ENDING, own=True).prepare(wanted) or victim.read_bytes() != b"a result":
        raise RuntimeError("a stamp from elsewhere was believed")


def _read_table(file: Path) -> None:
    folder = _with(file, "raw")
    if file.name == "cases.csv":
        _as(file, lambda: find_cases(file, (ENDING,), 1))
    else:
        convert_file_list(file, folder / "new", 7, "Fuzz", labels={"background": 0, "organ": 1})


def _read_bids(file: Path) -> None:
    for place in ("sub-1/anat/sub-1_T1w", "derivatives/x/sub-1/anat/sub-1_dseg"):
        (file.parent / place).parent.mkdir(parents=True)
        (file.parent / f"{place}{ENDING}").touch()
    find_bids(file.parent)


def _read_codes(file: Path) -> None:
    _as(file, lambda: segments_of(LABELS, read_json(file)))


def _read_model(file: Path) -> None:
    load_model(file)
    if file.suffix == ".zip":
        import_nnunet_model(file, file.parent / "imported")
    else:
        import_bundle(file, file.parent / "imported")


def _read_checkpoint(file: Path) -> None:
    with contextlib.suppress(SegflowError):
        load_model(file)
    read_nnunet_weights(file)


_READ: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(("dataset.json", "listed.json", "regions.json", "values.json"), _read_dataset),
    "plans.json": _read_plans,
    "dataset_fingerprint.json": _read_fingerprint,
    **dict.fromkeys(("splits_final.json", "splits.csv"), _read_splits),
    "run.json": _read_run,
    **dict.fromkeys(("case_0.json", "case_0.b2nd", "case_0_seg.b2nd", "case_0_locations.npy"), _read_case),
    "summary.json": _read_summary,
    "postprocessing.json": _read_postprocessing,
    "dseg.tsv": _read_bids,
    "codes.json": _read_codes,
    "selection.json": partial(read_json_as, build=Selection.from_json),
    "finished.json": _read_facts,
    "decathlon.json": _read_decathlon,
    "outputs.json": _read_outputs,
    "stamp.json": _read_stamp,
    **dict.fromkeys(("cases.csv", "list.csv", "list.json"), _read_table),
    **dict.fromkeys(("model.segflow", "model.zip"), _read_model),
    "final.ckpt": read_initial_weights,
    "checkpoint_final.pth": _read_checkpoint,
}


def test_damaged_and_hostile_records_end_in_an_error_with_their_name(tmp_path: Path) -> None:
    assert fuzzing.fuzz("test_fuzz_records", tmp_path, fuzzing.count(INPUTS)) == []
