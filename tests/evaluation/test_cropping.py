"""Resizing and cropping of evaluation images."""

import cv2
import numpy as np
import pytest

from glcic_jax.evaluation.cropping import centre_square


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (40, 40), (33, 64), (20, 31)])
def test_the_shorter_side_is_resized_and_the_centre_cropped(height, width):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), (0, 0), 2)
    square = centre_square(image, 32)
    assert (square.shape, square.dtype) == ((32, 32, 3), np.uint8)
    scale = 32 / min(height, width)
    size = max(32, round(width * scale)), max(32, round(height * scale))
    whole = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (size[1] - 32) // 2, (size[0] - 32) // 2
    np.testing.assert_array_equal(square, whole[top : top + 32, left : left + 32])


def test_a_square_of_the_size_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(centre_square(image, 32), image)


def test_a_mask_is_cropped_like_its_image():
    hole = np.zeros((60, 90), bool)
    hole[20:40, 45:60] = True
    square = centre_square(hole, 30)
    assert square.dtype == bool
    expected = np.zeros((30, 30), bool)
    expected[10:20, 15:22] = True
    assert (square != expected).sum() <= 10  # A column at an edge.
    shown = centre_square(np.repeat(hole[..., None] * np.uint8(255), 3, axis=-1), 30)[..., 0]
    assert ((shown > 127) != square).sum() <= 10


def test_a_strip_is_cropped_before_it_is_enlarged():
    strip = np.repeat(np.arange(20_000, dtype=np.uint32) % 251, 12).reshape(20_000, 12).T.astype(np.uint8)
    square = centre_square(np.repeat(strip[..., None], 3, axis=-1), 128)
    assert square.shape == (128, 128, 3)
    middle = np.median(square[..., 0])
    assert abs(float(middle) - 10_000 % 251) < 4
