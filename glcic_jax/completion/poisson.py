"""Solves the discrete Poisson equation on an arbitrary set of pixels.

An unknown pixel has one equation: the sum of its differences to its 4-neighbours inside the image is given.
Neighbours that are not unknown are 0 (Dirichlet); none are missed beyond the image's border (Neumann).

SciPy is imported where it is needed: it takes most of a second.
"""

from typing import Any, NamedTuple

import numpy as np

# Up to here a factorisation takes no longer than the multigrid cycles.
LARGEST_EXACT = 10_000
# Where the iterations stop. What is left of the error was never seen above three times this (see the tests).
TOLERANCE = 0.01 / 255
_MOST_ITERATIONS = 200
_COARSEST = 2_000
# Three: a smoothed 3 x 3 block reaches its 8 neighbours only, so that coarse equations stay as short as fine ones.
_BLOCK = 3


class _Level(NamedTuple):
    """One grid of the multigrid cycle.

    Args:
      matrix: [n, n] sparse, symmetric, positive definite.
      step: [n, 1], what a residual is multiplied by in one damped Jacobi sweep.
      prolong: [n, m] sparse, from the next coarser grid to this one; restricting is its transpose.
      restrict: [m, n] sparse.
    """

    matrix: Any
    step: np.ndarray
    prolong: Any
    restrict: Any


def solve(unknown: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves for all unknown pixels: by a factorisation if they are few, by `solve_iteratively` if many.

    Args:
      unknown: [H, W] bool, not all True: the answer would be known only up to a constant.
      right: [n, C] float64, the sums of differences at the n unknown pixels, in the order of `unknown`'s rows.

    Returns:
      [n, C] float64; with many pixels to within a quarter of 1/255, if it is in the units of [0, 1] images.
    """
    method = solve_exactly if len(right) <= LARGEST_EXACT else solve_iteratively
    return method(unknown, right)


def solve_exactly(unknown: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves by a sparse factorisation; arguments and result as in `solve`."""
    return _factorised(_laplacian(unknown)).solve(right)


def solve_iteratively(unknown: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves by conjugate gradients, preconditioned by multigrid; arguments and result as in `solve`.

    Each level of the multigrid merges blocks of pixels (smoothed aggregation), so that holes of any outline
    need about as many iterations as a square.

    References: Vanek, Mandel and Brezina 1996, "Algebraic multigrid by smoothed aggregation"; Hestenes and
    Stiefel 1952.
    """
    matrix = _laplacian(unknown)
    levels, coarsest = _coarsened(matrix, np.argwhere(unknown))
    solution = np.zeros_like(right)
    residual = right.copy()
    correction = _cycle(levels, coarsest, residual)
    direction = correction.copy()
    product = _column_products(residual, correction)
    for _ in range(_MOST_ITERATIONS):
        # The correction is the error as one multigrid cycle sees it.
        if np.abs(correction).max() <= TOLERANCE:
            return solution + correction
        slope = matrix @ direction
        length = _quotient(product, _column_products(direction, slope))
        solution += length * direction
        residual -= length * slope
        correction = _cycle(levels, coarsest, residual)
        previous, product = product, _column_products(residual, correction)
        direction *= _quotient(product, previous)
        direction += correction
    return _factorised(matrix).solve(right)


def _column_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->j", first, second)


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where it is 0/0: a column that is solved exactly while others are not."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _laplacian(unknown: np.ndarray) -> Any:
    """The equations' matrix, [n, n] sparse: neighbours inside the image on the diagonal, -1 for unknown ones."""
    from scipy import sparse

    count = np.count_nonzero(unknown)
    number = np.full(unknown.shape, -1, np.int32)
    number[unknown] = np.arange(count, dtype=np.int32)
    pairs = []
    for before, after in ((number[:-1], number[1:]), (number[:, :-1], number[:, 1:])):
        both = (before >= 0) & (after >= 0)
        pairs += [(before[both], after[both]), (after[both], before[both])]
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    neighbours = sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return (sparse.diags_array(_degree(unknown.shape)[unknown]) - neighbours).tocsr()


def _degree(shape: tuple[int, ...]) -> np.ndarray:
    """How many 4-neighbours each pixel of an image has, [H, W] float64."""
    degree = np.full(shape, 4.0)
    for edge in ((0,), (-1,), (slice(None), 0), (slice(None), -1)):
        degree[edge] -= 1
    return degree


def _factorised(matrix: Any) -> Any:
    from scipy.sparse import linalg

    # The matrix is symmetric and positive definite: pivots on the diagonal are safe, and keep the factors sparse.
    return linalg.splu(
        matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def _coarsened(matrix: Any, places: np.ndarray) -> tuple[list[_Level], Any]:
    """Builds the coarser grids.

    Args:
      matrix: [n, n] sparse, of the finest grid.
      places: [n, 2] int, (row, column) of each unknown.

    Returns:
      The levels from fine to coarse, and the factorised matrix of the coarsest grid.
    """
    levels: list[_Level] = []
    while matrix.shape[0] > _COARSEST:
        members, places = _aggregates(matrix, places // _BLOCK)
        if members.shape[1] > 0.7 * matrix.shape[0]:  # Specks that no block can merge; quickly factorised.
            break
        diagonal = matrix.diagonal()
        # Gershgorin: no eigenvalue of the scaled matrix is above this.
        largest = (abs(matrix).sum(axis=1) / diagonal).max()
        step = (4 / 3 / largest / diagonal)[:, None]
        prolong = (members - (matrix @ members).multiply(step)).tocsr()
        restrict = prolong.T.tocsr()
        levels.append(_Level(matrix, step, prolong, restrict))
        matrix = (restrict @ matrix @ prolong).tocsr()
    return levels, _factorised(matrix)


def _aggregates(matrix: Any, blocks: np.ndarray) -> tuple[Any, np.ndarray]:
    """Merges the unknowns of each block that hang together.

    Two sides of a thin wall of known pixels may share a block and have nothing to do with each other.

    Args:
      matrix: [n, n] sparse.
      blocks: [n, 2] int, (row, column) of the block of each unknown.

    Returns:
      [n, m] sparse of 0 and 1, the members of each aggregate; and [m, 2] int, the aggregates' blocks.
    """
    from scipy import sparse

    pairs = matrix.tocoo()
    name = blocks[:, 0] * (blocks[:, 1].max() + 1) + blocks[:, 1]
    same = name[pairs.row] == name[pairs.col]
    inside = sparse.coo_array((pairs.data[same], (pairs.row[same], pairs.col[same])), shape=matrix.shape)
    count, label = sparse.csgraph.connected_components(inside.tocsr(), directed=False)
    unknowns = np.arange(len(label))
    members = sparse.coo_array((np.ones(len(label)), (unknowns, label)), shape=(len(label), count)).tocsr()
    places = np.empty((count, 2), blocks.dtype)
    places[label] = blocks
    return members, places


def _cycle(levels: list[_Level], coarsest: Any, residual: np.ndarray) -> np.ndarray:
    """One symmetric V-cycle from zero: [n, C] residuals to [n, C] corrections."""
    if not levels:
        return coarsest.solve(residual)
    level, coarser = levels[0], levels[1:]
    correction = level.step * residual
    remainder = residual - level.matrix @ correction
    correction += level.prolong @ _cycle(coarser, coarsest, level.restrict @ remainder)
    correction += level.step * (residual - level.matrix @ correction)
    return correction
