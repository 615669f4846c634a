"""Solves the discrete Poisson equation on an arbitrary set of pixels.

Each unknown pixel has one equation: the sum of its differences to its 4-neighbours inside the image is given.
Known neighbours are 0 (Dirichlet); the image border adds no terms (Neumann).

SciPy is imported inside the functions: it takes most of a second.
"""

from typing import Any, NamedTuple

import numpy as np

# Up to this number of pixels a factorisation is as fast as the multigrid iterations.
LARGEST_EXACT = 10_000
# Stopping criterion. The remaining error never exceeded three times this (see the tests).
TOLERANCE = 0.01 / 255
_MAX_ITERATIONS = 200
_COARSEST = 2_000
# A smoothed 3 x 3 block reaches only its 8 neighbours, so coarse matrices stay as sparse as fine ones.
_BLOCK = 3


class _Level(NamedTuple):
    """One grid of the multigrid cycle.

    Attributes:
      matrix: [n, n] sparse, symmetric, positive definite.
      step: [n, 1], factors of a damped Jacobi sweep.
      prolong: [n, m] sparse, from the next coarser grid to this one.
      restrict: [m, n] sparse, its transpose.
    """

    matrix: Any
    step: np.ndarray
    prolong: Any
    restrict: Any


def solve(unknown: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves for all unknown pixels: up to `LARGEST_EXACT` exactly, more iteratively.

    Args:
      unknown: [H, W] bool, not all True, because the solution would be determined only up to a constant.
      right: [n, C] float64, the sums of differences at the n unknown pixels, in row-major order.

    Returns:
      [n, C] float64; for many pixels to within a quarter of 1/255, in the units of [0, 1] images.
    """
    method = solve_exactly if len(right) <= LARGEST_EXACT else solve_iteratively
    return method(unknown, right)


def solve_exactly(unknown: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves by a sparse factorisation; arguments and result as in `solve`."""
    return _factorise(_laplacian(unknown)).solve(right)


def solve_iteratively(unknown: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solves by conjugate gradients, preconditioned by multigrid; arguments and result as in `solve`.

    Each multigrid level merges blocks of pixels (smoothed aggregation), so holes of any outline need about as many
    iterations as a square.

    References: Vanek, Mandel and Brezina 1996, "Algebraic multigrid by smoothed aggregation"; Hestenes and
    Stiefel 1952.
    """
    matrix = _laplacian(unknown)
    levels, coarsest = _coarsen(matrix, np.argwhere(unknown))
    solution = np.zeros_like(right)
    residual = right.copy()
    correction = _cycle(levels, coarsest, residual)
    direction = correction.copy()
    product = _column_products(residual, correction)
    for _ in range(_MAX_ITERATIONS):
        # The correction is one multigrid cycle's estimate of the error.
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
    return _factorise(matrix).solve(right)


def _column_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->j", first, second)


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides with 0/0 = 0, for columns that converge to the exact solution before others."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _laplacian(unknown: np.ndarray) -> Any:
    """Returns [n, n] sparse: each pixel's neighbours inside the image on the diagonal, -1 for unknown ones."""
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
    degree = np.full(unknown.shape, 4.0)
    for edge in ((0,), (-1,), (slice(None), 0), (slice(None), -1)):
        degree[edge] -= 1
    return (sparse.diags_array(degree[unknown]) - neighbours).tocsr()


def _factorise(matrix: Any) -> Any:
    from scipy.sparse import linalg

    # For a symmetric positive definite matrix diagonal pivots are stable and keep the factors sparse.
    return linalg.splu(
        matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def _coarsen(matrix: Any, positions: np.ndarray) -> tuple[list[_Level], Any]:
    """Builds the multigrid levels.

    Args:
      matrix: [n, n] sparse, of the finest grid.
      positions: [n, 2] int, (row, column) of each unknown.

    Returns:
      The levels from fine to coarse, and the factorised matrix of the coarsest grid.
    """
    levels: list[_Level] = []
    while matrix.shape[0] > _COARSEST:
        members, positions = _aggregate(matrix, positions // _BLOCK)
        if members.shape[1] > 0.7 * matrix.shape[0]:  # Isolated specks do not merge, but factorise quickly.
            break
        diagonal = matrix.diagonal()
        # Gershgorin bound on the eigenvalues of the scaled matrix.
        largest = (abs(matrix).sum(axis=1) / diagonal).max()
        step = (4 / 3 / largest / diagonal)[:, None]
        prolong = (members - (matrix @ members).multiply(step)).tocsr()
        restrict = prolong.T.tocsr()
        levels.append(_Level(matrix, step, prolong, restrict))
        matrix = (restrict @ matrix @ prolong).tocsr()
    return levels, _factorise(matrix)


def _aggregate(matrix: Any, blocks: np.ndarray) -> tuple[Any, np.ndarray]:
    """Merges the connected unknowns of each block.

    Unknowns on two sides of a thin wall of known pixels may share a block but are not merged.

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
    positions = np.empty((count, 2), blocks.dtype)
    positions[label] = blocks
    return members, positions


def _cycle(levels: list[_Level], coarsest: Any, residual: np.ndarray) -> np.ndarray:
    """Runs one symmetric V-cycle from zero, from residuals [n, C] to corrections [n, C]."""
    if not levels:
        return coarsest.solve(residual)
    level, coarser = levels[0], levels[1:]
    correction = level.step * residual
    remainder = residual - level.matrix @ correction
    correction += level.prolong @ _cycle(coarser, coarsest, level.restrict @ remainder)
    correction += level.step * (residual - level.matrix @ correction)
    return correction
