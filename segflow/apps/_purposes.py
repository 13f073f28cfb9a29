"""The commands, with a summary of each."""

from __future__ import annotations

COMMANDS = {
    "demo": "all steps on a synthetic dataset (the phantom), or on dataset=hippocampus",
    "convert": "decathlon or nnU-Net v1 task, BIDS, DICOM, list or patterns of files → raw dataset",
    "doctor": "all problems of a raw dataset",
    "plan": "raw dataset → fingerprint, plans and splits",
    "preprocess": "raw dataset and plans → arrays for training",
    "train": "one fold; -m fold=0,1,2,3,4 trains them one after another",
    "predict": "images and a trained run → label maps",
    "ensemble": "several predictions → label maps, by mean, majority or STAPLE",
    "evaluate": "label maps and references → scores",
    "compare": "runs, summaries or tables of scores → whether they differ, and by how much",
    "postprocess": "choose steps on a cross-validation, or apply them to a folder",
    "select": "trained runs → the configuration or ensemble to predict with",
    "run": "raw dataset → all steps above, up to predictions of imagesTs by the best ensemble",
    "report": "trained run, or raw dataset → one page with tables, charts and pictures",
    "bundle": "runs ↔ model files of segflow and nnU-Net v2",
    "config": "settings of all commands with a word in their name or meaning",
}
