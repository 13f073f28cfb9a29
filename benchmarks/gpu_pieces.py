"""The pieces of ``gpu.py``. Each is called in a process of its own, and returns what JSON can hold.

``python gpu_pieces.py CALL.json ANSWER.json`` calls one. They run on a CPU too, where their figures mean nothing.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from gpu_subjects import SUBJECTS, Subject
from measure import Machine, Meter, run_command, script
from training import composed, nnunet_prepare, nnunet_trainer, segflow_prepare

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.labels import Labels
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.models.nnunet_names import from_nnunet
from segflow.network.build import build_network
from segflow.planning.memory import memory_gb, network_size
from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "32-true": None}
FORMATS = ("contiguous", "channels_last")
NETWORKS = {
    "hippocampus 3d": ("hippocampus", "3d_fullres", "nnunet"),
    "acdc 2d": ("acdc", "2d", "nnunet"),
    "acdc 3d": ("acdc", "3d_fullres", "nnunet"),
    "ct 3d": ("ct", "3d_fullres", "nnunet"),
    "ct ResEnc L": ("ct", "3d_fullres", "resenc_l"),
    "ct_117 3d": ("ct_117", "3d_fullres", "nnunet"),
}
"""Name → subject, configuration, option of ``conf/planner``."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece runs.

    Attributes:
        device: ``cuda`` or ``cpu``.
        tiny: Small inputs and few steps: shows that a piece works.
        work: Folder that the pieces share.
    """

    device: str
    tiny: bool
    work: Path

    @property
    def steps(self) -> int:
        """Steps that count."""
        return 2 if self.tiny else 20

    def subject(self, name: str) -> Subject:
        """A kind of dataset."""
        return SUBJECTS[name].smaller() if self.tiny else SUBJECTS[name]

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forget_peak(self) -> None:
        """Count the device's memory from here on."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Most memory of the device that tensors held, since it was forgotten."""
        return torch.cuda.max_memory_allocated() / GIB if self.device == "cuda" else None


def facts(place: Place) -> dict[str, Any]:
    """The device and its software."""
    found: dict[str, Any] = {"torch": torch.__version__, "cores": len(os.sched_getaffinity(0))}
    if place.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "memory_gib": properties.total_memory / GIB,
            "capability": list(torch.cuda.get_device_capability(0)),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def suite(place: Place) -> dict[str, Any]:
    """The checks of tests/gpu that compare values, on the device."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # packages may come from there
    environment = {**os.environ, "SEGFLOW_TEST_DEVICE": place.device, "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command.append("tests/gpu/test_gpu.py::test_on_a_real_device")
    if place.tiny:
        command += ["--collect-only"]  # they are run by the suite itself
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    return {"passed": done.returncode == 0, "end": done.stdout[-3000:]}


def steps(place: Place, network: str, compiled: bool) -> dict[str, Any]:
    """Seconds and memory of training steps, in every precision and memory format, beside the plan's estimate."""
    plan, labels, settings = planned(place, network)
    rows = []
    precisions = [p for p in AUTOCAST if place.device == "cuda" or p != "16-mixed"]
    for precision in precisions[:1] if compiled else precisions:
        for memory_format in FORMATS:
            torch.manual_seed(0)
            module = build_network(plan.topology, 1, labels.num_outputs, memory_format=memory_format).to(place.device)
            if compiled:
                module.compile()
            timing = timed_steps(place, module, plan, labels, AUTOCAST[precision])
            rows.append({"precision": precision, "format": memory_format, **timing})
            del module
            if compiled:
                torch._dynamo.reset()
    size = network_size(plan.topology, plan.patch_size, labels.num_outputs)
    return {
        "patch": list(plan.patch_size),
        "batch": plan.batch_size,
        "planned_gb": memory_gb(size, plan.batch_size, plan.topology.spatial_dims, settings),
        "steps": rows,
    }


def passes(place: Place, network: str) -> dict[str, Any]:
    """Seconds of a forward pass as in prediction, in both memory formats, for one sample, two, and a training batch."""
    plan, labels, _ = planned(place, network)
    autocast = torch.float16 if place.device == "cuda" else None
    rows = []
    for memory_format, batch in itertools.product(FORMATS, sorted({1, 2, plan.batch_size})):
        outputs = labels.num_outputs
        module = build_network(plan.topology, 1, outputs, deep_supervision=False, memory_format=memory_format)
        module = module.to(place.device).eval()
        image = torch.randn((batch, 1, *plan.patch_size), device=place.device)

        def forward(module: torch.nn.Module = module, image: torch.Tensor = image) -> None:
            with torch.inference_mode(), torch.autocast(place.device, dtype=autocast, enabled=autocast is not None):
                module(image)

        rows.append({"batch": batch, "format": memory_format, **_timed(place, forward)})
    return {"patch": list(plan.patch_size), "passes": rows}


def timed_steps(
    place: Place, module: torch.nn.Module, plan: ConfigurationPlan, labels: Labels, autocast: torch.dtype | None
) -> dict[str, Any]:
    """Median seconds of a step, and the peak of memory."""
    shape = (plan.batch_size, 1, *plan.patch_size)
    image, label = torch.randn(shape), torch.randint(0, labels.num_outputs, shape, dtype=torch.int16)
    return _timed(place, _step(place, module, plan, labels, autocast, image, label))


def _step(
    place: Place,
    module: torch.nn.Module,
    plan: ConfigurationPlan,
    labels: Labels,
    autocast: torch.dtype | None,
    image: torch.Tensor,
    label: torch.Tensor,
) -> Callable[[], torch.Tensor]:
    """A training step on one batch, which gives its loss."""
    loss = DeepSupervisionLoss(DiceCrossEntropy(labels, plan.batch_dice), plan.topology.strides)
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    scaler = torch.amp.GradScaler(place.device, enabled=autocast == torch.float16)
    image, label = image.to(place.device), label.to(place.device)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(place.device, dtype=autocast, enabled=autocast is not None):
            value: torch.Tensor = loss(module(image), label)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 12.0)
        scaler.step(optimizer)
        scaler.update()
        return value.detach()

    return step


def nnunet_steps(place: Place, network: str, compiled: bool) -> dict[str, Any]:
    """The same step of nnU-Net's own trainer, in its own precision."""
    os.environ["nnUNet_compile"] = str(compiled)  # noqa: SIM112  # the name that nnU-Net reads
    trainer, batch = _nnunet_trainer(place, network)
    return _timed(place, lambda: trainer.train_step(batch))


def nnunet_agreement(place: Place, network: str) -> dict[str, Any]:
    """Losses of the same steps from the same weights, of nnU-Net's trainer and of ours, in nnU-Net's precision."""
    os.environ["nnUNet_compile"] = "False"  # noqa: SIM112
    trainer, batch = _nnunet_trainer(place, network)
    plan, labels, _ = planned(place, network)
    module = build_network(plan.topology, 1, labels.num_outputs).to(place.device)
    module.load_state_dict(from_nnunet(trainer.network.state_dict(), plan.topology))
    autocast = torch.float16 if place.device == "cuda" else None
    step = _step(place, module, plan, labels, autocast, batch["data"], batch["target"][0])
    count = 2 if place.tiny else 10
    losses = [(float(trainer.train_step(batch)["loss"]), float(step())) for _ in range(count)]
    return {"nnU-Net": {"largest_difference_of_loss": max(abs(theirs - ours) for theirs, ours in losses)}}


def _nnunet_trainer(place: Place, network: str) -> tuple[Any, dict[str, Any]]:
    """nnU-Net's trainer, ready for a step, and a batch; the target of each level is the finest one, thinned out."""
    name, configuration, option = NETWORKS[network]
    subject = place.subject(name)
    folder = place.work / "steps" / network.replace(" ", "_")
    raw = replace(subject, shape=(16, 16, 16)).write(place.work / "steps_raw", cases=5)  # only their names matter
    subject.write_plans(folder, raw, replace(planner_of(option), plans_name="nnUNetPlans"))
    trainer = nnunet_trainer(folder, configuration, 1, 1, 1, device=place.device)
    arrays = Path(trainer.preprocessed_dataset_folder)  # it looks there for the kind of arrays
    if not arrays.is_dir():
        arrays.mkdir(parents=True)
        (arrays / "none.b2nd").touch()
    trainer.initialize()
    plan, outputs = trainer.configuration_manager, trainer.label_manager.num_segmentation_heads
    image = torch.randn((plan.batch_size, 1, *plan.patch_size))
    target = torch.randint(0, outputs, image.shape, dtype=torch.int16)
    scales = trainer._get_deep_supervision_scales() or [[1.0] * len(plan.patch_size)]
    thinned = [target[(..., *(slice(None, None, round(1 / factor)) for factor in scale))] for scale in scales]
    trainer.network.train()
    return trainer, {"data": image, "target": thinned}


def agreement(place: Place, network: str) -> dict[str, Any]:
    """Losses of the same ten steps on the CPU in float32 and on the device, and the logits of the same weights."""
    plan, labels, _ = planned(place, network)
    small = tuple(min(n, 2 * d) for n, d in zip(plan.patch_size, plan.topology.divisor, strict=True))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((2, 1, *small), generator=generator)
    label = torch.randint(0, labels.num_outputs, image.shape, generator=generator, dtype=torch.int16)

    def losses(device: str, autocast: torch.dtype | None) -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(0)
        module = build_network(plan.topology, 1, labels.num_outputs).to(device)
        loss = DeepSupervisionLoss(DiceCrossEntropy(labels, plan.batch_dice), plan.topology.strides)
        optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.99, nesterov=True)
        x, y, found = image.to(device), label.to(device), []
        with torch.no_grad(), torch.autocast(device, dtype=autocast, enabled=autocast is not None):
            logits = module(x)[0].float().cpu()
        for _ in range(3 if place.tiny else 10):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
                value = loss(module(x), y)
            value.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 12.0)
            optimizer.step()
            found.append(float(value))
        return found, logits

    expected, logits = losses("cpu", None)
    result = {}
    for precision, autocast in AUTOCAST.items():
        if place.device == "cpu" and precision == "16-mixed":
            continue
        found, other = losses(place.device, autocast)
        result[precision] = {
            "largest_difference_of_loss": max(abs(a - b) for a, b in zip(expected, found, strict=True)),
            "labels_equal": float((logits.argmax(1) == other.argmax(1)).float().mean()),
            "largest_difference_of_logits": float((logits - other).abs().max()),
        }
    return result


def prepare(place: Place, subject: str, reference: bool) -> dict[str, Any]:
    """The arrays of some cases, of segflow and perhaps of nnU-Net too."""
    raw, folders = _folders(place, subject)
    meter = Meter()
    configurations = ["2d", "3d_fullres"] if subject == "acdc" else ["3d_fullres"]
    processes = max(2, min(6, len(os.sched_getaffinity(0))))
    for configuration in configurations:
        segflow_prepare(meter, str(raw), str(folders[1]), configuration, processes)
        if reference:
            nnunet_prepare(meter, place.subject(subject).number, configuration, processes)
    return {"cases": len(list((raw / "labelsTr").iterdir()))}


def data(place: Place, subject: str, configuration: str, cores: int, augmentation: str) -> dict[str, Any]:
    """Share of a training step that waits for data, on so many cores."""
    there = sorted(os.sched_getaffinity(0))
    if len(there) < cores and not place.tiny:
        return {"skipped": f"the machine has {len(there)} cores"}
    os.sched_setaffinity(0, there[:cores])
    more = [f"training.augmentation_device={augmentation}", "trainer.limit_val_batches=1"]
    run = _train(place, subject, configuration, f"data_{cores}_{augmentation}", epochs=2, more=more)
    last = _metrics(run)[-1]
    waited, computed = float(last["time/data_wait"]), float(last["time/compute"])
    return {
        "wait_ms": 1e3 * waited,
        "compute_ms": 1e3 * computed,
        "share": waited / (waited + computed),
        "peak_gib": float(last["memory/gpu_peak_gib"]) if last.get("memory/gpu_peak_gib") else None,
    }


def epoch(place: Place, subject: str, configuration: str, reference: bool) -> dict[str, Any]:
    """Seconds of an epoch of ``segflow train``, and of nnU-Net's trainer, on the same arrays."""
    batches = 3 if place.tiny else 100
    found = {"segflow": _epoch_seconds(place, subject, configuration, batches)}
    if reference:
        found["nnunet"] = _nnunet_epoch_seconds(place, subject, configuration, batches)
    return found


def _epoch_seconds(place: Place, subject: str, configuration: str, batches: int) -> dict[str, float | None]:
    more = [f"trainer.limit_train_batches={batches}", "trainer.limit_val_batches=10"]
    run = _train(place, subject, configuration, "epoch", epochs=3, more=more)
    rows = _metrics(run)[1:]
    peaks = [float(row["memory/gpu_peak_gib"]) for row in rows if row.get("memory/gpu_peak_gib")]
    return {
        "seconds": min(float(row["time/epoch"]) for row in rows),
        "peak_gib": max(peaks) if peaks else None,
    }


def _nnunet_epoch_seconds(place: Place, subject: str, configuration: str, batches: int) -> dict[str, float | None]:
    _, (folder, _) = _folders(place, subject)
    trainer = nnunet_trainer(folder, configuration, 3, batches, 10, device=place.device)
    starts: list[float] = []
    begin, finish = trainer.on_epoch_start, trainer.on_train_end

    def told() -> None:
        starts.append(time.perf_counter())
        begin()

    def ended() -> None:
        starts.append(time.perf_counter())
        finish()

    trainer.on_epoch_start, trainer.on_train_end = told, ended
    place.forget_peak()
    trainer.run_training()
    seconds = [after - before for before, after in itertools.pairwise(starts)]
    return {"seconds": min(seconds[1:]), "peak_gib": place.peak_gib()}


def waits(place: Place, subject: str, configuration: str) -> dict[str, Any]:
    """Places where the processors waited for the device in the steps of the second epoch, and how often in a step."""
    if place.device != "cuda":
        return {"skipped": "a CPU does not wait"}
    more = ["+callbacks.waits={_target_: gpu_pieces.WaitCounter}", "training.augmentation_device=device"]
    _train(place, subject, configuration, "waits", epochs=2, more=more)
    counter = WaitCounter.current
    return {"per_step": {where: count / counter.counted for where, count in counter.places.most_common(20)}}


class WaitCounter(pl.Callback):
    """Counts torch's warnings of waits, by place. The last one made is `current`."""

    current: WaitCounter

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.counted = 0
        WaitCounter.current = self

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            torch.cuda.set_sync_debug_mode("warn")
            warnings.simplefilter("always")
            warnings.showwarning = self._seen
            self.counted += 1

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    def _seen(self, message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing" not in str(message):
            return
        frames = [frame for frame in traceback.extract_stack() if "gpu_pieces" not in frame.filename]
        ours = [frame for frame in frames if f"{os.sep}segflow{os.sep}" in frame.filename] or frames
        if any(frame.filename.endswith("checkpoints.py") for frame in ours):
            return  # written at the end of an epoch, after the last step
        self.places[f"{Path(ours[-1].filename).name}:{ours[-1].name}"] += 1


def predict(place: Place, subject: str, reference: bool) -> dict[str, Any]:
    """Wall time and peak memory of ``segflow predict`` with a trained fold, and of nnU-Net's command with its own."""
    raw, (theirs, _) = _folders(place, subject)
    more = ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "augmentation=none"]
    run = _train(place, subject, "3d_fullres", "predict", epochs=1, more=more)
    images = place.work / "images" / subject
    images.mkdir(parents=True, exist_ok=True)
    for file in sorted((raw / "imagesTr").iterdir())[:3]:
        shutil.copy(file, images)
    machine = Machine(tuple(sorted(os.sched_getaffinity(0))), len(os.sched_getaffinity(0)))
    out = place.work / "predictions"
    own = script("segflow", f"predict inference.device={place.device} inference.resume=false model={run}")
    ours = run_command(machine, [*own, f"input={images}", f"output={out / f'{subject}_segflow'}"])
    found: dict[str, Any] = {"segflow": {"seconds": ours.seconds, "peak_gib": ours.peak_bytes / GIB}}
    if reference:
        from prediction import make_model

        model = make_model(Meter(), str(theirs), "3d_fullres", 0, 1, device=place.device)
        words = f"-device {place.device} -npp 1 -nps 1 --disable_progress_bar -f 0"
        command = script("nnUNetv2_predict_from_modelfolder", words, "-i", str(images), "-m", model)
        done = run_command(machine, [*command, "-o", str(out / f"{subject}_nnunet")])
        found["nnunet"] = {"seconds": done.seconds, "peak_gib": done.peak_bytes / GIB}
        again = script("segflow", f"predict inference.device={place.device} inference.resume=false model={model}")
        run_command(machine, [*again, f"input={images}", f"output={out / f'{subject}_same_model'}"])
        found["labels_equal"] = _equal(out / f"{subject}_nnunet", out / f"{subject}_same_model")
    return found


def planned(place: Place, network: str) -> tuple[ConfigurationPlan, Labels, PlannerSettings]:
    """The plan of a network, the labels, and the planner's settings."""
    name, configuration, option = NETWORKS[network]
    subject, planner = place.subject(name), _narrow(place, planner_of(option))
    return subject.plans(planner).configuration(configuration), subject.description().labels, planner


def _narrow(place: Place, planner: PlannerSettings) -> PlannerSettings:
    """The planner's settings; for few feature maps where only the way is tried."""
    return replace(planner, base_features=8, max_features_2d=32, max_features_3d=32) if place.tiny else planner


def planner_of(option: str) -> PlannerSettings:
    """The planner's settings of an option of ``conf/planner``."""
    from segflow.apps import _edge

    settings: PlannerSettings = _edge.compose("plan", f"planner={option}").planner
    return settings


def _timed(place: Place, step: Callable[[], Any]) -> dict[str, Any]:
    for _ in range(1 if place.tiny else 5):
        step()
    place.synchronize()
    place.forget_peak()
    seconds = []
    for _ in range(place.steps):
        started = time.perf_counter()
        step()
        place.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "peak_gib": place.peak_gib()}


def _folders(place: Place, subject: str) -> tuple[Path, tuple[Path, Path]]:
    """The raw dataset, and nnU-Net's and segflow's preprocessed folder with the same plans."""
    one = place.subject(subject)
    raw = one.write(place.work / "nnUNet_raw")
    folders = (place.work / "nnUNet_preprocessed" / one.name, place.work / "segflow_preprocessed" / one.name)
    for folder in folders:
        if not (folder / "nnUNetPlans.json").is_file():
            one.write_plans(folder, raw, _narrow(place, PlannerSettings()))
            for configuration in ("2d", "3d_fullres"):
                _shrink(place, folder, configuration)
    return raw, folders


def _shrink(place: Place, folder: Path, configuration: str) -> None:
    """A small batch where only the way is tried."""
    plans = read_json(folder / "nnUNetPlans.json")
    if place.tiny and configuration in plans["configurations"]:
        plans["configurations"][configuration]["batch_size"] = 2
        write_json(folder / "nnUNetPlans.json", plans)


def _train(place: Place, subject: str, configuration: str, name: str, *, epochs: int, more: list[str]) -> Path:
    """Train with ``segflow train``, and return the fold's folder."""
    from segflow.apps import train

    _, (_, folder) = _folders(place, subject)
    outputs = place.work / "outputs" / name
    shutil.rmtree(outputs, ignore_errors=True)
    limit = [] if any("limit_train" in word for word in more) else [f"trainer.limit_train_batches={5 * place.steps}"]
    settings = composed(
        str(folder),
        str(outputs),
        f"configuration={configuration}",
        f"trainer.max_epochs={epochs}",
        f"trainer.accelerator={'cpu' if place.device == 'cpu' else 'gpu'}",
        *limit,
        *more,
    )
    return train.train(settings).result.folder


def _metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _equal(theirs: Path, ours: Path) -> float:
    import SimpleITK as sitk

    pairs = [
        tuple(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / file.name))) for folder in (theirs, ours))
        for file in sorted(theirs.glob("*.nii.gz"))
    ]
    return float(np.mean([(one == other).mean() for one, other in pairs]))


@contextmanager
def _answering(file: Path) -> Iterator[dict[str, Any]]:
    """What a piece found, or its error, is written to the file."""
    answer: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        yield answer
    except Exception as error:
        traceback.print_exc()
        answer["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:500]
    answer["seconds"] = round(time.perf_counter() - started, 1)
    answer["main_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    file.write_text(json.dumps(answer, default=float), encoding="utf-8")


def main() -> None:
    """Call one piece."""
    call = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    place = Place(call["device"], call["tiny"], Path(call["work"]))
    with _answering(Path(sys.argv[2])) as answer:
        answer["found"] = getattr(sys.modules["gpu_pieces"], call["function"])(place, **call["arguments"])


if __name__ == "__main__":
    sys.modules["gpu_pieces"] = sys.modules["__main__"]  # the callback is found under this name
    main()
