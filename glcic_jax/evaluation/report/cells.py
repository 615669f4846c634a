"""An evaluation's numbers as the tables of a page: what stands in each cell, and what it is sorted by."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glcic_jax.evaluation.scores import FID, METRICS, Evaluation, Metric
from glcic_jax.evaluation.statistics import (
    Interval,
    Mean,
    bracket,
    difference,
    differences,
    has_fid,
    hole_ratio_bins,
    mean_interval,
    number,
    speed,
    values_of,
)
from glcic_jax.evaluation.tables import arrow

_OF_BINS = ("hole_l1", "hole_psnr", "ssim")
FEWEST_WITH_INTERVAL = 10  # Of a bin's images.


class Cell(NamedTuple):
    """A number on the page.

    Attributes:
      text: It.
      small: What stands below it.
      order: What its column is sorted by, a number as text; empty where there is none.
      mark: How it is set: "best", "better", "worse" or "".
    """

    text: str
    small: str = ""
    order: str = ""
    mark: str = ""


class Head(NamedTuple):
    """The head of a column.

    Attributes:
      label: Of what stands below.
      arrow: Which direction is better: "↑", "↓" or "" where there is none.
    """

    label: str
    arrow: str = ""


class Table(NamedTuple):
    """Numbers by method.

    Attributes:
      heads: Of the columns after the first.
      rows: The name of each row and its cells.
    """

    heads: list[Head]
    rows: list[tuple[str, list[Cell]]]


class BinRows(NamedTuple):
    """The methods' means over images whose holes cover about as much.

    Attributes:
      label: Of the bin.
      images: How many it has.
      rows: The name of each method and its cells.
    """

    label: str
    images: int
    rows: list[tuple[str, list[Cell]]]


def head(metric: Metric) -> Head:
    """The head of a metric's column."""
    return Head(metric.label, arrow(metric))


def plain(value: float | None, text: str) -> Cell:
    """A number without an interval."""
    return Cell(text, order="" if value is None or np.isnan(value) else repr(float(value)))


def results(evaluation: Evaluation, table: Sequence[dict[str, Mean]]) -> Table:
    """Every method's means with their intervals, and how fast it is.

    Args:
      evaluation: What was measured.
      table: Its `means`.
    """
    fid = has_fid(evaluation)
    heads = [head(METRICS[name]) for name in evaluation.metrics] + [head(FID)] * fid
    rows = []
    for scores, row in zip(evaluation.scores, table, strict=True):
        cells = [_mean(row[name], METRICS[name]) for name in evaluation.metrics]
        cells += [plain(scores.fid, number(scores.fid, FID.digits))] * fid
        cells.append(plain(scores.images_per_second, speed(scores.images_per_second)))
        rows.append((scores.name, cells))
    return Table([*heads, Head("images/s")], rows)


def _mean(mean: Mean, metric: Metric) -> Cell:
    value = mean.interval.mean
    cell = plain(value, number(value, metric.digits))
    return cell._replace(small=bracket(mean.interval, metric.digits), mark="best" if mean.best else "")


def paired(evaluation: Evaluation, pairs: Sequence[tuple[str, int, int]]) -> Table:
    """Differences of two methods on the same images.

    Args:
      evaluation: What was measured.
      pairs: The name of each row, and the places of the method and of what is subtracted from it.
    """
    rows = []
    for name, method, other in pairs:
        cells = []
        for metric, (found, verdict) in differences(evaluation, method, other).items():
            digits = METRICS[metric].digits
            over = f"{found.finite:,} of {len(evaluation.images):,} images" if found.left_out else ""
            small = "\n".join(filter(None, (bracket(found, digits, difference), over, verdict)))
            cell = plain(found.mean, difference(found.mean, digits))
            cells.append(cell._replace(small=small, mark=verdict if verdict in ("better", "worse") else ""))
        rows.append((name, cells))
    return Table([head(METRICS[name]) for name in evaluation.metrics], rows)


def by_hole_ratio(evaluation: Evaluation) -> tuple[list[Head], list[BinRows]]:
    """The methods' means by the fraction of the image that is hole: the heads, and each bin's rows."""
    names = [name for name in _OF_BINS if name in evaluation.metrics]
    count = len(evaluation.images)
    bins = []
    for one in hole_ratio_bins(evaluation.hole_ratio):
        rows = []
        for scores in evaluation.scores:
            intervals = [mean_interval(values_of(scores, name, count)[one.indices]) for name in names]
            cells = [
                _mean(Mean(_cautious(interval), False, 0, 0), METRICS[name])
                for name, interval in zip(names, intervals, strict=True)
            ]
            rows.append((scores.name, cells))
        bins.append(BinRows(one.label, len(one.indices), rows))
    return [head(METRICS[name]) for name in names], bins


def _cautious(interval: Interval) -> Interval:
    """The same without its ends where it comes from so few images that they would say nothing."""
    few = interval.finite < FEWEST_WITH_INTERVAL
    return interval._replace(low=np.nan, high=np.nan) if few else interval


def of_image(evaluation: Evaluation, method: int, index: int) -> list[Cell]:
    """One method's numbers on one image."""
    count = len(evaluation.images)
    cells = []
    for name in evaluation.metrics:
        value = values_of(evaluation.scores[method], name, count)[index]
        cells.append(plain(value, number(value, METRICS[name].digits)))
    return cells
