"""How sure a mean over images is: bootstrap confidence intervals, of means and of paired differences."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2_000
_COUNTS_KEPT_UP_TO = 100_000  # Images: 200 MB.
_ROWS_AT_A_TIME = 100


class Interval(NamedTuple):
    """A mean over images with its confidence interval.

    Attributes:
      mean: Of the finite numbers; NaN where there are none.
      low, high: Of the interval; NaN where fewer than two numbers are finite.
      finite: How many numbers were finite.
      left_out: How many were not: infinite PSNR, holes without pixels.
    """

    mean: float
    low: float
    high: float
    finite: int
    left_out: int


def finite_mean(values: np.ndarray) -> float:
    """The mean of the numbers that are finite; NaN where none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else np.nan


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean over images and its 95 % percentile bootstrap interval, from 2,000 resamples of the images.

    The images are what is resampled: the interval says how far the mean would move on other images of the same
    kind, and nothing of another training run. The same numbers give the same interval.

    Args:
      values: [N] float, one number an image; those that are not finite are left out and counted.

    Reference: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    left_out = int(values.size - finite.size)
    if not finite.size:
        return Interval(np.nan, np.nan, np.nan, 0, left_out)
    mean = finite_mean(finite)
    if finite.size < 2:
        return Interval(mean, np.nan, np.nan, 1, left_out)
    if np.ptp(finite) == 0:
        return Interval(mean, mean, mean, finite.size, left_out)
    # About the mean, so that float32 loses nothing of it.
    means = mean + _resampled_means((finite - mean).astype(np.float32))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high), finite.size, left_out)


def _resampled_means(values: np.ndarray) -> np.ndarray:
    """[RESAMPLES] means of as many numbers as there are, drawn from [N] float32 with replacement."""
    count = len(values)
    if count <= _COUNTS_KEPT_UP_TO:
        counts = _counts(count)
        parts = [
            counts[start : start + _ROWS_AT_A_TIME].astype(np.float32) @ values
            for start in range(0, RESAMPLES, _ROWS_AT_A_TIME)
        ]
        return np.concatenate(parts) / count
    return np.array([values[chosen].mean() for chosen in _draws(count)])


@functools.lru_cache(maxsize=2)  # Every metric of every method asks for the same.
def _counts(count: int) -> np.ndarray:
    """[RESAMPLES, N] uint8: how often each resample has each number; hardly ever more than a dozen times."""
    counts = np.empty((RESAMPLES, count), np.uint8)
    for row, chosen in zip(counts, _draws(count), strict=True):
        row[:] = np.minimum(np.bincount(chosen, minlength=count), 255)
    return counts


def _draws(count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.integers(0, count, count) for _ in range(RESAMPLES))


def paired_interval(values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> Interval:
    """The mean over images of `values - others`, with its interval; see `mean_interval`.

    Both are of the same images in the same order, so that what is hard in an image cancels.

    Args:
      values, others: [N] float.

    Raises:
      ValueError: The lengths differ.
    """
    values, others = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if values.shape != others.shape:
        raise ValueError(f"{values.size} and {others.size} numbers are not of the same images")
    with np.errstate(invalid="ignore"):  # Two infinite PSNRs have no difference, and are left out.
        return mean_interval(values - others)


class Bin(NamedTuple):
    """Images whose holes cover about as much.

    Attributes:
      label: As "10-20 %".
      indices: Of the images, in order.
    """

    label: str
    indices: np.ndarray


def hole_ratio_bins(hole_ratio: np.ndarray) -> list[Bin]:
    """Sorts images into bins of a tenth by the fraction of them that is hole; empty bins are left out.

    A bin includes its upper end and not its lower one, as (0.1, 0.2] for "10-20 %"; images without a hole are
    in none.

    Args:
      hole_ratio: [N] float in [0, 1].
    """
    # Rounded against the last bit: 0.30000000000000004 is three tenths.
    place = np.ceil(np.round(np.asarray(hole_ratio) * 10, 9)).astype(int)
    return [
        Bin(f"{10 * (upper - 1)}-{10 * upper} %", np.flatnonzero(place == upper))
        for upper in range(1, 11)
        if (place == upper).any()
    ]
