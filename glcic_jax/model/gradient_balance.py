"""Scales the adversarial gradient relative to the MSE gradient, as an optax transformation.

"In practice, we take a more fine-grained control, such as initially keeping the norm of the MSE loss gradient
roughly the same order of magnitude as the norm of the discriminator gradient. This helps stabilize the
learning." (Iizuka et al. 2017, Section 3.4)
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from glcic_jax.errors import ConfigError

# Far below any norm in training, far above the smallest normal float32.
_TINY = 1e-30


class BalanceState(NamedTuple):
    """Joint-step count, last measured norms, last weight.

    Attributes:
      joint_updates: int32 scalar, number of joint updates.
      reconstruction_norm: float32 scalar, the MSE gradient's norm when last measured.
      adversarial_norm: float32 scalar, the unweighted adversarial gradient's norm when last measured.
      adversarial_weight: float32 scalar, the last factor on the adversarial gradient.
    """

    joint_updates: jax.Array
    reconstruction_norm: jax.Array
    adversarial_norm: jax.Array
    adversarial_weight: jax.Array


@dataclasses.dataclass(frozen=True)
class Balance:
    """How the adversarial gradient is weighted relative to the MSE gradient; static under jit.

    Measuring the two norms means differentiating C twice, which makes a joint update about 50 % more
    expensive. Norms change slowly, so they are measured every `measure_every` joint updates. In between, the
    weight follows from the last norms and C is differentiated once, for the weighted sum.

    Attributes:
      alpha: Equation 4's weight.
      ratio: Norm of the weighted adversarial gradient divided by that of the MSE gradient.
      hold_steps: Number of joint updates at `ratio`.
      transition_steps: Number of joint updates from `ratio` to `alpha`; with both 0, alpha from the first update.
      max_weight: Upper bound of the weight that `ratio` gives.
      measure_every: Joint updates per measurement of the norms.

    Raises:
      ConfigError: A length or alpha is negative, the ratio or the bound is not positive, or measure_every is
        below 1.
    """

    alpha: float
    ratio: float
    hold_steps: int
    transition_steps: int
    max_weight: float
    measure_every: int

    def __post_init__(self) -> None:
        if min(self.alpha, self.hold_steps, self.transition_steps) < 0 or min(self.ratio, self.max_weight) <= 0:
            raise ConfigError(
                "balance: alpha, hold_steps and transition_steps must be at least 0, ratio and max_weight above 0"
            )
        if self.measure_every < 1:
            raise ConfigError(f"balance.measure_every is {self.measure_every}: it must be at least 1")

    def is_measured(self, joint_updates: int) -> bool:
        """Whether the update after `joint_updates` joint updates measures the norms; the first one does."""
        return joint_updates % self.measure_every == 0

    def weight(self, state: BalanceState) -> jax.Array:
        """The factor on the adversarial gradient for the next update, a float32 scalar.

        For `hold_steps` updates it is `ratio * reconstruction_norm / adversarial_norm`, at most `max_weight`, so
        that a vanishing adversarial gradient does not give an infinite weight. Over the next `transition_steps`
        its logarithm moves to that of `alpha` along a smooth step, because the two can be orders of magnitude
        apart. Then it is exactly `alpha`.
        """
        updates, end = state.joint_updates, self.hold_steps + self.transition_steps
        balanced = self.ratio * state.reconstruction_norm / jnp.maximum(state.adversarial_norm, _TINY)
        balanced = jnp.clip(balanced, _TINY, self.max_weight)
        progress = (updates - self.hold_steps) / max(self.transition_steps, 1)
        progress = jnp.where(updates >= end, 1.0, jnp.clip(progress, 0.0, 1.0))
        smooth = progress**2 * (3.0 - 2.0 * progress)
        blended = jnp.exp((1.0 - smooth) * jnp.log(balanced) + smooth * jnp.log(max(self.alpha, _TINY)))
        return jnp.where(progress >= 1.0, self.alpha, jnp.where(progress <= 0.0, balanced, blended))


def balance_gradients(balance: Balance) -> optax.GradientTransformationExtraArgs:
    """Adds the weighted adversarial gradient to the MSE gradient.

    Put it before the optimizer in an `optax.chain`, and call the chain's `update` with

    - the MSE gradient, and the unweighted adversarial gradient as `adversarial_updates`: measures both norms and
      returns the weighted sum;
    - or the weighted sum, and its weight `balance.weight(state)` as `adversarial_weight`: returns the sum as it
      is and counts the update;
    - or the MSE gradient alone (phase 1): returns it as it is and counts nothing.

    Returns:
      An optax transformation whose state is a `BalanceState`.

    Reference: Iizuka et al. 2017, Equation 4 and the paragraph after it.
    """

    def init(params: Any) -> BalanceState:
        del params
        zero = jnp.zeros((), jnp.float32)
        return BalanceState(jnp.zeros((), jnp.int32), zero, zero, zero)

    def update(
        updates: Any,
        state: BalanceState,
        params: Any = None,
        *,
        adversarial_updates: Any = None,
        adversarial_weight: jax.Array | None = None,
        **extra: Any,
    ) -> tuple[Any, BalanceState]:
        del params, extra
        if adversarial_updates is not None:
            state = state._replace(
                reconstruction_norm=optax.tree.norm(updates).astype(jnp.float32),
                adversarial_norm=optax.tree.norm(adversarial_updates).astype(jnp.float32),
            )
            adversarial_weight = balance.weight(state)
            updates = add_adversarial(updates, adversarial_updates, adversarial_weight)
        if adversarial_weight is None:
            return updates, state
        return updates, state._replace(
            joint_updates=state.joint_updates + 1, adversarial_weight=adversarial_weight
        )

    return optax.GradientTransformationExtraArgs(init, update)


def add_adversarial(updates: Any, adversarial_updates: Any, weight: jax.Array) -> Any:
    """The weighted sum of two gradients or cotangents with the same structure: Equation 4 with any weight."""
    return jax.tree.map(lambda mse, adversarial: mse + weight * adversarial, updates, adversarial_updates)


def balance_state(optimizer_state: Any) -> BalanceState:
    """Finds the `BalanceState` in the state of a chain that contains `balance_gradients`."""
    found = [
        leaf
        for leaf in jax.tree.leaves(optimizer_state, is_leaf=lambda x: isinstance(x, BalanceState))
        if isinstance(leaf, BalanceState)
    ]
    if len(found) != 1:
        raise ValueError(f"expected one BalanceState in the optimizer's state, found {len(found)}")
    return found[0]
