import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.model.gradient_balance import (
    PLACES,
    Balance,
    BalanceState,
    Pullbacks,
    balance_gradients,
    balance_state,
)

ALPHA = 0.0004
OPTIONS = {
    "alpha": ALPHA, "place": "output", "ratio": 1.0, "hold_steps": 10, "transition_steps": 20, "max_weight": 10.0,
}  # fmt: skip
BALANCE = Balance(**OPTIONS)

# Derivatives by an output of three values, and the norms of both at each place; the output is linear in the
# parameters.
MSE = jnp.array([3.0, 4.0, 0.0])
ADVERSARIAL = jnp.array([-5.0, 12.0, 0.0])
NORMS = {
    "output": (5.0, 13.0),
    "last_layer": (6.0, 10.0),
    "parameters": (np.hypot(9.0, 28.0), np.hypot(15.0, 84.0)),
}
BALANCED = 5.0 / 13.0


def _gradient(derivative):
    return {"kernel": 3.0 * derivative[:1], "bias": 7.0 * derivative[1:]}


PULLBACKS = Pullbacks(
    parameters=lambda derivatives: [_gradient(derivative) for derivative in derivatives],
    last_kernel=lambda derivative: 2.0 * derivative[:1],
)


def _weights(updates, reconstruction_norm=5.0, adversarial_norm=13.0, **changes):
    """The weight after each number of joint updates."""
    norms = jnp.float32(reconstruction_norm), jnp.float32(adversarial_norm)
    return Balance(**{**OPTIONS, **changes}).weight(jnp.asarray(updates), *norms)


def _balance(state=None, mse=MSE, adversarial=ADVERSARIAL, **changes):
    """One update from the given state (or a new one): the total gradient and the new state."""
    transformation = balance_gradients(Balance(**{**OPTIONS, **changes}))
    state = transformation.init(_gradient(mse)) if state is None else state
    return transformation.update(mse, state, adversarial_updates=adversarial, pullbacks=PULLBACKS)


def _after(updates):
    zero = jnp.zeros(())
    return BalanceState(jnp.asarray(updates, jnp.int32), zero, zero, zero, zero)


def _assert_is_sum(total, weight):
    for name, value in _gradient(MSE + weight * ADVERSARIAL).items():
        np.testing.assert_allclose(total[name], value, rtol=1e-6)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_hold_scales_adversarial_gradient_to_ratio_of_norms_at_the_place(place, ratio):
    total, state = _balance(place=place, ratio=ratio)
    reconstruction, adversarial = NORMS[place]
    weight = ratio * reconstruction / adversarial
    expected = (1, reconstruction, adversarial, weight, optax.tree.norm(_gradient(MSE + weight * ADVERSARIAL)))
    np.testing.assert_allclose(state, expected, rtol=1e-6)
    _assert_is_sum(total, weight)


@pytest.mark.parametrize("place", PLACES)
def test_hold_is_independent_of_adversarial_gradient_scale(place):
    small, _ = _balance(place=place)
    large, _ = _balance(place=place, adversarial=1000.0 * ADVERSARIAL)
    np.testing.assert_allclose(large["bias"], small["bias"], rtol=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_after_transition_sum_is_equation_4_and_norms_are_still_measured(place):
    total, state = _balance(_after(30), place=place)
    _assert_is_sum(total, ALPHA)
    assert state.joint_updates == 31
    assert state.joint_updates.dtype == jnp.int32
    np.testing.assert_allclose(state[1:3], NORMS[place], rtol=1e-6)
    assert state.adversarial_weight == np.float32(ALPHA)


def test_schedule_holds_then_transitions_then_is_exactly_alpha():
    weights = np.asarray(_weights(np.arange(50)))
    np.testing.assert_allclose(weights[:11], BALANCED, rtol=1e-6)
    assert weights[11] < BALANCED
    np.testing.assert_allclose(weights[20], np.sqrt(BALANCED * ALPHA), rtol=1e-5)
    assert weights[29] > np.float32(ALPHA)
    assert np.all(weights[30:] == np.float32(ALPHA))
    assert _weights(2_000_000_000) == np.float32(ALPHA)


@pytest.mark.parametrize("adversarial_norm", [13.0, 130_000.0])
def test_transition_is_monotone_and_smooth_towards_smaller_and_larger_alpha(adversarial_norm):
    logs = np.log(np.asarray(_weights(np.arange(50), 5.0, adversarial_norm), np.float64))
    distance = np.log(ALPHA) - np.log(5.0 / adversarial_norm)
    moves = np.diff(logs)[10:30] / distance
    assert np.all(moves > 0)
    np.testing.assert_allclose(moves.sum(), 1.0, rtol=1e-4)
    # A smooth step is at most 1.5 times as steep as a straight line, and flat at both ends.
    assert moves.max() < 1.5 / 20 + 1e-4
    assert max(moves[0], moves[-1]) < 0.2 / 20
    np.testing.assert_allclose(moves, moves[::-1], atol=1e-4)


def test_lengths_of_zero_skip_hold_or_transition():
    assert np.all(_weights(np.array([0, 1, 1000]), hold_steps=0, transition_steps=0) == np.float32(ALPHA))
    weights = np.asarray(_weights(np.arange(13), transition_steps=0))
    np.testing.assert_allclose(weights[:10], BALANCED, rtol=1e-6)
    assert np.all(weights[10:] == np.float32(ALPHA))
    weights = np.asarray(_weights(np.arange(22), hold_steps=0))
    np.testing.assert_allclose(weights[0], BALANCED, rtol=1e-6)
    np.testing.assert_allclose(weights[10], np.sqrt(BALANCED * ALPHA), rtol=1e-5)
    assert np.all(weights[20:] == np.float32(ALPHA))


def test_alpha_of_zero_ends_at_zero():
    weights = np.asarray(_weights(np.arange(35), alpha=0.0))
    np.testing.assert_allclose(weights[:11], BALANCED, rtol=1e-6)
    assert np.all(np.diff(weights[10:31]) < 0)
    assert np.all(weights[30:] == 0.0)


@pytest.mark.parametrize("size", [0.0, 1e-3])
def test_max_weight_bounds_weight_of_vanishing_adversarial_gradient(size):
    total, state = _balance(adversarial=size * ADVERSARIAL)
    assert state.adversarial_weight == 10.0
    _assert_is_sum(total, 10.0 * size)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("updates", [0, 15, 30])
def test_zero_gradients_give_finite_sums(updates, place):
    zero = jnp.zeros_like(MSE)
    total, state = _balance(_after(updates), mse=zero, place=place)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((total, state)))
    assert state.adversarial_weight <= np.float32(ALPHA)
    total, state = _balance(_after(updates), mse=zero, adversarial=zero, place=place)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(total))
    assert np.isfinite(state.adversarial_weight)


def test_gradient_alone_passes_through_uncounted():
    transformation = balance_gradients(BALANCE)
    gradient = _gradient(MSE)
    before = transformation.init(gradient)
    total, after = transformation.update(gradient, before)
    assert total is gradient
    assert after == before
    assert after.joint_updates == 0


def test_in_a_chain_under_jit_adadelta_receives_the_sum():
    adadelta = optax.adadelta(learning_rate=1.0)
    chain = optax.chain(balance_gradients(BALANCE), adadelta)
    params = jax.tree.map(jnp.ones_like, _gradient(MSE))

    @jax.jit
    def update(state):
        return chain.update(MSE, state, params, adversarial_updates=ADVERSARIAL, pullbacks=PULLBACKS)

    updates, state = update(chain.init(params))
    expected, _ = adadelta.update(_gradient(MSE + BALANCED * ADVERSARIAL), adadelta.init(params), params)
    for name, value in expected.items():
        np.testing.assert_allclose(updates[name], value, rtol=1e-5)
    _, state = update(state)
    assert balance_state(state).joint_updates == 2


def test_balance_state_requires_exactly_one():
    balance = balance_gradients(BALANCE)
    params = {"kernel": jnp.ones(2)}
    with pytest.raises(ValueError, match="found 0"):
        balance_state(optax.adadelta(learning_rate=1.0).init(params))
    with pytest.raises(ValueError, match="found 2"):
        balance_state(optax.chain(balance, balance).init(params))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -0.1),
        ("hold_steps", -1),
        ("transition_steps", -1),
        ("ratio", 0.0),
        ("ratio", -1.0),
        ("max_weight", 0.0),
    ],
)
def test_invalid_options_are_refused(name, value):
    with pytest.raises(ConfigError, match="balance: alpha"):
        Balance(**{**OPTIONS, name: value})


def test_unknown_place_is_refused_with_the_valid_ones():
    with pytest.raises(ConfigError, match=r"unknown balance\.place 'input': .*last_layer, output, parameters"):
        Balance(**{**OPTIONS, "place": "input"})
