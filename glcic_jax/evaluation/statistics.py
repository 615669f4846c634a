"""How sure a mean over images is: bootstrap confidence intervals, of means and of paired differences."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from glcic_jax.evaluation.scores import BLENDED, METRICS, Evaluation, Metric, Scores
from glcic_jax.pictures.fills import FILLS

CONFIDENCE = 0.95
RESAMPLES = 2_000
_COUNTS_KEPT_UP_TO = 100_000  # Images: 200 MB.
_ROWS_AT_A_TIME = 100


def finite_mean(values: np.ndarray) -> float:
    """The mean of the numbers that are finite; NaN where none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else np.nan


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


# What the pages call the fills that need no training; each also with ", blended".
CLASSICAL = tuple(FILLS)
FEW_IMAGES = 30
MINUS = "\u2212"  # As wide as a plus, unlike the hyphen.

INTERVALS = (
    f"In brackets: {100 * CONFIDENCE:.0f} % percentile bootstrap intervals from {RESAMPLES:,} resamples of the "
    "images. They say how far a mean would move on other images of the same kind, and nothing of another "
    "training run."
)
BOLD = (
    "Bold: the best mean, where the interval of its paired differences from the second best does not contain 0. "
    "No correction is made for the number of comparisons; FID and images/s have no interval and are never bold."
)
FEW = f"Fewer than {FEW_IMAGES} images: the intervals are too narrow to rely on."


class Mean(NamedTuple):
    """A method's mean of a metric.

    Attributes:
      interval: The mean and its interval.
      best: Whether it is the best mean, and surely better than the second best.
      infinite, missing: How many images are left out because their number is infinite, or because there is none.
    """

    interval: Interval
    best: bool
    infinite: int
    missing: int


def number(value: float | None, digits: int) -> str:
    """A number with its digits after the point; "-" where there is none, and the sign of infinity."""
    if value is None or np.isnan(value):
        return "-"
    if np.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)  # + 0.0: no "-0.00".


def difference(value: float, digits: int) -> str:
    """As `number`, with a plus before what is above 0."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def speed(images_per_second: float | None) -> str:
    """Images/s with about three digits."""
    if images_per_second is None or not 0 < images_per_second < 1000:
        return number(images_per_second, 0)
    return number(images_per_second, next(digits for digits in range(9) if images_per_second * 10**digits >= 100))


def values_of(scores: Scores, metric: str, count: int) -> np.ndarray:
    """A method's numbers, [count] float64; NaN where it was not measured."""
    values = scores.values.get(metric)
    return np.full(count, np.nan) if values is None else np.asarray(values, np.float64)


@functools.lru_cache(maxsize=2)  # A table, a page and a file want the same, and resampling takes its time.
def means(evaluation: Evaluation) -> list[dict[str, Mean]]:
    """For each method its mean of each metric."""
    table: list[dict[str, Mean]] = [{} for _ in evaluation.scores]
    for metric in evaluation.metrics:
        columns = [values_of(scores, metric, len(evaluation.images)) for scores in evaluation.scores]
        intervals = [mean_interval(values) for values in columns]
        best = _surely_best(columns, METRICS[metric])
        for place, (values, interval) in enumerate(zip(columns, intervals, strict=True)):
            infinite, missing = int(np.isinf(values).sum()), int(np.isnan(values).sum())
            table[place][metric] = Mean(interval, place == best, infinite, missing)
    return table


def _level(values: np.ndarray) -> float:
    """The mean of the numbers that there are: infinite where one is. NaN without any."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else np.nan


def _surely_best(columns: Sequence[np.ndarray], metric: Metric) -> int | None:
    """The place of the best method; None where it is not surely better than the second best."""
    sign = -1 if metric.higher_is_better else 1
    levels = [_level(values) for values in columns]
    ranked = sorted(np.flatnonzero(~np.isnan(levels)).tolist(), key=lambda place: sign * levels[place])
    if len(ranked) < 2:
        return None
    best, second = ranked[:2]
    found = compared(columns[best], columns[second], metric)
    return best if found.verdict == "better" else None


class Compared(NamedTuple):
    """Two methods on the same images.

    Attributes:
      interval: Of the paired differences, the first minus the second.
      verdict: What it says of the first.
    """

    interval: Interval
    verdict: str


def compared(values: np.ndarray, others: np.ndarray, metric: Metric) -> Compared:
    """Compares two methods' numbers [N] of the same images."""
    interval = paired_interval(values, others)
    # Left out is then what one of the two does perfectly, and what is left speaks against it.
    one_sided = int(np.count_nonzero(np.isinf(values) != np.isinf(others)))
    if one_sided:
        return Compared(interval, f"no verdict: infinite for one of the two in {one_sided:,}")
    if np.isnan(interval.low):
        return Compared(interval, "too few images to tell")
    if interval.low <= 0 <= interval.high:
        return Compared(interval, "no difference found")
    return Compared(interval, "better" if (interval.low > 0) == metric.higher_is_better else "worse")


def differences(evaluation: Evaluation, method: int, other: int) -> dict[str, Compared]:
    """The paired differences of two methods, `method - other`, by metric.

    Args:
      evaluation: What was measured.
      method, other: Their places in `evaluation.scores`.
    """
    count = len(evaluation.images)
    first, second = evaluation.scores[method], evaluation.scores[other]
    return {
        metric: compared(values_of(first, metric, count), values_of(second, metric, count), METRICS[metric])
        for metric in evaluation.metrics
    }


def verdict(evaluation: Evaluation) -> str:
    """One sentence: the first method against the best classical fill, or the best other where there is none.

    The rival is the best of each metric by itself; that it was chosen by the same images favours it.
    """
    subject, *others = evaluation.scores
    count = len(evaluation.images)
    classical = [scores for scores in others if scores.name.removesuffix(BLENDED) in CLASSICAL]
    rivals = classical or others
    against = "the best classical fill" if classical else "the best other method"
    clauses = []
    for name in ("hole_l1", "hole_psnr"):
        metric = METRICS[name]
        values = values_of(subject, name, count)
        candidates = [(values_of(rival, name, count), rival.name) for rival in rivals]
        candidates = [(numbers, rival) for numbers, rival in candidates if not np.isnan(_level(numbers))]
        if np.isfinite(values).any():
            clauses.append(_clause(metric, values, candidates))
    images = "1 image" if count == 1 else f"{count:,} images"
    if not clauses:
        return f"{subject.name} has no hole that could be measured, over {images}."
    comparison = f" against {against} of each metric" if rivals else " by itself"
    return f"{subject.name}{comparison}, over {images}: {'; '.join(clauses)}."


def _clause(metric: Metric, values: np.ndarray, candidates: Sequence[tuple[np.ndarray, str]]) -> str:
    label, _, unit = metric.label.partition(", ")
    unit = f" {unit}" if unit else ""
    if not candidates:
        return f"{label} {number(finite_mean(values), metric.digits)}{unit}"
    pick = max if metric.higher_is_better else min
    numbers, rival = pick(candidates, key=lambda candidate: _level(candidate[0]))
    interval, verdict = compared(values, numbers, metric)
    # Both means over the same images, so that they differ by the difference.
    pairs = np.isfinite(values) & np.isfinite(numbers)
    own, theirs = (f"{number(finite_mean(one[pairs]), metric.digits)}{unit}" for one in (values, numbers))
    gap = f"difference {difference(interval.mean, metric.digits)}{unit}"
    if not np.isnan(interval.low):
        gap += f", {100 * CONFIDENCE:.0f} % interval {bracket(interval, metric.digits, difference)}"
    if interval.left_out:
        gap += f", over {interval.finite:,} of {len(values):,}"
    return f"{verdict} on {label} ({own} against {theirs} of {rival}; {gap})"


def bracket(interval: Interval, digits: int, form: Callable[[float, int], str] = number) -> str:
    """An interval as text, "[low, high]"; empty where there is none."""
    if np.isnan(interval.low):
        return ""
    return f"[{form(interval.low, digits)}, {form(interval.high, digits)}]"


def left_out(evaluation: Evaluation, table: Sequence[dict[str, Mean]]) -> list[str]:
    """A line for each metric and method that some images are left out of."""
    lines = []
    for metric in evaluation.metrics:
        for scores, row in zip(evaluation.scores, table, strict=True):
            parts = []
            if row[metric].infinite:
                parts.append(f"{row[metric].infinite:,} infinite")
            if row[metric].missing:
                parts.append(f"{row[metric].missing:,} without a number")
            if parts:
                label = METRICS[metric].label
                lines.append(f"{label}, {scores.name}: {' and '.join(parts)} of {len(evaluation.images):,} images")
    return lines


def not_computed(evaluation: Evaluation) -> list[str]:
    """A line for each metric that is missing, with the reason where there is one."""
    missing = dict(evaluation.not_computed)
    if "lpips" not in evaluation.metrics:
        missing.setdefault("LPIPS", "")
    if not has_fid(evaluation):
        missing.setdefault("FID", "")
    return [f"{label}: not computed" + (f" ({reason})" if reason else "") for label, reason in missing.items()]


def has_fid(evaluation: Evaluation) -> bool:
    """Whether any method has one."""
    return any(scores.fid is not None for scores in evaluation.scores)


class Ranked(NamedTuple):
    """Images with neighbouring ranks.

    Attributes:
      title: Where they stand: "Best", "Median" or "Worst".
      images: (rank, index) of each, the best first; the best of all has rank 1.
    """

    title: str
    images: list[tuple[int, int]]


def extremes(values: np.ndarray, most: int = 4) -> Iterator[Ranked]:
    """The best, the middle and the worst images, none of them twice; of few images fewer.

    Args:
      values: [N], lower is better; those that are not finite have no rank.
      most: Images of each kind.
    """
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]
    count = len(order)
    each = min(most, max(1, count // 3))
    starts = {"Best": 0, "Median": (count - each) // 2, "Worst": count - each}
    if count < 3:
        starts = dict(list({"Best": 0, "Worst": 1}.items())[:count])
    for title, start in starts.items():
        yield Ranked(title, [(rank + 1, int(order[rank])) for rank in range(start, start + each)])
