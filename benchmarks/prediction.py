"""Prediction with a model that nnU-Net made: agreement of label maps, wall time and memory of whole commands, and the
export of many-class logits alone.

``hippocampus``, ``acdc``: five folds, mirroring, both command lines on the same images. ``ct``: 118 outputs with
random weights; mirrored on a small image for the agreement, and on thick slices of 512×512 without mirroring and with
one fold for the time, so that the export and not the network dominates. ``stream``, ``cube``: images that are larger
than the limit of memory, by segflow alone; the cube of 2048³ voxels in tiles that do not overlap. ``export``: logits to
a label map of 512×512×280, where nnU-Net works on a scaled-down one (``--reference-scale``), since at full size its
class volumes alone take 35 GB; and to 512×512×600 by segflow alone. ``start``: one small image and one fold, from the
command to the file, beside the passes of the network alone, ``import torch``, and nnU-Net's command. ``busy``:
hippocampus quiet and beside a process that computes all the time, by both command lines and by `Predictor` from Python.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from inputs import ACDC, CT_117, HIPPOCAMPUS, link_dataset, share_plans
from large_images import PLAIN, SMALL, make_bytes, make_image, make_run
from measure import Measured, Meter, busy_process, run_command, run_function, script
from record import Options, Record, median_seconds, options, peak_bytes
from training import nnunet_trainer, prepare, shrink

from segflow.storage.images import reader_by_name
from segflow.storage.json_files import read_json

PARTS = ("hippocampus", "acdc", "ct", "stream", "cube", "export", "start", "busy")
AGREEMENT = 0.999
FOLDS = 5
STREAM_GB = 2
CUBE_GB = 3
SLOWER = 1.5
"""How much longer a prediction may take beside one busy process."""
CONFIGURATION = "3d_fullres"


class Export(NamedTuple):
    """Logits to restore.

    Attributes:
        plan: Voxels of the logits along z, y, x.
        image: Voxels of the label map.
    """

    plan: tuple[int, int, int]
    image: tuple[int, int, int]

    def scaled(self, factor: float) -> Export:
        """The same with another number of voxels along each axis."""
        return Export(*(tuple(max(4, round(factor * n)) for n in shape) for shape in self))  # type: ignore[arg-type]


EXPORT_280 = Export((187, 256, 256), (280, 512, 512))
EXPORT_600 = Export((200, 167, 167), (600, 512, 512))


def make_model(
    meter: Meter, prepared: str, configuration: str, iterations: int, folds: int, *, device: str = "cpu"
) -> str:
    """Train a fold for some iterations with nnU-Net, and make the other folds by disturbing its weights.

    Returns:
        The model's folder.
    """
    import torch

    torch.manual_seed(0)
    np.random.seed(0)
    trainer = nnunet_trainer(Path(prepared), configuration, 1, iterations, 1, device=device)
    with meter.section("train"):
        if iterations:
            trainer.run_training()
        else:
            trainer.initialize()
            trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            trainer.logger.log("ema_fg_dice", 0.0, 0)
            trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    base = Path(trainer.output_folder_base)
    for name, source in (("plans.json", "nnUNetPlans.json"), ("dataset.json", "dataset.json")):
        (base / name).write_bytes((Path(prepared) / source).read_bytes())
    checkpoint = torch.load(base / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    weights = checkpoint["network_weights"]
    for fold in range(1, folds):
        noise = {value.data_ptr(): torch.randn_like(value) for value in weights.values()}  # aliases share a tensor
        checkpoint["network_weights"] = {
            name: value + 0.02 * value.std(correction=0) * noise[value.data_ptr()] for name, value in weights.items()
        }
        (base / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(checkpoint, base / f"fold_{fold}" / "checkpoint_final.pth")
    return str(base)


def nnunet_export(meter: Meter, prepared: str, plan_shape: list[int], image_shape: list[int], output: str) -> None:
    """nnU-Net's way from logits to a label map, on logits in half precision as its predictor gives them."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(f"{prepared}/nnUNetPlans.json")
    plan = plans.get_configuration(CONFIGURATION)
    manager = plans.get_label_manager(read_json(Path(prepared) / "dataset.json"))
    logits = smooth_logits(manager.num_segmentation_heads, plan_shape)
    properties = {
        "spacing": _spacing(plan.spacing, plan_shape, image_shape),
        "shape_before_cropping": tuple(image_shape),
        "bbox_used_for_cropping": [[0, n] for n in image_shape],
        "shape_after_cropping_and_before_resampling": tuple(image_shape),
    }
    with meter.section("export"):
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.numpy(), plans, plan, manager, properties
        )
    np.save(output, labels)


def segflow_export(
    meter: Meter, prepared: str, plan_shape: list[int], image_shape: list[int], output: str, sums: str = "float16"
) -> None:
    """segflow's way, on the same values in the precision in which its predictor sums them."""
    import torch

    from segflow.core.geometry import Box, Geometry
    from segflow.core.plans import Plans
    from segflow.core.preprocessed_case import SpatialRecord
    from segflow.network.cpu.allocation import tune_cpu
    from segflow.preprocessing.restore import restore_labels
    from segflow.storage.raw_dataset import read_description

    tune_cpu()  # as `segflow predict` does
    plans = Plans.from_json(read_json(Path(prepared) / "nnUNetPlans.json"))
    plan, labels = plans.configuration(CONFIGURATION), read_description(Path(prepared)).labels
    logits = smooth_logits(labels.num_outputs, plan_shape, getattr(torch, sums))
    spacing = _spacing(plan.spacing, plan_shape, image_shape)
    spatial = SpatialRecord(
        geometry=Geometry(spacing),
        shape_original=tuple(image_shape),
        axis_order=plans.axis_order,
        crop=Box.whole(image_shape),
        spacing_transposed=spacing,
        spacing_plan=tuple(plan.spacing),
        shape_plan=tuple(plan_shape),
    )
    with meter.section("export"):
        result = restore_labels(logits, spatial, plan, labels)
    np.save(output, result)


def smooth_logits(classes: int, shape: list[int], dtype: Any = None) -> Any:
    """(K, Z, Y, X), values of float16 in any type: smooth fields, so that labels form regions as in a prediction."""
    import torch

    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((classes, 1, 6, 8, 8), generator=generator)
    result = torch.empty((classes, *shape), dtype=dtype or torch.float16)
    for channel, field in zip(result, coarse, strict=True):
        smooth = torch.nn.functional.interpolate(field[None], tuple(shape), mode="trilinear", align_corners=True)
        channel.copy_((4 * smooth[0, 0]).half())
    return result


def _spacing(spacing: Any, plan_shape: list[int], image_shape: list[int]) -> tuple[float, float, float]:
    return tuple(float(s) * p / n for s, p, n in zip(spacing, plan_shape, image_shape, strict=True))  # type: ignore[return-value]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this script alone."""
    parser.add_argument("--iterations", type=int, default=25, help="of the model's training (default 25)")
    parser.add_argument("--images", type=int, default=8, help="hippocampus images to predict (default 8; ACDC half)")
    parser.add_argument(
        "--reference-scale",
        type=float,
        default=0.5,
        help="size of nnU-Net's export along each axis (default 0.5; 1 needs about 80 GB of memory)",
    )


def main() -> None:
    """Run the chosen parts."""
    with options("prediction", __doc__ or "", PARTS, add_options, repeats=1) as chosen:
        chosen.machine.variables["nnUNet_n_proc_DA"] = "0"  # type: ignore[index]
        record = Record("prediction", chosen)
        if chosen.wants("hippocampus"):
            _trained(record, chosen, HIPPOCAMPUS, chosen.extra.images, at_least=1.4)
        if chosen.wants("acdc") and not chosen.quick:
            _trained(record, chosen, ACDC, -(-chosen.extra.images // 2), at_least=1.4)
        if chosen.wants("ct") and not chosen.quick:
            _many_labels(record, chosen)
        if chosen.wants("stream"):
            _stream(record, chosen)
        if chosen.wants("cube"):
            _cube(record, chosen)
        if chosen.wants("export"):
            _export(record, chosen)
        if chosen.wants("start"):
            _start(record, chosen)
        if chosen.wants("busy"):
            _busy(record, chosen)
        record.finish()


def _trained(record: Record, chosen: Options, name: str, images: int, *, at_least: float) -> None:
    """A model of five folds on images of its own dataset."""
    model, folds = _trained_model(chosen, name)
    images = 2 if chosen.quick else images
    source = _images(chosen, name, slice(images))
    what = f"{name}, {images} images, {folds} folds"
    pair = _commands(record, chosen, what, model, source, folds)
    record.check(f"{what}: times quicker", median_seconds(pair[0]) / median_seconds(pair[1]), at_least=at_least)
    turns = [theirs.seconds / ours.seconds for theirs, ours in zip(*pair, strict=True)]
    if len(turns) > 1:
        record.value(f"{what}: times quicker, worst of {len(turns)} turns", both=min(turns))
    record.note(f"{name}: the model was trained by nnU-Net for {chosen.extra.iterations} iterations.")


def _trained_model(chosen: Options, name: str) -> tuple[Path, int]:
    """A model of nnU-Net's, and the number of its folds."""
    prepared, _ = prepare(chosen, name, CONFIGURATION, 6 if chosen.quick else 20)
    iterations, folds = (1, 2) if chosen.quick else (chosen.extra.iterations, FOLDS)
    if chosen.quick:
        shrink(prepared, CONFIGURATION)
    call = {"prepared": prepared, "configuration": CONFIGURATION, "iterations": iterations, "folds": folds}
    return Path(run_function(chosen.machine, make_model, **call).value), folds


def _busy(record: Record, chosen: Options) -> None:
    """How much longer a prediction takes beside a process that computes all the time."""
    model, folds = _trained_model(chosen, HIPPOCAMPUS)
    source = _images(chosen, HIPPOCAMPUS, slice(1 if chosen.quick else min(chosen.extra.images, 3)))
    call = {"model": model, "image": next(source.iterdir()), "folds": folds}
    python = partial(run_function, chosen.machine, segflow_predictor, **call)
    name = f"{HIPPOCAMPUS}, {folds} folds"
    found: dict[str, list[float]] = {"nnU-Net's command": [], "segflow predict": [], "Predictor": []}
    used = []
    for where in ("quiet", "beside a busy process"):
        with busy_process(chosen.machine) if found["Predictor"] else nullcontext():
            pair = _commands(record, chosen, f"{name}, {where}", model, source, folds)
            alone = record.alone(f"{name}, Predictor, {where}", python)
        used.append(median(run.value for run in alone))
        record.value(f"{name}, Predictor, {where}: cores that it uses", segflow=used[-1])
        for seconds, runs in zip(found.values(), (*pair, alone), strict=True):
            seconds.append(median_seconds(runs))
    slower = {what: busy / quiet for what, (quiet, busy) in found.items()}
    record.value(f"{name}: times slower beside a busy process", nnunet=slower.pop("nnU-Net's command"))
    for what, times in slower.items():
        record.check(f"{name}, {what}: times slower beside a busy process", times, at_most=SLOWER)
    cores, threads = len(chosen.machine.cores), chosen.machine.threads
    share = cores * threads / (threads + 1)  # if all that compute get the same
    record.value(f"{name}, Predictor: times slower, if its equal share were all it lost", segflow=used[0] / share)


def segflow_predictor(meter: Meter, model: str, image: str, folds: int) -> float:
    """One image by `Predictor`, loaded before, in a Python without settings of ours. Returns the cores that it used."""
    import SimpleITK as sitk

    from segflow.inference.predictor import Predictor

    predictor = Predictor.load(model, folds=[str(fold) for fold in range(folds)], device="cpu")
    volume = sitk.ReadImage(image)
    started, computed = time.monotonic(), time.process_time()
    with meter.section("predict"):
        predictor.predict(volume)
    return (time.process_time() - computed) / (time.monotonic() - started)


def _many_labels(record: Record, chosen: Options) -> None:
    """118 outputs with random weights: agreement with mirroring, time where the export dominates."""
    prepared, _ = prepare(chosen, CT_117, CONFIGURATION, 2)  # nnU-Net's trainer wants some arrays to be there
    model = run_function(
        chosen.machine, make_model, prepared=prepared, configuration=CONFIGURATION, iterations=0, folds=1
    ).value
    _commands(record, chosen, "CT, 118 outputs, mirrored", Path(model), _images(chosen, CT_117, "tsct_small"), 1)
    what = "CT, 118 outputs, 512×512×20, not mirrored"
    pair = _commands(record, chosen, what, Path(model), _images(chosen, CT_117, "tsct_dicom"), 1, mirroring=False)
    record.check(f"{what}: times quicker", median_seconds(pair[0]) / median_seconds(pair[1]), at_least=5)
    record.note("CT: random weights; of 118 nearly equal logits the largest is often a matter of rounding.")


def _images(chosen: Options, name: str, which: slice | str) -> Path:
    """A folder of links to some images of a dataset: by their number, or one by its name."""
    files = sorted((chosen.data / name / "imagesTr").iterdir())
    files = files[which] if isinstance(which, slice) else [file for file in files if file.name.startswith(which)]
    folder = chosen.work / "images" / f"{name}_{which if isinstance(which, str) else which.stop}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).symlink_to(file.resolve())
    return folder


def _commands(
    record: Record, chosen: Options, what: str, model: Path, source: Path, folds: int, *, mirroring: bool = True
) -> tuple[list[Measured], list[Measured]]:
    """Both command lines on the same images, and how far their label maps agree."""
    theirs, ours = (chosen.work / "predictions" / f"{source.name}_{side}" for side in ("nnunet", "segflow"))
    numbers = [str(fold) for fold in range(folds)]
    reference = script(
        "nnUNetv2_predict_from_modelfolder",
        f"-device cpu -npp 1 -nps 1 --disable_progress_bar -f {' '.join(numbers)}",
        *([] if mirroring else ["--disable_tta"]),
        *("-i", str(source), "-o", str(theirs), "-m", str(model)),
    )
    own = script(
        "segflow",
        f"predict inference.device=cpu inference.resume=false inference.mirroring={str(mirroring).lower()}",
        *(f"model={model}", f"input={source}", f"inference.folds=[{','.join(numbers)}]"),
    )
    pair = record.compare(
        what,
        partial(run_command, chosen.machine, reference),
        partial(run_command, chosen.machine, [*own, f"output={ours}"]),
    )
    found = run_function(chosen.machine, compare_label_maps, reference=theirs, ours=ours).value
    record.check(f"{what}: voxels equal", found["all"], at_least=AGREEMENT)
    record.check(f"{what}: foreground voxels equal", found["foreground"], at_least=AGREEMENT)
    record.value(f"{what}: share of foreground", both=found["share"])
    return pair


def compare_label_maps(meter: Meter, reference: str, ours: str) -> dict[str, float]:
    """Shares of equal voxels over all label maps of two folders, and of those that either calls foreground."""
    import SimpleITK as sitk

    equal = total = equal_foreground = foreground = 0
    for file in sorted(Path(reference).glob("*.nii.gz")):
        theirs, own = (sitk.GetArrayFromImage(sitk.ReadImage(str(Path(f) / file.name))) for f in (reference, ours))
        same, either = theirs == own, (theirs != 0) | (own != 0)
        equal, total = equal + int(same.sum()), total + same.size
        equal_foreground, foreground = equal_foreground + int(same[either].sum()), foreground + int(either.sum())
    return {
        "all": equal / total,
        "foreground": equal_foreground / foreground if foreground else 1.0,
        "share": foreground / total,
    }


def _stream(record: Record, chosen: Options) -> None:
    """Peak memory of whole predictions from file to file against the length of the image, with a limit of memory."""
    model = make_run(chosen.work / "large", SMALL)
    plane = (64, 64) if chosen.quick else (512, 512)
    peaks, anonymous = [], []
    for slices in (90, 180) if chosen.quick else (300, 600, 1200):
        image = chosen.work / f"large_{slices}" / "a_0000.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        make_image(image, (slices, *plane), (1.0, 0.978, 0.978))
        command = script(
            "segflow",
            f"predict inference.device=cpu inference.resume=false inference.mirroring=false max_memory_gb={STREAM_GB}",
            *(f"model={model}", f"input={image.parent}", f"output={image.parent / 'out'}", "inference.folds=[0]"),
        )
        what = f"118 outputs, {plane[1]}×{plane[0]}×{slices}, max_memory_gb={STREAM_GB}"
        runs = record.alone(what, partial(run_command, chosen.machine, command))
        peaks.append(peak_bytes(runs, "command"))
        anonymous.append(max(run.anonymous_bytes for run in runs))
        record.value(f"{what}: peak memory, GB, with the libraries", both=peaks[-1] / 2**30)
        record.value(f"{what}: of it, GB that are no part of a file", both=anonymous[-1] / 2**30)
    record.check("peak memory of the longest image, times the shortest's", peaks[-1] / peaks[0], at_most=1.1)
    what = "peak of what is no part of a file, of the longest image, times the shortest's"
    record.check(what, anonymous[-1] / anonymous[0], at_most=1.1)


def _cube(record: Record, chosen: Options) -> None:
    """Peak memory and time of a prediction from file to file whose image alone is larger than its limit of memory."""
    model = make_run(chosen.work / "cube", PLAIN, ".nii")
    side = 96 if chosen.quick else 2048
    image = chosen.work / "cube_images" / "a_0000.nii"
    image.parent.mkdir(parents=True, exist_ok=True)
    make_bytes(image, (side,) * 3)
    command = script(
        "segflow",
        f"predict inference=no_mirroring inference.device=cpu inference.resume=false max_memory_gb={CUBE_GB}",
        *("inference.overlap=0", "inference.folds=[0]", f"model={model}"),
        *(f"input={image.parent}", f"output={chosen.work / 'cube_out'}"),
    )
    what = f"{side}×{side}×{side} of one byte, max_memory_gb={CUBE_GB}"
    runs = record.alone(what, partial(run_command, chosen.machine, command))
    record.check(f"{what}: peak memory, GB, with the libraries", peak_bytes(runs, "command") / 2**30, at_most=CUBE_GB)
    written = reader_by_name("SimpleITKIO").read_header(chosen.work / "cube_out" / "a.nii")
    record.check(f"{what}: the label map has the image's shape", float(written.shape == (side,) * 3), at_least=1)
    shutil.rmtree(image.parent)
    shutil.rmtree(chosen.work / "cube_out")


def _export(record: Record, chosen: Options) -> None:
    source = chosen.data / CT_117
    prepared, _ = share_plans(source, link_dataset(source, chosen.work / "nnUNet_raw"), chosen.work)
    scale = 0.1 if chosen.quick else chosen.extra.reference_scale
    task, large = EXPORT_280.scaled(scale), EXPORT_600.scaled(0.1 if chosen.quick else 1.0)
    what = f"export of 118 classes to {_size(task.image)}"
    outputs = [chosen.work / f"export_{side}.npy" for side in ("nnunet", "segflow")]
    theirs, ours = record.compare(
        what,
        *(
            partial(_run_export, chosen, side, prepared, task, output)
            for side, output in zip((nnunet_export, segflow_export), outputs, strict=True)
        ),
    )
    record.check(f"{what}: times quicker", median_seconds(theirs) / median_seconds(ours), at_least=10)
    share = peak_bytes(ours, "export") / peak_bytes(theirs, "export")
    # Without a bar: of a small export, libraries take a good part of the memory.
    record.value(f"{what}: share of nnU-Net's memory", both=share)
    same = float((np.load(outputs[0]) == np.load(outputs[1])).mean())
    record.check(f"{what}: voxels equal", same, at_least=AGREEMENT)
    full = EXPORT_280.scaled(0.2) if chosen.quick else EXPORT_280
    factor = np.prod(full.image) / np.prod(task.image)
    for sums in ("float16", "float32"):  # by default, for models of nnU-Net's and for our own
        name = f"export to {_size(full.image)}, {sums}"
        runs = record.alone(name, partial(_run_export, chosen, segflow_export, prepared, full, outputs[1], sums=sums))
        name = f"{name}, nnU-Net's extrapolated from {_size(task.image)} by voxels"
        record.check(f"{name}: times quicker", factor * median_seconds(theirs) / median_seconds(runs), at_least=10)
        share = peak_bytes(runs, "export") / (factor * peak_bytes(theirs, "export"))
        record.check(f"{name}: share of nnU-Net's memory", share, at_most=0.2)
        name = f"export to {_size(large.image)}, {sums}"
        runs = record.alone(name, partial(_run_export, chosen, segflow_export, prepared, large, outputs[1], sums=sums))
        record.check(f"{name}: peak memory, GB", peak_bytes(runs, "export") / 2**30, at_most=6)
    record.note("Exports: the logits are part of the peak, in half precision for nnU-Net.")


def network_alone(meter: Meter, model: str, image: str) -> None:
    """The passes of one fold's network over an image, in a process that is already warm."""
    from segflow.core.case import CaseFiles
    from segflow.inference.predictor import Predictor
    from segflow.network.cpu.allocation import tune_cpu
    from segflow.storage.images import read_case, reader_by_name

    tune_cpu()  # as `segflow predict` does
    predictor = Predictor.load(model, folds=("0",), device="cpu")
    case = read_case(CaseFiles("image", (Path(image),)), reader_by_name(predictor.record.plans.reader))
    prepared = predictor.preprocess(case)
    predictor.logits(prepared)
    with meter.section("network"):
        predictor.logits(prepared)


def _start(record: Record, chosen: Options) -> None:
    prepared, _ = prepare(chosen, HIPPOCAMPUS, CONFIGURATION, 6)
    if chosen.quick:
        shrink(prepared, CONFIGURATION)
    model = run_function(
        chosen.machine, make_model, prepared=prepared, configuration=CONFIGURATION, iterations=0, folds=1
    ).value
    source = _images(chosen, HIPPOCAMPUS, slice(1))
    (image,) = source.iterdir()
    what = "one image of hippocampus, one fold, command to file"
    _, ours = _commands(record, chosen, what, Path(model), source, 1)
    torch_alone = record.alone(
        "import torch", partial(run_command, chosen.machine, [sys.executable, "-c", "import torch"])
    )
    network = record.alone(
        "passes of the network", partial(run_function, chosen.machine, network_alone, model=model, image=image)
    )
    beyond = median_seconds(ours) - median_seconds(network)
    record.check(f"{what}: s beyond the network's own", beyond, at_most=3)
    record.value(f"{what}: beyond the network and import torch", both=beyond - median_seconds(torch_alone), unit="s")


def _run_export(chosen: Options, side: Any, prepared: Path, task: Export, output: Path, **precision: str) -> Measured:
    shapes = {"plan_shape": task.plan, "image_shape": task.image}
    return run_function(chosen.machine, side, prepared=prepared, output=output, **shapes, **precision)


def _size(shape: tuple[int, int, int]) -> str:
    return "×".join(str(n) for n in reversed(shape))


if __name__ == "__main__":
    main()
