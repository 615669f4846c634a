"""The metrics against scikit-image and NumPy."""

import jax
import numpy as np
import pytest
from helpers.reference_metrics import sharpness, skimage_ssim
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from glcic_jax.model.metrics import ImageMetrics, image_metrics, measure, ssim_map

NAMES = ("natural against noisy", "natural against filled", "noise against noise", "flat against flat", "dark")


@pytest.fixture(scope="module")
def pairs():
    """Completed images and originals, [N, 48, 40, 3], and masks; one for each name above."""
    rng = np.random.default_rng(0)
    face = data.astronaut()[60:108, 190:230] / 255.0
    filled = face.copy()
    filled[10:30, 5:25] = face.mean(axis=(0, 1))
    flat, flatter = np.full(face.shape, 0.7), np.full(face.shape, 0.2)
    flatter[..., 1] = 0.21
    completed = [np.clip(face + rng.normal(0, 0.1, face.shape), 0, 1), filled, rng.uniform(0, 1, face.shape)]
    original = [face, face, rng.uniform(0, 1, face.shape)]
    completed += [flatter, face * 0.01]
    original += [flat, face[:, ::-1] * 0.01]
    mask = np.zeros((len(NAMES), *face.shape[:2], 1), np.float32)
    for index, one in enumerate(mask):
        # At an edge, in a corner, and inside.
        one[4 * index : 20 + 4 * index, 3 * index : 15 + 5 * index] = 1
    return np.array(completed, np.float32), np.array(original, np.float32), mask


@pytest.fixture(scope="module")
def compute():
    return jax.jit(image_metrics)


@pytest.fixture(scope="module")
def similarity(pairs):
    return jax.jit(ssim_map)(pairs[0], pairs[1])


@pytest.fixture(scope="module")
def measured(pairs, compute):
    return compute(*pairs)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_psnr_and_ssim_agree_with_scikit_image(pairs, measured, similarity, index):
    completed, original, mask = (one[index] for one in pairs)
    psnr = peak_signal_noise_ratio(original.astype(np.float64), completed.astype(np.float64), data_range=1)
    # In dB, from a float32 sum: older versions of XLA add the pixels of a flat image one by one.
    assert measured.psnr[index] == pytest.approx(psnr, abs=1e-4)
    ssim, ssim_of_pixels = skimage_ssim(original, completed, full=True)
    assert measured.ssim[index] == pytest.approx(ssim, abs=1e-5)
    np.testing.assert_allclose(similarity[index], ssim_of_pixels, atol=6e-5)
    assert measured.hole_ssim[index] == pytest.approx(ssim_of_pixels[mask[..., 0] == 1].mean(), abs=2e-5)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_hole_errors_cover_the_hole_alone(pairs, measured, index):
    completed, original, mask = (one[index].astype(np.float64) for one in pairs)
    difference = (completed - original)[mask[..., 0] == 1]
    assert measured.hole_l1[index] == pytest.approx(np.abs(difference).mean(), rel=1e-5)
    assert measured.hole_l2[index] == pytest.approx((difference**2).mean(), rel=1e-5)
    assert measured.hole_psnr[index] == pytest.approx(-10 * np.log10((difference**2).mean()), abs=1e-4)


def test_whole_image_errors_agree_with_numpy(pairs, measured):
    difference = pairs[0].astype(np.float64) - pairs[1]
    np.testing.assert_allclose(measured.l1, np.abs(difference).mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(measured.l2, (difference**2).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_every_metric_is_one_number_per_image(measured):
    for name in ImageMetrics.__dataclass_fields__:
        assert getattr(measured, name).shape == (len(NAMES),), name
        assert getattr(measured, name).dtype == np.float32, name


def test_errors_outside_the_hole_leave_the_hole_metrics_alone(pairs, compute):
    _, original, mask = pairs
    outside = np.where(mask == 1, original, 1 - original)
    result = compute(outside, original, mask)
    assert (result.hole_l1 == 0).all()
    assert (result.hole_l2 == 0).all()
    assert np.isposinf(result.hole_psnr).all()
    assert (result.l1 > 0.01).all()


def test_equal_images_have_infinite_psnr_and_ssim_1(pairs, compute):
    _, original, mask = pairs
    result = compute(original, original, mask)
    assert np.isposinf(result.psnr).all()
    assert np.isposinf(result.hole_psnr).all()
    np.testing.assert_allclose(result.ssim, 1, atol=1e-6)
    np.testing.assert_allclose(result.hole_ssim, 1, atol=1e-6)
    assert (result.l1 == 0).all()
    assert (result.l2 == 0).all()


def test_empty_hole_gives_nan_in_the_hole_metrics_alone(pairs, measured, compute):
    completed, original, mask = pairs
    mask = mask.copy()
    mask[1] = 0
    result = compute(completed, original, mask)
    for name in ("hole_l1", "hole_l2", "hole_psnr", "hole_ssim", "hole_sharpness"):
        flat = name == "hole_sharpness"  # As the last two photographs are.
        assert np.isnan(getattr(result, name)).tolist() == [False, True, False, flat, flat], name
    for name in ("l1", "l2", "psnr", "ssim"):
        np.testing.assert_array_equal(getattr(result, name), getattr(measured, name))


@pytest.mark.parametrize("index", range(3), ids=NAMES[:3])
def test_sharpness_agrees_with_numpy(pairs, measured, index):
    completed, original, mask = (one[index] for one in pairs)
    expected = sharpness(completed, original, mask[..., 0] == 1)
    assert measured.hole_sharpness[index] == pytest.approx(expected, rel=1e-5)


def test_sharpness_of_a_blur_a_constant_noise_and_the_photograph_itself():
    face = data.astronaut()[40:104, 190:254]
    hole = np.zeros((64, 64), bool)
    hole[10:50, 30:] = True  # Up to the image's edge.
    blur = gaussian_filter(face, (1.5, 1.5, 0))
    noise = np.clip(face + np.random.default_rng(0).normal(0, 40, face.shape), 0, 255).astype(np.uint8)
    completed = [np.where(hole[..., None], one, face) for one in (face, blur, np.full_like(face, 90), noise)]
    found = measure(np.stack(completed), np.stack([face] * 4), np.stack([hole] * 4))["hole_sharpness"]
    assert (found[0], found[2]) == (1, 0)
    assert 0.2 < found[1] < 0.7
    assert found[3] > 1.5
    # Only the hole without its border counts, and the next pixel below and to the right for its differences.
    counted = np.zeros_like(hole)
    counted[12:49, 32:62] = counted[12:48, 32:63] = True
    around = np.where(counted[..., None], blur, 255 - face)
    assert measure(around[None], face[None], hole[None])["hole_sharpness"][0] == found[1]


def test_holes_of_four_pixels_have_no_sharpness(pairs, compute):
    mask = np.zeros_like(pairs[2])
    mask[:, 5:9, 3:30] = 1
    assert np.isnan(compute(*pairs[:2], mask).hole_sharpness).all()
    mask[:, 9, 3:8] = 1
    assert not np.isnan(compute(*pairs[:2], mask).hole_sharpness[:3]).any()


@pytest.mark.parametrize("shape", [(1, 10, 40, 3), (1, 40, 10, 3)])
def test_images_smaller_than_the_window_are_refused(shape):
    with pytest.raises(ValueError, match="at least 11 px"):
        image_metrics(np.zeros(shape), np.zeros(shape), np.zeros((*shape[:3], 1)))


def test_image_as_large_as_the_window_is_measured(compute):
    rng = np.random.default_rng(1)
    one, other = rng.uniform(0, 1, (2, 11, 11, 3)).astype(np.float32)
    result = compute(one[None], other[None], np.ones((1, 11, 11, 1), np.float32))
    assert result.ssim[0] == pytest.approx(skimage_ssim(one, other), abs=1e-5)


def test_pixels_outside_the_valid_size_are_ignored(pairs, compute, measured):
    rng = np.random.default_rng(1)
    valid_sizes = np.array([(48, 40), (11, 40), (30, 21), (48, 11), (47, 39)], np.int32)
    padded = [np.array(array) for array in pairs]
    for index, (height, width) in enumerate(valid_sizes):
        alone = compute(*(array[index : index + 1, :height, :width] for array in pairs))
        for array in padded:
            beyond = np.ones(array.shape[1:3], bool)
            beyond[:height, :width] = False
            array[index][beyond] = rng.uniform(0, 1, array[index][beyond].shape) > 0.5
        inside = compute(*(array[index : index + 1] for array in padded), valid_sizes[index : index + 1])
        for name, value in vars(alone).items():
            np.testing.assert_allclose(getattr(inside, name), value, rtol=2e-5, atol=2e-6, err_msg=name)
    together = compute(*padded, valid_sizes)
    assert together.ssim[0] == pytest.approx(float(measured.ssim[0]), abs=1e-6)
    assert abs(float(together.ssim[2]) - float(measured.ssim[2])) > 1e-4


def test_ssim_is_exact_for_bright_and_dark_flat_parts():
    image = np.zeros((96, 96, 3), np.uint8)
    image[:, 48:] = 255
    hole = np.zeros((96, 96), bool)
    hole[20:80, 20:80] = True
    noise = np.random.default_rng(0).integers(-2, 3, image.shape)
    completed = np.where(hole[..., None], np.clip(image + noise, 0, 255), image).astype(np.uint8)
    found = measure(completed[None], image[None], hole[None])
    mean, full = skimage_ssim(image / 255.0, completed / 255.0, full=True)
    assert found["ssim"][0] == pytest.approx(mean, abs=1e-9)
    assert found["hole_ssim"][0] == pytest.approx(full[hole].mean(), abs=1e-9)
