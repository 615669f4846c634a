"""Bootstrap intervals of means and of paired differences, and the conclusions drawn from them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from glcic_jax.evaluation.scores import (
    BLENDED,
    METRICS,
    Evaluation,
    Metric,
    count_of,
    format_difference,
    format_number,
)
from glcic_jax.pictures.fills import FILLS

CONFIDENCE = 0.95
RESAMPLES = 2_000
_LARGEST_CACHED = 100_000  # Images: a table of 200 MB.
_ROWS_AT_A_TIME = 100


def finite_mean(values: np.ndarray) -> float:
    """The mean of the finite numbers; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else np.nan


class Interval(NamedTuple):
    """A mean over images with its confidence interval.

    Attributes:
      mean: Mean of the finite numbers; NaN if there are none.
      low, high: Bounds of the interval; NaN with fewer than two finite numbers.
      finite: Count of finite numbers.
      left_out: Count of the others: infinite PSNR, images without a hole.
    """

    mean: float
    low: float
    high: float
    finite: int
    left_out: int

    def bracket(self, digits: int, form: Callable[[float, int], str] = format_number) -> str:
        """The interval as "[low, high]"; empty if there is none."""
        return "" if np.isnan(self.low) else f"[{form(self.low, digits)}, {form(self.high, digits)}]"


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean over images and its 95 % percentile bootstrap interval from 2,000 resamples.

    Images are resampled: the interval covers other images of the same kind, not another training run. The
    resamples are seeded: equal numbers give equal intervals.

    Args:
      values: [N] float, one number per image; those that are not finite are left out and counted.

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
    # Centred first, so that float32 keeps the digits.
    means = mean + _resampled_means((finite - mean).astype(np.float32))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high), finite.size, left_out)


def _resampled_means(values: np.ndarray) -> np.ndarray:
    """Means [RESAMPLES] of N numbers drawn with replacement from [N] float32."""
    count = len(values)
    if count > _LARGEST_CACHED:
        return np.array([values[chosen].mean() for chosen in _draws(count)])
    counts = _resample_counts(count)
    parts = [
        counts[start : start + _ROWS_AT_A_TIME].astype(np.float32) @ values
        for start in range(0, RESAMPLES, _ROWS_AT_A_TIME)
    ]
    return np.concatenate(parts) / count


@functools.lru_cache(maxsize=2)  # The same for every metric of every method.
def _resample_counts(count: int) -> np.ndarray:
    """How often each resample draws each number, [RESAMPLES, N] uint8: rarely more than a dozen times."""
    counts = np.empty((RESAMPLES, count), np.uint8)
    for row, chosen in zip(counts, _draws(count), strict=True):
        row[:] = np.minimum(np.bincount(chosen, minlength=count), 255)
    return counts


def _draws(count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.integers(0, count, count) for _ in range(RESAMPLES))


def paired_interval(values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> Interval:
    """The interval of the mean of `values - others`, both [N] float on the same images in the same order."""
    values, others = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if values.shape != others.shape:
        raise ValueError(f"{values.size} and {others.size} numbers are not of the same images")
    with np.errstate(invalid="ignore"):  # Two infinite PSNRs have no difference and are left out.
        return mean_interval(values - others)


def hole_ratio_bins(hole_ratio: np.ndarray) -> dict[str, np.ndarray]:
    """Groups images by the fraction that is hole, in bins of a tenth.

    A bin includes its upper bound and not its lower one: "10-20 %" is (0.1, 0.2]. Images without a hole are in no
    bin, and empty bins are left out.

    Args:
      hole_ratio: [N] float in [0, 1].

    Returns:
      The images' indices by the bin's label.
    """
    # Rounded, because 0.30000000000000004 is three tenths.
    upper_bound = np.ceil(np.round(np.asarray(hole_ratio) * 10, 9)).astype(int)
    return {
        f"{10 * (upper - 1)}-{10 * upper} %": np.flatnonzero(upper_bound == upper)
        for upper in range(1, 11)
        if (upper_bound == upper).any()
    }


class Mean(NamedTuple):
    """A method's mean of a metric.

    Attributes:
      interval: The mean and its interval.
      best: Whether it is the best mean, and better than the second best beyond the interval.
      infinite, missing: Images left out because their number is infinite, or undefined.
    """

    interval: Interval
    best: bool = False
    infinite: int = 0
    missing: int = 0


@functools.lru_cache(maxsize=2)  # Three files and a page use the same, and resampling takes time.
def means(evaluation: Evaluation) -> list[dict[str, Mean]]:
    """For each method, its mean of each metric."""
    table: list[dict[str, Mean]] = [{} for _ in evaluation.scores]
    for key in evaluation.metrics:
        columns = [scores.values[key] for scores in evaluation.scores]
        best = _clearly_best(columns, METRICS[key])
        for row, values in enumerate(columns):
            infinite, missing = int(np.isinf(values).sum()), int(np.isnan(values).sum())
            table[row][key] = Mean(mean_interval(values), row == best, infinite, missing)
    return table


def _level(values: np.ndarray) -> float:
    """The mean of the defined numbers, infinite if one of them is; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else np.nan


def _clearly_best(columns: Sequence[np.ndarray], metric: Metric) -> int | None:
    """The index of the best method; None if it is not clearly better than the second best."""
    sign = -1 if metric.higher_is_better else 1
    levels = [_level(metric.compared(values)) for values in columns]
    ranked = sorted(np.flatnonzero(~np.isnan(levels)).tolist(), key=lambda index: sign * levels[index])
    if len(ranked) < 2:
        return None
    best, second = ranked[:2]
    return best if compared(columns[best], columns[second], metric).verdict == "better" else None


class Compared(NamedTuple):
    """Two methods on the same images: the interval of first minus second, and the verdict on the first.

    For a metric with a target, the interval is of the distances from it.
    """

    interval: Interval
    verdict: str


def compared(values: np.ndarray, others: np.ndarray, metric: Metric) -> Compared:
    """Compares two methods' numbers [N] on the same images, or their distances from the metric's target."""
    interval = paired_interval(metric.compared(values), metric.compared(others))
    # The mean leaves these images out although one of the methods is perfect there.
    one_sided = int(np.count_nonzero(np.isinf(values) != np.isinf(others)))
    if one_sided:
        return Compared(interval, f"no verdict: infinite for one of the two in {one_sided:,}")
    if np.isnan(interval.low):
        return Compared(interval, "too few images to tell")
    if interval.low <= 0 <= interval.high:
        return Compared(interval, "no difference found")
    return Compared(interval, "better" if (interval.low > 0) == metric.higher_is_better else "worse")


def verdict(evaluation: Evaluation) -> str:
    """One sentence: the first method against the best classical fill, or the best other method without one.

    The opponent is chosen for each metric on the same images, which favours it.
    """
    subject, *others = evaluation.scores
    classical = [scores for scores in others if scores.name.removesuffix(BLENDED) in FILLS]
    opponents = classical or others
    clauses = []
    for key in ("hole_l1", "hole_psnr"):
        if np.isfinite(subject.values.get(key, np.nan)).any():
            candidates = [(other.values[key], other.name) for other in opponents]
            candidates = [pair for pair in candidates if not np.isnan(_level(pair[0]))]
            clauses.append(_clause(METRICS[key], subject.values[key], candidates))
    images = count_of(len(evaluation.images), "image")
    if not clauses:
        return f"{subject.name} has no hole that could be measured, over {images}."
    against = "the best classical fill" if classical else "the best other method"
    comparison = f" against {against} of each metric" if opponents else " by itself"
    return f"{subject.name}{comparison}, over {images}: {'; '.join(clauses)}."


def _clause(metric: Metric, values: np.ndarray, candidates: Sequence[tuple[np.ndarray, str]]) -> str:
    def mean(numbers: np.ndarray) -> str:
        return metric.with_unit(format_number(finite_mean(numbers), metric.digits))

    if not candidates:
        return f"{metric.name} {mean(values)}"
    pick = max if metric.higher_is_better else min
    numbers, opponent = pick(candidates, key=lambda candidate: _level(candidate[0]))
    interval, verdict = compared(values, numbers, metric)
    # Both means over the same images, so that they match the difference.
    pairs = np.isfinite(values) & np.isfinite(numbers)
    gap = f"difference {metric.with_unit(format_difference(interval.mean, metric.digits))}"
    if not np.isnan(interval.low):
        gap += f", {100 * CONFIDENCE:.0f} % interval {interval.bracket(metric.digits, format_difference)}"
    if interval.left_out:
        gap += f", over {interval.finite:,} of {len(values):,}"
    return (
        f"{verdict} on {metric.name} ({mean(values[pairs])} against {mean(numbers[pairs])} of {opponent}; {gap})"
    )


def extremes(values: np.ndarray, most: int = 4) -> dict[str, list[tuple[int, int]]]:
    """The best, the median and the worst images, none of them twice; fewer of each for few images.

    Args:
      values: [N], lower is better; numbers that are not finite have no rank.
      most: Images of each group.

    Returns:
      By title: (rank, index) of each image, in order; rank 1 is the best.
    """
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    count = len(order)
    each = min(most, max(1, count // 3))
    starts = {"Best": 0, "Median": (count - each) // 2, "Worst": count - each}
    if count < 3:
        starts = dict(list({"Best": 0, "Worst": 1}.items())[:count])
    return {
        title: [(rank + 1, int(order[rank])) for rank in range(start, start + each)]
        for title, start in starts.items()
    }
