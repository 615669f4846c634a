"""A network that completes in no time, and badly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.weights.file import Description, Weights


@functools.cache
def tiny_weights() -> Weights:
    """A completion network of a sixteenth of the width, drawn from one key; not to be changed in place."""
    network = CompletionNetwork(1 / 16)
    variables = jax.tree.map(np.asarray, jax.jit(network.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 4))))
    return Weights(network, variables, Description("signed", (0.5,) * 3, 32, (8, 16), "a test"))
