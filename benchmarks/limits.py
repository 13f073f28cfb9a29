"""How near the network on a CPU is to what the machine can do, and how far nnU-Net is from it.

``machine``: multiplications a second of a large matrix product, bytes a second of a copy, and of memory touched for the
first time. ``hippocampus``, ``acdc_2d``: one patch through the planned network, forward and in a training
step, on one thread. Every matrix product and convolution is counted as it is carried out, so that Winograd's savings
show; nnU-Net's is the direct count. All other operations are passes over memory: norms, activations, combining of
Winograd's inputs and outputs, the optimiser.

A ratio cannot be higher than nnU-Net's seconds by those that segflow's products take at the machine's peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from inputs import ACDC, HIPPOCAMPUS, link_dataset, share_plans
from measure import Meter, run_function
from record import OURS, REFERENCE, Options, Record, options
from torch import Tensor, nn

SUBJECTS = {
    "hippocampus": (HIPPOCAMPUS, "3d_fullres"),
    "acdc_2d": (ACDC, "2d"),
}
PARTS = ("machine", *SUBJECTS)
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_convolution", "convolution_backward", "mkldnn_convolution") + (
    "slow_conv3d_forward",
    "_slow_conv2d_forward",
    "slow_conv_transpose2d",
    "slow_conv_transpose3d",
)
"""Operations that multiply, as torch's profiler names them; all others pass over memory."""
_GIGA = 1e9


def machine_peaks(meter: Meter, size: int) -> dict[str, float]:
    """Peaks of this machine: products on one thread and on all (GFLOP/s), copies and first touches (GB/s)."""
    threads = torch.get_num_threads()
    shapes = [(size, size, size), (size // 2, 128, 128), (size // 4, 256, 256)]  # no shape is the quickest everywhere
    big = torch.ones(2**24 * (4 if size > 1000 else 1))
    target = torch.empty_like(big)
    found = {}
    with meter.section("peaks"):
        for name, count in (("products_one", 1), ("products_all", threads)):
            torch.set_num_threads(count)
            found[name] = max(_product_speed(*shape) for shape in shapes)
        found["copy"] = 2 * 4 * big.numel() / _best(lambda: target.copy_(big)) / _GIGA
        start = time.perf_counter()
        torch.ones(2**27 if size > 1000 else 2**20)
        found["first_touch"] = 4 * (2**27 if size > 1000 else 2**20) / (time.perf_counter() - start) / _GIGA
    return found


def _product_speed(rows: int, inner: int, columns: int) -> float:
    """GFLOP/s of a product of matrices (rows, inner) and (inner, columns)."""
    a, b, out = torch.ones(rows, inner), torch.ones(inner, columns), torch.empty(rows, columns)
    return 2 * rows * inner * columns / _best(lambda: torch.mm(a, b, out=out), runs=9) / _GIGA


def one_patch(meter: Meter, plans: str, dataset: str, configuration: str, side: str) -> dict[str, float]:
    """Seconds and multiplications of one patch on one thread, forward and in a training step."""
    torch.set_num_threads(1)
    network, step, image = _parts(Path(plans), Path(dataset), configuration, side)

    def forward() -> None:
        with torch.inference_mode():
            network(image)

    found = {}
    for name, call in (("forward", forward), ("step", step)):
        call()
        with meter.section(name):
            found[f"{name}_seconds"] = _best(call)
        found[f"{name}_flop"] = _multiplications(call)
        found[f"{name}_share"] = _share_of_products(call)
    return found


def _parts(
    plans_file: Path, dataset: Path, configuration: str, side: str
) -> tuple[nn.Module, Callable[[], None], Tensor]:
    """A side's network, a training step of it with the same loss, and a patch (1, C, *patch)."""
    from segflow.core.plans import Plans
    from segflow.loss.compound import DiceCrossEntropy
    from segflow.loss.deep_supervision import DeepSupervisionLoss
    from segflow.storage.json_files import read_json
    from segflow.storage.raw_dataset import read_description

    plan = Plans.from_json(read_json(plans_file)).configuration(configuration)
    description = read_description(dataset)
    channels, outputs = len(description.channels), description.labels.num_outputs
    network = _nnunet(plans_file, configuration, channels, outputs) if side == REFERENCE else None
    if network is None:
        from segflow.network.build import build_network
        from segflow.network.cpu.accelerate import accelerate
        from segflow.network.cpu.allocation import tune_cpu

        tune_cpu()  # as `segflow train` and `segflow predict` do
        network = accelerate(build_network(plan.topology, channels, outputs))
    image = torch.randn(1, channels, *plan.patch_size)
    label = torch.randint(0, outputs, (1, 1, *plan.patch_size), dtype=torch.int16)
    loss = DeepSupervisionLoss(DiceCrossEntropy(description.labels, plan.batch_dice), plan.topology.strides)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(network(image), label).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()

    return network, step, image


def _nnunet(plans_file: Path, configuration: str, channels: int, outputs: int) -> nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plan = PlansManager(str(plans_file)).get_configuration(configuration)
    network: nn.Module = get_network_from_plans(
        plan.network_arch_class_name,
        plan.network_arch_init_kwargs,
        plan.network_arch_init_kwargs_req_import,
        channels,
        outputs,
        allow_init=True,
        deep_supervision=True,
    )
    return network


def _best(call: Callable[[], object], runs: int = 5) -> float:
    """Seconds of the quickest of some runs: what the machine can do, not what others on it leave."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _multiplications(call: Callable[[], object]) -> float:
    """Floating-point operations of all products, two for each multiplication."""
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

    def of_onednn(x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: list[int], **__: Any) -> int:
        return int(conv_flop_count(list(x), list(weight), out_shape))

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_convolution: of_onednn}) as counter:
        call()
    return float(counter.get_total_flops())


def _share_of_products(call: Callable[[], object]) -> float:
    """Share of the time that products take."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    rows = [(row.key.removeprefix("aten::"), row.self_cpu_time_total) for row in profiled.key_averages()]
    return float(sum(took for name, took in rows if name in PRODUCTS) / sum(took for _, took in rows))


def main() -> None:
    """Measure the machine, then each subject on both sides."""
    with options("limits", __doc__ or "", PARTS) as chosen:
        record = Record("limits", chosen)
        peaks = run_function(chosen.machine, machine_peaks, size=256 if chosen.quick else 4096).value
        record.value("product of two matrices, one thread", both=peaks["products_one"], unit="GFLOP/s")
        threads = chosen.machine.threads
        record.value(f"product of two matrices, {threads} threads", both=peaks["products_all"], unit="GFLOP/s")
        record.value("copy, read and written, all threads", both=peaks["copy"], unit="GB/s")
        record.value("memory touched for the first time", both=peaks["first_touch"], unit="GB/s")
        for part, (name, configuration) in SUBJECTS.items():
            if chosen.wants(part) and not (chosen.quick and part != "hippocampus"):
                _subject(record, chosen, peaks["products_one"], name, configuration)
        record.note("One patch on one thread, the quickest of five. Shares of products are by torch's profiler.")
        record.finish()


def _subject(record: Record, chosen: Options, peak: float, name: str, configuration: str) -> None:
    """Both sides, and what the machine's peak leaves of them."""
    raw = link_dataset(chosen.data / name, chosen.work / "nnUNet_raw", 5)
    plans, _ = share_plans(chosen.data / name, raw, chosen.work)
    what = f"{name} {configuration}"

    def run(side: str) -> Any:
        return run_function(
            chosen.machine,
            one_patch,
            plans=plans / "nnUNetPlans.json",
            dataset=raw,
            configuration=configuration,
            side=side,
        )

    theirs, ours = record.compare(what, lambda: run(REFERENCE), lambda: run(OURS))
    for job in ("forward", "step"):
        direct, own = theirs[0].value, ours[0].value
        text = f"{what}, {job} of a patch"
        slow, quick = (min(one.value[f"{job}_seconds"] for one in runs) for runs in (theirs, ours))
        products = [value[f"{job}_flop"] / _GIGA for value in (direct, own)]
        shares = [value[f"{job}_share"] for value in (direct, own)]
        _tell(record, text, (slow, quick), "s")
        _tell(record, f"{text}: operations in products", products, "GFLOP")
        _tell(record, f"{text}: its products at the machine's peak", [value / peak for value in products], "s")
        _tell(record, f"{text}: share of the time in products", shares)
        record.value(f"{text}: times quicker", both=slow / quick)
        record.value(f"{text}: highest ratio that its products allow", both=slow / (products[1] / peak))


def _tell(record: Record, what: str, sides: Sequence[float], unit: str = "") -> None:
    theirs, ours = sides
    record.value(what, unit=unit, nnunet=theirs, segflow=ours)


if __name__ == "__main__":
    main()
