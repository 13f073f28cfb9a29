"""Planning and preprocessing: wall time, memory, and equality of plans and arrays.

``lits``: one CT phantom of 512×512×450 voxels, from its files to its arrays and step by step.
``hippocampus``, ``acdc``: whole datasets, from raw files to arrays, through both tools' Python interfaces, and for
``commands`` through their command lines.
``slabs``: the CT phantom with ever more slices, measured and preprocessed slab by slab, for its memory; and the same as
a whole.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from inputs import (
    ACDC,
    HIPPOCAMPUS,
    LITS_SHAPE,
    LITS_SPACING,
    QUICK_SHAPE,
    link_dataset,
    lits_fingerprint,
    write_phantom,
)
from measure import Machine, Measured, Meter, Section, run_command, run_function, script
from record import Options, Record, median_seconds, options, peak_bytes

from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json

PARTS = ("lits", "hippocampus", "acdc", "commands", "slabs")
SLAB_SLICES, QUICK_SLAB_SLICES = (150, 300, 600), (20, 40)
TOLERANCE = 1e-3
SHARE_EQUAL = 0.9999
PROCESSES = 2
SIDES = ("nnunet", "segflow")
BOTH = ("3d_fullres", "3d_lowres")
CASE_BARS = {"3d_fullres": 10, "3d_lowres": 14, "both": 28}
"""Times quicker with the CT phantom."""
DATASET_BAR = 9
"""Times quicker with hippocampus."""
FREE_SECONDS = 5
"""After which memory counts as free for a while."""


def nnunet_case(meter: Meter, raw: str, prepared: str, configuration: str) -> None:
    """One case through nnU-Net's DefaultPreprocessor, in its own three steps."""
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    plans = PlansManager(f"{prepared}/nnUNetPlans.json")
    plan = plans.get_configuration(configuration)
    description = load_json(f"{raw}/dataset.json")
    ((case_id, files),) = get_filenames_of_train_images_and_targets(raw, description).items()
    preprocessor = plan.preprocessor_class(verbose=False)
    folder = _emptied(Path(prepared) / "nnunet" / plan.data_identifier)
    with meter.section("read"):
        reader = plans.image_reader_writer_class()
        image, properties = reader.read_images(files["images"])
        label, _ = reader.read_seg(files["label"])
    with meter.section("preprocess"):
        image, label, properties = preprocessor.run_case_npy(image, label, properties, plans, plan, description)
    with meter.section("write"):
        image, label = image.astype(np.float32, copy=False), label.astype(np.int16, copy=False)
        patch = tuple(plan.patch_size)
        blocks, chunks = comp_blosc2_params(image.shape, patch, image.itemsize)
        label_blocks, label_chunks = comp_blosc2_params(label.shape, patch, label.itemsize)
        nnUNetDatasetBlosc2.save_case(
            image,
            label,
            properties,
            str(folder / case_id),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=label_chunks,
            blocks_seg=label_blocks,
        )


def _emptied(folder: Path) -> Path:
    """A folder without the arrays of an earlier run, which blosc2 does not write over."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def segflow_case(meter: Meter, raw: str, prepared: str, configuration: str) -> dict[str, float]:
    """The same case through segflow, in the same three steps.

    Returns:
        Processor seconds of each.
    """
    from segflow.core.plans import Plans
    from segflow.execution.machine import processor_count, threads_granted
    from segflow.preprocessing.preprocess_case import preprocess_case
    from segflow.storage.case_files import find_training_cases
    from segflow.storage.images import read_case, reader_by_name
    from segflow.storage.json_files import read_json
    from segflow.storage.preprocessed_store import PreprocessedStore
    from segflow.storage.raw_dataset import read_description

    _load_late_libraries()
    plans = Plans.from_json(read_json(Path(prepared) / "nnUNetPlans.json"))
    plan = plans.configuration(configuration)
    description = read_description(Path(raw))
    (files,) = find_training_cases(Path(raw), description)
    used: dict[str, float] = {}
    store = PreprocessedStore(Path(prepared) / "segflow" / plan.data_identifier)
    with threads_granted(processor_count()):  # as `run_jobs` grants them to the only job
        with _counted(meter, "read", used):
            case = read_case(files, reader_by_name(plans.reader), channels=len(description.channels))
        with _counted(meter, "preprocess", used):
            result = preprocess_case(case, plans, plan, description.labels, may_overwrite=True)
        del case
        with _counted(meter, "write", used):
            store.write(result, plan.patch_size)
    return used


@contextmanager
def _counted(meter: Meter, name: str, used: dict[str, float]) -> Iterator[None]:
    """A section whose processor seconds are noted too."""
    before = _processor_seconds()
    with meter.section(name):
        yield
    used[name] = _processor_seconds() - before


def _load_late_libraries() -> None:
    """Import what segflow imports where it is first used. Sections are without imports, on both sides."""
    import scipy.ndimage
    import scipy.sparse.csgraph  # noqa: F401

    from segflow.storage.array_library import array_library

    array_library()


def nnunet_both(meter: Meter, raw: str, prepared: str) -> list[float]:
    """Both configurations of the case, files to files, as nnU-Net makes them: one after the other.

    Returns:
        Processor seconds; and those of them in the kernel, such as for pages that are touched for the first time.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    plans = PlansManager(f"{prepared}/nnUNetPlans.json")
    description = read_json(Path(raw) / "dataset.json")
    ((case_id, files),) = get_filenames_of_train_images_and_targets(raw, description).items()
    before = _processor_seconds(), os.times().system
    for configuration in BOTH:
        plan = plans.get_configuration(configuration)
        folder = _emptied(Path(prepared) / "nnunet_both" / plan.data_identifier)
        with meter.section("files to files"):
            plan.preprocessor_class(verbose=False).run_case_save(
                str(folder / case_id), files["images"], files["label"], plans, plan, description
            )
    return [_processor_seconds() - before[0], os.times().system - before[1]]


def segflow_files(meter: Meter, raw: str, prepared: str, configurations: list[str], again: bool = False) -> list[float]:
    """Preprocess configurations of the case with segflow, files to files. Returns what `nnunet_both` returns.

    With ``again``, the second time in a process that keeps freed memory, so that no page is new.
    """
    from segflow.core.plans import Plans
    from segflow.preprocessing.preprocess_dataset import PreprocessSettings, preprocess_dataset
    from segflow.storage.json_files import read_json

    if again:
        from segflow.network.cpu.allocation import tune_cpu  # loads torch, whose memory is not preprocessing's

        tune_cpu()
        segflow_files(Meter(), raw, prepared, configurations)
    _load_late_libraries()
    plans = Plans.from_json(read_json(Path(prepared) / "nnUNetPlans.json"))
    settings = PreprocessSettings(processes=0, redo=True)
    before = _processor_seconds(), os.times().system
    with meter.section("files to files"):
        report = preprocess_dataset(Path(raw), plans, configurations, Path(prepared) / "segflow_both", settings)
    if report.failed:
        raise RuntimeError(report.text())
    return [_processor_seconds() - before[0], os.times().system - before[1]]


def use_memory(meter: Meter) -> dict[str, float]:
    """Write to 1 GB of memory that was free for a while, and to 1 GB that was freed just before.

    Returns:
        Seconds of each.
    """
    time.sleep(FREE_SECONDS)
    for name in ("free for a while", "freed just before"):
        with meter.section(name):
            np.full(10**9, 1, np.uint8)
    return {entry["name"]: entry["stop"] - entry["start"] for entry in meter.entries}


def segflow_in_one_way(meter: Meter, raw: str, prepared: str, slabs: bool) -> None:
    """Measure the case, and make its arrays of 3d_lowres: slab by slab, or as a whole."""
    from segflow.core.plans import Plans
    from segflow.planning.measure_dataset import _measure_files
    from segflow.preprocessing.array_targets import array_targets
    from segflow.preprocessing.preprocess_jobs import preprocess_job
    from segflow.storage.case_files import find_training_cases
    from segflow.storage.images import reader_by_name
    from segflow.storage.json_files import read_json
    from segflow.storage.prepared_dataset import PreparedDataset
    from segflow.storage.raw_dataset import read_description

    plans = Plans.from_json(read_json(Path(prepared) / "nnUNetPlans.json"))
    description = read_description(Path(raw))
    (files,) = find_training_cases(Path(raw), description)
    reader, labels = reader_by_name(plans.reader), description.labels
    store = PreparedDataset(Path(prepared) / ("slabs" if slabs else "whole"))
    targets = array_targets(plans, plans.plans_name, ["3d_lowres"], labels, store)
    with meter.section("measure"):
        _measure_files(slabs, files, reader, len(description.channels), labels, 1_000_000)
    with meter.section("preprocess"):
        preprocess_job(slabs, files, reader, description, plans, targets, {})


def nnunet_dataset(meter: Meter, identifier: int, configurations: list[str]) -> float:
    """A dataset through nnU-Net's Python interface.

    Returns:
        Processor seconds, those of worker processes included.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    before = _processor_seconds()
    with meter.section("fingerprint"):
        extract_fingerprint_dataset(identifier, num_processes=PROCESSES, check_dataset_integrity=True, clean=True)
    with meter.section("plan"):
        plan_experiment_dataset(identifier)
    with meter.section("preprocess"):
        preprocess_dataset(identifier, configurations=configurations, num_processes=[PROCESSES])
    return _processor_seconds() - before


def segflow_dataset(
    meter: Meter, raw: str, prepared: str, configurations: list[str], processes: int = PROCESSES
) -> float:
    """Measure and preprocess a dataset with segflow. The check is part of measuring.

    With 0 ``processes`` in this one, all libraries loaded: what is left of the work if nothing has to start.

    Returns:
        What `nnunet_dataset` returns.
    """
    from segflow.core.dataset import DatasetDescription
    from segflow.planning.measure_dataset import measure_dataset
    from segflow.planning.plan_dataset import PlanOptions, plan_dataset
    from segflow.planning.planner_settings import PlannerSettings
    from segflow.preprocessing.preprocess_dataset import PreprocessSettings, preprocess_dataset
    from segflow.storage.case_files import find_training_cases
    from segflow.storage.images import choose_reader
    from segflow.storage.json_files import write_json
    from segflow.storage.raw_dataset import read_description

    folder, target = Path(raw), Path(prepared)
    if not processes:
        _load_late_libraries()
    before = _processor_seconds()
    with meter.section("fingerprint"):
        description: DatasetDescription = read_description(folder)
        cases = find_training_cases(folder, description)
        reader = choose_reader(description.file_ending, cases[0].images[0], description.reader)
        found = measure_dataset(cases, reader, description, processes=processes).fingerprint
        write_json(target / "measured.json", found.to_json())
    with meter.section("plan"):
        options = PlanOptions(fingerprint=target / "measured.json")
        plans = plan_dataset(folder, target, PlannerSettings(), options=options).plans
    with meter.section("preprocess"):
        settings = PreprocessSettings(processes=processes, redo=True)
        report = preprocess_dataset(folder, plans, configurations, target, settings)
    if report.failed:
        raise RuntimeError(report.text())
    return _processor_seconds() - before


def _processor_seconds() -> float:
    """Of this process and of those that it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare_arrays(meter: Meter, reference: str, ours: str) -> dict[str, Any]:
    """Shares of voxels that are equal, over all cases of two folders of arrays.

    An image voxel is equal within `TOLERANCE` of the range of the reference's normalised values.
    """
    import blosc2

    equal, total, label_equal, label_total, largest, cases = 0, 0, 0, 0, 0.0, 0
    for file in sorted(Path(reference).glob("*.b2nd")):
        theirs, own = (blosc2.open(str(Path(folder) / file.name), mode="r")[:] for folder in (reference, ours))
        if theirs.shape != own.shape:
            raise RuntimeError(f"{file.name}: {theirs.shape} and {own.shape}")
        if file.name.endswith("_seg.b2nd"):
            label_equal += int((theirs == own).sum())
            label_total += theirs.size
            continue
        cases += 1
        tolerance = TOLERANCE * float(theirs.max() - theirs.min())
        difference = np.abs(theirs - own)
        equal += int((difference <= tolerance).sum())
        total += theirs.size
        largest = max(largest, float(difference.max()) * TOLERANCE / max(tolerance, 1e-12))
    if not cases or not label_total:
        raise RuntimeError(f"no arrays in {reference}")
    return {"cases": cases, "image": equal / total, "label": label_equal / label_total, "largest": largest}


def main() -> None:
    """Run the chosen parts."""
    with options("preprocessing", __doc__ or "", PARTS) as chosen:
        record = Record("preprocessing", chosen)
        if chosen.wants("lits"):
            _lits(record, chosen)
        for part, name in (("hippocampus", HIPPOCAMPUS), ("acdc", ACDC)):
            if chosen.wants(part):
                _dataset(record, chosen, part, name)
        if chosen.wants("commands"):
            _commands(record, chosen)
        if chosen.wants("slabs"):
            _slabs(record, chosen)
        record.finish()


def _lits(record: Record, chosen: Options) -> None:
    shape = QUICK_SHAPE if chosen.quick else LITS_SHAPE
    raw = write_phantom(chosen.work / "nnUNet_raw", shape, LITS_SPACING)
    prepared = chosen.work / "nnUNet_preprocessed" / raw.name
    _plan_like_lits(raw, prepared)
    size = "×".join(str(n) for n in reversed(shape))
    worker = _like_a_worker(chosen.machine)
    reference = {}
    for configuration in BOTH:
        what = f"CT {size}, {configuration}"
        call = {"raw": raw, "prepared": prepared, "configuration": configuration}
        pair = record.compare(
            what,
            partial(run_function, chosen.machine, nnunet_case, **call),
            partial(run_function, worker, segflow_case, **call),
        )
        reference[what] = median_seconds(pair[0])
        _check_case(record, what, *pair, CASE_BARS[configuration])
        for step in pair[1][0].value:
            used = median(run.value[step] for run in pair[1]) / median(run.sections[step].seconds for run in pair[1])
            record.value(f"{what}: cores at work in '{step}'", segflow=used)
        _equality(record, chosen, what, *(prepared / side / f"nnUNetPlans_{configuration}" for side in SIDES))
    what = f"CT {size}, both configurations"
    pair = record.compare(
        what,
        partial(run_function, chosen.machine, nnunet_both, raw=raw, prepared=prepared),
        partial(run_function, worker, segflow_files, raw=raw, prepared=prepared, configurations=[*BOTH]),
    )
    reference[what] = median_seconds(pair[0])
    _check_case(record, what, *pair, CASE_BARS["both"])
    for number, part in enumerate(("processor time", "of it in the kernel")):
        theirs, ours = (median(run.value[number] for run in runs) for runs in pair)
        record.value(f"{what}: {part}", nnunet=theirs, segflow=ours, unit="s")
    used = [median(run.value[0] for run in runs) / (chosen.machine.threads * median_seconds(runs)) for runs in pair]
    record.value(f"{what}: share of the processors that was used", nnunet=used[0], segflow=used[1])
    for name, seconds in run_function(chosen.machine, use_memory).value.items():
        record.value(f"1 GB of memory, {name}: first use", both=seconds, unit="s")
    for made, configurations in ((f"CT {size}, {BOTH[1]}", [BOTH[1]]), (what, [*BOTH])):
        call = {"raw": raw, "prepared": prepared, "configurations": configurations, "again": True}
        again = record.alone(
            f"{made}, second time in a process that keeps its memory",
            partial(run_function, worker, segflow_files, **call),
        )
        record.value(f"{made}: times quicker, if no page were new", both=reference[made] / median_seconds(again))


def _like_a_worker(machine: Machine) -> Machine:
    """The machine with the environment of segflow's workers, whose threads make their matrix products each alone."""
    alone = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return Machine(machine.cores, machine.threads, {**machine.variables, **alone})


def _plan_like_lits(raw: Path, prepared: Path) -> None:
    options = PlanOptions(fingerprint=lits_fingerprint(prepared / "lits.json"))
    plan_dataset(raw, prepared, PlannerSettings(), options=options)


def _check_case(record: Record, what: str, theirs: list[Measured], ours: list[Measured], bar: float) -> None:
    record.check(f"{what}: times quicker", median_seconds(theirs) / median_seconds(ours), at_least=bar)
    record.check(f"{what}: share of nnU-Net's memory", peak_bytes(ours) / peak_bytes(theirs), at_most=0.5)


def _dataset(record: Record, chosen: Options, part: str, name: str) -> None:
    raw = link_dataset(chosen.data / name, chosen.work / "nnUNet_raw", 6 if chosen.quick else None)
    theirs = chosen.work / "nnUNet_preprocessed" / name
    ours = chosen.work / "segflow_preprocessed" / name
    configurations = ["2d", "3d_fullres"]
    reference, own = record.compare(
        f"{part}, raw to arrays",
        partial(
            run_function, chosen.machine, nnunet_dataset, identifier=int(name[7:10]), configurations=configurations
        ),
        partial(run_function, chosen.machine, segflow_dataset, raw=raw, prepared=ours, configurations=configurations),
    )
    if part == "hippocampus":
        quicker = median_seconds(reference) / median_seconds(own)
        record.check(f"{part}, raw to arrays: times quicker", quicker, at_least=DATASET_BAR)
        _split(record, chosen, raw, configurations, (reference, own))
    _plans_equal(record, part, theirs, ours)
    for configuration in configurations:
        folder = f"nnUNetPlans_{configuration}"
        _equality(record, chosen, f"{part}, {configuration}", theirs / folder, ours / folder)


def _split(
    record: Record, chosen: Options, raw: Path, configurations: list[str], pair: tuple[list[Measured], list[Measured]]
) -> None:
    """Where the seconds of a dataset go: into the work itself, into what starts, or nowhere."""
    what = "hippocampus, raw to arrays"
    theirs, ours = (median(run.value for run in runs) for runs in pair)
    record.value(f"{what}: processor time", nnunet=theirs, segflow=ours, unit="s")
    used = [time / (PROCESSES * median_seconds(runs)) for time, runs in zip((theirs, ours), pair, strict=True)]
    record.value(f"{what}: share of the processors that was used", nnunet=used[0], segflow=used[1])
    call = {"raw": raw, "prepared": chosen.work / "segflow_alone" / raw.name, "configurations": configurations}
    one = Machine(chosen.machine.cores[:1], 1, chosen.machine.variables)
    alone = record.alone(
        f"{what}, in one process, all loaded", partial(run_function, one, segflow_dataset, **call, processes=0)
    )
    work = median(run.value for run in alone)
    record.value(f"{what}: processor time in one process, all loaded", segflow=work, unit="s")
    record.value(f"{what}: times quicker, if nothing had to start", both=PROCESSES * median_seconds(pair[0]) / work)


def _plans_equal(record: Record, part: str, theirs: Path, ours: Path) -> None:
    for file in ("dataset_fingerprint.json", "nnUNetPlans.json"):
        reference, own = read_json(theirs / file), read_json(ours / file)
        differing = [key for key, value in reference.items() if not _alike(value, own.get(key))]
        record.check(f"{part}: keys of {file} that differ", len(differing), at_most=0)
        if differing:
            record.note(f"{part}, {file}: {', '.join(differing)} differ.")


def _alike(reference: Any, own: Any) -> bool:
    """Equal, but for the rounding of intensities, which nnU-Net averages in single precision."""
    if isinstance(reference, dict) and isinstance(own, dict):
        return reference.keys() <= own.keys() and all(_alike(value, own[key]) for key, value in reference.items())
    if isinstance(reference, float) and isinstance(own, float):
        return math.isclose(reference, own, rel_tol=1e-6)
    return bool(reference == own)


def _equality(record: Record, chosen: Options, what: str, theirs: Path, ours: Path) -> None:
    found = run_function(chosen.machine, compare_arrays, reference=theirs, ours=ours).value
    record.check(f"{what}: image voxels within 1e-3 of the range", found["image"], at_least=SHARE_EQUAL)
    record.check(f"{what}: label voxels equal", found["label"], at_least=SHARE_EQUAL)
    record.value(f"{what}: largest difference of {found['cases']} cases", both=found["largest"], unit="of the range")


def _commands(record: Record, chosen: Options) -> None:
    """Hippocampus through the command lines, each started anew."""
    raw = link_dataset(chosen.data / HIPPOCAMPUS, chosen.work / "nnUNet_raw", 6 if chosen.quick else None)
    paths = [f"dataset.path={raw}", f"paths.preprocessed={chosen.work / 'commands'}"]
    n = PROCESSES
    steps = {
        "fingerprint and plan": (
            [
                script("nnUNetv2_extract_fingerprint", f"-d 4 -np {n} --verify_dataset_integrity --clean"),
                script("nnUNetv2_plan_experiment", "-d 4"),
            ],
            [script("segflow", f"plan processes={n} clean=true", *paths)],
        ),
        "preprocess": (
            [script("nnUNetv2_preprocess", f"-d 4 -c 2d 3d_fullres -np {n} {n}")],
            [
                script(
                    "segflow",
                    f"preprocess configurations=[2d,3d_fullres] preprocessing.processes={n} preprocessing.redo=true",
                    *paths,
                )
            ],
        ),
    }
    totals = [0.0, 0.0]
    for step, sides in steps.items():
        pair = record.compare(
            f"hippocampus, commands, {step}",
            *(partial(_run_commands, chosen, commands) for commands in sides),
        )
        for side, runs in enumerate(pair):
            totals[side] += median_seconds(runs)
    record.check("hippocampus, commands: times quicker", totals[0] / totals[1], at_least=5)


def _slabs(record: Record, chosen: Options) -> None:
    peaks: dict[bool, list[int]] = {True: [], False: []}
    voxels = []
    for slices in QUICK_SLAB_SLICES if chosen.quick else SLAB_SLICES:
        shape = (slices, *(QUICK_SHAPE if chosen.quick else LITS_SHAPE)[1:])
        voxels.append(math.prod(shape))
        raw = write_phantom(chosen.work / f"slabs_{slices}", shape, LITS_SPACING)
        prepared = chosen.work / f"slabs_{slices}" / "prepared"
        _plan_like_lits(raw, prepared)
        seconds = []
        for slabs, own in peaks.items():
            what = f"CT of {slices} slices, {'slab by slab' if slabs else 'as a whole'}"
            call = {"raw": raw, "prepared": prepared, "slabs": slabs}
            runs = record.alone(what, partial(run_function, chosen.machine, segflow_in_one_way, **call))
            seconds.append(median_seconds(runs))
            own.append(peak_bytes(runs))
        files = [next((prepared / way).rglob("*_seg.b2nd")).parent for way in ("slabs", "whole")]
        names = sorted(file.name for file in files[0].glob("*.b2nd"))
        same = all((files[0] / name).read_bytes() == (files[1] / name).read_bytes() for name in names)
        record.check(f"CT of {slices} slices: files of arrays that are the same", len(names) * same, at_least=2)
        record.value(f"CT of {slices} slices: time slab by slab to time as a whole", segflow=seconds[0] / seconds[1])
    by_slabs, whole = ((own[-1] - own[-2]) / (voxels[-1] - voxels[-2]) for own in peaks.values())
    record.check("memory for each further voxel, bytes", by_slabs, at_most=0.5)
    record.value("memory for each further voxel as a whole", segflow=whole, unit="bytes")


def _run_commands(chosen: Options, commands: list[list[str]]) -> Measured:
    runs = [run_command(chosen.machine, command) for command in commands]
    whole = Section(sum(run.seconds for run in runs), max(run.peak_bytes for run in runs))
    return Measured({"command": whole}, None, max(run.foreign_cores for run in runs))


if __name__ == "__main__":
    main()
