"""Blending: against the equations written out pixel by pixel, closed forms, and awkward holes."""

import cv2
import numpy as np
import pytest
from helpers.common import one_line
from scipy import ndimage

from glcic_jax.completion import blending, poisson
from glcic_jax.errors import DataError

UNIT = 2.0**24


def random_hole(rng: np.random.Generator, largest: int) -> np.ndarray:
    """Blobs, a box, specks or noise, often touching the border; sizes from 1 px up."""
    height, width = rng.integers(1, largest, 2)
    kind = rng.integers(4)
    if kind == 0:
        smooth = ndimage.gaussian_filter(rng.normal(size=(height, width)), rng.uniform(1, 4), mode="nearest")
        return smooth >= np.quantile(smooth, rng.uniform(0.1, 0.9))
    if kind == 1:
        hole = np.zeros((height, width), bool)
        top, left = rng.integers(0, height), rng.integers(0, width)
        hole[top : top + rng.integers(1, largest), left : left + rng.integers(1, largest)] = True
        return hole
    return rng.random((height, width)) < (0.03 if kind == 2 else 0.9)


def random_example(rng: np.random.Generator, largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hole = random_hole(rng, largest)
    image, completed = rng.random((2, *hole.shape, 3), np.float32)
    return image, completed, hole


def by_definition(image: np.ndarray, completed: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The blended image, without clipping: dense equations in the pixels' values, not in a correction."""
    height, width = hole.shape
    wide = np.pad(np.where(hole[..., None], 0, image), ((1, 1), (1, 1), (0, 0)), mode="edge") * np.float32(UNIT)
    where = np.pad(hole, 1, mode="edge").astype(np.uint8)
    channels = [cv2.inpaint(wide[..., c].copy(), where, 1.0, cv2.INPAINT_TELEA) for c in range(3)]
    marched = np.stack(channels, axis=-1)[1:-1, 1:-1].astype(np.float64) / UNIT
    middle = ndimage.distance_transform_cdt(hole, "chessboard") > 3
    places = [tuple(place) for place in np.argwhere(hole)]
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), 3))
    for row, (y, x) in enumerate(places):
        for other in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= other[0] < height and 0 <= other[1] < width):
                continue
            guide = completed.astype(np.float64) if middle[y, x] and middle[other] else marched
            matrix[row, row] += 1
            right[row] += guide[y, x] - guide[other]
            if hole[other]:
                matrix[row, places.index(other)] -= 1
            else:
                right[row] += image[other]
    result = image.astype(np.float64)
    result[hole] = np.linalg.solve(matrix, right)
    return result


@pytest.mark.parametrize("seed", range(30))
def test_blending_agrees_with_the_definition(seed):
    rng = np.random.default_rng(seed)
    image, completed, hole = random_example(rng, 30)
    if hole.all():
        hole.flat[rng.integers(hole.size)] = False
    expected = np.clip(by_definition(image, completed, hole), 0, 1)
    np.testing.assert_allclose(blending.blend(image, completed, hole), expected, atol=2e-6)


def test_the_random_holes_have_middles_borders_and_several_parts():
    holes = [random_hole(np.random.default_rng(seed), 30) for seed in range(30)]
    middles = [ndimage.distance_transform_cdt(hole, "chessboard").max() > 4 for hole in holes if not hole.all()]
    borders = [np.pad(hole[1:-1, 1:-1], 1).sum() < hole.sum() for hole in holes]
    parts = [ndimage.label(hole)[1] > 2 for hole in holes]
    assert min(sum(middles), sum(borders), sum(parts)) >= 5


@pytest.mark.parametrize("side", [40, 150], ids=["factorised", "iterated"])
def test_a_fill_of_the_wrong_brightness_is_corrected(side):
    y, x = np.mgrid[: side + 20, : side + 20] / (side + 20)
    truth = 0.5 + 0.1 * np.stack([np.sin(4 * x), np.cos(3 * y), np.sin(2 * (x + y))], axis=-1)
    hole = np.zeros((side + 20, side + 20), bool)
    hole[7:-13, 10:-10] = True
    completed = np.clip(truth + [0.2, -0.2, 0.1], 0, 1).astype(np.float32)
    result = blending.blend(truth.astype(np.float32), completed, hole)
    # Fast marching continues the edge flat for 4 px. So far it leaves the truth by the slope, and the harmonic
    # correction nowhere exceeds what it is at the edge.
    slope = max(np.abs(np.diff(truth, axis=axis)).max() for axis in (0, 1))
    assert np.abs(result - truth).max() <= 4 * slope + 0.25 / 255
    assert 4 * slope < 0.05


@pytest.mark.parametrize("wide", [10, 13, 30])
@pytest.mark.parametrize("turned", [False, True])
def test_a_ramp_across_a_strip_has_the_closed_form(wide, turned):
    slope, offset, start, height = 0.01, 0.15, 5, 9
    truth = 0.2 + slope * np.arange(wide + 12)
    hole = np.zeros((height, wide + 12), bool)
    hole[:, start : start + wide] = True  # From border to border: every row is a problem in one dimension.
    # The fill rises by `slope` at all steps within the middle; fast marching is flat at the others. What is
    # missing of the whole rise is spread over all steps alike.
    steps = np.zeros(wide + 1)
    steps[4:-4] = slope
    steps += (slope * (wide + 1) - steps.sum()) / (wide + 1)
    expected = truth.copy()
    expected[start : start + wide] = truth[start - 1] + np.cumsum(steps)[:-1]

    image = np.repeat(np.broadcast_to(truth, hole.shape)[..., None], 3, axis=-1).astype(np.float32)
    expected = np.broadcast_to(expected[:, None], image.shape)
    completed = image + np.float32(offset)
    if turned:
        image, completed, hole, expected = (np.swapaxes(a, 0, 1) for a in (image, completed, hole, expected))
    np.testing.assert_allclose(blending.blend(image, completed, hole), expected, atol=2e-6)


def test_pixels_outside_the_hole_stay_bit_identical_and_ignored_values_have_no_effect():
    rng = np.random.default_rng(0)
    for _ in range(150):
        image, completed, hole = random_example(rng, 50)
        image[0, 0, 0] = -0.0
        expected = blending.blend(image, completed, hole)
        assert expected.dtype == np.float32
        assert expected[~hole].tobytes() == image[~hole].tobytes()
        assert np.isfinite(expected).all()
        assert expected.min() >= 0
        assert expected.max() <= 1
        for ignored in (np.float32(np.nan), np.float32(np.inf)):
            poisoned = np.where(hole[..., None], ignored, image), np.where(hole[..., None], completed, ignored)
            np.testing.assert_array_equal(blending.blend(*poisoned, hole), expected)


def test_arguments_are_not_modified():
    arguments = random_example(np.random.default_rng(3), 40)
    copies = [array.copy() for array in arguments]
    for array in arguments:
        array.flags.writeable = False
    result = blending.blend(*arguments)
    assert not np.shares_memory(result, arguments[0])
    for array, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_empty_hole_gives_the_image_and_a_full_hole_the_completion():
    for shape in ((1, 1), (1, 9), (9, 1), (20, 30)):
        image, completed = np.random.default_rng(0).random((2, *shape, 3), np.float32)
        np.testing.assert_array_equal(blending.blend(image, completed, np.zeros(shape, bool)), image)
        np.testing.assert_array_equal(blending.blend(image, completed, np.ones(shape, bool)), completed)


AWKWARD = {
    "one pixel": ((9, 9), np.s_[4, 4]),
    "corner pixel": ((9, 9), np.s_[0, 8]),
    "corner": ((30, 30), np.s_[15:, 12:]),
    "row": ((30, 20), np.s_[11, :]),
    "column": ((30, 20), np.s_[:, 0]),
    "rows": ((30, 20), np.s_[10:22, :]),
    "line": ((30, 20), np.s_[3:25, 7]),
    "all but one pixel": ((20, 20), np.s_[(np.arange(400) != 85).reshape(20, 20)]),
    "all but a column": ((20, 30), np.s_[:, :-1]),
    "two corners": ((30, 30), np.s_[(np.add.outer(range(30), range(30)) % 45) < 14]),
    "1 px high": ((1, 40), np.s_[:, 12:33]),
    "1 px wide": ((40, 1), np.s_[8:, :]),
    "1 px wide, many": ((40, 1), np.s_[np.arange(40) % 3 > 0, :]),
    "two pixels": ((1, 2), np.s_[0, 1]),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_holes(name):
    shape, where = AWKWARD[name]
    hole = np.zeros(shape, bool)
    hole[where] = True
    rng = np.random.default_rng(0)
    image = rng.uniform(0.4, 0.6, (*shape, 3)).astype(np.float32)
    # A fill that is much too bright, but else flat, must come down to the values around it, rough as they are.
    completed = np.full_like(image, 0.95)
    result = blending.blend(image, completed, hole)
    assert result[~hole].tobytes() == image[~hole].tobytes()
    assert result.min() > 0.38
    assert result.max() < 0.62
    np.testing.assert_allclose(result, by_definition(image, completed, hole), atol=2e-6)


def test_the_result_is_clipped():
    image, completed = np.full((40, 40, 3), 0.95, np.float32), np.full((40, 40, 3), 0.1, np.float32)
    completed[15:25, 15:25] = 0.9
    completed[18:22, 18:22, 1] = 0.0
    hole = np.zeros((40, 40), bool)
    hole[5:35, 5:35] = True
    assert by_definition(image, completed, hole).max() > 1.2
    result = blending.blend(image, completed, hole)
    assert result.max() == 1
    assert result.min() >= 0


def test_iterative_and_exact_solutions_blend_alike(monkeypatch):
    rng = np.random.default_rng(0)
    image, completed = rng.random((2, 170, 140, 3), np.float32)
    hole = np.zeros((170, 140), bool)
    hole[10:150, 30:] = True
    iterated = blending.blend(image, completed, hole)
    monkeypatch.setattr(poisson, "LARGEST_EXACT", hole.size)
    exact = blending.blend(image, completed, hole)
    assert not np.array_equal(iterated, exact)
    assert np.abs(iterated - exact).max() < 0.25 / 255


@pytest.mark.parametrize("seed", range(6))
def test_splitting_into_windows_changes_nothing(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    hole = ndimage.gaussian_filter(rng.normal(size=(90, 120)), 4, mode="nearest") > 0.07
    image, completed = rng.random((2, 90, 120, 3), np.float32)
    image[hole] = np.nan  # A window may hold pixels of another's hole.
    results = []
    for cost, several in ((-(10**6), True), (10**6, False)):
        monkeypatch.setattr(blending, "_WINDOW_COST", cost)
        windows = list(blending._windows(hole))
        assert (len(windows) > 1) == several
        covered = np.zeros(hole.shape, int)
        for window, part in windows:
            covered[window] += part
        np.testing.assert_array_equal(covered, hole)
        results.append(blending.blend(image, completed, hole))
    assert np.isfinite(results).all()
    np.testing.assert_allclose(*results, atol=1e-6)


def test_small_holes_in_a_large_image_are_blended_separately(monkeypatch):
    hole = np.zeros((1500, 2000), bool)
    hole[3:13, 3:13] = hole[1480:, 1490:1510] = True
    image = np.full((*hole.shape, 3), 0.5, np.float32)
    sizes = []
    inpaint = cv2.inpaint
    monkeypatch.setattr(cv2, "inpaint", lambda source, *rest: sizes.append(source.size) or inpaint(source, *rest))
    blending.blend(image, image, hole)
    assert len(sizes) == 6
    assert sum(sizes) < 6 * 1000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    image, completed = np.full((2, 20, 20, 3), 0.5, np.float32)
    hole = np.zeros((20, 20), bool)
    hole[4:16, 4:16] = True
    damaged = completed.copy()
    damaged[8, 9, 1] = bad
    with pytest.raises(DataError, match="completion inside the hole") as caught:
        blending.blend(image, damaged, hole)
    one_line(caught)
    damaged = image.copy()
    damaged[2, 9, 1] = bad
    with pytest.raises(DataError, match="image outside the hole") as caught:
        blending.blend(damaged, completed, hole)
    one_line(caught)


@pytest.mark.parametrize(
    "shapes", [((8, 8, 3), (8, 9, 3), (8, 8)), ((8, 8, 1),) * 2 + ((8, 8),), ((8, 8, 3),) * 3]
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    image, completed, hole = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError, match="do not fit"):
        blending.blend(image, completed, hole.astype(bool))


def test_thick_parts_are_told_from_thin_and_large_ones(monkeypatch):
    monkeypatch.setattr(blending, "_LARGE", 600)
    thick, others = np.zeros((2, 80, 100), bool)
    thick[10:30, 10:40] = thick[70:, 60:] = True
    others[50:59, 5:95] = others[5:45, 60:64] = True
    others[5:30, 70:95] = True  # 625 pixels.
    np.testing.assert_array_equal(blending.thick_parts(thick | others), thick)


@pytest.mark.parametrize("whole", [True, False])
def test_thick_parts_of_all_or_nothing(whole):
    assert (blending.thick_parts(np.full((20, 20), whole)) == whole).all()
