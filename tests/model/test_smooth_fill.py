import jax
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from glcic_jax.model import smooth_fill

fill = jax.jit(smooth_fill.smooth_fill)

MEAN_PIXEL = np.array([0.1, 0.2, 0.3], np.float32)
GOLDEN = (0.6425588, 0.6029854, 0.3995142), (0.3823626, 0.3494411, 0.2448997)


@pytest.fixture
def example():
    """Two smooth pictures of 45 x 38 px, with a hole inside and one at the corner."""
    rows, columns = np.mgrid[0:45, 0:38] / 45
    waves = [0.5 + 0.4 * np.sin(4 * rows + phase) * np.cos(3 * columns - phase) for phase in range(6)]
    image = np.stack(waves, axis=-1).reshape(45, 38, 2, 3).transpose(2, 0, 1, 3).astype(np.float32)
    hole = np.zeros((2, 45, 38, 1), bool)
    hole[0, 12:30, 9:25] = True
    hole[1, 25:, 20:] = True
    return image, hole


def laplace(image, hole):
    """The exact solution of Laplace's equation in the hole, without flow across the picture's border."""
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(hole.sum())
    matrix, right = scipy.sparse.lil_matrix((hole.sum(),) * 2), np.zeros((hole.sum(), 3))
    for row, column in np.argwhere(hole):
        here = number[row, column]
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= near[0] < hole.shape[0] and 0 <= near[1] < hole.shape[1]:
                matrix[here, here] += 1
                if hole[near]:
                    matrix[here, number[near]] = -1
                else:
                    right[here] += image[near]
    solution = image.astype(np.float64)
    solution[hole] = scipy.sparse.linalg.spsolve(matrix.tocsc(), right)
    return solution


def test_image_outside_the_hole_is_unchanged(example):
    image, hole = example
    filled = np.asarray(fill(image, hole, ~hole, MEAN_PIXEL))
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(np.where(hole, 0, filled), np.where(hole, 0, image))


def test_fill_approximates_laplaces_equation(example):
    image, hole = example
    filled = np.asarray(fill(image, hole, ~hole, MEAN_PIXEL))
    for one, before, where in zip(filled, image, hole[..., 0], strict=True):
        exact = laplace(before, where)
        mean = before[~where].mean(axis=0)
        off = np.abs(one - exact)[where].mean()
        assert off < 0.02
        assert off < 0.2 * np.abs(mean - exact)[where].mean()


def test_fill_equals_that_of_the_built_in_weights(example):
    """Weight files do not record the number of relaxations: these values may not change."""
    filled = np.asarray(fill(*example, ~example[1], MEAN_PIXEL))
    np.testing.assert_allclose(filled[0, 20, 16], GOLDEN[0], atol=1e-5)
    np.testing.assert_allclose(filled[1, 40, 33], GOLDEN[1], atol=1e-5)


def test_constant_image_is_continued_exactly(example):
    image, hole = example
    constant = np.broadcast_to(np.float32([0.25, 0.5, 0.75]), image.shape)
    np.testing.assert_allclose(fill(np.where(hole, 0, constant), hole, ~hole, MEAN_PIXEL), constant, atol=1e-6)


def test_image_that_is_all_hole_has_the_mean_colour(example):
    image, hole = example
    filled = fill(image, np.ones_like(hole), np.zeros_like(hole), MEAN_PIXEL)
    np.testing.assert_allclose(filled, np.broadcast_to(MEAN_PIXEL, image.shape), atol=1e-6)


@pytest.mark.parametrize("canvas", [(48, 40), (64, 100)])
def test_valid_part_of_an_image_is_filled_as_alone(example, canvas):
    image, hole = example
    beyond = ((0, 0), (0, canvas[0] - 45), (0, canvas[1] - 38), (0, 0))
    wide = np.pad(image, beyond, constant_values=np.nan), np.pad(hole, beyond), np.pad(~hole, beyond)
    filled = fill(*wide, MEAN_PIXEL)[:, :45, :38]
    np.testing.assert_allclose(filled, fill(image, hole, ~hole, MEAN_PIXEL), atol=1e-6)


def test_images_of_a_batch_are_independent(example):
    image, hole = example
    both = fill(image, hole, ~hole, MEAN_PIXEL)
    np.testing.assert_allclose(both[1:], fill(image[1:], hole[1:], ~hole[1:], MEAN_PIXEL), atol=1e-6)


def test_fill_stays_within_the_range_of_its_surroundings():
    rng = np.random.default_rng(0)
    image = rng.uniform(0.3, 0.7, (1, 33, 17, 3)).astype(np.float32)
    hole = rng.uniform(size=(1, 33, 17, 1)) < 0.7
    filled = np.asarray(fill(image, hole, ~hole, MEAN_PIXEL + 0.3))
    assert filled.min() >= 0.3 - 1e-6
    assert filled.max() <= 0.7 + 1e-6
