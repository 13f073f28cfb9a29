"""The letters of a grid's orientation are nibabel's."""

from __future__ import annotations

import nibabel
import numpy as np
from scipy.spatial.transform import Rotation

from segflow.core.geometry import Geometry
from segflow.storage.image_formats.placement import STRAIGHT, orientation


def test_letters_of_turned_and_sheared_grids() -> None:
    random = np.random.default_rng(0)
    straight = 0
    for _ in range(500):
        swapped = np.eye(3)[random.permutation(3)] * random.choice([-1, 1], 3)
        turned = (
            Rotation.from_rotvec(random.normal(0, 0.25, 3)).as_matrix() @ swapped @ np.diag(random.uniform(0.3, 5, 3))
        )
        affine = np.eye(4)
        affine[:3, :3] = turned + random.normal(0, 0.05, (3, 3)) * (random.random() < 0.3)
        cosines = np.abs(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
        geometry = Geometry((1.0, 1.0, 1.0), {"affine": affine.tolist()})
        if cosines.max(axis=0).min() > STRAIGHT:
            straight += 1
            assert orientation(geometry) == "".join(nibabel.aff2axcodes(affine))
        else:
            assert orientation(geometry) is None
    assert 200 < straight < 450
