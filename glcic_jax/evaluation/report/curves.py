"""Training curves as lines to draw: which numbers, on what scale, and where each point falls."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import ticker

# Of the plotting area, in the units of the drawing.
WIDTH, HEIGHT = 420.0, 200.0
_MOST_POINTS = 500
_LARGEST = 1e30  # What is beyond has left all scales.
# Positive numbers that span more than this are drawn on a logarithmic scale.
_LOGARITHMIC_FROM = 30.0
_TICK_STEPS = (1, 2, 2.5, 5, 10)

CURVES = (
    ("reconstruction loss in the hole", "reconstruction_loss"),
    ("discriminator loss", "discriminator_loss"),
    ("validation PSNR in the hole, dB", "validation_hole_psnr"),
    ("validation L1 in the hole", "validation_hole_l1"),
    ("weight of the adversarial gradient", "adversarial_weight"),
    ("images/s", "images_per_second"),
)


class Line(NamedTuple):
    """One run's curve.

    Attributes:
      run: Its place among the runs, which gives it its colour and dashes.
      pieces: The points "x,y x,y ..." of each unbroken piece.
      dots: (x, y) of points that stand alone, as text.
    """

    run: int
    pieces: list[str]
    dots: list[tuple[str, str]]


class Tick(NamedTuple):
    """A mark on an axis.

    Attributes:
      place: Along the axis, as text.
      label: What it says.
    """

    place: str
    label: str


class Chart(NamedTuple):
    """All runs' curves of one number.

    Attributes:
      title: What it is.
      lines: One for each run that has it.
      steps: The ticks of the step axis.
      values: The ticks of the other.
      logarithmic: Whether that one is.
      missing: The runs that do not have it.
    """

    title: str
    lines: list[Line]
    steps: list[Tick]
    values: list[Tick]
    logarithmic: bool
    missing: list[str]


def charts(names: Sequence[str], rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[Chart]:
    """The curves of `CURVES` that any run has.

    Args:
      names: Of the runs.
      rows: For each run its rows of metrics.jsonl, in order of steps.
    """
    found = []
    for title, key in CURVES:
        curves = [_points(of_run, key) for of_run in rows]
        values = np.concatenate([curve[:, 1] for curve in curves] or [np.empty(0)])
        if np.isfinite(values).any():
            drawn = [bool(np.isfinite(curve[:, 1]).any()) for curve in curves]
            missing = [name for name, is_drawn in zip(names, drawn, strict=True) if not is_drawn]
            found.append(_chart(title, curves, missing))
    return found


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """[N, 2] float64 of step and value, no more than `_MOST_POINTS`: neighbours are averaged."""
    pairs = [(row["step"], row[key]) for row in rows if _is_number(row.get(key)) and _is_number(row.get("step"))]
    points = np.array(pairs, np.float64).reshape(-1, 2)
    points[np.abs(points[:, 1]) > _LARGEST, 1] = np.nan
    each = -(-len(points) // _MOST_POINTS)
    if each < 2:
        return points
    starts = np.arange(0, len(points), each)
    finite = np.isfinite(points[:, 1])
    counts = np.add.reduceat(finite, starts, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # Where none of the neighbours is finite there is no point.
        return np.add.reduceat(np.where(finite[:, None], points, 0.0), starts) / counts[:, None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chart(title: str, curves: Sequence[np.ndarray], missing: list[str]) -> Chart:
    points = np.concatenate(curves)
    points = points[np.isfinite(points).all(axis=1)]
    values = points[:, 1]
    logarithmic = bool(values.min() > 0 and values.max() / values.min() > _LOGARITHMIC_FROM)
    across = _Axis(*_range(points[:, 0]), WIDTH, False)
    up = _Axis(*_range(values), HEIGHT, logarithmic)
    lines = []
    for run, curve in enumerate(curves):
        if np.isfinite(curve[:, 1]).any():
            lines.append(_line(run, across.places(curve[:, 0]), HEIGHT - up.places(curve[:, 1])))
    steps = [Tick(f"{place:.1f}", f"{step:,.0f}") for step, place in across.ticks(whole=True)]
    marks = [Tick(f"{HEIGHT - place:.1f}", f"{value:.6g}") for value, place in up.ticks(whole=False)]
    return Chart(title, lines, steps, marks, logarithmic, missing)


class _Axis(NamedTuple):
    low: float
    high: float
    length: float
    logarithmic: bool

    def places(self, values: np.ndarray) -> np.ndarray:
        """Where values fall between 0 and the length; NaN for those that are not finite."""
        values = np.where(np.isfinite(values), values, np.nan)
        ends = np.array([self.low, self.high])
        if self.logarithmic:
            values, ends = np.log(values), np.log(ends)
        return (values - ends[0]) / (ends[1] - ends[0]) * self.length

    def ticks(self, whole: bool) -> list[tuple[float, float]]:
        """About five round values, or whole numbers, and their places."""
        locator: ticker.Locator = ticker.MaxNLocator(5, steps=_TICK_STEPS, integer=whole)
        if self.logarithmic:
            locator = ticker.LogLocator(subs=(1.0, 3.0) if self.high / self.low < 1000 else (1.0,))
        values = np.array([v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high])
        return list(zip(values.tolist(), self.places(values).tolist(), strict=True))


def _range(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest, made apart where they are one."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - abs(low or 1) / 10, high + abs(high or 1) / 10)


def _line(run: int, x: np.ndarray, y: np.ndarray) -> Line:
    """Pieces between points that are not finite; a piece of one point is a dot."""
    pieces, dots = [], []
    for piece in np.split(np.arange(len(y)), np.flatnonzero(~np.isfinite(y))):
        kept = [(f"{x[place]:.1f}", f"{y[place]:.1f}") for place in piece if np.isfinite(y[place])]
        if len(kept) == 1:
            dots.append(kept[0])
        elif kept:
            pieces.append(" ".join(",".join(point) for point in kept))
    return Line(run, pieces, dots)
