"""Scales the adversarial gradient against the MSE gradient: one optax transformation.

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

# Far below any norm that trains, far above the smallest normal float32.
_TINY = 1e-30


class BalanceState(NamedTuple):
    """What the balance remembers, and what it last did.

    Attributes:
      joint_updates: int32 scalar, updates of the joint phase seen.
      reconstruction_norm: float32 scalar, the MSE gradient's norm when it was last measured.
      adversarial_norm: float32 scalar, the adversarial gradient's norm, before it was scaled, at that time.
      adversarial_weight: float32 scalar, the factor that it was last scaled by.
    """

    joint_updates: jax.Array
    reconstruction_norm: jax.Array
    adversarial_norm: jax.Array
    adversarial_weight: jax.Array


def adversarial_weight(
    joint_updates: jax.Array,
    reconstruction_norm: jax.Array,
    adversarial_norm: jax.Array,
    *,
    alpha: float,
    ratio: float,
    hold_steps: int,
    transition_steps: int,
    max_weight: float,
) -> jax.Array:
    """Returns the factor on the adversarial gradient, a float32 scalar.

    For `hold_steps` updates it is `ratio * reconstruction_norm / adversarial_norm` (at most `max_weight`, so
    that a vanished adversarial gradient does not raise it to infinity). Over the next `transition_steps` its
    logarithm moves to that of `alpha` along a smooth step; from then on it is exactly `alpha`. The logarithm,
    because the two can lie orders of magnitude apart.

    Args:
      joint_updates: Updates of the joint phase done so far.
      reconstruction_norm, adversarial_norm: L2 norms of the two gradients.
      alpha: Equation 4's weight.
      ratio: Norm of the scaled adversarial gradient over that of the MSE gradient.
      hold_steps, transition_steps: Lengths in updates; both 0: alpha from the first update on.
      max_weight: Upper bound of the balanced weight.
    """
    balanced = ratio * reconstruction_norm / jnp.maximum(adversarial_norm, _TINY)
    balanced = jnp.clip(balanced, _TINY, max_weight)
    progress = (joint_updates - hold_steps) / max(transition_steps, 1)
    progress = jnp.where(joint_updates >= hold_steps + transition_steps, 1.0, jnp.clip(progress, 0.0, 1.0))
    smooth = progress**2 * (3.0 - 2.0 * progress)
    blended = jnp.exp((1.0 - smooth) * jnp.log(balanced) + smooth * jnp.log(max(alpha, _TINY)))
    return jnp.where(progress >= 1.0, alpha, jnp.where(progress <= 0.0, balanced, blended))


@dataclasses.dataclass(frozen=True)
class Balance:
    """How the adversarial gradient is weighed against the MSE gradient; static under jit.

    To measure the two norms C has to be differentiated twice, which takes half as long again as a whole joint
    update does without. Norms change slowly, so they are measured every few updates only; between two
    measurements the weight follows from the norms last seen, and C is differentiated once, for the sum.

    Attributes:
      alpha, ratio, hold_steps, transition_steps, max_weight: As in `adversarial_weight`.
      measure_every: Updates from one measurement to the next; 1: each.

    Raises:
      ConfigError: A length or a weight is negative, the ratio or the bound is not above 0, or measure_every is
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
        """Whether the update after so many of the joint phase measures the norms; the first one does."""
        return joint_updates % self.measure_every == 0

    def weight(self, state: BalanceState) -> jax.Array:
        """The weight of the next update by the norms that the state holds, float32 scalar."""
        return adversarial_weight(
            state.joint_updates,
            state.reconstruction_norm,
            state.adversarial_norm,
            alpha=self.alpha,
            ratio=self.ratio,
            hold_steps=self.hold_steps,
            transition_steps=self.transition_steps,
            max_weight=self.max_weight,
        )


def balance_gradients(balance: Balance) -> optax.GradientTransformationExtraArgs:
    """Adds the adversarial gradient to the MSE gradient, at a ratio of norms first and at alpha later.

    Put it before the optimiser in an `optax.chain`, and call the chain with

    - the MSE gradient as updates and the adversarial one, unscaled, as the keyword `adversarial_updates`: their
      norms are measured, and they are added;
    - or their sum, the adversarial one at the weight `balance.weight(state)`, which is given as the keyword
      `adversarial_weight`: it passes through, and is counted;
    - or the MSE gradient alone (phase 1): it passes through, and nothing is counted.

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
    """The sum of two gradients, or of two cotangents, of the same structure: Equation 4 with any weight."""
    return jax.tree.map(lambda mse, adversarial: mse + weight * adversarial, updates, adversarial_updates)


def balance_state(optimizer_state: Any) -> BalanceState:
    """Finds the `BalanceState` inside the state of a chain that `balance_gradients` is part of."""
    found = [
        leaf
        for leaf in jax.tree.leaves(optimizer_state, is_leaf=lambda x: isinstance(x, BalanceState))
        if isinstance(leaf, BalanceState)
    ]
    if len(found) != 1:
        raise ValueError(f"expected one BalanceState in the optimizer's state, found {len(found)}")
    return found[0]
