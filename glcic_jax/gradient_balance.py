"""Scales the adversarial gradient against the MSE gradient: one optax transformation.

"In practice, we take a more fine-grained control, such as initially keeping the norm of the MSE loss gradient
roughly the same order of magnitude as the norm of the discriminator gradient. This helps stabilize the
learning." (Iizuka et al. 2017, Section 3.4)
"""

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
      joint_updates: int32 scalar, updates seen that had an adversarial gradient.
      reconstruction_norm: float32 scalar, the last MSE gradient's norm.
      adversarial_norm: float32 scalar, the last adversarial gradient's norm, before it was scaled.
      adversarial_weight: float32 scalar, the factor that it was scaled by.
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
    handover_steps: int,
    max_weight: float,
) -> jax.Array:
    """Returns the factor on the adversarial gradient, a float32 scalar.

    For `hold_steps` updates it is `ratio * reconstruction_norm / adversarial_norm` (at most `max_weight`, so
    that a vanished adversarial gradient does not raise it to infinity). Over the next `handover_steps` its
    logarithm moves to that of `alpha` along a smooth step; from then on it is exactly `alpha`. The logarithm,
    because the two can lie orders of magnitude apart.

    Args:
      joint_updates: Updates of the joint phase done so far.
      reconstruction_norm, adversarial_norm: L2 norms of the two gradients.
      alpha: Equation 4's weight.
      ratio: Norm of the scaled adversarial gradient over that of the MSE gradient.
      hold_steps, handover_steps: Lengths in updates; both 0: alpha from the first update on.
      max_weight: Upper bound of the balanced weight.
    """
    balanced = ratio * reconstruction_norm / jnp.maximum(adversarial_norm, _TINY)
    balanced = jnp.clip(balanced, _TINY, max_weight)
    progress = (joint_updates - hold_steps) / max(handover_steps, 1)
    progress = jnp.where(joint_updates >= hold_steps + handover_steps, 1.0, jnp.clip(progress, 0.0, 1.0))
    smooth = progress**2 * (3.0 - 2.0 * progress)
    blended = jnp.exp((1.0 - smooth) * jnp.log(balanced) + smooth * jnp.log(max(alpha, _TINY)))
    return jnp.where(progress >= 1.0, alpha, jnp.where(progress <= 0.0, balanced, blended))


def balance_gradients(
    *, alpha: float, ratio: float, hold_steps: int, handover_steps: int, max_weight: float
) -> optax.GradientTransformationExtraArgs:
    """Adds the adversarial gradient to the MSE gradient, at a ratio of norms first and at alpha later.

    Put it before the optimiser in an `optax.chain`, and call the chain with the MSE gradient as updates and
    the adversarial one, unscaled, as the keyword `adversarial_updates`. Without the keyword (phase 1) the
    MSE gradient passes through and nothing is counted.

    Args:
      alpha, ratio, hold_steps, handover_steps, max_weight: As in `adversarial_weight`.

    Returns:
      An optax transformation whose state is a `BalanceState`.

    Raises:
      ConfigError: A length or a weight is negative, or the ratio or the bound is not above 0.

    Reference: Iizuka et al. 2017, Equation 4 and the paragraph after it.
    """
    if min(alpha, hold_steps, handover_steps) < 0 or min(ratio, max_weight) <= 0:
        raise ConfigError(
            "balance: alpha, hold_steps and handover_steps must be at least 0, ratio and max_weight above 0"
        )

    def init(params: Any) -> BalanceState:
        del params
        zero = jnp.zeros((), jnp.float32)
        return BalanceState(jnp.zeros((), jnp.int32), zero, zero, zero)

    def update(
        updates: Any, state: BalanceState, params: Any = None, *, adversarial_updates: Any = None, **extra: Any
    ) -> tuple[Any, BalanceState]:
        del params, extra
        if adversarial_updates is None:
            return updates, state
        reconstruction_norm = optax.tree.norm(updates).astype(jnp.float32)
        adversarial_norm = optax.tree.norm(adversarial_updates).astype(jnp.float32)
        weight = adversarial_weight(
            state.joint_updates,
            reconstruction_norm,
            adversarial_norm,
            alpha=alpha,
            ratio=ratio,
            hold_steps=hold_steps,
            handover_steps=handover_steps,
            max_weight=max_weight,
        )
        total = jax.tree.map(lambda mse, adversarial: mse + weight * adversarial, updates, adversarial_updates)
        return total, BalanceState(state.joint_updates + 1, reconstruction_norm, adversarial_norm, weight)

    return optax.GradientTransformationExtraArgs(init, update)


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
