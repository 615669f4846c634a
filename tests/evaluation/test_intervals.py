"""Bootstrap intervals and bins."""

import numpy as np
import pytest

from glcic_jax.evaluation.statistics import RESAMPLES, finite_mean, hole_ratio_bins, mean_interval, paired_interval


def test_the_interval_is_that_of_resampled_means():
    values = np.random.default_rng(3).gamma(2.0, 1.0, 80)
    found = mean_interval(values)
    means = np.random.default_rng(9).choice(values, (20_000, values.size)).mean(axis=1)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.03)
    assert (found.finite, found.left_out) == (80, 0)
    assert RESAMPLES >= 1_000


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        found = mean_interval(rng.normal(1.0, 2.0, 60))
        inside += found.low <= 1.0 <= found.high
    assert 180 <= inside <= 199


def test_the_same_numbers_give_the_same_interval():
    values = np.random.default_rng(0).normal(size=30)
    assert mean_interval(values) == mean_interval(values.copy())


def test_what_is_not_finite_is_left_out_and_counted():
    found = mean_interval([np.inf, 1.0, np.nan, 2.0, 3.0])
    assert (found.mean, found.finite, found.left_out) == (2.0, 3, 2)
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0
    assert finite_mean(np.array([np.inf, 4.0, np.nan])) == 4.0


def test_too_few_numbers_have_no_interval():
    one = mean_interval([2.0])
    assert (one.mean, one.finite) == (2.0, 1)
    assert np.isnan([one.low, one.high]).all()
    none = mean_interval([np.nan, np.inf])
    assert none.finite == 0
    assert np.isnan([none.mean, none.low, none.high]).all()
    equal = mean_interval([5.0, 5.0, 5.0])
    assert (equal.low, equal.mean, equal.high) == (5.0, 5.0, 5.0)


def test_pairing_takes_out_what_is_hard_in_an_image():
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 10, 50)
    found = paired_interval(hard + rng.normal(0.5, 0.1, 50), hard)
    assert 0.4 < found.low < found.high < 0.6
    with pytest.raises(ValueError, match="not of the same images"):
        paired_interval([1.0, 2.0], [1.0])


def test_two_infinite_numbers_have_no_difference():
    found = paired_interval([np.inf, np.inf, 3.0, 4.0], [np.inf, 1.0, 1.0, 2.0])
    assert (found.mean, found.finite, found.left_out) == (2.0, 2, 2)


def test_bins_include_their_upper_end():
    bins = hole_ratio_bins(np.array([0.0, 0.1, 0.1001, 0.3, 0.1 + 0.2, 1.0, 1e-5]))
    assert [one.label for one in bins] == ["0-10 %", "10-20 %", "20-30 %", "90-100 %"]
    assert [list(one.indices) for one in bins] == [[1, 6], [2], [3, 4], [5]]
