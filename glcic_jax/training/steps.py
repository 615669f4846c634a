"""One update of each phase: pure functions `(state, batch, key) -> (state, metrics)`.

`batch` is one device's shard: `{"image": [n, S, S, 3] uint8, "place": [n] int32}`, where `place` is each example's
index in the global batch. `key` is the run's key, the same for every step and device. Holes depend on the key, the
step and the place alone, not on the number of devices or processes. Under `jax.pmap` gradients and metrics are
averaged over the spec's axis, so the state stays equal on all devices.

Reference: Iizuka et al. 2017, Section 3.4 and Algorithm 1.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from glcic_jax.model import images
from glcic_jax.model.gradient_balance import add_adversarial, balance_state
from glcic_jax.model.masks import random_local_box
from glcic_jax.training.state import NetworkState, TrainingSpec, TrainState

Batch = dict[str, jax.Array]
T = TypeVar("T")


class Examples(struct.PyTreeNode):
    """Images with their holes, as `images` defines them; C's input is [N, H, W, 4]."""

    image: jax.Array
    mask: jax.Array
    local_box: jax.Array
    real_local_box: jax.Array
    network_input: jax.Array


class CompletionMetrics(struct.PyTreeNode):
    """Phase 1: float32 scalars, averaged over the batch."""

    reconstruction_loss: jax.Array
    completion_gradient_norm: jax.Array


class DiscriminatorMetrics(struct.PyTreeNode):
    """Phase 2: float32 scalars, averaged over the batch; accuracies are fractions in [0, 1]."""

    discriminator_loss: jax.Array
    real_accuracy: jax.Array
    fake_accuracy: jax.Array
    discriminator_gradient_norm: jax.Array


class JointMetrics(DiscriminatorMetrics):
    """Phase 3: D's metrics, then C's. `adversarial_loss` and `adversarial_gradient_norm` are unweighted.

    `completion_gradient_norm` is the norm of the weighted sum that updates C in this step; the norms of its two
    terms are the last measured ones.
    """

    reconstruction_loss: jax.Array
    adversarial_loss: jax.Array
    completion_gradient_norm: jax.Array
    reconstruction_gradient_norm: jax.Array
    adversarial_gradient_norm: jax.Array
    adversarial_weight: jax.Array


def completion_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, CompletionMetrics]:
    """Phase 1: trains C on the reconstruction loss; D does not change (Algorithm 1, line 5)."""
    spec = state.spec
    examples = draw_examples(state, batch, key)

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, jax.Array]]:
        output, pullback, batch_stats = completion_forward(state, batch_stats, part)
        loss, cotangent = jax.value_and_grad(reconstruction_loss)(output, spec, part)
        (grads,) = pullback(cotangent)
        return batch_stats, (grads, loss)

    batch_stats, means = accumulate(spec, gradients, state.completion.batch_stats, examples)
    grads, loss = mean_over_devices(spec, means)
    completion = apply_gradients(spec, state.completion, spec.completion_optimizer, grads, batch_stats)
    metrics = CompletionMetrics(loss, optax.tree.norm(grads))
    return advance(state, completion, state.discriminator), metrics


def discriminator_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, DiscriminatorMetrics]:
    """Phase 2: trains D; C completes with its running statistics and does not change."""
    spec, discriminator = state.spec, state.discriminator
    assert discriminator is not None
    examples = draw_examples(state, batch, key)

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, ...]]:
        output: Any = spec.completion_network.apply(state.completion.variables, part.network_input, train=False)
        return discriminator_gradients(spec, discriminator.params, batch_stats, part, output)

    batch_stats, means = accumulate(spec, gradients, discriminator.batch_stats, examples)
    updated, metrics = update_discriminator(spec, discriminator, batch_stats, means)
    return state.replace(step=state.step + 1, discriminator=updated), metrics


def joint_step(
    state: TrainState, batch: Batch, key: jax.Array, *, measure_norms: bool = True
) -> tuple[TrainState, JointMetrics]:
    """Phase 3: trains D on real and completed images, then C on Equation 4 against the updated D.

    With `measure_norms` (static) C's two losses are differentiated separately, and the norms of their gradients
    decide the adversarial weight. Without, the weight follows from the last norms, and C is differentiated once,
    for the weighted sum.
    """
    spec, old_c, old_d = state.spec, state.completion, state.discriminator
    assert old_d is not None
    examples = draw_examples(state, batch, key)
    # One forward pass of C serves both updates. With accumulation C runs again in its own update, because
    # keeping every part's activations would defeat accumulation.
    shared = completion_forward(state, old_c.batch_stats, examples) if spec.accumulation == 1 else None

    def gradients_of_d(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, ...]]:
        output, _, _ = shared or completion_forward(state, old_c.batch_stats, part)
        return discriminator_gradients(spec, old_d.params, batch_stats, part, output)

    batch_stats, means = accumulate(spec, gradients_of_d, old_d.batch_stats, examples)
    new_d, discriminator_metrics = update_discriminator(spec, old_d, batch_stats, means)
    last_weight = spec.balance.weight(balance_state(old_c.optimizer_state))

    def gradients_of_c(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, ...]]:
        output, pullback, batch_stats = shared or completion_forward(state, batch_stats, part)
        rec_loss, rec_cotangent = jax.value_and_grad(reconstruction_loss)(output, spec, part)
        adv_loss, adv_cotangent = jax.value_and_grad(adversarial_loss)(output, spec, new_d, part)
        if measure_norms:
            cotangents = [rec_cotangent, adv_cotangent]
        else:
            cotangents = [add_adversarial(rec_cotangent, adv_cotangent, last_weight)]
        return batch_stats, ([pullback(cotangent)[0] for cotangent in cotangents], rec_loss, adv_loss)

    batch_stats, means = accumulate(spec, gradients_of_c, old_c.batch_stats, examples)
    (grads, *adv_grads), rec_loss, adv_loss = mean_over_devices(spec, means)
    extra = {"adversarial_updates": adv_grads[0]} if measure_norms else {"adversarial_weight": last_weight}
    new_c = apply_gradients(spec, old_c, spec.completion_optimizer, grads, batch_stats, **extra)
    balance = balance_state(new_c.optimizer_state)
    if measure_norms:  # The optimizer chain forms this sum too, but does not return its norm.
        grads = add_adversarial(grads, adv_grads[0], balance.adversarial_weight)
    metrics = JointMetrics(
        **vars(discriminator_metrics),
        reconstruction_loss=rec_loss,
        adversarial_loss=adv_loss,
        completion_gradient_norm=optax.tree.norm(grads),
        reconstruction_gradient_norm=balance.reconstruction_norm,
        adversarial_gradient_norm=balance.adversarial_norm,
        adversarial_weight=balance.adversarial_weight,
    )
    return advance(state, new_c, new_d), metrics


def joint_step_between_measurements(
    state: TrainState, batch: Batch, key: jax.Array
) -> tuple[TrainState, JointMetrics]:
    """`joint_step` with the adversarial weight that follows from the last measured norms."""
    return joint_step(state, batch, key, measure_norms=False)


def draw_examples(state: TrainState, batch: Batch, key: jax.Array) -> Examples:
    """Draws a hole and two local boxes for each image, and prepares C's input."""
    spec = state.spec
    image = images.to_float(batch["image"])
    height, width = image.shape[1:3]
    step_key = jax.random.fold_in(key, state.step)

    def draw(place: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        hole_key, real_key = jax.random.split(jax.random.fold_in(step_key, place))
        mask, local_box = spec.mask_sampler(hole_key, (height, width), spec.local_size)
        return mask, local_box, random_local_box(real_key, (height, width), spec.local_size)

    mask, local_box, real_local_box = jax.vmap(draw)(batch["place"])
    network_input = images.network_input(image, mask, state.mean_pixel, spec.input_form)
    return Examples(image, mask, local_box, real_local_box, network_input)


def completion_forward(
    state: TrainState, batch_stats: Any, examples: Examples
) -> tuple[jax.Array, Callable[[jax.Array], tuple[Any]], Any]:
    """Runs C in training mode: its output, the pullback to its parameters, and the updated running statistics."""

    def apply(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        output, updated = state.spec.completion_network.apply(
            variables, examples.network_input, train=True, mutable=["batch_stats"]
        )
        return output, updated["batch_stats"]

    return jax.vjp(apply, state.completion.params, has_aux=True)


def discriminate(
    spec: TrainingSpec, params: Any, batch_stats: Any, image: jax.Array, local_box: jax.Array
) -> tuple[jax.Array, Any]:
    """Runs D in training mode: logits [N] and the updated running statistics."""
    assert spec.context_discriminator is not None
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updated = spec.context_discriminator.apply(
        variables, image, local_box, train=True, mutable=["batch_stats"]
    )
    return logits, updated["batch_stats"]


def reconstruction_loss(output: jax.Array, spec: TrainingSpec, examples: Examples) -> jax.Array:
    """The mean reconstruction loss of C's output."""
    return spec.reconstruction_loss(output, examples.image, examples.mask).mean()


def adversarial_loss(
    output: jax.Array, spec: TrainingSpec, discriminator: NetworkState, examples: Examples
) -> jax.Array:
    """The mean adversarial loss of C's output; D's running statistics do not change."""
    completed = images.composite(examples.image, output, examples.mask)
    params, batch_stats = discriminator.params, discriminator.batch_stats
    logits, _ = discriminate(spec, params, batch_stats, completed, examples.local_box)
    return spec.adversarial_loss(logits).mean()


def discriminator_gradients(
    spec: TrainingSpec, params: Any, batch_stats: Any, examples: Examples, output: jax.Array
) -> tuple[Any, tuple[Any, ...]]:
    """D's updated running statistics, and its gradients, loss and accuracies on real and completed images.

    Real and completed images are separate batches for D's normalisation.
    """
    completed = jax.lax.stop_gradient(images.composite(examples.image, output, examples.mask))

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        real_logits, stats = discriminate(spec, params, batch_stats, examples.image, examples.real_local_box)
        fake_logits, stats = discriminate(spec, params, stats, completed, examples.local_box)
        loss = spec.discriminator_loss(real_logits, fake_logits).mean()
        accuracies = jnp.mean(real_logits > 0), jnp.mean(fake_logits < 0)
        return spec.discriminator_weight * loss, (stats, loss, *accuracies)

    (_, (stats, *values)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    return stats, (grads, *values)


def update_discriminator(
    spec: TrainingSpec, discriminator: NetworkState, batch_stats: Any, means: tuple[Any, ...]
) -> tuple[NetworkState, DiscriminatorMetrics]:
    """Averages what `discriminator_gradients` returned over the devices, and updates D with it."""
    grads, loss, real_accuracy, fake_accuracy = mean_over_devices(spec, means)
    metrics = DiscriminatorMetrics(loss, real_accuracy, fake_accuracy, optax.tree.norm(grads))
    return apply_gradients(spec, discriminator, spec.discriminator_optimizer, grads, batch_stats), metrics


def accumulate(
    spec: TrainingSpec, function: Callable[[Any, Examples], tuple[Any, T]], carry: Any, examples: Examples
) -> tuple[Any, T]:
    """Applies `function` to the batch in `spec.accumulation` parts.

    Means of gradients and losses equal the whole batch's, except for BatchNorm, which normalises each part by
    its own statistics and updates the running ones once a part.

    Args:
      spec: Gives the number of parts.
      function: `(carry, part) -> (carry, values)`.
      carry: The running statistics before the first part.
      examples: The batch.

    Returns:
      The last carry, and the mean of the values.
    """
    parts = spec.accumulation
    if parts == 1:
        return function(carry, examples)
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), examples)
    shapes = jax.eval_shape(function, carry, jax.tree.map(lambda x: x[0], split))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(carry_and_sum: tuple[Any, T], part: Examples) -> tuple[tuple[Any, T], None]:
        carry, values = function(carry_and_sum[0], part)
        return (carry, jax.tree.map(jnp.add, carry_and_sum[1], values)), None

    (carry, total), _ = jax.lax.scan(add, (carry, zeros), split)
    return carry, jax.tree.map(lambda x: x / parts, total)


def mean_over_devices(spec: TrainingSpec, values: T) -> T:
    """Averages every leaf over the spec's pmap axis, if it has one."""
    return values if spec.axis_name is None else jax.lax.pmean(values, spec.axis_name)


def apply_gradients(
    spec: TrainingSpec,
    network: NetworkState,
    optimizer: optax.GradientTransformationExtraArgs,
    grads: Any,
    batch_stats: Any,
    **extra: Any,
) -> NetworkState:
    """Applies one optimizer update; averages statistics that devices computed alone, to keep states equal."""
    updates, optimizer_state = optimizer.update(grads, network.optimizer_state, network.params, **extra)
    if not spec.sync_batch_norm:
        batch_stats = mean_over_devices(spec, batch_stats)
    return NetworkState(optax.apply_updates(network.params, updates), batch_stats, optimizer_state)


def advance(state: TrainState, completion: NetworkState, discriminator: NetworkState | None) -> TrainState:
    """The state after a step that updated C."""
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(completion.variables, ema, 1.0 - state.spec.ema_decay)
    return state.replace(step=state.step + 1, completion=completion, discriminator=discriminator, ema=ema)


def step_of(
    phase: str, done: int, spec: TrainingSpec
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Any]]:
    """The step function of a phase's next update, after `done` updates in that phase."""
    if phase in STEPS_BETWEEN and not spec.balance.is_measured(done):
        return STEPS_BETWEEN[phase]
    return STEPS[phase]


STEPS = {"completion": completion_step, "discriminator": discriminator_step, "joint": joint_step}

# Phases that measure only every few updates: the step for the updates between.
STEPS_BETWEEN = {"joint": joint_step_between_measurements}
