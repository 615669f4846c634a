"""One update of each phase: pure functions `(state, batch, key) -> (state, metrics)`.

`batch` is one device's shard: `{"image": [n, S, S, 3] uint8, "place": [n] int32}`, where `place` is each example's
index in the global batch. `key` is the run's key, the same for every step and device. Holes depend on the key, the
step and the place alone, not on the number of devices or processes. Under `jax.pmap` gradients and metrics are
averaged over the spec's axis, so the state stays equal on all devices.

Reference: Iizuka et al. 2017, Section 3.4 and Algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from glcic_jax.model import images
from glcic_jax.model.gradient_balance import Pullbacks, balance_state
from glcic_jax.model.masks import random_local_box
from glcic_jax.model.networks import LAST_COMPLETION_LAYER, last_layer
from glcic_jax.training.task import Batch, Step
from glcic_jax.training.tasks.completion.state import TrainingSpec, TrainState
from glcic_jax.training.updates import NetworkState, accumulate, apply_gradients, mean_over_devices


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

    `completion_gradient_norm` is the norm of the weighted sum's gradient by C's parameters; the norms of its two
    terms are those at the place where the balance measures them.
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

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, jax.Array], None]:
        output, pullback, (batch_stats, _) = completion_forward(state, batch_stats, part)
        loss, cotangent = jax.value_and_grad(reconstruction_loss)(output, spec, part)
        (grads,) = pullback(cotangent)
        return batch_stats, (grads, loss), None

    batch_stats, means, _ = accumulate(spec, gradients, state.completion.batch_stats, examples)
    grads, loss = mean_over_devices(spec, means)
    completion = apply_gradients(spec, state.completion, spec.completion_optimizer, grads, batch_stats)
    metrics = CompletionMetrics(loss, optax.tree.norm(grads))
    return advance(state, completion, state.discriminator), metrics


def discriminator_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, DiscriminatorMetrics]:
    """Phase 2: trains D; C completes with its running statistics and does not change."""
    spec, discriminator = state.spec, state.discriminator
    assert discriminator is not None
    examples = draw_examples(state, batch, key)

    def gradients(batch_stats: Any, part: Examples) -> tuple[Any, tuple[Any, ...], None]:
        output: Any = spec.completion_network.apply(state.completion.variables, part.network_input, train=False)
        return *discriminator_gradients(spec, discriminator.params, batch_stats, part, output), None

    batch_stats, means, _ = accumulate(spec, gradients, discriminator.batch_stats, examples)
    updated, metrics = update_discriminator(spec, discriminator, batch_stats, means)
    return state.replace(step=state.step + 1, discriminator=updated), metrics


def joint_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, JointMetrics]:
    """Phase 3: trains D on real and completed images, then C on Equation 4 against the updated D.

    One forward pass of C serves both updates. C's optimizer chain weighs the derivatives of C's two losses by its
    output, see `balance_gradients`.
    """
    spec, old_c, old_d = state.spec, state.completion, state.discriminator
    assert old_d is not None
    examples = draw_examples(state, batch, key)
    output, pullbacks, c_stats = accumulated_forward(state, examples)

    def gradients_of_d(batch_stats: Any, part: tuple[Examples, jax.Array]) -> tuple[Any, tuple[Any, ...], None]:
        return *discriminator_gradients(spec, old_d.params, batch_stats, *part), None

    d_stats, means, _ = accumulate(spec, gradients_of_d, old_d.batch_stats, (examples, output))
    new_d, discriminator_metrics = update_discriminator(spec, old_d, d_stats, means)

    def cotangents_of_c(_: None, part: tuple[Examples, jax.Array]) -> tuple[None, Any, Any]:
        examples, output = part
        rec_loss, rec_cotangent = jax.value_and_grad(reconstruction_loss)(output, spec, examples)
        adv_loss, adv_cotangent = jax.value_and_grad(adversarial_loss)(output, spec, new_d, examples)
        return None, (rec_loss, adv_loss), (rec_cotangent / spec.accumulation, adv_cotangent / spec.accumulation)

    _, loss_means, cotangents = accumulate(spec, cotangents_of_c, None, (examples, output))
    rec_loss, adv_loss = mean_over_devices(spec, loss_means)
    rec_cotangent, adv_cotangent = cotangents
    extra = {"adversarial_updates": adv_cotangent, "pullbacks": pullbacks}
    new_c = apply_gradients(spec, old_c, spec.completion_optimizer, rec_cotangent, c_stats, **extra)
    balance = balance_state(new_c.optimizer_state)
    metrics = JointMetrics(
        **vars(discriminator_metrics),
        reconstruction_loss=rec_loss,
        adversarial_loss=adv_loss,
        completion_gradient_norm=balance.gradient_norm,
        reconstruction_gradient_norm=balance.reconstruction_norm,
        adversarial_gradient_norm=balance.adversarial_norm,
        adversarial_weight=balance.adversarial_weight,
    )
    return advance(state, new_c, new_d), metrics


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
) -> tuple[jax.Array, Callable[[jax.Array], tuple[Any]], tuple[Any, jax.Array]]:
    """Runs C in training mode.

    Returns:
      The output; the pullback to C's parameters; and the updated running statistics and the last layer's input.
    """

    def apply(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        output, updated = state.spec.completion_network.apply(
            variables, examples.network_input, train=True, mutable=["batch_stats", "intermediates"]
        )
        return output, (updated["batch_stats"], *updated["intermediates"]["last_input"])

    return jax.vjp(apply, state.completion.params, has_aux=True)


def accumulated_forward(state: TrainState, examples: Examples) -> tuple[jax.Array, Pullbacks, Any]:
    """Runs C in training mode on the batch, in parts.

    Returns:
      The output [N, H, W, 3]; the pullbacks of derivatives of the device's mean losses; and the updated running
      statistics.
    """
    spec, old_stats = state.spec, state.completion.batch_stats
    if spec.accumulation == 1:
        output, pullback, (batch_stats, last_input) = completion_forward(state, old_stats, examples)

        def gradients(cotangents: Sequence[jax.Array]) -> list[Any]:
            return [pullback(cotangent)[0] for cotangent in cotangents]
    else:

        def forward(batch_stats: Any, part: Examples) -> tuple[Any, None, tuple[jax.Array, jax.Array]]:
            output, _pullback, (batch_stats, last_input) = completion_forward(state, batch_stats, part)
            return batch_stats, None, (output, last_input)

        batch_stats, _, (output, last_input) = accumulate(spec, forward, old_stats, examples)

        # C runs again to be differentiated, because keeping every part's activations would defeat accumulation.
        def differentiate(_: None, part: tuple[Examples, list[jax.Array]]) -> tuple[None, list[Any], None]:
            examples, cotangents = part
            pullback = completion_forward(state, old_stats, examples)[1]
            # `accumulate` averages over the parts; this is a sum.
            return None, [pullback(spec.accumulation * cotangent)[0] for cotangent in cotangents], None

        def gradients(cotangents: Sequence[jax.Array]) -> list[Any]:
            return accumulate(spec, differentiate, None, (examples, list(cotangents)))[1]

    # The last layer runs again: its gradient through all of C would run more of C again, with accumulation all.
    _, last_pullback = jax.vjp(
        lambda params: last_layer(spec.completion_network, params, last_input, examples.network_input),
        state.completion.params[LAST_COMPLETION_LAYER.name],
    )
    return (
        output,
        Pullbacks(
            parameters=lambda cotangents: mean_over_devices(spec, gradients(cotangents)),
            last_kernel=lambda cotangent: mean_over_devices(spec, last_pullback(cotangent)[0]["kernel"]),
        ),
        batch_stats,
    )


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


def advance(state: TrainState, completion: NetworkState, discriminator: NetworkState | None) -> TrainState:
    """The state after a step that updated C."""
    ema = state.ema
    if ema is not None:
        # A shorter average at first, as TensorFlow's ExponentialMovingAverage with num_updates: otherwise the
        # initial weights would dominate it for hundreds of steps.
        decay = jnp.minimum(state.spec.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(completion.variables, ema, 1.0 - decay)
    return state.replace(step=state.step + 1, completion=completion, discriminator=discriminator, ema=ema)


STEPS: dict[str, Step] = {
    "completion": completion_step,
    "discriminator": discriminator_step,
    "joint": joint_step,
}
