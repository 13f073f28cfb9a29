"""The commands, and what each is for."""

from __future__ import annotations

COMMANDS = {
    "demo": "the whole job on a phantom that segflow makes itself, or on dataset=hippocampus",
    "convert": "decathlon or nnU-Net v1 task, CSV list of files, or labels such as 0 and 255 → raw dataset",
    "doctor": "everything that is wrong with a raw dataset",
    "plan": "raw dataset → fingerprint, plans and splits",
    "preprocess": "raw dataset and plans → arrays for training",
    "train": "one fold; -m fold=0,1,2,3,4 trains them one after another",
    "predict": "images and a trained run → label maps",
    "ensemble": "probabilities of several predictions → label maps",
    "evaluate": "label maps and references → scores",
    "postprocess": "choose steps on a cross-validation, or apply them to a folder",
    "select": "trained runs → the configuration or ensemble to predict with",
    "run": "raw dataset → everything above, up to the chosen ensemble's predictions of imagesTs",
    "report": "trained run → one page with scores, curves and pictures",
    "bundle": "runs ↔ model files, ours and nnU-Net v2's",
}
