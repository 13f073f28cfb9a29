"""Names of files and folders that tell what a folder is. They are the same for every dataset and run."""

from __future__ import annotations

DESCRIPTION_FILE = "dataset.json"
FINGERPRINT_FILE = "dataset_fingerprint.json"
SPLITS_FILE = "splits_final.json"
GROUPS_FILE = "splits_final_groups.json"
REFERENCES_FOLDER = "gt_segmentations"
"""Of a prepared dataset; all but the groups are nnU-Net's."""

FOLD_PREFIX = "fold_"
"""Of the folder of a fold; what follows is its number, or ``all``."""
