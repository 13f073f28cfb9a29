"""Images to predict."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

SPACING_XYZ = (1.25, 0.8, 2.0)
ORIGIN = (10.0, -20.0, 30.0)
DIRECTION = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def make_image(seed: int = 0, shape: tuple[int, int, int] = (14, 22, 20)) -> sitk.Image:
    """A blob in noise with a black margin, in a place of its own."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    distance = np.hypot(np.hypot(z - shape[0] / 2, y - shape[1] / 2), x - shape[2] / 2)
    voxels = (100 * (distance < 5) + random.normal(50, 10, shape)).astype(np.float32)
    voxels[:, :2] = 0
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    return image
