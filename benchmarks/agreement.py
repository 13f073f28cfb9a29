"""Whether both sides learn from the same: initial weights, losses step by step, and augmented patches.

``weights``: networks of several plans after the same seed of torch, weight by weight. ``steps``: nnU-Net's network,
loss and optimizer and segflow's, from the same weights on the same batches. ``patches``: what both loaders make of the
same cases, as means over many patches in units of their standard error. Of ACDC the patches are planned for little
memory, which keeps their flat shape and with it the augmentation slice by slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inputs import ACDC, HIPPOCAMPUS, default_augmentation
from measure import Meter, run_function
from record import OURS, REFERENCE, Options, Record, options
from training import nnunet_trainer, prepare, shrink

from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json

PARTS = ("weights", "steps", "patches")
MEMORY_GB = {HIPPOCAMPUS: 8.0, ACDC: 0.35}
"""That patches are planned for."""
CONFIGURATION = "3d_fullres"
GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "plans"
PLANS = ("001/plans_default.json", "001/plans_L.json", "003/plans_M.json", "010/plans_default.json")
STEP_BATCH = 2
STATISTICS = ("foreground", "first label", "mean", "deviation", "zeros", "difference of neighbours")


def initial_weights(meter: Meter, plans: list[str]) -> dict[str, bool]:
    """Plans and configuration → whether all weights are equal to the bit after the same seed."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from segflow.core.plans import Plans
    from segflow.models.nnunet_names import from_nnunet
    from segflow.network.build import build_network

    found = {}
    for file in plans:
        read = Plans.from_json(read_json(Path(file)))
        for name in read.configurations:
            plan = read.configuration(name)
            if plan.previous_stage:
                continue
            topology = plan.topology
            torch.manual_seed(1)
            ours = build_network(topology, 2, 4).state_dict()
            architecture = topology.to_architecture()
            arguments = [architecture[key] for key in ("network_class_name", "arch_kwargs", "_kw_requires_import")]
            torch.manual_seed(1)
            theirs = from_nnunet(get_network_from_plans(*arguments, 2, 4, True, True).state_dict(), topology)
            same = all(torch.equal(theirs[key], value) for key, value in ours.items())
            found[f"{Path(file).parent.name}/{Path(file).stem} {name}"] = same
    return found


def losses(meter: Meter, theirs: str, ours: str, steps: int) -> dict[str, list[float]]:
    """Both sides' losses on the same batches, from the same weights."""
    import torch
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    from segflow.loss.compound import DiceCrossEntropy
    from segflow.loss.deep_supervision import DeepSupervisionLoss
    from segflow.models.nnunet_names import to_nnunet
    from segflow.network.build import build_network

    trainer = nnunet_trainer(Path(theirs), CONFIGURATION, 1, steps, 1)
    trainer.initialize()
    dataset, plan, labels = _segflow_patches(ours, STEP_BATCH)
    network = build_network(plan.topology, 1, labels.num_outputs)
    trainer.network.load_state_dict(to_nnunet(network.state_dict(), plan.topology))
    loss = DeepSupervisionLoss(DiceCrossEntropy(labels, plan.batch_dice), plan.topology.strides)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    scales = trainer._get_deep_supervision_scales()
    downsample = DownsampleSegForDSTransform(scales)
    found: dict[str, list[float]] = {REFERENCE: [], OURS: []}
    for index in range(steps):
        batch = dataset[0, index]
        optimizer.zero_grad()
        value = loss(network(batch.image), batch.label)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        targets = [downsample(segmentation=label)["segmentation"] for label in batch.label]
        stacked = [torch.stack(level) for level in zip(*targets, strict=True)]
        result = trainer.train_step({"data": batch.image, "target": stacked})
        found[REFERENCE].append(float(result["loss"]))
        found[OURS].append(float(value.detach()))
    return found


def nnunet_patches(meter: Meter, prepared: str, batches: int) -> list[list[float]]:
    """Mean and standard error of each statistic over nnU-Net's augmented patches."""
    import numpy as np
    import torch

    np.random.seed(0)
    torch.manual_seed(0)
    trainer = nnunet_trainer(Path(prepared), CONFIGURATION, 1, batches, 1)
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    made = (next(loader) for _ in range(batches))
    return _statistics((batch["data"], batch["target"][0]) for batch in made)


def segflow_patches(meter: Meter, prepared: str, batches: int) -> list[list[float]]:
    """The same of segflow's."""
    dataset, _, _ = _segflow_patches(prepared, None)
    made = (dataset[0, index] for index in range(batches))
    return _statistics((batch.image, batch.label) for batch in made)


def _segflow_patches(prepared: str, batch_size: int | None) -> tuple[Any, Any, Any]:
    from segflow.core.plans import Plans
    from segflow.network.cpu.allocation import tune_cpu
    from segflow.sampling.patch_dataset import PatchDataset
    from segflow.sampling.patch_sampler import PatchSampler
    from segflow.storage.preprocessed_store import PreprocessedStore
    from segflow.storage.raw_dataset import read_description

    tune_cpu()  # as `segflow train` does
    folder = Path(prepared)
    plan = Plans.from_json(read_json(folder / "nnUNetPlans.json")).configuration(CONFIGURATION)
    labels = read_description(folder).labels
    augmentation = default_augmentation()(
        plan.patch_size, labels=labels, use_mask_for_norm=plan.use_mask_for_norm, previous_stage=False
    )
    dataset = PatchDataset(
        PreprocessedStore(folder / plan.data_identifier),
        read_json(folder / "splits_final.json")[0]["train"],
        batch_size=batch_size or plan.batch_size,
        sampler=PatchSampler(augmentation.loader_patch_size, plan.patch_size, labels=labels),
        seed=0,
        batches_per_epoch=10**6,
        transform=augmentation,
    )
    return dataset, plan, labels


def _statistics(batches: Iterator[tuple[Any, Any]]) -> list[list[float]]:
    import torch

    found = []
    for image, label in batches:
        rows = [(label > 0).float(), (label == 1).float(), image, image, (image == 0).float(), image.diff(dim=-1).abs()]
        values = [row.flatten(1).mean(1) for row in rows]
        values[3] = image.flatten(1).std(1)
        found.append(torch.stack(values, 1))
    every = torch.cat(found)
    error = every.std(0) / len(every) ** 0.5
    return [[float(mean), float(deviation)] for mean, deviation in zip(every.mean(0), error, strict=True)]


def main() -> None:
    """Run the chosen parts."""
    with options("agreement", __doc__ or "", PARTS, repeats=1, variables={"nnUNet_n_proc_DA": "0"}) as chosen:
        record = Record("agreement", chosen)
        if chosen.wants("weights"):
            files = [str(GOLDEN / name) for name in PLANS]
            found = run_function(chosen.machine, initial_weights, plans=files).value
            record.check(
                "initial weights: networks that are equal to the bit", sum(found.values()), at_least=len(found)
            )
        if chosen.wants("steps") or chosen.wants("patches"):
            for name, memory in list(MEMORY_GB.items())[: 1 if chosen.quick else None]:
                _training(record, chosen, name, memory)
        record.finish()


def _training(record: Record, chosen: Options, name: str, memory: float) -> None:
    settings = PlannerSettings(memory_target_gb=memory)
    theirs, ours = prepare(chosen, name, CONFIGURATION, 6 if chosen.quick else None, settings)
    if chosen.quick:
        for folder in (theirs, ours):
            shrink(folder, CONFIGURATION)
    if chosen.wants("steps"):
        steps = 3 if chosen.quick else 60
        found = run_function(chosen.machine, losses, theirs=theirs, ours=ours, steps=steps).value
        differences = [abs(a - b) for a, b in zip(found[REFERENCE], found[OURS], strict=True)]
        for step in [k for k in (0, 10, 25, steps - 1) if k < steps]:
            record.value(f"{name}: loss of step {step}", **{side: values[step] for side, values in found.items()})
        record.check(f"{name}: loss of the first step: difference", differences[0], at_most=1e-4)
        record.check(f"{name}: losses of {steps} steps: mean difference", math.fsum(differences) / steps, at_most=2e-3)
    if chosen.wants("patches"):
        batches = 3 if chosen.quick else 600
        pair = [
            run_function(chosen.machine, side, prepared=folder, batches=batches).value
            for side, folder in ((nnunet_patches, theirs), (segflow_patches, ours))
        ]
        for statistic, reference, own in zip(STATISTICS, *pair, strict=True):
            what = f"{name}: patches: {statistic}"
            record.value(what, **{REFERENCE: reference[0], OURS: own[0]})
            apart = abs(reference[0] - own[0]) / math.hypot(reference[1], own[1], 1e-12)
            record.check(f"{what}, difference in standard errors", apart, at_most=4)


if __name__ == "__main__":
    main()
