"""The devices and the precision of a training, from the options of Lightning's Trainer and what this machine has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.accelerators import AcceleratorRegistry

from segflow.core.errors import SegflowError
from segflow.network.devices import KINDS, best_kind, device_count, device_name, list_devices
from segflow.network.precision import OF_TRAINING, has_precision
from segflow.training.training_settings import ALL_DEVICES, parse_devices

SHORT_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
"""Lightning's short names of precisions → its full ones."""

FULL_PRECISIONS = ("16-mixed", "16-true", "bf16-mixed", "bf16-true", "32-true", "64-true")


@dataclass(frozen=True, slots=True)
class TrainingDevices:
    """Where and how a training computes.

    Attributes:
        kind: ``cuda``, ``mps``, ``cpu``, or Lightning's name of another accelerator.
        devices: The devices of this machine, in the order of its ranks; empty for another accelerator.
        precision: Lightning's full name.
        options: What Lightning gets beside, or instead of, the options as they were given.
    """

    kind: str
    devices: tuple[torch.device, ...]
    precision: str
    options: Mapping[str, Any]

    @property
    def own(self) -> torch.device | None:
        """The device of this process; None for another accelerator."""
        local_rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        return self.devices[int(local_rank) % len(self.devices)] if self.devices else None


def training_devices(options: Mapping[str, Any]) -> TrainingDevices:
    """Find what the options of a Trainer mean on this machine.

    Args:
        options: ``accelerator``, ``devices`` and ``precision`` as Lightning documents them, with ``auto`` as a
            precision too. -1 is one process on a CPU.

    Raises:
        SegflowError: The machine lacks the accelerator, the devices or the precision. The message says what there is
            and what to type instead.
    """
    wanted = _Wanted(options.get("accelerator") or "auto", options.get("devices", "auto"), options.get("precision"))
    kind = wanted.kind()
    if kind not in KINDS:
        return TrainingDevices(kind, (), wanted.full_precision() or "32-true", {})
    numbers = wanted.numbers(kind)
    devices = tuple(torch.device("cpu") if kind == "cpu" else torch.device(kind, number) for number in numbers)
    precision = wanted.full_precision() or ("16-mixed" if kind == "cuda" else "32-true")
    for device in dict.fromkeys(devices):
        wanted.check_precision(precision, device)
    all_of_cpu = kind == "cpu" and parse_devices(wanted.devices) == ALL_DEVICES
    return TrainingDevices(kind, devices, precision, {"devices": len(devices)} if all_of_cpu else {})


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The three options as given."""

    accelerator: Any
    devices: Any
    precision: Any

    def kind(self) -> str:
        """The kind of device that the accelerator means here."""
        if not isinstance(self.accelerator, str):  # an object of Lightning's
            return str(self.accelerator.name())
        name = self.accelerator
        if name not in ("auto", "gpu", *AcceleratorRegistry.available_accelerators()):
            raise SegflowError(
                "trainer.accelerator is unknown", found=name, expected="auto | gpu | cuda | mps | cpu",
                fix="Type trainer.accelerator=auto.",
            )  # fmt: skip
        best = best_kind()
        if name == "auto":
            others = [each for each in AcceleratorRegistry.available_accelerators() if each not in KINDS]
            return next((each for each in others if _is_available(each)), best)
        found = best if name == "gpu" else name
        if found in KINDS and (not device_count(found) or (name == "gpu" and best == "cpu")):
            raise SegflowError(
                f"trainer.accelerator={name} is not there", found=list_devices(),
                fix=f"Type {' '.join((f'trainer.accelerator={best}', *self.corrections(best)))}.",
            )  # fmt: skip
        return found

    def numbers(self, kind: str) -> list[int]:
        """Numbers of the devices of a kind, or of processes on a CPU."""
        parsed, there = parse_devices(self.devices), device_count(kind)
        if parsed in ("auto", ALL_DEVICES):
            return list(range(there))
        if kind == "cpu":
            if isinstance(parsed, int):
                return list(range(parsed))
            raise SegflowError(
                f"trainer.devices={self.devices} names GPUs, and this training is on the CPU", found=list_devices(),
                fix=f"Type {' '.join(self.corrections(kind))}.",
            )  # fmt: skip
        numbers = list(range(parsed)) if isinstance(parsed, int) else [int(number) for number in parsed]
        if max(numbers) >= there:
            raise SegflowError(
                f"trainer.devices={self.devices} asks for more than there is", found=list_devices(),
                fix=f"Type {' '.join(self.corrections(kind))}.",
            )  # fmt: skip
        return numbers

    def full_precision(self) -> str | None:
        """Lightning's full name of the precision; None for ``auto``."""
        if self.precision in (None, "auto"):
            return None
        name = SHORT_PRECISIONS.get(str(self.precision), str(self.precision))
        if name not in (*FULL_PRECISIONS, *OF_TRAINING):
            raise SegflowError(
                "trainer.precision is unknown", found=self.precision, expected=" | ".join(("auto", *FULL_PRECISIONS)),
                fix="Type trainer.precision=auto.",
            )  # fmt: skip
        return name

    def check_precision(self, precision: str, device: torch.device) -> None:
        """Refuse a precision that the device lacks."""
        if not _has(device, precision):
            raise SegflowError(
                f"trainer.precision={self.precision} is not possible on {device_name(device)}",
                expected=" | ".join(("auto", *(name for name in FULL_PRECISIONS if _has(device, name)))),
                fix="Type trainer.precision=auto.",
            )

    def corrections(self, kind: str) -> list[str]:
        """Settings to change so that devices and precision are possible on a kind, as they are typed."""
        parsed, there, changes = parse_devices(self.devices), device_count(kind), []
        if isinstance(parsed, list):
            kept = [number for number in parsed if number < there]
            if kind == "cpu" or not kept:
                changes.append("trainer.devices=1")
            elif kept != parsed:
                changes.append(f"trainer.devices=[{','.join(map(str, kept))}]")
        elif isinstance(parsed, int) and kind != "cpu" and parsed > there:
            changes.append(f"trainer.devices={there}")
        precision = self.full_precision()
        if precision is not None and not _has(torch.device(kind), precision):
            changes.append("trainer.precision=auto")
        return changes


def _has(device: torch.device, precision: str) -> bool:
    if precision.startswith("64"):
        return device.type != "mps"
    return has_precision(device, OF_TRAINING[precision])


def _is_available(accelerator: str) -> bool:
    return bool(AcceleratorRegistry[accelerator]["accelerator"].is_available())
