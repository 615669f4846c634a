"""Metrics by scikit-image, as the paper that defined SSIM has them."""

import numpy as np
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
