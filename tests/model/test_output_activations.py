"""How the last layer becomes an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.model.images import OUTPUT_ACTIVATIONS
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.training.state import create_spec

WIDTH = 1 / 16


@pytest.fixture
def read() -> np.ndarray:
    """What a network reads."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, (2, 32, 32, 4)).astype(np.float32)


@pytest.mark.parametrize("name", OUTPUT_ACTIVATIONS)
def test_output_activation_maps_to_the_unit_interval(name):
    values = np.array([-50.0, -1.0, -0.5, 0.0, 0.25, 1.0, 50.0], np.float32)
    read = np.array([0.5, 0.75, -0.25, 0.25, 0.125, -0.75, 0.0], np.float32)
    expected = {
        "sigmoid": 1 / (1 + np.exp(-values.astype(np.float64))),
        "clip": np.array([0, 0, 0.25, 0.5, 0.625, 1, 1]),
        "residual": np.array([0, 0.25, 0, 0.75, 0.875, 0.75, 1]),
    }[name]
    np.testing.assert_allclose(OUTPUT_ACTIVATIONS[name].apply(values, read), expected, atol=1e-6)


def test_a_residual_network_begins_as_what_it_reads_and_learns(read):
    network = CompletionNetwork(width=WIDTH, output_activation="residual")
    variables = jax.jit(network.init)(jax.random.key(0), read)
    np.testing.assert_allclose(network.apply(variables, read), read[..., :3] + 0.5, atol=1e-6)

    def loss(params):
        return jnp.mean(network.apply({**variables, "params": params}, read) ** 2)

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert float(jnp.abs(gradient["conv17"]["kernel"]).max()) > 1e-4


@pytest.mark.parametrize("form", ["mean_filled", "signed"])
def test_a_residual_is_not_added_to_what_has_its_mean(config, form):
    config.completion.output_activation, config.completion.input_form = "residual", form
    with pytest.raises(ConfigError, match=f"smooth_filled or mean_subtracted, not {form}"):
        create_spec(config, None)


def test_a_residual_in_bfloat16_is_added_in_float32(read):
    network = CompletionNetwork(width=WIDTH, output_activation="residual", dtype=jnp.bfloat16)
    output = jax.jit(network.apply)(jax.jit(network.init)(jax.random.key(0), read), read)
    assert output.dtype == jnp.float32
    np.testing.assert_allclose(output, read[..., :3] + 0.5, atol=1e-7)
