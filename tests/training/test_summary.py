"""Training curves; `test_run.py` tests the summary of a run."""

import math

import numpy as np
import pytest

from glcic_jax.training.summary import MOST_POINTS, curve_points, draw_curves
from glcic_jax.training.tasks.completion import CURVES


def rows(key="reconstruction_loss", values=(3.0, 2.0, 1.0)):
    return [{"step": 10 * (place + 1), key: value} for place, value in enumerate(values)]


def test_curves_go_through_their_points():
    figure = draw_curves({"a": rows(), "b": rows(values=(2.0, 1.5)), "c": rows("other")}, CURVES, [15])
    (axes,) = figure.axes
    assert axes.get_title() == "reconstruction loss in the hole"
    assert axes.get_yscale() == "linear"
    first, second, phase = axes.lines
    np.testing.assert_array_equal(first.get_xydata(), [[10, 3], [20, 2], [30, 1]])
    np.testing.assert_array_equal(second.get_xydata(), [[10, 2], [20, 1.5]])
    assert list(phase.get_xdata()) == [15, 15]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_several_metrics_share_a_plot():
    figure = draw_curves({"a": [{"step": 1, "real_accuracy": 0.5, "fake_accuracy": 0.25}]}, CURVES)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["real_accuracy", "fake_accuracy"]
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()


def test_a_wide_range_of_positive_numbers_has_a_logarithmic_scale():
    wide = draw_curves({"a": rows("adversarial_weight", (1e-4, 1e-2, 1.0))}, CURVES)
    assert wide.axes[0].get_yscale() == "log"
    assert draw_curves({"a": rows(values=(-1.0, 100.0))}, CURVES).axes[0].get_yscale() == "linear"


def test_a_curve_breaks_where_a_value_is_not_a_finite_number():
    values = (1.0, 2.0, math.nan, 3.0, math.inf, 1e40, 1.0, "x", True, None)
    points = curve_points(rows(values=values), "reconstruction_loss")
    np.testing.assert_array_equal(points[:, 0], [10, 20, 30, 40, 50, 60, 70])
    np.testing.assert_array_equal(points[:, 1], [1, 2, np.nan, 3, np.nan, np.nan, 1])


def test_neighbours_of_many_points_are_averaged():
    values = np.where(np.arange(100_000) % 2, 3.0, 1.0)
    values[:50_000] += 10
    points = curve_points(rows(values=values.tolist()), "reconstruction_loss")
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS
    assert set(points[:, 1]) == {2.0, 12.0}


@pytest.mark.parametrize("values", [(), (math.nan,), (2.0,), (2.0, 2.0), (0.0, 0.0)])
def test_few_or_equal_points_can_be_drawn(values):
    figure = draw_curves({"a": rows(values=values)}, CURVES)
    assert len(figure.axes) == bool(np.isfinite(values).any())
    figure.canvas.draw()
