"""Strategies: where the network looks, and that windows partition the hole."""

import jax
import numpy as np
import pytest

from glcic_jax.completion.windows import CONTEXT, STRATEGIES, Box, WindowLimits, plan_completion
from glcic_jax.errors import ConfigError
from glcic_jax.model.networks import CompletionNetwork

LIMITS = WindowLimits(largest_hole=32, max_side=600)


def hole_of(shape, *boxes) -> np.ndarray:
    hole = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def random_hole(seed: int) -> np.ndarray:
    """Boxes in an image of any size, including borders and single pixels."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.choice([1, 2, 3, 5, 33, 64, 257, 700], 2))
    hole = np.zeros(shape, bool)
    for _ in range(generator.integers(1, 9)):
        top, left = (generator.integers(0, side) for side in shape)
        height, width = generator.integers(1, 90, 2)
        hole[top : top + height, left : left + width] = True
    return hole


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("max_side", [64, 150, 600])
def test_every_pixel_of_a_hole_is_filled_once(strategy, max_side):
    for seed in range(40):
        hole = random_hole(seed)
        plan = plan_completion(hole, strategy, WindowLimits(32, max_side))
        filled = np.zeros(hole.shape, int)
        for window in plan.windows:
            assert window.fill_mask.shape == (window.box.height, window.box.width)
            assert window.fill_mask.any()
            filled[window.box.slices] += window.fill_mask
            if plan.strategy != "original":
                assert max(window.network_size) <= max_side
        np.testing.assert_array_equal(filled, hole)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_hole_needs_no_window(strategy):
    plan = plan_completion(np.zeros((5, 7), bool), strategy, LIMITS)
    assert plan.windows == ()
    assert "empty" in plan.reason


def test_an_unknown_strategy_and_a_small_max_side_are_errors():
    with pytest.raises(ConfigError, match="'tile': choose one of auto, crop, original, resize"):
        plan_completion(hole_of((9, 9), (1, 1, 2, 2)), "tile", LIMITS)
    with pytest.raises(ConfigError, match="63 px is too small: give 64"):
        WindowLimits(32, 63)


def test_a_window_has_the_whole_context_around_its_hole():
    (window,) = plan_completion(hole_of((3000, 4000), (1001, 2002, 1021, 2032)), "crop", LIMITS).windows
    assert window.box == Box(1001 - CONTEXT - 1, 2002 - CONTEXT - 2, 1024 + CONTEXT, 2032 + CONTEXT)
    assert window.scale == 1
    assert all(edge % 4 == 0 for edge in window.box)


def test_the_context_covers_the_receptive_field():
    network = CompletionNetwork(1 / 32)
    size = 2 * CONTEXT + 8
    image = jax.random.uniform(jax.random.key(0), (1, size, size, 4))
    variables = network.init(jax.random.key(1), image[:, :8, :8])
    run = jax.jit(lambda image: network.apply(variables, image))
    middle = size // 2
    changed = np.abs(run(image.at[0, middle, middle].add(1e3)) - run(image))[0].max(axis=(1, 2)) > 0
    reached = np.flatnonzero(changed)
    assert reached.max() - middle <= CONTEXT
    assert middle - reached.min() <= CONTEXT
    assert reached.max() - middle > CONTEXT - 12


def test_holes_share_a_window_if_their_windows_touch():
    near = hole_of((2000, 2000), (500, 500, 520, 520), (500, 500 + 2 * CONTEXT, 520, 520 + 2 * CONTEXT))
    assert len(plan_completion(near, "crop", WindowLimits(32, 2000)).windows) == 1
    far = hole_of((2000, 2000), (500, 500, 520, 520), (500, 540 + 2 * CONTEXT, 520, 560 + 2 * CONTEXT))
    assert len(plan_completion(far, "crop", LIMITS).windows) == 2
    # The window around the first two touches that of the third.
    chain = hole_of((2000, 2000), (100, 100, 110, 110), (390, 390, 400, 400), (110, 680, 120, 690))
    assert len(plan_completion(chain, "crop", WindowLimits(32, 2000)).windows) == 1


def test_only_thick_holes_are_downscaled():
    hole = hole_of((3000, 4000), (1000, 1000, 1129, 1129), (1150, 1150, 1155, 1155), (20, 20, 22, 2000))
    plan = plan_completion(hole, "crop", LIMITS)
    reduced = [window for window in plan.windows if window.scale < 1]
    assert [round(window.scale, 3) for window in reduced] == [round(32 / 129, 3)]
    assert reduced[0].fill_mask.sum() == 129**2
    assert all(window.scale == 1 for window in plan.windows if window is not reduced[0])
    assert "reduced to 25 %" in plan.reason


def test_a_hole_slightly_thicker_than_training_holes_is_not_downscaled():
    for side, scale in ((40, 1.0), (43, 32 / 43)):
        for strategy in ("crop", "resize", "auto"):
            (window,) = plan_completion(
                hole_of((400, 400), (100, 100, 100 + side, 100 + side)), strategy, LIMITS
            ).windows
            assert window.scale == pytest.approx(scale), strategy


def test_a_hole_at_the_border_counts_its_whole_depth():
    plan = plan_completion(hole_of((400, 400), (0, 0, 400, 32)), "resize", LIMITS)
    assert plan.windows[0].scale == pytest.approx(32 / 63)


def test_a_long_thin_hole_is_split_into_windows():
    hole = np.eye(3000, dtype=bool) | np.eye(3000, k=1, dtype=bool)
    plan = plan_completion(hole, "crop", LIMITS)
    assert len(plan.windows) > 5
    assert all(max(window.network_size) <= 600 and window.scale == 1 for window in plan.windows)


def test_a_downscaled_window_has_the_same_context():
    (window,) = plan_completion(hole_of((3000, 4000), (1400, 1600, 1528, 1728)), "crop", LIMITS).windows
    scale = 32 / 127
    assert window.scale == pytest.approx(scale)
    for edge, inner in zip(window.box, (1400, 1600, 1528, 1728), strict=True):
        assert abs(edge - inner) * scale == pytest.approx(CONTEXT, abs=8 * scale)
    # Each cell of a split window has the same context.
    long = plan_completion(hole_of((3000, 6000), (1400, 500, 1528, 5500)), "crop", LIMITS).windows
    assert len(long) > 1
    for window in long:
        assert window.scale == pytest.approx(scale)
        assert (1400 - window.box.top) * scale == pytest.approx(CONTEXT, abs=8 * scale)


def test_holes_of_one_octave_share_the_smallest_scale():
    hole = hole_of((2000, 3000), (900, 900, 1029, 1029), (900, 1100, 1081, 1281), (900, 1400, 1455, 1955))
    windows = plan_completion(hole, "crop", WindowLimits(32, 5000)).windows
    assert sorted(round(window.scale, 4) for window in windows) == [round(32 / 555, 4), round(32 / 181, 4)]
    smaller = max(windows, key=lambda window: window.scale)
    assert smaller.fill_mask.sum() == 129**2 + 181**2


def test_a_scratch_is_not_downscaled_with_a_thick_hole():
    hole = hole_of((3000, 4000), (1000, 1000, 1860, 1860), (200, 200, 201, 3000))
    plan = plan_completion(hole, "auto", WindowLimits(128, 600))
    assert plan.strategy == "crop"
    assert {window.scale for window in plan.windows if window.fill_mask.sum() < 10_000} == {1.0}
    small = plan_completion(
        hole_of((500, 560), (10, 10, 175, 175), (400, 10, 403, 500)), "auto", WindowLimits(128, 600)
    )
    assert sorted(window.scale for window in small.windows) == [128 / 165, 1.0]


def test_a_hundred_thousand_specks_are_planned():
    hole = np.zeros((1200, 1600), bool)
    hole[::4, ::4] = True
    plan = plan_completion(hole, "crop", LIMITS)
    assert sum(window.fill_mask.sum() for window in plan.windows) == hole.sum() == 120_000
    assert "120,000 holes" in plan.reason


@pytest.mark.parametrize(
    ("shape", "box", "strategy", "words"),
    [
        ((400, 600), (10, 10, 42, 42), "original", "its long side is at most 600 px"),
        ((400, 600), (10, 10, 90, 90), "resize", "all holes are thicker"),
        ((400, 604), (10, 10, 40, 40), "crop", "the image's long side is 604 px, above 600"),
        ((3000, 4000), (10, 10, 410, 410), "resize", "thicker"),
        ((3000, 4000), (10, 10, 110, 110), "crop", "reduced to"),
        ((300, 300), (0, 0, 300, 300), "resize", "thicker"),
    ],
)
def test_auto_names_its_choice_and_the_reason(shape, box, strategy, words):
    plan = plan_completion(hole_of(shape, box), "auto", LIMITS)
    assert plan.strategy == strategy
    assert words in plan.reason
    assert "(chosen because" in plan.reason
