"""Bootstrap intervals, paired differences, verdicts, bins and ranks."""

import math

import numpy as np
import pytest
from helpers.pages import evaluation

from glcic_jax.evaluation import statistics
from glcic_jax.evaluation.scores import (
    METRICS,
    Evaluation,
    Scores,
    format_difference,
    format_number,
    format_speed,
)
from glcic_jax.evaluation.statistics import finite_mean, hole_ratio_bins, mean_interval, paired_interval

MINUS = "\u2212"


def of(values, names=("run", "Telea"), metric="hole_l1"):
    """An evaluation of one metric, from one list of numbers for each method."""
    scores = [Scores(name, {metric: np.array(value, float)}) for name, value in zip(names, values, strict=True)]
    count = len(values[0])
    return Evaluation("title", {}, [f"{i}.png" for i in range(count)], np.full(count, 0.2), scores)


def test_interval_agrees_with_an_independent_bootstrap():
    values = np.random.default_rng(3).gamma(2.0, 1.0, 80)
    found = mean_interval(values)
    means = np.random.default_rng(9).choice(values, (20_000, values.size)).mean(axis=1)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.03)
    assert (found.finite, found.left_out) == (80, 0)
    assert statistics.RESAMPLES >= 1_000
    assert mean_interval(values.copy()) == found


def test_intervals_of_golden_numbers():
    found = mean_interval(np.random.default_rng(1).normal(size=50))
    assert found == pytest.approx((-0.036078077, -0.282494795, 0.198409455, 50, 0), abs=1e-8)


def test_intervals_cover_the_true_mean_at_the_stated_rate():
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        found = mean_interval(rng.normal(1.0, 2.0, 60))
        inside += found.low <= 1.0 <= found.high
    assert 180 <= inside <= 199


def test_numbers_that_are_not_finite_are_left_out_and_counted():
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


def test_pairing_cancels_the_difficulty_of_images():
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 10, 50)
    found = paired_interval(hard + rng.normal(0.5, 0.1, 50), hard)
    assert 0.4 < found.low < found.high < 0.6
    with pytest.raises(ValueError, match="not of the same images"):
        paired_interval([1.0, 2.0], [1.0])
    found = paired_interval([np.inf, np.inf, 3.0, 4.0], [np.inf, 1.0, 1.0, 2.0])
    assert (found.mean, found.finite, found.left_out) == (2.0, 2, 2)


def test_bins_include_their_upper_bound():
    bins = hole_ratio_bins(np.array([0.0, 0.1, 0.1001, 0.3, 0.1 + 0.2, 1.0, 1e-5]))
    assert list(bins) == ["0-10 %", "10-20 %", "20-30 %", "90-100 %"]
    assert [list(indices) for indices in bins.values()] == [[1, 6], [2], [3, 4], [5]]


def test_numbers_differences_and_speeds_as_text():
    values = (0.12344, -1.5, -0.0001, math.nan, None, math.inf, -math.inf)
    texts = ["0.123", f"{MINUS}1.500", "0.000", "-", "-", "∞", f"{MINUS}∞"]
    assert [format_number(value, 3) for value in values] == texts
    assert [format_difference(v, 2) for v in (1.0, -1.0, 0.001, 0.0)] == ["+1.00", f"{MINUS}1.00", "0.00", "0.00"]
    speeds = {12.345: "12.3", 1234.5: "1234", None: "-", 0.0312: "0.0312", 1.25: "1.25", 48.26: "48.3"}
    assert [format_speed(rate) for rate in speeds] == [*speeds.values()]


def test_the_best_is_marked_only_if_clearly_better_than_the_second():
    hard = np.linspace(0.1, 0.9, 40)
    clear = statistics.means(of([hard + 0.01, hard + 0.001 * np.arange(40) % 0.003]))
    assert [row["hole_l1"].best for row in clear] == [False, True]
    noise = np.where(np.arange(40) % 2, 0.1, -0.0999)
    unclear = statistics.means(of([hard, hard + noise]))
    assert [row["hole_l1"].best for row in unclear] == [False, False]
    higher = statistics.means(of([hard + 0.01, hard], metric="ssim"))
    assert [row["ssim"].best for row in higher] == [True, False]
    assert not statistics.means(of([[0.1], [0.2]]))[0]["hole_l1"].best
    assert not statistics.means(of([hard], names=["run"]))[0]["hole_l1"].best


def test_a_metric_with_a_target_is_compared_by_distances():
    near, far = np.linspace(0.85, 1.05, 40), np.linspace(1.3, 1.6, 40)
    table = statistics.means(of([far, near, near - 0.5], ("a", "b", "c"), "hole_sharpness"))
    assert [row["hole_sharpness"].best for row in table] == [False, True, False]
    assert table[0]["hole_sharpness"].interval.mean == pytest.approx(1.45)
    metric = METRICS["hole_sharpness"]
    assert (metric.arrow, METRICS["ssim"].arrow, METRICS["l1"].arrow) == ("→ 1", "↑", "↓")
    found = statistics.compared(far, near, metric)
    assert found.verdict == "worse"
    assert found.interval.mean == pytest.approx(0.45 - np.abs(near - 1).mean())
    assert statistics.compared(near, near - 0.5, metric).verdict == "better"
    # As sharp on average, but no image of it is.
    mixed = np.where(np.arange(40) % 2, 0.5, 1.4)
    assert statistics.compared(mixed, near, metric).verdict == "worse"


def test_a_mean_that_is_best_by_what_it_leaves_out_is_not_marked():
    # On the images that both have, the second is better; the first lacks those that are hard for both.
    first = np.array([20.0] * 5 + [np.inf] * 20)
    second = np.array([21.0] * 5 + [10.0] * 20)
    table = statistics.means(of([first, second], metric="psnr"))
    assert table[0]["psnr"].interval.mean > table[1]["psnr"].interval.mean
    assert not table[0]["psnr"].best
    assert not table[1]["psnr"].best
    assert (table[0]["psnr"].infinite, table[0]["psnr"].missing) == (20, 0)


def test_perfect_images_do_not_count_against_a_method():
    rng = np.random.default_rng(0)
    perfect = np.where(np.arange(100) < 90, np.inf, 20.0)
    other = rng.uniform(20.5, 30.0, 100)
    found = statistics.compared(perfect, other, METRICS["psnr"])
    assert found.verdict == "no verdict: infinite for one of the two in 90"
    assert found.interval.finite == 10
    assert statistics.compared(other, other - 1, METRICS["psnr"]).verdict == "better"
    assert statistics.compared(other, other - 1, METRICS["l1"]).verdict == "worse"


@pytest.mark.parametrize(
    ("shift", "word"), [(-0.05, "better on"), (0.05, "worse on"), (0.0, "no difference found on")]
)
def test_the_verdict_says_better_worse_or_neither(shift, word):
    hard = np.linspace(0.1, 0.9, 40)
    noise = np.where(np.arange(40) % 2, 0.01, -0.01)
    text = statistics.verdict(of([hard + shift + noise, hard]))
    assert text.startswith(f"run against the best classical fill of each metric, over 40 images: {word} hole L1 (")
    assert "against 0.5000 of Telea; difference" in text
    assert "95 % interval [" in text


def test_the_verdict_is_against_the_best_classical_fill_of_each_metric():
    values = {
        "run": (0.1, 25.0),
        "other run": (0.01, 40.0),
        "mean fill": (0.3, 22.0),
        "Telea, blended": (0.2, 20.0),
    }
    spread = np.linspace(-0.01, 0.01, 40)
    scores = [
        Scores(name, {"hole_l1": l1 + spread, "hole_psnr": psnr - spread}) for name, (l1, psnr) in values.items()
    ]
    text = statistics.verdict(evaluation(40, scores=scores))
    assert "better on hole L1 (0.1000 against 0.2000 of Telea, blended" in text
    assert "better on hole PSNR (25.00 dB against 22.00 dB of mean fill; difference +3.00 dB" in text
    text = statistics.verdict(evaluation(40, scores=scores[:2]))
    assert "the best other method" in text
    assert "worse on hole L1 (0.1000 against 0.0100 of other run" in text


def test_the_verdict_on_few_images():
    assert statistics.verdict(of([[0.1]], names=["run"])) == "run by itself, over 1 image: hole L1 0.1000."
    assert "too few images to tell on hole L1" in statistics.verdict(of([[0.1], [0.2]]))
    assert "no hole that could be measured" in statistics.verdict(of([[math.nan] * 3, [0.1] * 3]))
    assert statistics.verdict(of([[0.1, 0.2], [math.nan] * 2])).endswith("images: hole L1 0.1500.")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 11, 12, 13, 40])
def test_best_median_and_worst_share_no_image(count):
    values = np.random.default_rng(count).permutation(count).astype(float)
    values = np.append(values, [np.nan, np.inf])
    groups = statistics.extremes(values)
    images = [pair for group in groups.values() for pair in group]
    assert len({index for _, index in images}) == len(images)
    assert all(values[index] == rank - 1 for rank, index in images)
    assert len(images) == (count if count < 3 else 3 * min(4, count // 3))
    if count >= 3:
        assert list(groups) == ["Best", "Median", "Worst"]
        assert abs(np.mean([rank for rank, _ in groups["Median"]]) - (count + 1) / 2) <= 0.5
        assert groups["Worst"][-1][0] == count
