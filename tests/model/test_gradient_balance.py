import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.model.gradient_balance import Balance, BalanceState, balance_gradients, balance_state

ALPHA = 0.0004
OPTIONS = {
    "alpha": ALPHA, "ratio": 1.0, "hold_steps": 10, "transition_steps": 20, "max_weight": 10.0, "measure_every": 1,
}  # fmt: skip
BALANCE = Balance(**OPTIONS)

# Norms 5 and 13, to which both leaves contribute.
MSE_GRADIENT = {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([4.0])}
ADVERSARIAL_GRADIENT = {"kernel": jnp.array([[-5.0, 0.0]]), "bias": jnp.array([12.0])}
BALANCED = 5.0 / 13.0


def _weights(updates, reconstruction_norm=5.0, adversarial_norm=13.0, **changes):
    """The weight after each number of joint updates."""
    norms = jnp.float32(reconstruction_norm), jnp.float32(adversarial_norm)
    return Balance(**{**OPTIONS, **changes}).weight(BalanceState(jnp.asarray(updates), *norms, jnp.float32(0)))


def _balance(state=None, mse=MSE_GRADIENT, adversarial=ADVERSARIAL_GRADIENT, **changes):
    """One update from the given state (or a new one): the total gradient and the new state."""
    transformation = balance_gradients(Balance(**{**OPTIONS, **changes}))
    state = transformation.init(mse) if state is None else state
    return transformation.update(mse, state, adversarial_updates=adversarial)


def _after(updates):
    zero = jnp.zeros(())
    return BalanceState(jnp.asarray(updates, jnp.int32), zero, zero, zero)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_hold_scales_adversarial_gradient_to_ratio_of_norms(ratio):
    total, state = _balance(ratio=ratio)
    weight = ratio * BALANCED
    np.testing.assert_allclose(total["kernel"], [[3.0 - 5.0 * weight, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(total["bias"], [4.0 + 12.0 * weight], rtol=1e-6)
    added = jax.tree.map(jnp.subtract, total, MSE_GRADIENT)
    np.testing.assert_allclose(optax.tree.norm(added), ratio * 5.0, rtol=1e-6)
    np.testing.assert_allclose(state.adversarial_weight, weight, rtol=1e-6)


def test_hold_is_independent_of_adversarial_gradient_scale():
    small, _ = _balance()
    large, _ = _balance(adversarial=jax.tree.map(lambda x: 1000.0 * x, ADVERSARIAL_GRADIENT))
    np.testing.assert_allclose(large["bias"], small["bias"], rtol=1e-6)


def test_after_transition_sum_is_equation_4_and_state_records_norms_weight_and_count():
    total, state = _balance(_after(30))
    np.testing.assert_allclose(total["kernel"], [[3.0 - 5.0 * ALPHA, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(total["bias"], [4.0 + 12.0 * ALPHA], rtol=1e-6)
    assert state.joint_updates == 31
    assert state.joint_updates.dtype == jnp.int32
    np.testing.assert_allclose(state.reconstruction_norm, 5.0, rtol=1e-6)
    np.testing.assert_allclose(state.adversarial_norm, 13.0, rtol=1e-6)
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
    vanishing = jax.tree.map(lambda x: size * x, ADVERSARIAL_GRADIENT)
    total, state = _balance(adversarial=vanishing)
    assert state.adversarial_weight == 10.0
    np.testing.assert_allclose(total["bias"], [4.0 + 10.0 * size * 12.0], rtol=1e-6)


@pytest.mark.parametrize("updates", [0, 15, 30])
def test_zero_gradients_give_finite_sums(updates):
    zero = jax.tree.map(jnp.zeros_like, MSE_GRADIENT)
    total, state = _balance(_after(updates), mse=zero)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((total, state)))
    assert state.adversarial_weight <= np.float32(ALPHA)
    total, state = _balance(_after(updates), mse=zero, adversarial=zero)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(total))
    assert np.isfinite(state.adversarial_weight)


def test_mse_gradient_alone_passes_through_uncounted():
    transformation = balance_gradients(BALANCE)
    before = transformation.init(MSE_GRADIENT)
    total, after = transformation.update(MSE_GRADIENT, before)
    for name, value in MSE_GRADIENT.items():
        np.testing.assert_array_equal(total[name], value)
    assert after == before
    assert after.joint_updates == 0


def test_sum_with_given_weight_passes_through_counted():
    transformation = balance_gradients(BALANCE)
    _, measured = transformation.update(
        MSE_GRADIENT, transformation.init(MSE_GRADIENT), adversarial_updates=ADVERSARIAL_GRADIENT
    )
    weight = BALANCE.weight(measured)
    np.testing.assert_allclose(weight, BALANCED, rtol=1e-6)
    total, state = transformation.update(MSE_GRADIENT, measured, adversarial_weight=weight)
    assert total is MSE_GRADIENT
    assert state.joint_updates == 2
    assert state.adversarial_weight == weight
    assert state[1:3] == measured[1:3]


def test_in_a_chain_under_jit_adadelta_receives_the_sum():
    adadelta = optax.adadelta(learning_rate=1.0)
    chain = optax.chain(balance_gradients(BALANCE), adadelta)
    params = jax.tree.map(jnp.ones_like, MSE_GRADIENT)

    @jax.jit
    def update(state):
        return chain.update(MSE_GRADIENT, state, params, adversarial_updates=ADVERSARIAL_GRADIENT)

    updates, state = update(chain.init(params))
    total = jax.tree.map(lambda mse, adversarial: mse + BALANCED * adversarial, MSE_GRADIENT, ADVERSARIAL_GRADIENT)
    expected, _ = adadelta.update(total, adadelta.init(params), params)
    for name, value in expected.items():
        np.testing.assert_allclose(updates[name], value, rtol=1e-5)
        assert np.all(np.sign(updates[name]) == -np.sign(total[name]))
    _, state = update(state)
    assert balance_state(state).joint_updates == 2


def test_balance_state_requires_exactly_one():
    balance = balance_gradients(BALANCE)
    params = {"kernel": jnp.ones(2)}
    with pytest.raises(ValueError, match="found 0"):
        balance_state(optax.adadelta(learning_rate=1.0).init(params))
    with pytest.raises(ValueError, match="found 2"):
        balance_state(optax.chain(balance, balance).init(params))


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (10, [0])])
def test_first_of_every_n_updates_measures(every, expected):
    balance = Balance(**{**OPTIONS, "measure_every": every})
    assert [count for count in range(7) if balance.is_measured(count)] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -0.1),
        ("hold_steps", -1),
        ("transition_steps", -1),
        ("ratio", 0.0),
        ("ratio", -1.0),
        ("max_weight", 0.0),
        ("measure_every", 0),
    ],
)
def test_invalid_options_are_refused(name, value):
    with pytest.raises(ConfigError, match="measure_every is 0" if name == "measure_every" else "balance: alpha"):
        Balance(**{**OPTIONS, name: value})
