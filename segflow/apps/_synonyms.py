"""Names of settings in other tools, and the settings for words without a name. Used by `_first_words`."""

from __future__ import annotations

from collections.abc import Mapping

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "n_epochs", "nepochs"), ("trainer.max_epochs",)),
    **dict.fromkeys(("learning_rate", "initial_lr"), ("optimizer.lr",)),
    **dict.fromkeys(("gpus", "num_gpus", "n_gpus", "ngpus"), ("trainer.devices",)),
    **dict.fromkeys(("device", "gpu", "cuda"), ("inference.device", "trainer.accelerator")),
    **dict.fromkeys(("workers", "n_workers"), ("training.num_workers", "processes")),
    **dict.fromkeys(("num_processes", "n_jobs", "np"), ("processes", "preprocessing.processes")),
    **dict.fromkeys(("preprocessing.max_memory_gb", "memory", "max_memory", "mem", "memory_gb"), ("max_memory_gb",)),
    **dict.fromkeys(("name", "exp_name", "experiment_name"), ("run_name",)),
    **dict.fromkeys(("data", "data_dir", "dataset_path", "dataset_dir", "data_path"), ("dataset.path",)),
    **dict.fromkeys(("dataset_id", "task", "dataset_name"), ("dataset",)),
    **dict.fromkeys(("pretrained", "pretrained_weights", "weights"), ("training.initial_weights",)),
    **dict.fromkeys(("images", "image", "input_dir", "input_folder"), ("input",)),
    **dict.fromkeys(("out", "output_dir", "output_folder", "save_dir"), ("output", "paths.outputs")),
    "output": ("paths.outputs",),
    **dict.fromkeys(("predictions", "pred"), ("prediction",)),
    **dict.fromkeys(("references", "ref", "gt", "ground_truth"), ("reference",)),
    **dict.fromkeys(("model_dir", "model_folder", "run_folder"), ("model", "run")),
    **dict.fromkeys(("model", "net", "architecture", "arch"), ("network", "run")),
    **dict.fromkeys(("scheduler", "lr_scheduler"), ("schedule",)),
    **dict.fromkeys(("config", "mode"), ("configuration", "configurations")),
    **dict.fromkeys(("tta", "mirror"), ("inference.mirroring",)),
    "step_size": ("inference.overlap",),
    **dict.fromkeys(("checkpoint_name", "chk"), ("inference.checkpoint",)),
}
"""A setting's name in other tools → its names in segflow, of which the first that the command has is taken."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "convert": ("source",),
    "config": ("find",),
    "predict": ("model", "input", "output"),
    "evaluate": ("prediction", "reference"),
    "report": ("run",),
    "compare": ("runs",),
    "bundle": ("model", "output"),
    "postprocess": ("prediction", "reference"),
}
"""Command → the settings for paths without a name, in order. For other commands it is ``dataset.path``."""

ACTIONS = {"bundle": ("export", "import"), "postprocess": ("choose", "apply")}

LAUNCHERS: Mapping[str, tuple[str, str]] = {
    "joblib": ("joblib", "segflow[launchers]"),
    "slurm": ("submitit", "segflow[launchers]"),
    "ray": ("ray", "segflow[ray]"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher"),
}
"""Option of ``hydra/launcher`` → the module that it needs, and what installs it."""

LAUNCHING = ("demo", "run", "preprocess", "predict", "evaluate")
"""Commands that divide their own work among the jobs of a launcher; others launch the jobs of a sweep."""
