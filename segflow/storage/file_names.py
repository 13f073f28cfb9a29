"""Names of files and folders that are the same for every dataset and run."""

from __future__ import annotations

DESCRIPTION_FILE = "dataset.json"
FINGERPRINT_FILE = "dataset_fingerprint.json"
SPLITS_FILE = "splits_final.json"
GROUPS_FILE = "splits_final_groups.json"
REFERENCES_FOLDER = "gt_segmentations"
"""Files of a prepared dataset. All names except that of the groups are nnU-Net's."""

FOLD_PREFIX = "fold_"
"""Start of the name of a fold's folder, followed by its number or ``all``."""

CHOICE_FILE = "postprocessing.json"
"""Of the steps that were chosen on a cross-validation."""
