"""Each phase's step on one device.

The real networks run through all phases once. Properties of the steps alone are tested with networks of a few
layers, which compile faster.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.common import load_config, shrink, smooth_batch

from glcic_jax.errors import ConfigError
from glcic_jax.model import images, losses
from glcic_jax.model.gradient_balance import PLACES, Balance, balance_gradients, balance_state
from glcic_jax.model.networks import LAST_COMPLETION_LAYER, CompletionNetwork, ContextDiscriminator
from glcic_jax.training.tasks.completion import STEPS, TrainState, create_spec, create_state, steps
from glcic_jax.training.tasks.completion.steps import JointMetrics
from glcic_jax.training.updates import NetworkState

KEY = jax.random.key(1)
EMA_DECAY = 0.75
ALPHA = 0.0004
RATIO = 0.5
BALANCES = {
    place: Balance(alpha=ALPHA, place=place, ratio=RATIO, hold_steps=10, transition_steps=0, max_weight=1e3)
    for place in PLACES
}

COMPILED = {name: jax.jit(step) for name, step in STEPS.items()}


class SmallCompletion(nn.Module):
    """C with two convolutions.

    Its running statistics also hold the number of training passes, and a value that is added to the output outside
    the hole, which must have no effect.
    """

    normalise: bool = True
    output_activation: str = "sigmoid"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, network_input, train=False):
        passes = self.variable("batch_stats", "passes", jnp.zeros, ())
        outside = self.variable("batch_stats", "outside", jnp.zeros, ())
        if train and not self.is_initializing():
            passes.value += 1
        hidden = nn.Conv(4, (3, 3))(network_input)
        if self.normalise:
            hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9)(hidden)
        hidden = nn.relu(hidden)
        self.sow("intermediates", "last_input", hidden)
        output = nn.sigmoid(nn.Conv(3, (3, 3), name=LAST_COMPLETION_LAYER.name)(hidden))
        return output + outside.value * (1.0 - network_input[..., 3:])


class SmallDiscriminator(nn.Module):
    """D with two dense layers on the downsampled image and patch; also counts its training passes."""

    normalise: bool = True
    local_size: int = 16

    @nn.compact
    def __call__(self, image, local_box, train=False):
        passes = self.variable("batch_stats", "passes", jnp.zeros, ())
        if train and not self.is_initializing():
            passes.value += 1
        views = image, images.crop_patch(image, local_box, self.local_size)
        coarse = [nn.avg_pool(view, (8, 8), (8, 8)).reshape(len(view), -1) for view in views]
        hidden = nn.Dense(8)(jnp.concatenate(coarse, axis=-1) - 0.5)
        if self.normalise:
            hidden = nn.BatchNorm(use_running_average=not train, momentum=0.9)(hidden)
        return nn.Dense(1)(nn.relu(hidden))[:, 0]


def _small_state(config, normalise=True, **fields) -> TrainState:
    """A state with the small networks; `fields` replace other parts of the spec."""
    networks = {
        "completion_network": SmallCompletion(normalise),
        "context_discriminator": SmallDiscriminator(normalise, config.discriminator.local_size),
    }
    spec = dataclasses.replace(create_spec(config), **{**networks, **fields})
    return create_state(spec, jax.random.key(0), config.data.image_size, jnp.array([0.5, 0.45, 0.4]))


def _descend(learning_rate: float, place: str = "output") -> dict[str, optax.GradientTransformation]:
    """Gradient descent for both networks, so that the change of parameters shows the gradient."""
    return {
        "completion_optimizer": optax.chain(balance_gradients(BALANCES[place]), optax.sgd(learning_rate)),
        "discriminator_optimizer": optax.with_extra_args_support(optax.sgd(learning_rate)),
    }


def _same(one, other) -> bool:
    """Bit-identical, leaf by leaf."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _all_differ(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return not any(np.array_equal(a, b) for a, b in pairs)


def _close(one, other, **tolerance) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def _variables(network: NetworkState) -> dict:
    return {"params": network.params, "batch_stats": network.batch_stats}


class Run(NamedTuple):
    """One update of each phase: the states before and after each, and the metrics."""

    states: tuple[TrainState, ...]
    metrics: dict

    def around(self, phase: str) -> tuple[TrainState, TrainState]:
        """The states before and after the update of a phase."""
        index = list(STEPS).index(phase)
        return self.states[index], self.states[index + 1]


def _run(state: TrainState, batch: dict) -> Run:
    states, metrics = [state], {}
    for name, step in COMPILED.items():
        state, metrics[name] = step(state, batch, KEY)
        states.append(state)
    return Run(tuple(states), metrics)


@pytest.fixture(scope="module")
def shared_batch() -> dict[str, np.ndarray]:
    """The `batch` fixture at module scope."""
    return smooth_batch(4, 32)


@pytest.fixture(scope="module")
def run(shared_batch) -> Run:
    """The three phases with the real networks, the default optimizer and a moving average of C."""
    config = shrink(load_config("joint"))
    config.completion.ema_decay = EMA_DECAY
    config.discriminator.global_channels = config.discriminator.local_channels = (64,)
    state = create_state(create_spec(config), jax.random.key(0), 32, jnp.array([0.5, 0.45, 0.4]))
    return _run(state, shared_batch)


@pytest.fixture(scope="module")
def small_run(shared_batch) -> Run:
    """The three phases with the small networks and gradient descent."""
    return _run(_small_state(shrink(load_config("joint")), **_descend(0.1)), shared_batch)


def test_every_phase_has_a_step_that_increments_the_step_count(run):
    assert list(STEPS) == ["completion", "discriminator", "joint"]
    assert [int(state.step) for state in run.states] == [0, 1, 2, 3]
    assert all(state.step.dtype == jnp.int32 for state in run.states)


def test_every_phase_keeps_its_dtypes_where_jax_computes_with_64_bits(config, create, batch):
    def dtypes(tree):
        return [leaf.dtype for leaf in jax.tree.leaves(tree)]

    with jax.enable_x64(True):
        state, small = create(config), _small_state(config)
        for step in STEPS.values():
            after, _ = jax.eval_shape(step, state, batch, jax.random.key(1))
            assert dtypes(after) == dtypes(state)
        run = _run(small, batch)
        assert dtypes(run.states[-1]) == dtypes(small)
        assert all(np.isfinite(value) for metrics in run.metrics.values() for value in jax.tree.leaves(metrics))


def test_all_metrics_are_finite_scalars(run):
    for metrics in run.metrics.values():
        for name, value in vars(metrics).items():
            assert value.shape == (), name
            assert value.dtype == jnp.float32, name
            assert np.isfinite(value), name


def test_completion_step_trains_c_alone(run):
    before, after = run.around("completion")
    assert _all_differ(before.completion.params, after.completion.params)
    assert _all_differ(before.completion.batch_stats, after.completion.batch_stats)
    assert _same(before.discriminator, after.discriminator)


def test_completion_step_does_not_count_as_joint_update(run):
    _, after = run.around("completion")
    assert balance_state(after.completion.optimizer_state).joint_updates == 0


def test_discriminator_step_leaves_c_bit_identical(run):
    before, after = run.around("discriminator")
    assert _all_differ(before.discriminator.params, after.discriminator.params)
    assert _all_differ(before.discriminator.batch_stats, after.discriminator.batch_stats)
    # Parameters, running statistics and optimizer state.
    assert _same(before.completion, after.completion)


def test_joint_step_trains_both_networks(run):
    before, after = run.around("joint")
    for name in ("completion", "discriminator"):
        assert _all_differ(getattr(before, name).params, getattr(after, name).params)
        assert _all_differ(getattr(before, name).batch_stats, getattr(after, name).batch_stats)
    assert balance_state(after.completion.optimizer_state).joint_updates == 1


def test_adversarial_gradient_reaches_c(run):
    metrics = run.metrics["joint"]
    assert metrics.adversarial_gradient_norm > 0
    # The initial ratio of norms is 3, up to the bound on the weight.
    weight = min(10.0, 3 * metrics.reconstruction_gradient_norm / metrics.adversarial_gradient_norm)
    np.testing.assert_allclose(metrics.adversarial_weight, weight, rtol=1e-5)


def test_moving_average_follows_its_formula(run):
    for phase in ("completion", "joint"):
        before, after = run.around(phase)
        decay = (1 + int(before.step)) / (10 + int(before.step))
        expected = jax.tree.map(
            lambda old, new, decay=decay: (
                decay * np.asarray(old, np.float64) + (1 - decay) * np.asarray(new, np.float64)
            ),
            before.ema,
            _variables(after.completion),
        )
        _close(after.ema, expected, rtol=1e-5, atol=1e-7)
        assert _all_differ(after.ema, before.ema)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (8, 0.5), (26, 0.75), (1_000_000, EMA_DECAY)])
def test_moving_average_warms_up_to_its_decay(step, decay, run):
    state = run.states[0]
    zeros, ones = (jax.tree.map(lambda x, v=v: jnp.full_like(x, v), state.ema) for v in (0, 1))
    state = state.replace(step=jnp.asarray(step, jnp.int32), ema=zeros)
    averaged = steps.advance(state, state.completion.replace(**ones), state.discriminator).ema
    _close(averaged, jax.tree.map(lambda x: (1 - decay) * np.asarray(x), ones), rtol=1e-6)


def test_moving_average_does_not_change_in_phase_2(run):
    before, after = run.around("discriminator")
    assert _same(before.ema, after.ema)


def test_inference_uses_the_moving_average_if_there_is_one(run, small_run):
    assert _same(run.states[-1].inference_variables, run.states[-1].ema)
    assert _all_differ(run.states[-1].inference_variables, _variables(run.states[-1].completion))
    assert all(state.ema is None for state in small_run.states)
    assert _same(small_run.states[-1].inference_variables, _variables(small_run.states[-1].completion))


def _network_calls(phase: str, state: TrainState, batch: dict) -> list[tuple[type, bool]]:
    """The networks that a step applies, and whether in training mode."""
    calls = []

    def note(call, arguments, options, context):
        if isinstance(context.module, CompletionNetwork | ContextDiscriminator):
            calls.append((type(context.module), options["train"]))
        return call(*arguments, **options)

    with nn.intercept_methods(note):
        # A new function object, because JAX caches traces.
        jax.eval_shape(functools.partial(STEPS[phase]), state, batch, KEY)
    return calls


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("completion", [(CompletionNetwork, True)]),
        ("discriminator", [(CompletionNetwork, False)] + [(ContextDiscriminator, True)] * 2),
        ("joint", [(CompletionNetwork, True)] + [(ContextDiscriminator, True)] * 3),
    ],
)
def test_number_of_passes_through_the_networks(phase, expected, run, shared_batch):
    assert _network_calls(phase, run.states[0], shared_batch) == expected


class ByHand(NamedTuple):
    """A joint update computed from its definition; `norms` of C's two gradients, by place."""

    completion_gradients: tuple[dict, dict]
    completion_stats: dict
    discriminator_params: dict
    discriminator_stats: dict
    metrics: dict
    norms: dict
    mixed_discriminator_loss: jax.Array
    adversarial_loss_of_the_old_discriminator: jax.Array


@jax.jit
def _joint_update_by_hand(state: TrainState, batch: dict, learning_rate: float) -> ByHand:
    spec, completion, discriminator = state.spec, state.completion, state.discriminator
    drawn = steps.draw_examples(state, batch, KEY)
    train = {"train": True, "mutable": ["batch_stats"]}

    def complete(params):
        variables = {"params": params, "batch_stats": completion.batch_stats}
        output, updated = spec.completion_network.apply(variables, drawn.network_input, **train)
        return output, updated["batch_stats"]

    def judge(params, stats, image, box):
        variables = {"params": params, "batch_stats": stats}
        logits, updated = spec.context_discriminator.apply(variables, image, box, **train)
        return logits, updated["batch_stats"]

    def composite(output):
        return drawn.mask * output + (1 - drawn.mask) * drawn.image

    output, completion_stats = complete(completion.params)
    completed = composite(output)

    def discriminator_loss(params):
        real, stats = judge(params, discriminator.batch_stats, drawn.image, drawn.real_local_box)
        fake, stats = judge(params, stats, completed, drawn.local_box)
        loss = -jnp.log(nn.sigmoid(real)).mean() - jnp.log(1 - nn.sigmoid(fake)).mean()
        return loss, (stats, (real > 0).mean(), (fake < 0).mean())

    (loss, (stats, real_accuracy, fake_accuracy)), gradient = jax.value_and_grad(discriminator_loss, has_aux=True)(
        discriminator.params
    )
    updated = jax.tree.map(lambda p, g: p - learning_rate * g, discriminator.params, gradient)

    def mixed_loss(params):
        both = jnp.concatenate([drawn.image, completed]), jnp.concatenate([drawn.real_local_box, drawn.local_box])
        real, fake = jnp.split(judge(params, discriminator.batch_stats, *both)[0], 2)
        return -jnp.log(nn.sigmoid(real)).mean() - jnp.log(1 - nn.sigmoid(fake)).mean()

    def reconstruction(output):
        error = drawn.mask * (output - drawn.image)
        return ((error**2).sum(axis=(1, 2, 3)) / (3 * drawn.mask.sum(axis=(1, 2, 3)))).mean()

    def adversarial(output, judging_params=updated, judging_stats=stats):
        fake, _ = judge(judging_params, judging_stats, composite(output), drawn.local_box)
        return jnp.log(1 - nn.sigmoid(fake)).mean()

    by_output = [jax.grad(loss)(output) for loss in (reconstruction, adversarial)]
    by_params = [
        jax.grad(lambda params, loss=loss: loss(complete(params)[0]))(completion.params)
        for loss in (reconstruction, adversarial)
    ]
    return ByHand(
        completion_gradients=tuple(by_params),
        completion_stats=completion_stats,
        discriminator_params=updated,
        discriminator_stats=stats,
        metrics={
            "discriminator_loss": loss,
            "real_accuracy": real_accuracy,
            "fake_accuracy": fake_accuracy,
            "discriminator_gradient_norm": optax.tree.norm(gradient),
            "reconstruction_loss": reconstruction(output),
            "adversarial_loss": adversarial(output),
        },
        norms={
            "output": [optax.tree.norm(gradient) for gradient in by_output],
            "last_layer": [optax.tree.norm(gradient["conv17"]["kernel"]) for gradient in by_params],
            "parameters": [optax.tree.norm(gradient) for gradient in by_params],
        },
        mixed_discriminator_loss=mixed_loss(discriminator.params),
        adversarial_loss_of_the_old_discriminator=adversarial(
            output, discriminator.params, discriminator.batch_stats
        ),
    )


@pytest.fixture(scope="module")
def by_hand(small_run, shared_batch) -> ByHand:
    return _joint_update_by_hand(small_run.around("joint")[0], shared_batch, 0.1)


@pytest.mark.parametrize("place", PLACES)
def test_joint_update_agrees_with_its_definition(place, small_run, by_hand, shared_batch):
    before, _ = small_run.around("joint")
    spec = dataclasses.replace(before.spec, **_descend(0.1, place))
    after, metrics = COMPILED["joint"](before.replace(spec=spec), shared_batch, KEY)
    reconstruction, adversarial = by_hand.norms[place]
    weight = RATIO * reconstruction / adversarial
    gradient = jax.tree.map(lambda g, a: g + weight * a, *by_hand.completion_gradients)
    balance = {
        "reconstruction_gradient_norm": reconstruction,
        "adversarial_gradient_norm": adversarial,
        "completion_gradient_norm": optax.tree.norm(gradient),
        "adversarial_weight": weight,
    }
    # Means of a few thousand float32 values, summed in a different order.
    _close(vars(metrics), by_hand.metrics | balance, rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before.completion.params, gradient)
    _close(after.completion.params, expected, rtol=1e-4, atol=1e-6)
    _close(after.completion.batch_stats, by_hand.completion_stats, rtol=1e-4, atol=1e-6)
    _close(after.discriminator.params, by_hand.discriminator_params, rtol=1e-4, atol=1e-6)
    _close(after.discriminator.batch_stats, by_hand.discriminator_stats, rtol=1e-4, atol=1e-6)


def test_discriminator_normalises_real_and_completed_images_separately(small_run, by_hand):
    loss = small_run.metrics["joint"].discriminator_loss
    np.testing.assert_allclose(loss, by_hand.metrics["discriminator_loss"], rtol=1e-4)
    assert abs(loss / by_hand.mixed_discriminator_loss - 1) > 0.01


def test_joint_step_updates_d_before_c(small_run, by_hand):
    loss = small_run.metrics["joint"].adversarial_loss
    np.testing.assert_allclose(loss, by_hand.metrics["adversarial_loss"], rtol=1e-4)
    assert abs(loss / by_hand.adversarial_loss_of_the_old_discriminator - 1) > 0.01


def test_alpha_weights_the_adversarial_gradient_after_the_balance(small_run, by_hand, shared_batch):
    before, balanced = small_run.around("joint")
    late = jax.tree.map(lambda x: jnp.full_like(x, 1000) if x.dtype == jnp.int32 else x, before.completion)
    assert balance_state(late.optimizer_state).joint_updates == 1000
    after, metrics = COMPILED["joint"](before.replace(completion=late), shared_batch, KEY)
    assert metrics.adversarial_weight == np.float32(ALPHA)
    early = small_run.metrics["joint"]
    assert early.adversarial_weight > 10 * ALPHA
    assert metrics.adversarial_gradient_norm == early.adversarial_gradient_norm
    # Both updates contain the same MSE gradient, and differ by the adversarial one.
    difference = jax.tree.map(jnp.subtract, balanced.completion.params, after.completion.params)
    expected = 0.1 * (early.adversarial_weight - ALPHA) * by_hand.norms["parameters"][1]
    np.testing.assert_allclose(optax.tree.norm(difference), expected, rtol=1e-3)


def _with_garbage_outside(state: TrainState) -> TrainState:
    stats = {**state.completion.batch_stats, "outside": jnp.full((), 100.0, jnp.float32)}
    return state.replace(completion=state.completion.replace(batch_stats=stats))


@pytest.mark.parametrize("phase", STEPS)
def test_output_outside_the_hole_has_no_effect(phase, small_run, shared_batch):
    before, after = small_run.around(phase)
    found, metrics = COMPILED[phase](_with_garbage_outside(before), shared_batch, KEY)
    assert _same(metrics, small_run.metrics[phase])
    assert _same(found.discriminator, after.discriminator)
    assert _same(found.completion.params, after.completion.params)


@pytest.mark.parametrize("phase", ["discriminator", "joint"])
def test_output_inside_the_hole_reaches_the_discriminator(phase, small_run, shared_batch):
    before, _ = small_run.around(phase)
    darker = jax.tree_util.tree_map_with_path(
        lambda path, x: x - 3.0 if jax.tree_util.keystr(path) == "['conv17']['bias']" else x,
        before.completion.params,
    )
    assert not _same(darker, before.completion.params)
    changed = before.replace(completion=before.completion.replace(params=darker))
    _, metrics = COMPILED[phase](changed, shared_batch, KEY)
    assert abs(metrics.discriminator_loss / small_run.metrics[phase].discriminator_loss - 1) > 1e-3


@pytest.mark.parametrize(("phase", "passes"), [("completion", 0), ("discriminator", 2), ("joint", 2)])
def test_running_statistics_change_once_a_pass_and_not_for_the_adversarial_loss(phase, passes, small_run):
    before, after = small_run.around(phase)
    assert after.discriminator.batch_stats["passes"] - before.discriminator.batch_stats["passes"] == passes
    completion_passes = after.completion.batch_stats["passes"] - before.completion.batch_stats["passes"]
    assert completion_passes == (phase != "discriminator")


def _gradients(optimizer, grads, params, steps_done):
    """Successive updates of a chain for a constant gradient."""
    state = optimizer.init(params)
    for _ in range(steps_done):
        updates, state = optimizer.update(grads, state, params)
        yield updates


@pytest.mark.parametrize("name", ["adadelta", "adam"])
@pytest.mark.parametrize("network", ["completion_optimizer", "discriminator_optimizer"])
def test_optimizers_move_against_the_gradient(name, network, config):
    config.optimizer.name = name
    grads = {"kernel": jnp.array([0.3, -2.0, 1e-3, -40.0])}
    for updates in _gradients(getattr(create_spec(config), network), grads, grads, 3):
        assert np.all(np.sign(updates["kernel"]) == -np.sign(grads["kernel"]))


@pytest.mark.parametrize("network", ["completion_optimizer", "discriminator_optimizer"])
def test_default_optimizer_is_adadelta_at_a_learning_rate_of_one(network, config):
    gradient = np.array([0.3, -2.0, 1e-3, -40.0])
    grads = {"kernel": jnp.asarray(gradient, jnp.float32)}
    if network == "completion_optimizer":
        gradient = 112 * 112 * 3 * gradient  # The sum over the paper's mean hole.
    squares = moves = np.zeros(4)
    for updates in _gradients(getattr(create_spec(config), network), grads, grads, 3):
        # Zeiler 2012, Algorithm 1, with rho 0.9 and epsilon 1e-6.
        squares = 0.9 * squares + 0.1 * gradient**2
        move = -np.sqrt(moves + 1e-6) / np.sqrt(squares + 1e-6) * gradient
        moves = 0.9 * moves + 0.1 * move**2
        np.testing.assert_allclose(updates["kernel"], move, rtol=1e-4)


@pytest.mark.parametrize(
    ("scale", "exponent", "tolerance"), [(1.0, 1.0, 0.01), (1e3, 0.0, 0.001), (1e6, 0.0, 1e-6)]
)
def test_adadelta_descends_on_small_gradients_and_ignores_the_scale_of_large_ones(
    scale, exponent, tolerance, config
):
    config.optimizer.objective_scale = scale
    optimizer = create_spec(config).completion_optimizer
    grads = {"kernel": jnp.array([1e-4, 2e-4, -3e-4])}  # The square root of eps is 1e-3.
    *_, updates = _gradients(optimizer, grads, grads, 1)
    sizes = np.abs(updates["kernel"])
    np.testing.assert_allclose(sizes / sizes[0], np.array([1, 2, 3]) ** exponent, rtol=tolerance)
    if exponent:
        np.testing.assert_allclose(updates["kernel"], -grads["kernel"], rtol=tolerance)


@pytest.mark.parametrize("joint_updates", [0, 100_000])
def test_scale_of_the_objective_changes_no_metric(joint_updates, config, batch):
    found = []
    for scale in (1.0, 1_000.0):
        config.optimizer.objective_scale = scale
        state = _small_state(config)
        balance, *rest = state.completion.optimizer_state
        chain = (balance._replace(joint_updates=jnp.asarray(joint_updates, jnp.int32)), *rest)
        state = state.replace(completion=state.completion.replace(optimizer_state=chain))
        found.append((*COMPILED["joint"](state, batch, KEY), COMPILED["completion"](state, batch, KEY)[1]))
    (one, *metrics), (thousand, *others) = found
    assert (metrics[0].adversarial_weight == np.float32(config.loss.alpha)) == (joint_updates > 0)
    _close([vars(row) for row in metrics], [vars(row) for row in others], rtol=1e-6)
    assert not _same(one.completion.params, thousand.completion.params)


@pytest.mark.parametrize("network", ["completion_optimizer", "discriminator_optimizer"])
def test_adam_learning_rate_decays_to_a_tenth_by_a_cosine(network, config):
    config.optimizer.name = "adam"
    config.optimizer.adam.learning_rate = 0.01
    config.optimizer.adam.decay_steps = 4
    grads = {"kernel": jnp.array([0.3, -2.0])}
    found = [
        updates["kernel"][1] for updates in _gradients(getattr(create_spec(config), network), grads, grads, 6)
    ]
    # Adam's updates for a constant gradient equal the learning rate.
    fractions = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.minimum(np.arange(6), 4) / 4))
    np.testing.assert_allclose(found, 0.01 * fractions, rtol=1e-3)


@pytest.mark.parametrize("name", ["adadelta", "adam"])
def test_repeated_updates_lower_each_networks_loss(name, config, batch):
    config.optimizer.name = name
    config.optimizer.adam.learning_rate = 0.01
    state = _small_state(config)
    for phase, loss in (("completion", "reconstruction_loss"), ("discriminator", "discriminator_loss")):
        measured = []
        for _ in range(30):
            # The same step number gives the same holes and boxes, so that losses are comparable.
            state, metrics = COMPILED[phase](state.replace(step=jnp.zeros((), jnp.int32)), batch, KEY)
            measured.append(float(getattr(metrics, loss)))
        assert measured[1] < measured[0], phase
        assert measured[-1] < 0.9 * measured[0], phase


def test_discriminator_weight_scales_its_gradient_and_not_the_logged_loss(small_run, shared_batch):
    before, after = small_run.around("discriminator")
    # Keeps the spec's optimizer objects, which the optimizer states belong to.
    half = before.replace(spec=dataclasses.replace(before.spec, discriminator_weight=0.5))
    half_after, metrics = COMPILED["discriminator"](half, shared_batch, KEY)
    whole_move = jax.tree.map(jnp.subtract, after.discriminator.params, before.discriminator.params)
    half_move = jax.tree.map(jnp.subtract, half_after.discriminator.params, before.discriminator.params)
    _close(half_move, jax.tree.map(lambda x: 0.5 * x, whole_move), rtol=1e-3, atol=1e-6)
    loss = small_run.metrics["discriminator"].discriminator_loss
    np.testing.assert_allclose(metrics.discriminator_loss, loss, rtol=1e-6)


@pytest.fixture(scope="module", params=PLACES)
def accumulated(request, shared_batch) -> list[tuple[TrainState, TrainState, JointMetrics]]:
    """A joint update in one part and in two, without normalisation: before, after, metrics."""
    whole = _small_state(shrink(load_config("joint")), normalise=False, **_descend(1.0, request.param))
    halves = whole.replace(spec=dataclasses.replace(whole.spec, accumulation=2))
    return [(state, *COMPILED["joint"](state, shared_batch, KEY)) for state in (whole, halves)]


def test_accumulated_gradients_equal_those_of_the_whole_batch(accumulated):
    (_, whole, whole_metrics), (_, halves, halves_metrics) = accumulated
    assert whole_metrics.adversarial_weight > 10 * ALPHA
    # Without normalisation they differ only by the order of summation.
    _close(vars(halves_metrics), vars(whole_metrics), rtol=1e-4)
    _close(halves.completion.params, whole.completion.params, rtol=1e-4, atol=1e-6)
    _close(halves.discriminator.params, whole.discriminator.params, rtol=1e-4, atol=1e-6)


def test_each_part_updates_the_running_statistics(accumulated):
    (_, whole, _), (_, halves, _) = accumulated
    assert whole.completion.batch_stats["passes"] == 1
    # C runs twice for each part; passes that only complete images for D do not update statistics.
    assert halves.completion.batch_stats["passes"] == 2
    assert whole.discriminator.batch_stats["passes"] == 2
    assert halves.discriminator.batch_stats["passes"] == 4


_draw_jitted = jax.jit(steps.draw_examples)


class Drawn(NamedTuple):
    mask: np.ndarray
    local_box: np.ndarray
    real_local_box: np.ndarray


def _draw(state: TrainState, batch: dict, step: int, key: jax.Array = KEY) -> Drawn:
    drawn = _draw_jitted(state.replace(step=jnp.asarray(step, jnp.int32)), batch, key)
    return Drawn(*(np.asarray(part) for part in (drawn.mask, drawn.local_box, drawn.real_local_box)))


def test_holes_differ_between_examples_steps_and_keys(small_run, shared_batch):
    state = small_run.states[0]
    first = _draw(state, shared_batch, 0)
    for one in range(4):
        for other in range(one):
            assert not np.array_equal(first.mask[one], first.mask[other])
    others = _draw(state, shared_batch, 1), _draw(state, shared_batch, 0, jax.random.key(2))
    for drawn in others:
        assert not any(np.array_equal(a, b) for a, b in zip(first.mask, drawn.mask, strict=True))
        assert not np.array_equal(first.real_local_box, drawn.real_local_box)


def test_holes_are_the_same_for_the_same_key_and_step(small_run, shared_batch):
    state, later = small_run.states[0], small_run.states[-1]
    other_images = {**shared_batch, "image": shared_batch["image"][::-1]}
    # Neither parameters nor images matter.
    assert _same(_draw(state, shared_batch, 7), _draw(later, other_images, 7))


def test_real_images_have_their_own_local_boxes(small_run, shared_batch):
    draws = [_draw(small_run.states[0], shared_batch, step) for step in range(8)]
    holes = np.concatenate([drawn.local_box for drawn in draws])
    real = np.concatenate([drawn.real_local_box for drawn in draws])
    assert np.mean(np.all(holes == real, axis=1)) < 0.2
    assert len(np.unique(real, axis=0)) > 16
    for boxes in (holes, real):
        assert boxes.min() >= 0
        assert boxes.max() <= 32 - 16


@pytest.mark.parametrize("branch", ["global", "local", "texture"])
def test_one_branch_alone_trains(branch, config, batch):
    config.discriminator.branches = (branch,)
    config.discriminator[f"{branch}_channels"] = (64,)
    discriminator = create_spec(config).context_discriminator
    before = _small_state(config, context_discriminator=discriminator)
    assert set(before.discriminator.params) == {f"{branch}_branch", "linear"}
    after, metrics = COMPILED["joint"](before, batch, KEY)
    assert all(np.isfinite(value) for value in vars(metrics).values())
    assert metrics.adversarial_gradient_norm > 0
    assert _all_differ(before.discriminator.params, after.discriminator.params)
    assert _all_differ(before.completion.params, after.completion.params)


def test_without_branches_c_trains_without_a_discriminator(config, batch):
    config.discriminator.branches = ()
    config.phases.discriminator = config.phases.joint = 0
    before = _small_state(config, context_discriminator=create_spec(config).context_discriminator)
    assert before.discriminator is None
    after, _ = COMPILED["completion"](before, batch, KEY)
    assert after.discriminator is None
    assert after.step == 1
    assert _all_differ(before.completion.params, after.completion.params)


@pytest.mark.parametrize("phase", ["discriminator", "joint"])
def test_without_branches_phases_with_a_discriminator_are_refused(phase, config):
    config.discriminator.branches = ()
    config.phases.discriminator = config.phases.joint = 0
    config.phases[phase] = 1
    with pytest.raises(ConfigError, match=r"discriminator\.branches"):
        create_spec(config)


@pytest.fixture(scope="module")
def bfloat16_state() -> TrainState:
    """The real networks, with one convolution in each branch of D."""
    config = shrink(load_config("joint"))
    config.compute_dtype = "bfloat16"
    config.discriminator.global_channels = config.discriminator.local_channels = (64,)
    return create_state(create_spec(config), jax.random.key(0), 32, jnp.array([0.5, 0.45, 0.4]))


def _is_float32(state: TrainState) -> bool:
    return {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}


@pytest.mark.parametrize(
    ("phase", "loss"), [("completion", "reconstruction_loss"), ("discriminator", "discriminator_loss")]
)
def test_bfloat16_arithmetic_trains_float32_parameters(phase, loss, bfloat16_state, shared_batch):
    state, measured = bfloat16_state, []
    for _ in range(10):
        state, metrics = COMPILED[phase](state.replace(step=jnp.zeros((), jnp.int32)), shared_batch, KEY)
        measured.append(float(getattr(metrics, loss)))
    assert _is_float32(state)
    assert np.all(np.isfinite(measured))
    assert measured[-1] < measured[0]


def test_bfloat16_reaches_every_convolution_of_the_joint_step(bfloat16_state, shared_batch):
    traced = jax.jit(STEPS["joint"]).trace(bfloat16_state, shared_batch, KEY)
    state, metrics = jax.eval_shape(STEPS["joint"], bfloat16_state, shared_batch, KEY)
    assert _is_float32(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} == {jnp.dtype("float32")}
    lines = traced.lower(lowering_platforms=("cuda",)).as_text().splitlines()
    convolutions = [line for line in lines if "stablehlo.convolution" in line]
    assert convolutions
    assert all("bf16>" in line and "f32>" not in line for line in convolutions)


def test_default_losses_are_the_papers(config):
    spec = create_spec(config)
    assert spec.adversarial_loss is losses.minimax
    assert spec.discriminator_loss is losses.discriminator_loss
