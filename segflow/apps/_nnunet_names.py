"""Settings for nnU-Net's trainer classes and planners. ``docs/coming_from_nnunet.md`` shows the same table."""

from __future__ import annotations

import re
from difflib import get_close_matches

TRAINER_CLASSES = {
    "nnUNetTrainer_250epochs": "trainer.max_epochs=250",
    "nnUNetTrainerNoMirroring": "augmentation=no_mirroring",
    "nnUNetTrainer_onlyMirror01": "augmentation=only_mirror01",
    "nnUNetTrainer_onlyMirror01_1500ep": "augmentation=only_mirror01 trainer.max_epochs=1500",
    "nnUNetTrainer_onlyMirror01_DASegOrd0": "augmentation=only_mirror01_label_order0",
    "nnUNetTrainer_DASegOrd0": "augmentation=label_order0",
    "nnUNetTrainer_DASegOrd0_NoMirroring": "augmentation=label_order0_no_mirroring",
    "nnUNetTrainerNoDA": "augmentation=none",
    "nnUNetTrainer_noDummy2DDA": "augmentation=no_dummy_2d",
    "nnUNetTrainerDA5": "augmentation=nnunet_da5",
    "nnUNetTrainerDA5ord0": "augmentation=nnunet_da5_order0",
    "nnUNetTrainerDA5Segord0": "augmentation=nnunet_da5_label_order0",
    "nnUNetTrainerDA5_10epochs": "augmentation=nnunet_da5 trainer.max_epochs=10",
    "nnUNetTrainer_onlyMirror01_DA5": "augmentation=only_mirror01_da5",
    "nnUNetTrainerCELoss": "loss=ce",
    "nnUNetTrainerCELoss_5epochs": "loss=ce trainer.max_epochs=5",
    "nnUNetTrainerDiceLoss": "loss=dice",
    "nnUNetTrainerDiceCELoss_noSmooth": "loss=dice_ce_no_smooth",
    "nnUNetTrainerTopk10Loss": "loss=topk10",
    "nnUNetTrainerTopk10LossLS01": "loss=topk10_smoothed",
    "nnUNetTrainerDiceTopK10Loss": "loss=dice_topk10",
    "nnUNetTrainerCosAnneal": "schedule=cosine",
    "nnUNetTrainer_warmup": "schedule=poly_warmup",
    "nnUNetTrainerAdam": "optimizer=adamw optimizer.lr=0.01",
    "nnUNetTrainerAdam1en3": "optimizer=adamw optimizer.lr=0.001",
    "nnUNetTrainerAdam3en4": "optimizer=adamw optimizer.lr=0.0003",
    "nnUNetTrainerVanillaAdam": "optimizer=adam optimizer.lr=0.01",
    "nnUNetTrainerVanillaAdam1en3": "optimizer=adam optimizer.lr=0.001",
    "nnUNetTrainerVanillaAdam3en4": "optimizer=adam optimizer.lr=0.0003",
    "nnUNetTrainerAdan": "optimizer=adan",
    "nnUNetTrainerAdan1en1": "optimizer=adan optimizer.lr=0.1",
    "nnUNetTrainerAdan1en3": "optimizer=adan optimizer.lr=0.001",
    "nnUNetTrainerAdan3en4": "optimizer=adan optimizer.lr=0.0003",
    "nnUNetTrainerAdanCosAnneal": "optimizer=adan schedule=cosine",
    "nnUNetTrainerBN": "network=batch_norm",
    "nnUNetTrainerNoDeepSupervision": "training.deep_supervision=false",
    "nnUNetTrainer_probabilisticOversampling_033": "sampling=probabilistic",
    "nnUNetTrainer_probabilisticOversampling": "sampling=probabilistic sampling.foreground_fraction=0.5",
    "nnUNetTrainer_probabilisticOversampling_010": "sampling=probabilistic sampling.foreground_fraction=0.1",
    "nnUNet_Primus_S_Trainer": "network=primus_s experiment=primus",
    "nnUNet_Primus_B_Trainer": "network=primus_b experiment=primus",
    "nnUNet_Primus_M_Trainer": "network=primus_m experiment=primus",
    "nnUNet_Primus_L_Trainer": "network=primus_l experiment=primus",
    "nnUNet_Trainer_BS8": "configuration.batch_size=8",
    "nnUNetTrainerBenchmark_5epochs": "trainer=benchmark",
    "nnUNetTrainerBenchmark_5epochs_noDataLoading": "trainer=benchmark training.repeat_batch=true",
}
"""Class → settings of ``segflow train``. The first class stands for any number of epochs."""

_NUMBER_OF_EPOCHS = re.compile(r"nnUNetTrainer_(\d+)epochs?(_NoMirroring)?")

_PLANNERS = (
    (re.compile(r".*ResEnc.*?(?<=[a-z])(M|L|XL)(?![a-z]).*"), "resenc_{}"),
    (re.compile(r"ResEncUNetPlanner|nnUNetResEncUNetPlans"), "resenc"),
    (re.compile(r"(nnUNet|Experiment)(Planner|Plans)"), "nnunet"),
)


def is_trainer_class(name: str) -> bool:
    """Whether a name looks like a trainer class of nnU-Net."""
    return bool(re.match(r"nnUNet_?Trainer", name))


def settings_of_class(name: str) -> list[str] | None:
    """The settings that are equivalent to a trainer class; empty for the default one, None for an unknown class."""
    if name == "nnUNetTrainer":
        return []
    if epochs := _NUMBER_OF_EPOCHS.fullmatch(name):
        return [f"trainer.max_epochs={epochs[1]}", *(["augmentation=no_mirroring"] if epochs[2] else [])]
    settings = TRAINER_CLASSES.get(name)
    return None if settings is None else settings.split()


def nearest_class(name: str) -> str | None:
    """The known class with the most similar name, apart from the common beginning."""
    known = {_own_part(other): other for other in TRAINER_CLASSES}
    return next((known[own] for own in get_close_matches(_own_part(name), known, n=1, cutoff=0.6)), None)


def _own_part(name: str) -> str:
    return re.sub(r"^nnUNet_?Trainer_?", "", name).lower()


def planner_of(name: str) -> str | None:
    """The option of ``planner`` for a planner class or plans of nnU-Net; None for other names."""
    for pattern, option in _PLANNERS:
        if match := pattern.fullmatch(name):
            return option.format(match[1].lower()) if match.groups() and "{}" in option else option
    return None
