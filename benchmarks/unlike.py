"""False alarms and noticed mistakes of the guard at prediction, over real datasets: held-out images, each also spoilt.

An image whose orientation no other one has is turned, which is no alarm; it is counted as "turned".

Usage: ``python benchmarks/unlike.py --data DIR [--folds 5]`` prints a table; exit status 1 if a held-out image as it is
was found unlike the others. A second table compares the images of each dataset of one channel with those of the others.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from segflow.core.case import Case
from segflow.core.training_images import ImageFacts, TrainingImages, image_quantiles
from segflow.inference.unlike import differences
from segflow.storage.case_files import find_training_cases
from segflow.storage.image_formats.placement import orientation, reorient
from segflow.storage.images import read_case, reader_of
from segflow.storage.raw_dataset import read_description

SAME_ORDER = 0.02
"""Channels that differ by less of the image's spread are alike, such as those of a grey picture: no order is wrong."""


def facts(case: Case, image: np.ndarray) -> ImageFacts:
    """The facts of a case with a changed image."""
    return ImageFacts(tuple(image.shape[1:]), case.geometry.spacing, orientation(case.geometry), image_quantiles(image))


def spoilt(case: Case) -> dict[str, ImageFacts]:
    """Name of a mistake → the facts of the image with it."""
    own = facts(case, case.image)
    made = {
        "as it is": own,
        "+ 1024": facts(case, case.image + 1024),
        "x 1000": facts(case, case.image * 1000),
        "/ 1000": facts(case, case.image / 1000),
        "10 x spacing": replace(own, spacing=tuple(10 * s for s in own.spacing)),
        "spacing / 10": replace(own, spacing=tuple(s / 10 for s in own.spacing)),
    }
    if own.orientation is not None:
        flipped = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
        for axis in range(3):
            letters = list(own.orientation)
            letters[axis] = flipped[letters[axis]]
            turned, geometry = reorient(case.image, case.geometry, "".join(letters))
            name = f"flipped {'xyz'[axis]}"
            made[name] = facts(replace(case, geometry=geometry), np.ascontiguousarray(turned))
    quantiles = np.array(own.quantiles)
    for a in range(len(quantiles)):
        for b in range(a + 1, len(quantiles)):
            order = list(range(len(quantiles)))
            order[a], order[b] = b, a
            if np.abs(quantiles[a] - quantiles[b]).max() > SAME_ORDER * np.ptp(quantiles):
                made[f"channels {a}, {b} swapped"] = facts(case, case.image[order])
    return made


def is_turned(image: ImageFacts, training: TrainingImages) -> bool:
    """Whether prediction turns an image."""
    return image.orientation is not None and training.turn_to(image.orientation) is not None


def is_unlike(image: ImageFacts, training: TrainingImages) -> bool:
    """Whether prediction warns of an image."""
    axes = [axis for axis in range(3) if training.shape[1][axis] > 1]
    names = [str(channel) for channel in range(training.channels)]
    return bool(differences(image, training, names, axes))


def looks_at(dataset: Path) -> list[dict[str, ImageFacts]]:
    """The facts of each image of a dataset, as it is and spoilt."""
    description = read_description(dataset)
    cases = find_training_cases(dataset, description)
    reader = reader_of((case.images[0] for case in cases), description.file_ending, description.reader)
    return [spoilt(read_case(case, reader, channels=len(description.channels))) for case in cases]


def table(looks: list[dict[str, ImageFacts]], folds: int) -> dict[str, list[bool]]:
    """Mistake → whether it is noticed, for each held-out image of a dataset."""
    found: dict[str, list[bool]] = defaultdict(list)
    folds = min(folds, len(looks))
    for fold in range(folds):
        held = range(fold, len(looks), folds)
        rest = [looks[k]["as it is"] for k in range(len(looks)) if k not in held]
        if len(looks) == 1:  # nothing is held out: only the mistakes are of interest
            rest = [looks[0]["as it is"]]
        training = TrainingImages.of(rest)
        for k in held:
            for mistake, image in looks[k].items():
                noticed = is_turned if mistake.startswith("flipped") else is_unlike
                found[mistake].append(noticed(image, training))
            found["turned"].append(is_turned(looks[k]["as it is"], training))
    return found


def of_others(trained: list[ImageFacts], given: list[ImageFacts]) -> int:
    """How many images of a dataset have unlike values for a model of another one."""
    training = TrainingImages.of(trained)
    spacing = tuple(training.spacing[0].tolist())  # only values are of interest
    return sum(is_unlike(replace(image, spacing=spacing), training) for image in given)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of raw datasets")
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    alarms = 0
    print(f"{'dataset':24} {'mistake':22} noticed")
    images: dict[str, list[ImageFacts]] = {}
    for dataset in sorted(options.data.glob("Dataset*")):
        looks = looks_at(dataset)
        if len(looks[0]["as it is"].quantiles) == 1:
            images[dataset.name] = [look["as it is"] for look in looks]
        for mistake, noticed in table(looks, options.folds).items():
            print(f"{dataset.name:24} {mistake:22} {sum(noticed):4} of {len(noticed):4}", flush=True)
            alarms += sum(noticed) if mistake == "as it is" else 0
    print(f"\n{'model of':24} {'images of':24} of unlike values")
    for name, trained in images.items():
        for other, given in images.items():
            print(f"{name:24} {other:24} {of_others(trained, given):4} of {len(given):4}")
    print(f"false alarms: {alarms}")
    return min(alarms, 1)


if __name__ == "__main__":
    sys.exit(main())
