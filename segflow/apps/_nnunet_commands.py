"""nnU-Net's commands and flags, and what to type here. ``docs/coming_from_nnunet.md`` shows the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PAGE = "docs/coming_from_nnunet.md"
RUN_FOLDER = "RUN_FOLDER"


class Note(str):
    """What is said of a flag for which nothing is typed here."""


NOT_NEEDED = Note("not needed")
PART_OF_RUN = Note("a part of the run's folder")
TRAINER_CLASS = Note(f"settings of `segflow train`; {PAGE} lists them for each trainer class")


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A command of nnU-Net v2 in segflow's words.

    Attributes:
        ours: segflow's command, with settings that always belong to it.
        places: Settings for words without a flag, in order.
        flags: Flag → setting, of which the flag's values become the value; or ``KEY=VALUE``, for a flag without
            values; or a `Note`, where no setting is needed or there is none.
        run: Setting that takes the folder of a run, which nnU-Net finds by dataset, plans and configuration.
    """

    ours: str
    places: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    run: str = ""

    @property
    def command(self) -> str:
        """The first word of ``ours``."""
        return self.ours.split()[0]


_BAR = Note(f"{NOT_NEEDED}, a bar is shown on a terminal only")
_QUIET = {"--verbose": "verbose=true", "--no_pbar": _BAR}
_MEASURE = {
    "-d": "dataset",
    "-fpe": Note("there is none; planner.own= is a planner of your own"),
    "--verify_dataset_integrity": Note("segflow doctor is a command of its own"),
    "--clean": "clean=true",
    **_QUIET,
}
_PLAN = {
    "-d": "dataset",
    "-pl": "planner",
    "-gpu_memory_target": "planner.memory_target_gb",
    "-preprocessor_name": Note("there is none; planner.resampling= and normalization= change its steps"),
    "-overwrite_target_spacing": "planner.target_spacing",
    "-overwrite_plans_name": "planner.plans_name",
}
_PREDICT = {
    "-i": "input",
    "-o": "output",
    "-f": "folds",
    "-step_size": "overlap",
    "--disable_tta": "mirroring=false",
    "--verbose": "verbose=true",
    "--save_probabilities": "probabilities=true",
    "--continue_prediction": Note(f"{NOT_NEEDED}, the same command skips finished cases"),
    "-chk": "checkpoint",
    "-npp": "readers",
    "-nps": "writers",
    "-prev_stage_predictions": "previous_stage_predictions",
    "-device": "device",
    "--disable_progress_bar": _BAR,
    "--not_on_device": Note(f"{NOT_NEEDED}, what does not fit on the GPU is kept in the machine's memory"),
}
_FILES = {
    "-plans_json": NOT_NEEDED,
    "-dataset_json": "labels",
}

COMMANDS: Mapping[str, Equivalent] = {
    "nnUNetv2_train": Equivalent(
        "train",
        ("dataset", "configuration", "fold"),
        {
            "-tr": TRAINER_CLASS,
            "-p": "plans",
            "-pretrained_weights": "training.initial_weights",
            "-num_gpus": "trainer.devices",
            "--npz": "save_probabilities=true",
            "--c": Note(f"{NOT_NEEDED}, the same command continues a training"),
            "--val": Note(f"{NOT_NEEDED}, the same command validates a trained fold"),
            "--val_best": "inference.checkpoint=best",
            "--disable_checkpointing": "trainer.enable_checkpointing=false",
            "-device": "trainer.accelerator",
        },
    ),
    "nnUNetv2_predict": Equivalent(
        "predict",
        (),
        {
            **dict.fromkeys(("-d", "-p", "-tr", "-c"), PART_OF_RUN),
            **_PREDICT,
            "-num_parts": "part",
            "-part_id": "part",
        },
        run="model",
    ),
    "nnUNetv2_predict_from_modelfolder": Equivalent(
        "predict",
        (),
        {"-m": "model", **_PREDICT, "--c": _PREDICT["--continue_prediction"]},
    ),
    "nnUNetv2_plan_and_preprocess": Equivalent(
        "plan",
        (),
        {
            **_MEASURE,
            "-npfp": "processes",
            "--no_pp": Note(f"{NOT_NEEDED}, segflow preprocess is a command of its own"),
            **_PLAN,
            "-c": Note("configurations=[2d,3d_fullres] of segflow preprocess"),
            "-np": Note("processes=N of segflow preprocess"),
        },
    ),
    "nnUNetv2_extract_fingerprint": Equivalent("plan", (), {**_MEASURE, "-np": "processes"}),
    "nnUNetv2_plan_experiment": Equivalent("plan", (), _PLAN),
    "nnUNetv2_preprocess": Equivalent(
        "preprocess",
        (),
        {"-d": "dataset", "-plans_name": "plans", "-c": "configurations", "-np": "processes", **_QUIET},
    ),
    "nnUNetv2_move_plans_between_datasets": Equivalent(
        "plan",
        (),
        {
            "-s": Note("from_plans=data/preprocessed/DATASET/PLANS.json names dataset and plans"),
            "-sp": Note("from_plans=data/preprocessed/DATASET/PLANS.json names dataset and plans"),
            "-t": "dataset",
            "-tp": "planner.plans_name",
        },
    ),
    "nnUNetv2_accumulate_crossval_results": Equivalent(
        "postprocess action=choose",
        ("",),
        {
            **dict.fromkeys(("-c", "-p", "-tr"), PART_OF_RUN),
            "-o": "output",
            "-f": Note(f"{NOT_NEEDED}, all trained folds are taken"),
        },
        run="run",
    ),
    "nnUNetv2_find_best_configuration": Equivalent(
        "select",
        ("dataset",),
        {
            **dict.fromkeys(
                ("-c", "-p", "-tr"), Note("runs=[RUN_FOLDER,RUN_FOLDER] chooses some; else all are compared")
            ),
            "-np": "processes",
            "-f": Note(f"{NOT_NEEDED}, all trained folds are taken"),
            "--disable_ensembling": "max_members=1",
            "--no_overwrite": Note(f"{NOT_NEEDED}, what is up to date is kept"),
        },
    ),
    "nnUNetv2_determine_postprocessing": Equivalent(
        "postprocess action=choose",
        (),
        {
            "-i": "prediction",
            "-ref": "reference",
            **_FILES,
            "-np": "postprocessing.processes",
            "--remove_postprocessed": Note(f"{NOT_NEEDED}, label maps are written by action=apply"),
        },
    ),
    "nnUNetv2_apply_postprocessing": Equivalent(
        "postprocess action=apply",
        (),
        {"-i": "prediction", "-o": "output", "-pp_pkl_file": "choice", **_FILES, "-np": "postprocessing.processes"},
    ),
    "nnUNetv2_ensemble": Equivalent(
        "ensemble",
        (),
        {
            "-i": "members",
            "-o": "output",
            "-np": NOT_NEEDED,
            "--save_npz": Note("there is none; give all members to one ensemble"),
        },
    ),
    "nnUNetv2_evaluate_folder": Equivalent(
        "evaluate",
        ("reference", "prediction"),
        {
            "-djfile": "labels",
            "-pfile": NOT_NEEDED,
            "-o": "output",
            "-np": "processes",
            "--chill": "partial=true",
        },
    ),
    "nnUNetv2_evaluate_simple": Equivalent(
        "evaluate",
        ("reference", "prediction"),
        {
            "-l": Note("labels=dataset.json names the labels"),
            "-il": Note("labels=dataset.json names the labels"),
            "-o": "output",
            "-np": "processes",
            "--chill": "partial=true",
        },
    ),
    "nnUNetv2_export_model_to_zip": Equivalent(
        "bundle action=export format=nnunet",
        (),
        {
            **dict.fromkeys(("-d", "-c", "-tr", "-p"), PART_OF_RUN),
            "-o": "output",
            "-f": "folds",
            "-chk": "checkpoint",
            "--not_strict": Note(f"{NOT_NEEDED}, folds=[0,1] names the folds"),
            "--exp_cv_preds": Note("there is none; copy the folders validation"),
        },
        run="model",
    ),
    "nnUNetv2_install_pretrained_model_from_zip": Equivalent("bundle action=import", ("model",)),
    "nnUNetv2_download_pretrained_model_by_url": Equivalent("bundle action=import model=FILE.zip"),
    "nnUNetv2_plot_overlay_pngs": Equivalent(
        "report",
        (),
        {
            "-d": "dataset",
            "-o": "output",
            "-np": "processes",
            "-channel_idx": "channel",
            "--use_raw": Note(f"{NOT_NEEDED}, the page shows the images as they are"),
            "-p": NOT_NEEDED,
            "-c": NOT_NEEDED,
            "-overlay_intensity": Note(f"{NOT_NEEDED}, the page has a slider for the opacity"),
        },
    ),
    "nnUNetv2_convert_MSD_dataset": Equivalent(
        "convert", (), {"-i": "source", "-overwrite_id": "dataset_id", "-np": NOT_NEEDED}
    ),
    "nnUNetv2_convert_old_nnUNet_dataset": Equivalent("convert", ("source", "dataset_id")),
}

V1_COMMANDS: Mapping[str, str] = {
    "nnUNet_convert_decathlon_task": "convert",
    "nnUNet_plan_and_preprocess": "plan",
    **dict.fromkeys(("nnUNet_train", "nnUNet_train_DDP", "nnUNet_train_DP"), "train"),
    "nnUNet_predict": "predict",
    "nnUNet_ensemble": "ensemble",
    "nnUNet_evaluate_folder": "evaluate",
    "nnUNet_find_best_configuration": "select",
    "nnUNet_determine_postprocessing": "postprocess",
    **dict.fromkeys(("nnUNet_export_model_to_zip", "nnUNet_install_pretrained_model_from_zip"), "bundle"),
    **dict.fromkeys(("nnUNet_download_pretrained_model", "nnUNet_download_pretrained_model_by_url"), "bundle"),
    **dict.fromkeys(("nnUNet_print_available_pretrained_models", "nnUNet_print_pretrained_model_info"), "bundle"),
    "nnUNet_change_trainer_class": "train",
    "nnUNet_plot_task_pngs": "report",
}
"""Command of nnU-Net v1 → command here. Its flags are in the page only."""

_EXAMPLES = {
    **dict.fromkeys(("input", "output", "prediction", "reference", "previous_stage_predictions", "source"), "DIR"),
    "dataset": "ID", "plans": "NAME", "configuration": "3d_fullres", "configurations": "[2d,3d_fullres]",
    "folds": "0", "fold": "0", "members": "[DIR,DIR]", "checkpoint": "best", "device": "cpu", "part": "K/N",
    "training.initial_weights": "RUN_FOLDER", "trainer.devices": "N", "trainer.accelerator": "cpu",
    "overlap": "0.5, which is 1 minus nnU-Net's step", "labels": "DATASET_JSON", "planner": "resenc_l",
    "planner.plans_name": "NAME", "choice": "postprocessing.json", "model": "DIR", "planner.target_spacing": "[3,1,1]",
}  # fmt: skip


def is_theirs(name: str) -> bool:
    """Whether a word is a command of nnU-Net."""
    return name in COMMANDS or name in V1_COMMANDS


def setting_of_flag(command: str, flag: str) -> str:
    """What a flag of nnU-Net is in a command of segflow; empty for a flag that nnU-Net does not have."""
    own = [known for known in COMMANDS.values() if known.command == command]
    for known in (*own, *COMMANDS.values()):
        if flag not in known.flags:
            continue
        to = known.flags[flag]
        if to is PART_OF_RUN:
            return f"{known.run}={RUN_FOLDER}"
        return to if isinstance(to, Note) or "=" in to else f"{to}={_EXAMPLES.get(to, 'N')}"
    return ""
