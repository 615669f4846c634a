"""The arithmetic and memory of an update, as XLA counts and plans them: deterministic, so regressions show."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glcic_jax.benchmark.memory import memory_plan
from glcic_jax.benchmark.operation_counts import nominal_flops
from glcic_jax.model.convolutions import convolutions_of
from glcic_jax.model.gradient_balance import PLACES
from glcic_jax.model.networks import COMPLETION_LAYERS, LAST_COMPLETION_LAYER, CompletionNetwork, Layer, scaled
from glcic_jax.training.tasks.completion import STEPS, create_spec, state_shapes

BATCH = 64  # Nothing is compiled; with a large batch the optimizers' share is small.
# XLA's plan for the joint step of `_narrow` in bytes, plus 15 %.
MAX_TEMPORARIES = 1.15 * 27.0e6


def _taps(size: int, layer: Layer) -> int:
    """Products along one side; like XLA, does not count taps that fall on the padding."""
    if layer.name.startswith("deconv"):
        return 2 * 2 * size  # Two taps per output pixel, of which there are twice as many.
    padding = layer.dilation * (layer.kernel // 2)
    starts = range(-padding, size + padding - layer.dilation * (layer.kernel - 1), layer.stride)
    return sum(0 <= start + tap * layer.dilation < size for start in starts for tap in range(layer.kernel))


def _completion_counts(size: int, width: float) -> list[int]:
    """Operations of each of C's convolutions in a forward pass on one image: a product and a sum per tap."""
    counts, inputs = [], 4
    for layer in (*COMPLETION_LAYERS, LAST_COMPLETION_LAYER):
        outputs = layer.features if layer is LAST_COMPLETION_LAYER else scaled(layer.features, width)
        counts.append(2 * _taps(size, layer) ** 2 * inputs * outputs)
        size = 2 * size if layer.name.startswith("deconv") else size // layer.stride
        inputs = outputs
    return counts


def _branch_counts(size: int, channels: tuple[int, ...], width: float, parities: bool = False) -> list[int]:
    """The same for one branch of D, whose last layer is fully connected; or for a gradient that takes parities."""
    counts, inputs = [], 3
    for features in channels:
        layer = Layer("conv", scaled(features, width), kernel=5, stride=2)
        taps = _taps(size, layer) ** 2
        if parities and size < 2 * layer.kernel:
            taps = 4 * _taps(size // 2, Layer("conv", layer.features)) ** 2  # A 3x3 convolution on four parities.
        counts.append(2 * taps * inputs * layer.features)
        size, inputs = math.ceil(size / 2), layer.features
    return [*counts, 2 * size**2 * inputs * scaled(1024, width)]


def _expected(config, parities: bool = True) -> dict[str, int]:
    """Operations of each phase's update on one image; each of a layer's two gradients costs a forward pass.

    With `parities`, as on CUDA: the gradients of a 5x5 kernel that is larger than its output cost more.
    """
    size, local_size = config.data.image_size, config.discriminator.local_size
    completion = _completion_counts(size, config.completion.width)
    width = config.discriminator.width
    branches = (
        (size, config.discriminator.global_channels, width),
        (local_size, config.discriminator.local_channels, width),
    )
    forward, judge = sum(completion), sum(sum(_branch_counts(*branch)) for branch in branches)
    gradients = [_branch_counts(*branch, parities) for branch in branches]
    gradient = sum(map(sum, gradients))
    # The first layer's input needs no gradient.
    pullback = 2 * forward - completion[0]
    train_discriminator = 2 * (judge + 2 * gradient - sum(counts[0] for counts in gradients))
    joint = forward + train_discriminator + judge + gradient + pullback
    return {
        "completion": forward + pullback,
        "discriminator": forward + train_discriminator,
        "joint, output": joint,
        "joint, last_layer": joint + 3 * completion[-1],
        "joint, parameters": joint + pullback,
    }


def _operations(function, *shapes) -> float:
    with convolutions_of("cuda"):  # A new function object, because JAX caches traces.
        traced = jax.jit(functools.partial(function)).trace(*shapes)
    return traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"]


def _shapes(config, batch_size):
    size = config.data.image_size
    image = jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8)
    return {"image": image, "place": jax.ShapeDtypeStruct((batch_size,), np.int32)}


@pytest.mark.parametrize("program", ["completion", "discriminator", *(f"joint, {place}" for place in PLACES)])
def test_update_costs_the_sum_of_its_layers(config, program):
    phase, _, place = program.partition(", ")
    config.completion.width = config.discriminator.width = 1.0
    config.balance.place = place or "output"
    shapes = state_shapes(create_spec(config), config.data.image_size), _shapes(config, BATCH)
    counted = _operations(STEPS[phase], *shapes, jax.eval_shape(jax.random.key, 0))
    # Only products are expected; normalisation, optimizers and masks add little.
    assert counted / BATCH == pytest.approx(_expected(config)[program], rel=0.02)
    nominal = nominal_flops(STEPS[phase], *shapes, jax.eval_shape(jax.random.key, 0))
    assert nominal / BATCH == pytest.approx(_expected(config, parities=False)[program], rel=0.01)


@pytest.mark.parametrize(("accumulation", "remat"), [(2, "none"), (1, "stages")])
def test_last_layer_is_measured_without_running_more_of_c_again(config, accumulation, remat):
    config.accumulation_steps, config.remat = accumulation, remat
    config.completion.width = 1.0
    counted = {}
    for place in ("output", "last_layer"):
        config.balance.place = place
        state = state_shapes(create_spec(config), config.data.image_size)
        counted[place] = _operations(STEPS["joint"], state, _shapes(config, 4), jax.eval_shape(jax.random.key, 0))
    assert 1.0 < counted["last_layer"] / counted["output"] < 1.01


def test_completing_an_image_of_256_px_costs_62_gflop():
    network = CompletionNetwork()
    image = jax.ShapeDtypeStruct((1, 256, 256, 4), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    counted = _operations(network.apply, variables, image)
    assert counted == pytest.approx(sum(_completion_counts(256, 1.0)), rel=0.02)
    assert counted == pytest.approx(62e9, rel=0.02)


def _narrow(config, remat: str = "none"):
    config.data.image_size = 64
    config.completion.width = 1 / 4
    config.remat = remat
    return state_shapes(create_spec(config), 64)


def test_joint_step_memory_does_not_grow(config):
    assert memory_plan("joint", _narrow(config), 4, 64).temp_size_in_bytes < MAX_TEMPORARIES


def test_remat_reduces_memory(config):
    everything, activations, stages = (
        memory_plan("completion", _narrow(config, remat), 4, 64).temp_size_in_bytes
        for remat in ("none", "activations", "stages")
    )
    assert stages < activations < 0.7 * everything


@pytest.mark.parametrize(("remat", "factor"), [("activations", 1.0), ("stages", 1.25)])
def test_only_stages_recomputes_convolutions(config, remat, factor):
    config.completion.width = 1.0
    config.remat = remat
    state = state_shapes(create_spec(config), config.data.image_size)
    shapes = state, _shapes(config, BATCH), jax.eval_shape(jax.random.key, 0)
    counted = _operations(STEPS["completion"], *shapes) / BATCH
    assert counted / _expected(config)["completion"] == pytest.approx(factor, abs=0.03)
