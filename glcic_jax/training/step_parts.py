"""What the steps of all phases are made of: examples, C's forward pass, parts of a batch, one update."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from glcic_jax.model import images
from glcic_jax.model.masks import random_local_box
from glcic_jax.training.state import NetworkState, Recipe, TrainState

Batch = dict[str, jax.Array]
T = TypeVar("T")


class Examples(struct.PyTreeNode):
    """Images with their holes: see `images` for each; C's input is [N, H, W, 4]."""

    image: jax.Array
    mask: jax.Array
    local_box: jax.Array
    real_local_box: jax.Array
    network_input: jax.Array


class Forward(NamedTuple):
    """A pass of C in training mode: its output, the running statistics after it, the way back to parameters."""

    output: jax.Array
    batch_stats: Any
    pullback: Callable[[jax.Array], tuple[Any]]


def draw_examples(state: TrainState, batch: Batch, key: jax.Array) -> Examples:
    """Draws every example's hole and local boxes, and fills C's input."""
    recipe = state.recipe
    image = images.to_float(batch["image"])
    height, width = image.shape[1:3]
    step_key = jax.random.fold_in(key, state.step)

    def draw(place: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        hole_key, real_key = jax.random.split(jax.random.fold_in(step_key, place))
        mask, local_box = recipe.mask_sampler(hole_key, (height, width), recipe.local_size)
        return mask, local_box, random_local_box(real_key, (height, width), recipe.local_size)

    mask, local_box, real_local_box = jax.vmap(draw)(batch["place"])
    network_input = images.network_input(image, mask, state.mean_pixel, recipe.input_form)
    return Examples(image, mask, local_box, real_local_box, network_input)


def completion_forward(state: TrainState, batch_stats: Any, examples: Examples) -> Forward:
    """Runs C in training mode and keeps the way back to its parameters."""

    def apply(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        output, updated = state.recipe.completion_network.apply(
            variables, examples.network_input, train=True, mutable=["batch_stats"]
        )
        return output, updated["batch_stats"]

    output, pullback, batch_stats = jax.vjp(apply, state.completion.params, has_aux=True)
    return Forward(output, batch_stats, pullback)


def over_parts(
    recipe: Recipe, work: Callable[[Any, Examples], tuple[Any, T]], carry: Any, examples: Examples
) -> tuple[Any, T]:
    """Works through a batch in `accumulation` parts: the last carry, and the mean of the values.

    Gradients and losses are exactly the whole batch's but for BatchNorm, which normalises each part by
    itself and moves its running statistics once for each part.
    """
    parts = recipe.accumulation
    if parts == 1:
        return work(carry, examples)
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), examples)
    shapes = jax.eval_shape(work, carry, jax.tree.map(lambda x: x[0], split))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(carry_and_sum: tuple[Any, T], part: Examples) -> tuple[tuple[Any, T], None]:
        carry, values = work(carry_and_sum[0], part)
        return (carry, jax.tree.map(jnp.add, carry_and_sum[1], values)), None

    (carry, total), _ = jax.lax.scan(add, (carry, zeros), split)
    return carry, jax.tree.map(lambda x: x / parts, total)


def mean_over_devices(recipe: Recipe, values: T) -> T:
    """The mean of every leaf over the recipe's axis; the values themselves where there is none."""
    return values if recipe.axis_name is None else jax.lax.pmean(values, recipe.axis_name)


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    network: NetworkState,
    grads: Any,
    batch_stats: Any,
    recipe: Recipe,
    **extra: Any,
) -> NetworkState:
    """Applies one update; statistics that each device gathered alone are averaged, to keep states equal."""
    updates, optimizer_state = optimizer.update(grads, network.optimizer_state, network.params, **extra)
    if not recipe.sync_batch_norm:
        batch_stats = mean_over_devices(recipe, batch_stats)
    return NetworkState(optax.apply_updates(network.params, updates), batch_stats, optimizer_state)
