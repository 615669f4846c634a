"""Classical fills."""

import cv2
import numpy as np
import pytest

from glcic_jax.pictures.fills import FILLS, mean_fill


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (40, 32, 3), np.uint8), (0, 0), 3)
    hole = np.zeros((40, 32), bool)
    hole[8:20, 5:15] = hole[30:, :6] = True
    return image, hole


@pytest.mark.parametrize("name", FILLS)
def test_a_fill_changes_only_the_hole_and_ignores_its_content(picture, name):
    image, hole = picture
    filled = FILLS[name](image, hole)
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    hidden = np.where(hole[..., None], np.random.default_rng(1).integers(0, 256, image.shape, np.uint8), image)
    np.testing.assert_array_equal(FILLS[name](hidden, hole), filled)


@pytest.mark.parametrize("name", FILLS)
def test_a_flat_image_stays_flat(name):
    image, hole = np.full((24, 20, 3), 77, np.uint8), np.zeros((24, 20), bool)
    hole[10:, :4] = True
    assert np.abs(FILLS[name](image, hole).astype(int) - 77).max() <= 8  # OpenCV's own noise in 8 bits.


@pytest.mark.parametrize("name", FILLS)
def test_a_full_hole_becomes_grey_and_an_empty_one_changes_nothing(picture, name):
    image, _ = picture
    assert (FILLS[name](image, np.ones(image.shape[:2], bool)) == 128).all()
    np.testing.assert_array_equal(FILLS[name](image, np.zeros(image.shape[:2], bool)), image)


def test_mean_fill_is_the_mean_of_the_known_pixels(picture):
    image, hole = picture
    np.testing.assert_array_equal(mean_fill(image, hole)[10, 10], np.rint(image[~hole].mean(axis=0)))


def test_opencv_fills_equal_a_direct_call(picture):
    image, hole = picture
    image[hole] = 0
    expected = cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    np.testing.assert_array_equal(FILLS["Telea"](image, hole)[hole], expected[hole])
    expected = cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_NS)
    np.testing.assert_array_equal(FILLS["Navier-Stokes"](image, hole)[hole], expected[hole])
