"""The Poisson solver against dense equations written out pixel by pixel, and its methods against each other."""

import numpy as np
import pytest

from glcic_jax.completion import poisson

QUARTER_OF_A_GREY_LEVEL = 0.25 / 255


def dense(unknown: np.ndarray) -> np.ndarray:
    """The equations' matrix from its definition, [n, n]."""
    height, width = unknown.shape
    places = [tuple(place) for place in np.argwhere(unknown)]
    matrix = np.zeros((len(places), len(places)))
    for row, (y, x) in enumerate(places):
        for neighbour in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= neighbour[0] < height and 0 <= neighbour[1] < width:
                matrix[row, row] += 1
                if unknown[neighbour]:
                    matrix[row, places.index(neighbour)] -= 1
    return matrix


def square(side: int) -> np.ndarray:
    unknown = np.zeros((side + 2, side + 2), bool)
    unknown[1:-1, 1:-1] = True
    return unknown


def half_plane(side: int) -> np.ndarray:
    unknown = np.ones((side, side), bool)
    unknown[:, 0] = False
    return unknown


def all_but_one(side: int) -> np.ndarray:
    unknown = np.ones((side, side), bool)
    unknown[side // 3, side // 5] = False
    return unknown


def scattered(side: int) -> np.ndarray:
    return np.random.default_rng(0).random((side, side)) < 0.6


def scattered_known(side: int) -> np.ndarray:
    return np.random.default_rng(0).random((side, side)) < 0.98


def snake(side: int) -> np.ndarray:
    """One long winding corridor between walls one pixel thin."""
    unknown = np.ones((side, side), bool)
    for number, row in enumerate(range(7, side, 8)):
        unknown[row, slice(0, -7) if number % 2 else slice(7, None)] = False
    return unknown


def corridor(side: int) -> np.ndarray:
    """Known at one distant end only."""
    unknown = np.ones((10, side * side // 10), bool)
    unknown[:, 0] = False
    return unknown


SHAPES = [square, half_plane, all_but_one, scattered, scattered_known, snake, corridor]


def blending_right_side(unknown: np.ndarray, seed: int = 0) -> np.ndarray:
    """A right-hand side like that of blending: the divergence of a field that is 0 away from known pixels."""
    rng = np.random.default_rng(seed)
    field = rng.normal(0, 0.1, (*unknown.shape, 3)) + rng.uniform(-0.5, 0.5, 3)
    # One column is solved exactly long before the others.
    field[..., 2] = 0
    field[~unknown] = 0
    near = ~unknown
    for _ in range(3):
        wide = np.pad(near, 1)
        near = near | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    sums = np.zeros_like(field)
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        step = np.where((near[before] | near[after])[..., None], field[after] - field[before], 0)
        sums[after] += step
        sums[before] -= step
    return sums[unknown]


@pytest.mark.parametrize("method", [poisson.solve, poisson.solve_exactly, poisson.solve_iteratively])
@pytest.mark.parametrize("seed", range(5))
def test_solvers_agree_with_the_definition(method, seed):
    rng = np.random.default_rng(seed)
    unknown = rng.random(rng.integers(1, 14, 2)) < rng.uniform(0.3, 0.9)
    unknown.flat[rng.integers(unknown.size)] = False
    right = rng.normal(size=(np.count_nonzero(unknown), 3))
    assert len(right) > 0
    np.testing.assert_allclose(method(unknown, right), np.linalg.solve(dense(unknown), right), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_iterations_agree_with_the_factorisation(shape):
    unknown = shape(130)
    right = blending_right_side(unknown)
    exact = poisson.solve_exactly(unknown, right)
    assert np.abs(exact).max() > 0.2
    solved = poisson.solve_iteratively(unknown, right)
    assert np.abs(solved - exact).max() < QUARTER_OF_A_GREY_LEVEL / 2
    np.testing.assert_array_equal(solved[:, 2], 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_few_iterations_are_enough(shape, monkeypatch):
    unknown = shape(100)
    cycles = []
    cycle = poisson._cycle
    monkeypatch.setattr(
        poisson, "_cycle", lambda levels, *rest: cycles.append(len(levels)) or cycle(levels, *rest)
    )
    poisson.solve_iteratively(unknown, blending_right_side(unknown))
    assert 1 < cycles.count(max(cycles)) < 25


def test_iterations_that_do_not_converge_fall_back_to_a_factorisation(monkeypatch):
    monkeypatch.setattr(poisson, "_MAX_ITERATIONS", 1)
    unknown = square(60)
    right = blending_right_side(unknown)
    np.testing.assert_array_equal(poisson.solve_iteratively(unknown, right), poisson.solve_exactly(unknown, right))


def test_isolated_specks_are_factorised():
    unknown = np.indices((120, 120)).sum(axis=0) % 2 == 0
    right = blending_right_side(unknown)
    solved = poisson.solve_iteratively(unknown, right)
    np.testing.assert_allclose(solved, poisson.solve_exactly(unknown, right), atol=1e-12)


def test_few_pixels_are_solved_exactly_and_many_iteratively(monkeypatch):
    monkeypatch.setattr(poisson, "LARGEST_EXACT", 2500)
    few, many = square(50), square(51)
    for unknown, method in ((few, poisson.solve_exactly), (many, poisson.solve_iteratively)):
        right = blending_right_side(unknown)
        np.testing.assert_array_equal(poisson.solve(unknown, right), method(unknown, right))


def test_a_zero_right_side_gives_zero():
    right = np.zeros((60 * 60, 3))
    np.testing.assert_array_equal(poisson.solve_iteratively(square(60), right), right)
