"""SSIM by scikit-image, as the paper that defined it has it, and sharpness by NumPy and SciPy."""

import numpy as np
from scipy.ndimage import binary_erosion
from skimage.metrics import structural_similarity


def skimage_ssim(image, other, full=False):
    return structural_similarity(
        image.astype(np.float64),
        other.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
        full=full,
    )


def sharpness(completed, image, hole):
    inner = binary_erosion(hole, np.ones((5, 5)))
    rows, columns = np.nonzero(inner)

    def gradient(pixels):
        here = pixels[rows, columns].astype(np.float64)
        return np.hypot(pixels[rows + 1, columns] - here, pixels[rows, columns + 1] - here).mean()

    return gradient(completed) / gradient(image) if inner.any() else np.nan
