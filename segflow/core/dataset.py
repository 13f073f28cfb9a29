"""The content of dataset.json (recipe 1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.labels_present import LABELS_PRESENT, read_labels_present
from segflow.core.missing_channels import ALLOW_MISSING
from segflow.core.names import safe_ending, shortened

MOST_CHANNELS = 10_000
"""The files of a case number their channels with four digits."""

COUNT_FROM_0 = (
    "Channels count from 0, in dataset.json and in the names of the files: case_0000 is the first channel, case_0001 "
    "the second. Renumber both."
)
LABEL_ENDING = "label_file_ending"
"""Our key for the ending of label maps that differs from the images'. nnU-Net does not know it."""
LISTS_OF_CASES = ("training", "test", "dataset", LABELS_PRESENT)
"""Keys of dataset.json whose values name cases, and perhaps patients."""
REQUIRED_KEYS = ("channel_names", "labels", "numTraining", "file_ending")


@dataclass(frozen=True, slots=True)
class DatasetDescription:
    """The description of a dataset.

    Attributes:
        name: Name of its folder, such as ``Dataset004_Hippocampus``.
        channels: Channel names in channel order; the names choose the normalisation (recipe 5).
        labels: The label definition.
        num_training: Number of training cases that dataset.json states.
        file_ending: Ending of the images, and of the label maps too if they have none of their own, with its dot.
        reader: Name of the reader that dataset.json asks for; None chooses one by the file's ending.
        raw: The whole of dataset.json, in its own order.
        own_label_ending: Ending of the label maps, if dataset.json gives them one.
    """

    name: str
    channels: tuple[str, ...]
    labels: Labels
    num_training: int
    file_ending: str
    reader: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    own_label_ending: str | None = None

    def __post_init__(self) -> None:
        safe_ending(self.file_ending)
        if self.own_label_ending is not None:
            safe_ending(self.own_label_ending, LABEL_ENDING)

    @property
    def label_ending(self) -> str:
        """Ending of label maps, those that are predicted among them, with its dot."""
        return self.own_label_ending or self.file_ending

    @property
    def allows_missing_channels(self) -> bool:
        """Whether training cases may lack channels."""
        return bool(self.raw.get(ALLOW_MISSING, False))

    @property
    def groups(self) -> dict[str, str]:
        """Case → its group, such as a patient, for cases of dataset.json's list that have one.

        ``group`` in an entry is our key, which nnU-Net passes over.
        """
        listing = self.raw.get("dataset")
        entries = listing.items() if isinstance(listing, Mapping) else ()
        return {str(case_id): str(e["group"]) for case_id, e in entries if isinstance(e, Mapping) and e.get("group")}

    @classmethod
    def from_json(cls, name: str, value: Mapping[str, Any]) -> DatasetDescription:
        """Check and build from dataset.json.

        Raises:
            SegflowError: A key is missing or its value cannot be used.
        """
        if not isinstance(value, Mapping):
            raise SegflowError(
                f"the description of {name} must be an object", found=type(value).__name__, expected=list(REQUIRED_KEYS)
            )
        keys = dict(value)
        if "channel_names" not in keys and "modality" in keys:  # written by early converters; nnU-Net reads it too
            keys["channel_names"] = keys["modality"]
        missing = [key for key in REQUIRED_KEYS if key not in keys]
        if missing:
            raise SegflowError(
                f"the description of {name} lacks {', '.join(repr(k) for k in missing)}",
                found=sorted(value),
                expected=list(REQUIRED_KEYS),
                fix="A decathlon folder is converted by: segflow convert source=TASK_FOLDER",
            )
        channels = _channel_names(keys["channel_names"])
        count = keys["numTraining"]
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise SegflowError("'numTraining' must be a whole number", found=shortened(count))
        if not isinstance(keys.get(ALLOW_MISSING, False), bool):
            raise SegflowError(f"'{ALLOW_MISSING}' must be true or false", found=shortened(keys[ALLOW_MISSING]))
        reader = keys.get("overwrite_image_reader_writer")
        labels = Labels.from_json(keys["labels"], keys.get("regions_class_order"), keys.get("label_values"))
        return cls(
            name=name,
            channels=channels,
            labels=replace(labels, present=read_labels_present(keys, labels.entries)),
            num_training=count,
            file_ending=safe_ending(keys["file_ending"]),
            reader=None if reader in (None, "None", "") else str(reader),
            raw=dict(value),
            own_label_ending=safe_ending(keys[LABEL_ENDING], LABEL_ENDING) if keys.get(LABEL_ENDING) else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The whole of dataset.json, as it was read."""
        return dict(self.raw)

    def without_cases(self) -> dict[str, Any]:
        """Like `to_json`, without the keys that name cases."""
        return {key: value for key, value in self.raw.items() if key not in LISTS_OF_CASES}

    def for_nnunet(self) -> dict[str, Any]:
        """Like `without_cases`, with labels that count 0, 1, 2, … and an order of regions, as nnU-Net needs them.

        What the labels are in our files stands under ``label_values``; see `Labels.to_consecutive`.
        """
        changed = self.labels.values or (self.labels.has_regions and self.raw.get("regions_class_order") is None)
        return {**self.without_cases(), **(self.labels.to_consecutive() if changed else {})}


def _channel_names(names: Any) -> tuple[str, ...]:
    """The names of the channels, by their numbers or in their order."""
    if isinstance(names, Mapping):
        numbered = {str(k): v for k, v in names.items()}
        wanted = [str(i) for i in range(len(numbered))]
        if not numbered or sorted(numbered, key=str) != sorted(wanted):
            raise SegflowError(
                "'channel_names' must be numbered from 0 without gaps",
                found=list(numbered),
                expected=wanted or ["0"],
                fix=COUNT_FROM_0,
            )
        channels = tuple(str(numbered[key]) for key in wanted)
    elif isinstance(names, (list, tuple)) and names:
        channels = tuple(str(v) for v in names)
    else:
        raise SegflowError(
            "'channel_names' must map channel numbers to names",
            found=shortened(names),
            expected='{"0": "CT"}',
        )
    if len(channels) > MOST_CHANNELS:
        raise SegflowError("'channel_names' names too many", found=len(channels), expected=f"at most {MOST_CHANNELS}")
    return channels
