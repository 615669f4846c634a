"""Completing images of any size: what changes, what stays, and how errors read."""

import dataclasses
import re
import threading
import tracemalloc

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import one_line
from helpers.tiny import tiny_weights
from weights.test_weights import random_variables

import glcic_jax
from glcic_jax.completion import blending, runner
from glcic_jax.completion.completer import Completer
from glcic_jax.completion.windows import STRATEGIES
from glcic_jax.errors import ConfigError, MemoryExhaustedError, WeightsError
from glcic_jax.model.networks import ContextDiscriminator, complete
from glcic_jax.runtime import enable_compile_cache
from glcic_jax.weights.file import Description, Weights
from glcic_jax.weights.store import find_weights

DESCRIPTION = Description("mean_subtracted", (0.5, 0.45, 0.4), 64, (16, 32), "a test")
# With few padded sizes, so that few programs are compiled.
SIZES = [(1, 1), (1, 64), (2, 3), (3, 7), (7, 2), (61, 64), (64, 60), (64, 64), (97, 130), (97, 130)]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """A network whose output is neither flat nor saturated."""
    network, variables, _ = tiny_weights()
    variables = jax.tree.map(np.copy, variables)
    variables["params"]["conv17"]["kernel"] *= 60.0
    return Weights(network, variables, DESCRIPTION)


@pytest.fixture(scope="module")
def completer(weights) -> Completer:
    return Completer(weights)


def picture(height, width, channels=3, dtype=np.uint8, seed=0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0, 1, (height, width, channels))
    if dtype in (np.float32, np.float64):
        return values.astype(dtype)
    return np.round(values * np.iinfo(dtype).max).astype(dtype)


def random_hole(height, width, seed) -> np.ndarray:
    generator = np.random.default_rng(seed)
    hole = generator.uniform(size=(height, width)) < generator.choice([0.0, 0.01, 0.3, 1.0])
    for _ in range(generator.integers(0, 3)):
        top, left = generator.integers(0, height), generator.integers(0, width)
        hole[top : top + generator.integers(1, 60), left : left + generator.integers(1, 60)] = True
    return hole


def hole_of(shape, *boxes) -> np.ndarray:
    hole = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("blend", ["off", "auto", "on"])
def test_pixels_outside_the_hole_stay_bit_identical(completer, strategy, blend):
    generator = np.random.default_rng(7)
    for seed, (height, width) in enumerate(SIZES):
        channels = int(generator.choice([1, 2, 3, 4]))
        dtype = [np.uint8, np.uint16, np.float32, np.float64][seed % 4]
        pixels, hole = picture(height, width, channels, dtype, seed), random_hole(height, width, seed)
        before = pixels.copy()
        completed = completer.fill(pixels, hole, strategy=strategy, max_side=64, blend=blend).pixels
        np.testing.assert_array_equal(pixels, before)
        assert (completed.shape, completed.dtype) == (pixels.shape, pixels.dtype)
        np.testing.assert_array_equal(completed[~hole], pixels[~hole])
        if channels in (2, 4):
            np.testing.assert_array_equal(completed[..., -1], pixels[..., -1])
        assert np.isfinite(completed.astype(float)).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hole_content_is_ignored(completer, strategy):
    hole = hole_of((130, 97), (20, 33, 85, 90), (100, 5, 103, 9))
    pixels = picture(130, 97, dtype=np.float32)
    for blend in ("off", "auto", "on"):
        first = completer.fill(pixels, hole, strategy=strategy, max_side=96, blend=blend)
        assert first.plan.strategy != "original" or strategy in ("auto", "original")
        for content in (1 - pixels, np.float32(np.nan)):
            other = np.where(hole[..., None], content, pixels)
            second = completer.fill(other, hole, strategy=strategy, max_side=96, blend=blend)
            np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(completer.complete(other, hole), completer.complete(pixels, hole))


@pytest.mark.parametrize("input_form", ["mean_subtracted", "smooth_filled"])
def test_completer_and_training_complete_alike(weights, input_form):
    description = dataclasses.replace(DESCRIPTION, input_form=input_form)
    completer = Completer(Weights(weights.network, weights.variables, description))
    pixels, hole = picture(40, 52, dtype=np.float32), random_hole(40, 52, 3)
    assert 0 < hole.sum() < hole.size
    mask = jnp.asarray(hole[None, ..., None], jnp.float32)
    mean_pixel = jnp.array(DESCRIPTION.mean_pixel)
    reference = jax.jit(lambda image: complete(*weights[:2], image, mask, mean_pixel, input_form)[1])
    expected = reference(pixels[None])[0]
    found = completer.fill(pixels, hole, strategy="original", blend="off").pixels
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert np.ptp(np.asarray(expected)[hole]) > 0.1


def test_windows_fill_what_the_whole_image_would(completer):
    pixels = picture(420, 500, dtype=np.float32)
    hole = hole_of((420, 500), (3, 100, 9, 400), (200, 222, 220, 242), (410, 480, 420, 500))
    whole = completer.fill(pixels, hole, strategy="original")
    cropped = completer.fill(pixels, hole, strategy="crop", max_side=450)
    assert len(cropped.plan.windows) > 2
    np.testing.assert_allclose(cropped.pixels, whole.pixels, rtol=0, atol=5e-6)


def test_windows_with_a_smooth_initial_fill_agree_approximately():
    completer = Completer(find_weights("photos").weights)
    generator = np.random.default_rng(0)
    pixels = cv2.resize(generator.uniform(0, 1, (6, 7, 3)), (408, 340), interpolation=cv2.INTER_CUBIC)
    pixels = pixels.clip(0, 1).astype(np.float32)
    hole = hole_of((340, 408), (160, 3, 180, 23), (158, 384, 178, 404))
    whole = completer.fill(pixels, hole, strategy="original").pixels
    cropped = completer.fill(pixels, hole, strategy="crop", max_side=350)
    assert len(cropped.plan.windows) > 1
    np.testing.assert_allclose(cropped.pixels, whole, rtol=0, atol=1e-3)
    assert np.abs(whole - pixels)[hole].mean() > 1e-3


def test_a_grey_image_is_filled_with_the_luminance_of_the_colours(completer):
    grey, hole = picture(32, 32, 1, np.float32), random_hole(32, 32, 5)
    colour = completer.fill(np.repeat(grey, 3, axis=-1), hole).pixels
    found = completer.fill(grey, hole).pixels
    np.testing.assert_allclose(found[hole][:, 0], colour[hole] @ [0.299, 0.587, 0.114], atol=1e-6)


def test_bit_depths_agree_and_sixteen_bits_keep_their_precision(completer):
    pixels, hole = picture(32, 32, 3, np.float32), random_hole(32, 32, 5)
    pixels = np.round(pixels * 255) / np.float32(255)
    exact = completer.fill(pixels, hole).pixels[hole]
    eight = completer.fill(np.round(pixels * 255).astype(np.uint8), hole).pixels[hole]
    sixteen = completer.fill(np.round(pixels * 65535).astype(np.uint16), hole).pixels[hole]
    np.testing.assert_allclose(eight / 255, exact, atol=0.51 / 255)
    np.testing.assert_allclose(sixteen / 65535, exact, atol=1e-5)


def test_raw_output_is_kept_inside_the_windows(completer):
    pixels, hole = picture(200, 700), hole_of((200, 700), (90, 20, 100, 30))
    completed = completer.fill(pixels, hole, keep_raw=True)
    (window,) = completed.plan.windows
    np.testing.assert_array_equal(completed.raw[hole], completed.pixels[hole])
    outside = np.ones(hole.shape, bool)
    outside[window.box.slices] = False
    np.testing.assert_array_equal(completed.raw[outside], pixels[outside])
    assert (completed.raw[window.box.slices] != pixels[window.box.slices]).mean() > 0.9
    assert completer.fill(pixels, hole).raw is None


def test_a_given_plan_is_used_and_every_window_is_reported(completer):
    pixels, hole = picture(64, 400), hole_of((64, 400), (4, 4, 8, 8), (4, 390, 8, 394))
    plan, seen = completer.plan(hole, "crop", 200), []
    completed = completer.fill(pixels, hole, plan=plan, on_window=lambda done, total: seen.append((done, total)))
    assert completed.plan is plan
    assert seen == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(
        completed.pixels, completer.fill(pixels, hole, strategy="crop", max_side=200).pixels
    )


def test_sizes_share_programs_and_warmup_compiles_them(weights):
    fresh = Completer(weights)
    fresh.warmup([(70, 90)])
    assert list(fresh._runner._programs) == [(1, 80, 96)]
    for height, width in ((65, 81), (80, 96), (77, 93)):
        fresh.fill(picture(height, width), random_hole(height, width, 3), strategy="original")
    assert fresh.compilations == 1
    fresh.warmup([(1000, 800)])
    ready = list(fresh._runner._programs)
    fresh.fill(picture(1000, 800), hole_of((1000, 800), (500, 390, 530, 420)))
    assert list(fresh._runner._programs) == ready == [(1, 80, 96), (1, 384, 384)]


def test_only_the_last_used_programs_are_kept(weights, monkeypatch):
    monkeypatch.setattr(runner, "_MAX_PROGRAMS", 2)
    fresh = Completer(weights)
    kept = lambda: list(fresh._runner._programs)  # noqa: E731
    fresh.warmup([(16, 16), (16, 32)])
    fresh.fill(picture(16, 16), random_hole(16, 16, 3), strategy="original")
    assert kept() == [(1, 16, 32), (1, 16, 16)]
    fresh.warmup([(32, 16)])
    assert kept() == [(1, 16, 16), (1, 32, 16)]
    assert fresh.compilations == 3
    fresh.warmup([(16, 32)])
    assert fresh.compilations == 4


class StubRunner:
    """Stands for a network that is right inside its mask, and black outside."""

    def __init__(self, colour: float):
        self.colour, self.seen = colour, []

    def output(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self.seen.append((image, mask))
        return np.where(mask > 0, np.float32(self.colour), np.float32(0)).repeat(3, axis=-1)


@pytest.fixture
def with_stub(weights):
    def build(colour: float) -> Completer:
        stubbed = Completer(weights)
        stubbed._runner = StubRunner(colour)
        return stubbed

    return build


@pytest.mark.parametrize("strategy", ["resize", "crop"])
def test_output_outside_the_hole_does_not_bleed_into_a_downscaled_fill(with_stub, strategy):
    pixels = np.full((600, 600, 3), 204, np.uint8)
    completed = with_stub(0.8).fill(pixels, hole_of((600, 600), (150, 150, 450, 450)), strategy=strategy)
    assert completed.plan.windows[0].scale < 0.2
    np.testing.assert_array_equal(completed.pixels, pixels)


def test_a_downscaled_fill_is_enlarged_smoothly(with_stub):
    ramp = np.broadcast_to(np.linspace(0, 1, 400, dtype=np.float32)[:, None, None], (400, 400, 3)).copy()
    stubbed = with_stub(0.0)
    view = cv2.resize(ramp, (64, 64), interpolation=cv2.INTER_AREA)
    stubbed._runner.output = lambda image, mask: view[: image.shape[0], : image.shape[1]]
    hole = hole_of((400, 400), (100, 100, 300, 300))
    filled = stubbed.fill(ramp, hole, strategy="resize", max_side=64, blend="off").pixels
    np.testing.assert_allclose(filled, ramp, atol=0.01)


def test_transparent_pixels_are_white_to_the_network_and_keep_their_colour(with_stub):
    pixels, hole = np.full((40, 40, 4), (200, 0, 0, 128), np.uint8), hole_of((40, 40), (10, 10, 20, 20))
    over_white = 200 / 255 * 128 / 255 + 127 / 255, 127 / 255, 127 / 255
    stubbed = with_stub(0.0)
    stubbed._runner.output = lambda image, mask: np.broadcast_to(np.float32(over_white), image.shape)
    np.testing.assert_allclose(stubbed.fill(pixels, hole).pixels.astype(int), pixels.astype(int), atol=1)
    watched = with_stub(0.0)
    watched.fill(pixels, hole)
    np.testing.assert_allclose(watched._runner.seen[0][0][0, 0], over_white, atol=1e-6)


def test_an_unknown_blending_is_refused(completer):
    with pytest.raises(ConfigError, match="unknown blend 'yes': choose one of auto, off, on"):
        completer.fill(picture(16, 16), random_hole(16, 16, 3), blend="yes")


def test_blending_is_applied_to_the_fill(completer):
    pixels, hole = picture(60, 60, dtype=np.float32), hole_of((60, 60), (10, 0, 40, 30), (50, 50, 60, 60))
    plain, blended = (completer.fill(pixels, hole, blend=blend).pixels for blend in ("off", "on"))
    assert np.abs(plain - blended)[hole].max() > 0.01
    np.testing.assert_allclose(blended, blending.blend(pixels, plain, hole), atol=1e-6)


def test_thin_parts_of_a_hole_keep_the_fill(completer):
    pixels, hole = picture(60, 60, dtype=np.float32), hole_of((60, 60), (10, 0, 40, 30), (45, 5, 50, 55))
    plain, blended = (completer.fill(pixels, hole, blend=blend).pixels for blend in ("off", "auto"))
    np.testing.assert_array_equal(plain[45:50], blended[45:50])
    assert np.abs(plain - blended)[10:40].max() > 0.01


def test_weights_with_an_output_that_is_not_finite_are_an_error(weights):
    broken = jax.tree.map(np.copy, weights.variables)
    broken["params"]["conv1"]["kernel"] *= np.float32(1e38)
    broken["params"]["bn1"]["scale"] *= np.float32(1e38)
    with pytest.raises(WeightsError, match="the network's output is not finite"):
        Completer(Weights(weights.network, broken, DESCRIPTION)).fill(picture(8, 8), random_hole(8, 8, 5))


def test_shapes_and_sizes_that_do_not_fit_are_errors(completer):
    for hole in (np.ones((1, 8), bool), np.ones((8, 8), np.uint8)):
        with pytest.raises(ValueError, match="do not fit"):
            completer.fill(picture(8, 8), hole)
    with pytest.raises(ConfigError, match="whole number of pixels"):
        completer.fill(picture(8, 8), np.ones((8, 8), bool), max_side=None)


def test_a_compile_cache_that_is_named_elsewhere_or_cannot_be_written_is_not_replaced(tmp_path, caplog):
    named = jax.config.jax_compilation_cache_dir
    assert named is not None
    enable_compile_cache(tmp_path / "xla")
    assert jax.config.jax_compilation_cache_dir == named
    (tmp_path / "file").write_bytes(b"")
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        enable_compile_cache(tmp_path / "file" / "xla")
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", named)
    (message,) = caplog.messages
    assert message == f"compiled programs cannot be kept in {tmp_path / 'file' / 'xla'}: Not a directory"
    assert not (tmp_path / "xla").exists()


def test_a_completer_is_thread_safe(completer):
    pixels, hole = picture(60, 60), random_hole(60, 60, 3)
    expected = completer.fill(pixels, hole).pixels
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(completer.fill(pixels, hole).pixels)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found:
        np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [("original", "use --strategy=crop and --max-side=200"), ("crop", "side, such as --max-side=138")],
)
def test_too_little_memory_names_the_smaller_setting(completer, monkeypatch, strategy, words):
    monkeypatch.setattr(runner, "available_memory", lambda: 1_000_000)
    hole = hole_of((400, 400), (100, 100, 120, 120))
    with pytest.raises(MemoryExhaustedError, match=words) as caught:
        completer.fill(picture(400, 400), hole, strategy=strategy)
    assert "GiB are needed" in one_line(caught)
    assert caught.value.exit_code == 4
    in_python = re.sub(r"--|(?<==)crop", lambda found: "'crop'" if found[0] == "crop" else "", words)
    with pytest.raises(MemoryExhaustedError, match=in_python.replace("max-side", "max_side")):
        completer.complete(picture(400, 400), hole, strategy=strategy)
    with pytest.raises(MemoryExhaustedError, match="give the process more memory"):
        completer.fill(picture(40, 40), hole[90:130, 90:130], strategy=strategy)


def test_too_little_memory_in_python_is_an_error(completer, monkeypatch):
    def exhausted(*_):
        raise np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(np.float32))

    monkeypatch.setattr(completer._runner, "output", exhausted)
    with pytest.raises(MemoryExhaustedError, match=r"40 x 40 px .*Unable to allocate"):
        completer.fill(picture(40, 40), random_hole(40, 40, 5))


def test_discriminator_weights_are_refused():
    network = ContextDiscriminator(("local",), 16, ((8, 8),))
    inputs = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 2), np.int32)
    with pytest.raises(WeightsError, match="context discriminator"):
        Completer(Weights(network, random_variables(network, *inputs), DESCRIPTION))


def test_devices_are_found_by_name(weights):
    assert Completer(weights, device="cpu:0").device == jax.devices("cpu")[0]
    assert Completer(weights, device=jax.devices("cpu")[0]).device.platform == "cpu"
    for missing in ("tpu", "cpu:7", "cpu:x", "cpu:-1", ""):
        with pytest.raises(ConfigError, match="choose one of cpu:0"):
            Completer(weights, device=missing)


def test_the_package_hands_on_the_completer():
    assert glcic_jax.Completer is Completer
    with pytest.raises(AttributeError, match="no attribute 'Painter'"):
        _ = glcic_jax.Painter


def test_photograph_is_filled_without_a_float_copy_of_it(completer):
    pixels = picture(3000, 4000)
    hole = hole_of((3000, 4000), (500, 700, 1000, 1300))
    completer.fill(pixels, hole, blend="off")  # Compiles.
    tracemalloc.start()
    try:
        completed = completer.fill(pixels, hole, blend="off")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert completed.plan.windows[0].box.width == 4000
    assert peak < 5 * pixels.nbytes  # The result, and bands; a copy as float32 takes four times the photograph.
