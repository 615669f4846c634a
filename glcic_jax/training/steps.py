"""One update of each phase: pure functions `(state, batch, key) -> (state, metrics)`.

`batch` is one device's share: `{"image": [n, S, S, 3] uint8, "place": [n] int32}`, the latter each example's
place in the whole batch; `key` is the run's key, the same at every step and on every device. Holes are drawn
from the key, the step and the place, so that they do not depend on the number of devices or processes. Under
`jax.pmap` the state is the same on all devices before and after: gradients and metrics are averaged over the
axis that the spec names.

Reference: Iizuka et al. 2017, Section 3.4 and Algorithm 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

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


def completion_forward(state: TrainState, batch_stats: Any, examples: Examples) -> Forward:
    """Runs C in training mode and keeps the way back to its parameters."""

    def apply(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        output, updated = state.spec.completion_network.apply(
            variables, examples.network_input, train=True, mutable=["batch_stats"]
        )
        return output, updated["batch_stats"]

    output, pullback, batch_stats = jax.vjp(apply, state.completion.params, has_aux=True)
    return Forward(output, batch_stats, pullback)


def accumulate(
    spec: TrainingSpec, work: Callable[[Any, Examples], tuple[Any, T]], carry: Any, examples: Examples
) -> tuple[Any, T]:
    """Works through a batch in `accumulation` parts: the last carry, and the mean of the values.

    Gradients and losses are exactly the whole batch's but for BatchNorm, which normalises each part by
    itself and moves its running statistics once for each part.
    """
    parts = spec.accumulation
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


def mean_over_devices(spec: TrainingSpec, values: T) -> T:
    """The mean of every leaf over the spec's axis; the values themselves where there is none."""
    return values if spec.axis_name is None else jax.lax.pmean(values, spec.axis_name)


def update(
    optimizer: optax.GradientTransformationExtraArgs,
    network: NetworkState,
    grads: Any,
    batch_stats: Any,
    spec: TrainingSpec,
    **extra: Any,
) -> NetworkState:
    """Applies one update; statistics that each device gathered alone are averaged, to keep states equal."""
    updates, optimizer_state = optimizer.update(grads, network.optimizer_state, network.params, **extra)
    if not spec.sync_batch_norm:
        batch_stats = mean_over_devices(spec, batch_stats)
    return NetworkState(optax.apply_updates(network.params, updates), batch_stats, optimizer_state)


class CompletionMetrics(struct.PyTreeNode):
    """Phase 1; float32 scalars, averaged over the batch."""

    reconstruction_loss: jax.Array
    completion_gradient_norm: jax.Array


class DiscriminatorMetrics(struct.PyTreeNode):
    """Phase 2; float32 scalars, averaged over the batch. Accuracies are fractions in [0, 1]."""

    discriminator_loss: jax.Array
    real_accuracy: jax.Array
    fake_accuracy: jax.Array
    discriminator_gradient_norm: jax.Array


class JointMetrics(DiscriminatorMetrics):
    """Phase 3: D's metrics, then C's. `adversarial_loss` and its norm are those before the weight.

    `completion_gradient_norm` is that of the weighed sum, which C is updated by. It is of this very update; the
    norms of the two parts are those last measured.
    """

    reconstruction_loss: jax.Array
    adversarial_loss: jax.Array
    completion_gradient_norm: jax.Array
    reconstruction_gradient_norm: jax.Array
    adversarial_gradient_norm: jax.Array
    adversarial_weight: jax.Array


class _JointLosses(NamedTuple):
    """C's two losses on some examples, and their gradients in C's output."""

    forward: Forward
    reconstruction: jax.Array
    of_rec: jax.Array
    adversarial: jax.Array
    of_adversarial: jax.Array


class _Updated(NamedTuple):
    """C after its joint update, its two losses, and the norm of the gradient that was applied."""

    completion: NetworkState
    reconstruction: jax.Array
    adversarial: jax.Array
    gradient_norm: jax.Array


# From the state, the examples, and what gives C's losses on part of them.
_CompletionUpdate = Callable[[TrainState, Examples, Callable[[Any, Examples], _JointLosses]], _Updated]


def completion_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, CompletionMetrics]:
    """Phase 1: trains C alone on the reconstruction loss; D is not touched (Algorithm 1, line 5)."""
    spec = state.spec
    examples = draw_examples(state, batch, key)

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, jax.Array]]:
        forward = completion_forward(state, batch_stats, part)
        loss, cotangent = jax.value_and_grad(_reconstruction_loss)(forward.output, spec, part)
        (grads,) = forward.pullback(cotangent)
        return forward.batch_stats, (grads, loss)

    batch_stats, means = accumulate(spec, gradients, state.completion.batch_stats, examples)
    grads, loss = mean_over_devices(spec, means)
    completion = update(spec.completion_optimizer, state.completion, grads, batch_stats, spec)
    metrics = CompletionMetrics(loss, optax.tree.norm(grads))
    return _advance(state, completion, state.discriminator), metrics


def discriminator_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, DiscriminatorMetrics]:
    """Phase 2: trains D alone; C completes with its running statistics, and nothing of it changes."""
    examples = draw_examples(state, batch, key)

    def complete(part: Examples) -> jax.Array:
        variables = {"params": state.completion.params, "batch_stats": state.completion.batch_stats}
        output: Any = state.spec.completion_network.apply(variables, part.network_input, train=False)
        return images.composite(part.image, output, part.mask)

    discriminator, metrics = _update_discriminator(state, examples, complete)
    return state.replace(step=state.step + 1, discriminator=discriminator), metrics


def joint_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, JointMetrics]:
    """Phase 3: trains D on real and completed images, then C on Equation 4 against the D just updated.

    Measures the norms of C's two gradients, for which C is differentiated twice.
    """
    return _train_both(state, batch, key, _measured_update)


def joint_step_between_measurements(
    state: TrainState, batch: Batch, key: jax.Array
) -> tuple[TrainState, JointMetrics]:
    """Phase 3 between two measurements: as `joint_step`, but the adversarial weight follows from the last norms.

    C is differentiated once, for the sum of both losses. The metrics repeat the norms.
    """
    return _train_both(state, batch, key, _weighed_update)


def _train_both(
    state: TrainState, batch: Batch, key: jax.Array, update_completion: _CompletionUpdate
) -> tuple[TrainState, JointMetrics]:
    spec = state.spec
    examples = draw_examples(state, batch, key)
    # One pass of C serves both updates. Worked through in parts, C runs again in the second half instead:
    # to keep every part's activations is what accumulation is there to avoid.
    whole = None
    if spec.accumulation == 1:
        whole = completion_forward(state, state.completion.batch_stats, examples)

    def forward_of(batch_stats: Any, part: Examples) -> Forward:
        return completion_forward(state, batch_stats, part) if whole is None else whole

    def complete(part: Examples) -> jax.Array:
        return images.composite(part.image, forward_of(state.completion.batch_stats, part).output, part.mask)

    discriminator, discriminator_metrics = _update_discriminator(state, examples, complete)

    def differentiate(batch_stats: Any, part: Examples) -> _JointLosses:
        forward = forward_of(batch_stats, part)
        reconstruction, of_rec = jax.value_and_grad(_reconstruction_loss)(forward.output, spec, part)
        adversarial, of_adversarial = jax.value_and_grad(_adversarial_loss)(
            forward.output, spec, discriminator, part
        )
        return _JointLosses(forward, reconstruction, of_rec, adversarial, of_adversarial)

    updated = update_completion(state, examples, differentiate)
    balance = balance_state(updated.completion.optimizer_state)
    metrics = JointMetrics(
        **vars(discriminator_metrics),
        reconstruction_loss=updated.reconstruction,
        adversarial_loss=updated.adversarial,
        completion_gradient_norm=updated.gradient_norm,
        reconstruction_gradient_norm=balance.reconstruction_norm,
        adversarial_gradient_norm=balance.adversarial_norm,
        adversarial_weight=balance.adversarial_weight,
    )
    return _advance(state, updated.completion, discriminator), metrics


def _measured_update(
    state: TrainState, examples: Examples, differentiate: Callable[[Any, Examples], _JointLosses]
) -> _Updated:
    """Differentiates C for each of the two losses, and weighs the gradients by their norms."""
    spec = state.spec

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, ...]]:
        losses = differentiate(batch_stats, part)
        (rec_grads,) = losses.forward.pullback(losses.of_rec)
        (adversarial_grads,) = losses.forward.pullback(losses.of_adversarial)
        return losses.forward.batch_stats, (
            rec_grads,
            adversarial_grads,
            losses.reconstruction,
            losses.adversarial,
        )

    batch_stats, means = accumulate(spec, gradients, state.completion.batch_stats, examples)
    rec_grads, adversarial_grads, reconstruction, adversarial = mean_over_devices(spec, means)
    extra = {"adversarial_updates": adversarial_grads}
    completion = update(spec.completion_optimizer, state.completion, rec_grads, batch_stats, spec, **extra)
    # The sum that the optimizer's chain makes inside; to make it again is next to nothing beside two ways back.
    weight = balance_state(completion.optimizer_state).adversarial_weight
    norm = optax.tree.norm(add_adversarial(rec_grads, adversarial_grads, weight))
    return _Updated(completion, reconstruction, adversarial, norm)


def _weighed_update(
    state: TrainState, examples: Examples, differentiate: Callable[[Any, Examples], _JointLosses]
) -> _Updated:
    """Differentiates C once, for the sum of both losses at the weight that the last norms gave."""
    spec = state.spec
    weight = spec.balance.weight(balance_state(state.completion.optimizer_state))

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, ...]]:
        losses = differentiate(batch_stats, part)
        (grads,) = losses.forward.pullback(add_adversarial(losses.of_rec, losses.of_adversarial, weight))
        return losses.forward.batch_stats, (grads, losses.reconstruction, losses.adversarial)

    batch_stats, means = accumulate(spec, gradients, state.completion.batch_stats, examples)
    grads, reconstruction, adversarial = mean_over_devices(spec, means)
    extra = {"adversarial_weight": weight}
    completion = update(spec.completion_optimizer, state.completion, grads, batch_stats, spec, **extra)
    return _Updated(completion, reconstruction, adversarial, optax.tree.norm(grads))


def _reconstruction_loss(output: jax.Array, spec: TrainingSpec, examples: Examples) -> jax.Array:
    return spec.reconstruction_loss(output, examples.image, examples.mask).mean()


def _adversarial_loss(
    output: jax.Array, spec: TrainingSpec, discriminator: NetworkState, examples: Examples
) -> jax.Array:
    """C's adversarial term; D's running statistics, which this pass would move, are left as they are."""
    completed = images.composite(examples.image, output, examples.mask)
    logits, _ = _judge(spec, discriminator.params, discriminator.batch_stats, completed, examples.local_box)
    return spec.adversarial_loss(logits).mean()


def _judge(
    spec: TrainingSpec, params: Any, batch_stats: Any, image: jax.Array, local_box: jax.Array
) -> tuple[jax.Array, Any]:
    """Runs D in training mode: logits [N] and the running statistics after it."""
    assert spec.context_discriminator is not None
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updated = spec.context_discriminator.apply(
        variables, image, local_box, train=True, mutable=["batch_stats"]
    )
    return logits, updated["batch_stats"]


def _update_discriminator(
    state: TrainState, examples: Examples, complete: Callable[[Examples], jax.Array]
) -> tuple[NetworkState, DiscriminatorMetrics]:
    """Trains D on real and completed images, each a batch of its own for D's normalisation."""
    spec, discriminator = state.spec, state.discriminator
    assert discriminator is not None

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, ...]]:
        completed = jax.lax.stop_gradient(complete(part))

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            real, stats = _judge(spec, params, batch_stats, part.image, part.real_local_box)
            fake, stats = _judge(spec, params, stats, completed, part.local_box)
            loss = spec.discriminator_loss(real, fake).mean()
            accuracies = jnp.mean(real > 0), jnp.mean(fake < 0)
            return spec.discriminator_weight * loss, (stats, loss, *accuracies)

        (_, (stats, *values)), grads = jax.value_and_grad(loss_of, has_aux=True)(discriminator.params)
        return stats, (grads, *values)

    batch_stats, means = accumulate(spec, gradients, discriminator.batch_stats, examples)
    grads, loss, real_accuracy, fake_accuracy = mean_over_devices(spec, means)
    metrics = DiscriminatorMetrics(loss, real_accuracy, fake_accuracy, optax.tree.norm(grads))
    return update(spec.discriminator_optimizer, discriminator, grads, batch_stats, spec), metrics


def _advance(state: TrainState, completion: NetworkState, discriminator: NetworkState | None) -> TrainState:
    """The state after an update that trained C."""
    ema = state.ema
    if ema is not None:
        trained = {"params": completion.params, "batch_stats": completion.batch_stats}
        ema = optax.incremental_update(trained, ema, 1.0 - state.spec.ema_decay)
    return state.replace(step=state.step + 1, completion=completion, discriminator=discriminator, ema=ema)


STEPS = {"completion": completion_step, "discriminator": discriminator_step, "joint": joint_step}

# Of the phases that measure something now and then only: the step for the updates between.
STEPS_BETWEEN = {"joint": joint_step_between_measurements}


def step_of(
    phase: str, done: int, spec: TrainingSpec
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Any]]:
    """The step for a phase's next update, after `done` updates of that phase."""
    if phase in STEPS_BETWEEN and not spec.balance.is_measured(done):
        return STEPS_BETWEEN[phase]
    return STEPS[phase]
