"""Completing pictures of any size: what changes, what may not, and what it takes."""

import os
import subprocess
import sys
import threading

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.common import ROOT, one_line
from weights.test_weights import random_variables

from glcic_jax.completion import blending, runner
from glcic_jax.completion.completer import Completer
from glcic_jax.completion.windows import STRATEGIES
from glcic_jax.errors import ConfigError, MemoryExhaustedError, WeightsError
from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator, complete
from glcic_jax.weights.file import Description, Weights, save_weights
from glcic_jax.weights.store import find_weights

NETWORK = CompletionNetwork(1 / 16)
DESCRIPTION = Description("mean_subtracted", (0.5, 0.45, 0.4), 64, (16, 32), "a test")


@pytest.fixture(scope="module")
def variables():
    """Of a network whose output is neither flat nor saturated."""
    found = NETWORK.init(jax.random.key(3), jnp.zeros((1, 8, 8, 4)))
    found["params"]["conv17"]["kernel"] *= 60.0
    return jax.tree.map(np.asarray, found)


@pytest.fixture(scope="module")
def completer(variables) -> Completer:
    return Completer(Weights(NETWORK, variables, DESCRIPTION))


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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("blend", [False, True])
def test_nothing_outside_the_hole_changes(completer, strategy, blend):
    generator = np.random.default_rng(7)
    for seed in range(12):
        height, width = (int(side) for side in generator.choice([1, 2, 3, 7, 31, 64, 97, 130], 2))
        channels = int(generator.choice([1, 2, 3, 4]))
        dtype = [np.uint8, np.uint16, np.float32, np.float64][seed % 4]
        pixels, hole = picture(height, width, channels, dtype, seed), random_hole(height, width, seed)
        before = pixels.copy()
        filling = completer.fill(pixels, hole, strategy=strategy, max_side=96, blend=blend)
        np.testing.assert_array_equal(pixels, before)
        assert (filling.pixels.shape, filling.pixels.dtype) == (pixels.shape, pixels.dtype)
        np.testing.assert_array_equal(filling.pixels[~hole], pixels[~hole])
        if channels in (2, 4):
            np.testing.assert_array_equal(filling.pixels[..., -1], pixels[..., -1])
        assert np.isfinite(filling.pixels.astype(float)).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_lies_in_the_hole_does_not_shine_through(completer, strategy):
    hole = np.zeros((130, 101), bool)
    hole[20:85, 33:90] = hole[100:103, 5:9] = True
    pixels = picture(130, 101)
    other = np.where(hole[..., None], 255 - pixels, pixels)
    for blend in (False, True):
        first = completer.fill(pixels, hole, strategy=strategy, max_side=96, blend=blend)
        second = completer.fill(other, hole, strategy=strategy, max_side=96, blend=blend)
        np.testing.assert_array_equal(first.pixels, second.pixels)
        assert first.plan.strategy != "original" or strategy in ("auto", "original")


def test_a_picture_is_completed_as_training_completes_it(completer, variables):
    pixels, hole = picture(40, 52, dtype=np.float32), random_hole(40, 52, 3)
    assert 0 < hole.sum() < hole.size
    mask = jnp.asarray(hole[None, ..., None], jnp.float32)
    mean = jnp.array(DESCRIPTION.mean_pixel)
    expected = complete(NETWORK, variables, jnp.asarray(pixels)[None], mask, mean, "mean_subtracted")[1][0]
    found = completer.fill(pixels, hole, strategy="original").pixels
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert np.ptp(np.asarray(expected)[hole]) > 0.1


def test_windows_fill_what_the_whole_picture_would(completer):
    pixels = picture(420, 500, dtype=np.float32)
    hole = np.zeros((420, 500), bool)
    hole[3:9, 100:400] = hole[200:220, 222:242] = hole[410:, 480:] = True
    whole = completer.fill(pixels, hole, strategy="original")
    cropped = completer.fill(pixels, hole, strategy="crop", max_side=450)
    assert len(cropped.plan.windows) > 2
    np.testing.assert_allclose(cropped.pixels, whole.pixels, rtol=0, atol=5e-6)


def test_what_begins_smooth_is_completed_alike_padded_and_nearly_alike_in_windows():
    network, variables, description = weights = find_weights("photos").weights
    completer = Completer(weights)
    generator = np.random.default_rng(0)
    pixels = cv2.resize(generator.uniform(0, 1, (6, 7, 3)), (419, 330), interpolation=cv2.INTER_CUBIC)
    pixels = pixels.clip(0, 1).astype(np.float32)
    hole = np.zeros((330, 419), bool)
    hole[3:9, 100:130] = hole[200:220, 222:242] = hole[320:, 400:] = True
    whole = completer.fill(pixels, hole, strategy="original").pixels
    cropped = completer.fill(pixels, hole, strategy="crop", max_side=350)
    assert len(cropped.plan.windows) > 1
    np.testing.assert_allclose(cropped.pixels, whole, rtol=0, atol=1e-3)

    even = pixels[:328, :416], hole[:328, :416]  # Sides of which none is padded to a multiple of 4.
    mask = jnp.asarray(even[1][None, ..., None], jnp.float32)
    mean = jnp.array(description.mean_pixel)
    expected = complete(network, variables, jnp.asarray(even[0])[None], mask, mean, "smooth_filled")[1][0]
    found = completer.fill(*even, strategy="original").pixels
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
    assert np.abs(found - even[0])[even[1]].mean() > 1e-3


def test_a_grey_picture_is_filled_with_the_grey_of_the_colours(completer):
    grey, hole = picture(32, 32, 1, np.float32), random_hole(32, 32, 5)
    colour = completer.fill(np.repeat(grey, 3, axis=-1), hole).pixels
    found = completer.fill(grey, hole).pixels
    np.testing.assert_allclose(found[hole][:, 0], colour[hole] @ [0.299, 0.587, 0.114], atol=1e-6)


def test_depths_agree_and_sixteen_bits_are_not_eight(completer):
    pixels, hole = picture(32, 32, 3, np.float32), random_hole(32, 32, 5)
    pixels = np.round(pixels * 255) / np.float32(255)
    exact = completer.fill(pixels, hole).pixels[hole]
    eight = completer.fill(np.round(pixels * 255).astype(np.uint8), hole).pixels[hole]
    sixteen = completer.fill(np.round(pixels * 65535).astype(np.uint16), hole).pixels[hole]
    np.testing.assert_allclose(eight / 255, exact, atol=0.51 / 255)
    np.testing.assert_allclose(sixteen / 65535, exact, atol=1e-5)


def test_the_raw_picture_shows_the_output_where_the_network_looked(completer):
    pixels, hole = picture(200, 700), np.zeros((200, 700), bool)
    hole[90:100, 20:30] = True
    filling = completer.fill(pixels, hole, keep_raw=True)
    (window,) = filling.plan.windows
    np.testing.assert_array_equal(filling.raw[hole], filling.pixels[hole])
    outside = np.ones(hole.shape, bool)
    outside[window.box.slices] = False
    np.testing.assert_array_equal(filling.raw[outside], pixels[outside])
    assert (filling.raw[window.box.slices] != pixels[window.box.slices]).mean() > 0.9


def test_sizes_share_programs_and_a_warm_one_compiles_nothing(variables):
    fresh = Completer(Weights(NETWORK, variables, DESCRIPTION))
    fresh.warmup([(70, 90)])
    assert list(fresh._runner._programs) == [(1, 80, 96)]
    for height, width in ((65, 81), (80, 96), (77, 93)):
        fresh.fill(picture(height, width), random_hole(height, width, 3), strategy="original")
    assert list(fresh._runner._programs) == [(1, 80, 96)]


def test_a_warm_completer_is_ready_for_a_photograph(variables):
    fresh = Completer(Weights(NETWORK, variables, DESCRIPTION))
    fresh.warmup([(1000, 800)])
    assert fresh.programs == 1
    hole = np.zeros((1000, 800), bool)
    hole[500:530, 390:420] = True
    fresh.fill(picture(1000, 800), hole)
    assert list(fresh._runner._programs) == [(1, 384, 384)]


class Stub:
    """Stands for a network that is right inside its mask, and as wrong as can be outside."""

    def __init__(self, colour: float):
        self.colour, self.seen = colour, []

    def output(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self.seen.append((image, mask))
        return np.where(mask > 0, np.float32(self.colour), np.float32(0)).repeat(3, axis=-1)


@pytest.fixture
def with_stub(variables):
    def build(colour: float) -> Completer:
        stubbed = Completer(Weights(NETWORK, variables, DESCRIPTION))
        stubbed._runner = Stub(colour)
        return stubbed

    return build


@pytest.mark.parametrize("strategy", ["resize", "crop"])
def test_what_the_network_says_outside_the_hole_is_not_drawn_into_a_reduced_fill(with_stub, strategy):
    pixels = np.full((600, 600, 3), 204, np.uint8)
    hole = np.zeros((600, 600), bool)
    hole[150:450, 150:450] = True
    filling = with_stub(0.8).fill(pixels, hole, strategy=strategy)
    assert filling.plan.windows[0].scale < 0.2
    np.testing.assert_array_equal(filling.pixels, pixels)


def test_a_reduced_fill_is_enlarged_smoothly(with_stub):
    ramp = np.broadcast_to(np.linspace(0, 1, 400, dtype=np.float32)[:, None, None], (400, 400, 3)).copy()
    hole = np.zeros((400, 400), bool)
    hole[100:300, 100:300] = True
    stubbed = with_stub(0.0)
    view = cv2.resize(ramp, (64, 64), interpolation=cv2.INTER_AREA)
    stubbed._runner.output = lambda image, mask: view[: image.shape[0], : image.shape[1]]
    filled = stubbed.fill(ramp, hole, strategy="resize", max_side=64).pixels
    np.testing.assert_allclose(filled, ramp, atol=0.01)


def test_what_is_transparent_is_white_to_the_network_and_keeps_its_own_colour(with_stub):
    pixels = np.full((40, 40, 4), (200, 0, 0, 128), np.uint8)
    hole = np.zeros((40, 40), bool)
    hole[10:20, 10:20] = True
    over_white = 200 / 255 * 128 / 255 + 127 / 255, 127 / 255, 127 / 255
    stubbed = with_stub(0.0)
    stubbed._runner.output = lambda image, mask: np.broadcast_to(np.float32(over_white), image.shape)
    np.testing.assert_allclose(stubbed.fill(pixels, hole).pixels.astype(int), pixels.astype(int), atol=1)
    watched = with_stub(0.0)
    watched.fill(pixels, hole)
    np.testing.assert_allclose(watched._runner.seen[0][0][0, 0], over_white, atol=1e-6)


def test_blending_fits_the_fill_to_its_surroundings(completer):
    pixels, hole = picture(60, 60, dtype=np.float32), np.zeros((60, 60), bool)
    hole[10:40, 0:30] = hole[50:, 50:] = True
    plain, blended = (completer.fill(pixels, hole, blend=blend).pixels for blend in (False, True))
    assert np.abs(plain - blended)[hole].max() > 0.01
    np.testing.assert_allclose(blended, blending.blend(pixels, plain, hole), atol=1e-6)


def test_what_is_not_finite_in_the_hole_is_not_looked_at(completer):
    pixels, hole = picture(130, 101, dtype=np.float32), np.zeros((130, 101), bool)
    hole[20:85, 33:90] = True
    missing = np.where(hole[..., None], np.nan, pixels)
    for options in ({"strategy": "original"}, {"strategy": "resize"}, {"strategy": "crop", "blend": True}):
        expected = completer.fill(pixels, hole, **options).pixels
        np.testing.assert_array_equal(completer.fill(missing, hole, **options).pixels, expected)
    np.testing.assert_array_equal(completer.complete(missing, hole), completer.complete(pixels, hole))


def test_weights_that_give_no_numbers_are_an_error(variables):
    broken = jax.tree.map(np.copy, variables)
    broken["params"]["conv1"]["kernel"] *= np.float32(1e38)
    broken["params"]["bn1"]["scale"] *= np.float32(1e38)
    with pytest.raises(WeightsError, match="the network's output is not finite"):
        Completer(Weights(NETWORK, broken, DESCRIPTION)).fill(picture(8, 8), random_hole(8, 8, 5))


def test_shapes_and_sizes_that_do_not_fit_are_errors(completer):
    with pytest.raises(ValueError, match="do not fit"):
        completer.fill(picture(8, 8), np.ones((1, 8), bool))
    with pytest.raises(ValueError, match="do not fit"):
        completer.fill(picture(8, 8), np.ones((8, 8), np.uint8))
    with pytest.raises(ConfigError, match="whole number of pixels"):
        completer.fill(picture(8, 8), np.ones((8, 8), bool), max_side=None)


def test_programs_are_kept_for_the_next_process(variables, tmp_path):
    save_weights(Weights(NETWORK, variables, DESCRIPTION), tmp_path / "a.safetensors")
    code = (
        "import jax; from glcic_jax.completion.completer import Completer;"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0);"
        "c = Completer.load('a.safetensors'); c.warmup([(16, 16)]);"
        "print(jax.config.jax_compilation_cache_dir)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment |= {"GLCIC_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "home" / "xla")
    assert any((tmp_path / "home" / "xla").iterdir())
    own = subprocess.run(
        run,
        cwd=tmp_path,
        env=environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")},
        capture_output=True,
        check=True,
        text=True,
    )
    assert own.stdout.strip() == str(tmp_path / "own")
    (tmp_path / "file").write_bytes(b"")
    without = subprocess.run(
        run,
        cwd=tmp_path,
        env=environment | {"GLCIC_HOME": str(tmp_path / "file")},
        capture_output=True,
        check=True,
        text=True,
    )
    assert without.stdout.strip() == "None"
    (line,) = without.stderr.splitlines()
    assert line.endswith(f"compiled programs cannot be kept in {tmp_path / 'file' / 'xla'}: Not a directory")


def test_several_threads_may_use_one(completer):
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


@pytest.mark.parametrize(("strategy", "told"), [("original", "--strategy crop"), ("crop", "--max-side, as 138")])
def test_too_little_memory_names_the_smaller_setting(completer, monkeypatch, strategy, told):
    monkeypatch.setattr(runner, "available_memory", lambda: 1_000_000)
    hole = np.zeros((400, 400), bool)
    hole[100:120, 100:120] = True
    with pytest.raises(MemoryExhaustedError, match=told) as caught:
        completer.fill(picture(400, 400), hole, strategy=strategy)
    assert "GiB are needed" in one_line(caught)
    assert caught.value.exit_code == 4
    with pytest.raises(MemoryExhaustedError, match="give the process more memory"):
        completer.fill(picture(40, 40), hole[90:130, 90:130], strategy=strategy)


def test_a_picture_that_python_has_no_memory_for_is_an_error(completer, monkeypatch):
    def exhausted(*_):
        raise np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(np.float32))

    monkeypatch.setattr(completer._runner, "output", exhausted)
    with pytest.raises(MemoryExhaustedError, match=r"40 x 40 px .*Unable to allocate"):
        completer.fill(picture(40, 40), random_hole(40, 40, 5))


def test_a_discriminator_completes_nothing():
    network = ContextDiscriminator(("local",), 16, ((8, 8),))
    inputs = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 2), np.int32)
    with pytest.raises(WeightsError, match="context discriminator"):
        Completer(Weights(network, random_variables(network, *inputs), DESCRIPTION))


def test_devices_are_found_by_name(variables):
    weights = Weights(NETWORK, variables, DESCRIPTION)
    assert Completer(weights, device="cpu:0").device == jax.devices("cpu")[0]
    assert Completer(weights, device=jax.devices("cpu")[0]).device.platform == "cpu"
    for missing in ("tpu", "cpu:7", "cpu:x", "cpu:-1", ""):
        with pytest.raises(ConfigError, match="choose one of cpu:0"):
            Completer(weights, device=missing)
