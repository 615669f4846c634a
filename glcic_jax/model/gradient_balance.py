"""Scales the adversarial gradient relative to the MSE gradient, as an optax transformation.

"In practice, we take a more fine-grained control, such as initially keeping the norm of the MSE loss gradient
roughly the same order of magnitude as the norm of the discriminator gradient. This helps stabilize the
learning." (Iizuka et al. 2017, Section 3.4)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from glcic_jax.errors import ConfigError, lookup

# Far below any norm in training, far above the smallest normal float32.
_TINY = 1e-30


class Pullbacks(NamedTuple):
    """From derivatives of losses by C's output, [N, H, W, 3], to gradients, averaged over the devices.

    Attributes:
      parameters: Several losses' derivatives to their gradients by C's parameters.
      last_kernel: One loss's derivative to its gradient by the kernel of C's last convolution.
    """

    parameters: Callable[[Sequence[jax.Array]], Sequence[Any]]
    last_kernel: Callable[[jax.Array], jax.Array]


class BalanceState(NamedTuple):
    """The joint-step count, and what the last joint update measured.

    Attributes:
      joint_updates: int32 scalar, number of joint updates.
      reconstruction_norm: float32 scalar, the MSE gradient's norm at the place of measurement.
      adversarial_norm: float32 scalar, the unweighted adversarial gradient's norm there.
      adversarial_weight: float32 scalar, the factor on the adversarial gradient.
      gradient_norm: float32 scalar, the norm of the weighted sum's gradient by C's parameters.
    """

    joint_updates: jax.Array
    reconstruction_norm: jax.Array
    adversarial_norm: jax.Array
    adversarial_weight: jax.Array
    gradient_norm: jax.Array


@dataclasses.dataclass(frozen=True)
class Balance:
    """How the adversarial gradient is weighted relative to the MSE gradient; static under jit.

    Attributes:
      alpha: Equation 4's weight.
      place: A name in `PLACES`: where the two gradients' norms are measured, in every joint update.
      ratio: Norm of the weighted adversarial gradient divided by that of the MSE gradient, at that place.
      hold_steps: Number of joint updates at `ratio`.
      transition_steps: Number of joint updates from `ratio` to `alpha`; with both 0, alpha from the first update.
      max_weight: Upper bound of the weight that `ratio` gives.

    Raises:
      ConfigError: The place is unknown, a length or alpha is negative, or the ratio or the bound is not positive.
    """

    alpha: float
    place: str
    ratio: float
    hold_steps: int
    transition_steps: int
    max_weight: float

    def __post_init__(self) -> None:
        lookup(PLACES, self.place, "balance.place")
        if min(self.alpha, self.hold_steps, self.transition_steps) < 0 or min(self.ratio, self.max_weight) <= 0:
            raise ConfigError(
                "balance: alpha, hold_steps and transition_steps must be at least 0, ratio and max_weight above 0"
            )

    def weight(self, updates: jax.Array, reconstruction_norm: jax.Array, adversarial_norm: jax.Array) -> jax.Array:
        """The factor on the adversarial gradient after `updates` joint updates, a float32 scalar.

        For `hold_steps` updates it is `ratio * reconstruction_norm / adversarial_norm`, at most `max_weight`, so
        that a vanishing adversarial gradient does not give an infinite weight. Over the next `transition_steps`
        its logarithm moves to that of `alpha` along a smooth step, because the two can be orders of magnitude
        apart. Then it is exactly `alpha`.
        """
        end = self.hold_steps + self.transition_steps
        balanced = self.ratio * reconstruction_norm / jnp.maximum(adversarial_norm, _TINY)
        balanced = jnp.clip(balanced, _TINY, self.max_weight)
        progress = (updates - self.hold_steps) / max(self.transition_steps, 1)
        progress = jnp.where(updates >= end, 1.0, jnp.clip(progress, 0.0, 1.0))
        smooth = progress**2 * (3.0 - 2.0 * progress)
        blended = jnp.exp((1.0 - smooth) * jnp.log(balanced) + smooth * jnp.log(max(self.alpha, _TINY)))
        return jnp.where(progress >= 1.0, self.alpha, jnp.where(progress <= 0.0, balanced, blended))


def balance_gradients(balance: Balance, axis_name: str | None = None) -> optax.GradientTransformationExtraArgs:
    """Adds the weighted adversarial gradient to the MSE gradient, and takes the sum to C's parameters.

    Put it first in an `optax.chain`. In the joint phase, call the chain's `update` with the derivative of the MSE
    by C's output instead of a gradient, that of the adversarial loss as `adversarial_updates`, both [N, H, W, 3]
    and of losses averaged over the device's batch, and `pullbacks`, which take such derivatives to C's parameters.
    What comes out, and what the rest of the chain sees, is a gradient by C's parameters. In phase 1, call `update`
    with the gradient alone: it is returned as it is, and nothing is counted.

    Args:
      balance: The settings.
      axis_name: The pmap axis over which the batch is spread; None outside pmap.

    Returns:
      An optax transformation whose state is a `BalanceState`.

    Reference: Iizuka et al. 2017, Equation 4 and the paragraph after it.
    """

    def init(params: Any) -> BalanceState:
        del params
        zero = jnp.zeros((), jnp.float32)
        return BalanceState(jnp.zeros((), jnp.int32), zero, zero, zero, zero)

    def update(
        updates: Any,
        state: BalanceState,
        params: Any = None,
        *,
        adversarial_updates: jax.Array | None = None,
        pullbacks: Pullbacks | None = None,
        **extra: Any,
    ) -> tuple[Any, BalanceState]:
        del params, extra
        if adversarial_updates is None or pullbacks is None:
            return updates, state
        norms, weighted_sum = PLACES[balance.place](updates, adversarial_updates, pullbacks, axis_name)
        weight = balance.weight(state.joint_updates, *norms)
        gradient = weighted_sum(weight)
        return gradient, BalanceState(state.joint_updates + 1, *norms, weight, optax.tree.norm(gradient))

    return optax.GradientTransformationExtraArgs(init, update)


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


# The two gradients' norms, and the gradient by C's parameters of the two losses' weighted sum.
_Measured = tuple[tuple[jax.Array, jax.Array], Callable[[jax.Array], Any]]


def _add(mse: Any, adversarial: Any, weight: jax.Array) -> Any:
    return jax.tree.map(lambda a, b: a + weight * b, mse, adversarial)


def _at_output(mse: jax.Array, adversarial: jax.Array, pullbacks: Pullbacks, axis_name: str | None) -> _Measured:
    def norm(derivative: jax.Array) -> jax.Array:
        squared = jnp.sum(jnp.square(derivative.astype(jnp.float32)))
        if axis_name is not None:  # Each device's loss is a mean over its own part of the batch.
            squared = jax.lax.pmean(squared, axis_name) / jax.lax.psum(1, axis_name)
        return jnp.sqrt(squared)

    return (norm(mse), norm(adversarial)), _pull_sum_back(mse, adversarial, pullbacks)


def _at_last_layer(
    mse: jax.Array, adversarial: jax.Array, pullbacks: Pullbacks, axis_name: str | None
) -> _Measured:
    del axis_name
    norms = optax.tree.norm(pullbacks.last_kernel(mse)), optax.tree.norm(pullbacks.last_kernel(adversarial))
    return norms, _pull_sum_back(mse, adversarial, pullbacks)


def _at_parameters(
    mse: jax.Array, adversarial: jax.Array, pullbacks: Pullbacks, axis_name: str | None
) -> _Measured:
    del axis_name
    of_mse, of_adversarial = pullbacks.parameters([mse, adversarial])
    norms = optax.tree.norm(of_mse), optax.tree.norm(of_adversarial)
    return norms, lambda weight: _add(of_mse, of_adversarial, weight)


def _pull_sum_back(mse: jax.Array, adversarial: jax.Array, pullbacks: Pullbacks) -> Callable[[jax.Array], Any]:
    return lambda weight: pullbacks.parameters([_add(mse, adversarial, weight)])[0]


# Where the two gradients' norms are measured. "output": by C's output, which costs nothing; "last_layer": by the
# kernel of C's last convolution, as the adaptive weight of VQGAN (Esser et al. 2021, Equation 7), nearly free;
# "parameters": by all of C's parameters, which differentiates C twice: half as much arithmetic again.
PLACES: dict[str, Callable[[jax.Array, jax.Array, Pullbacks, str | None], _Measured]] = {
    "output": _at_output,
    "last_layer": _at_last_layer,
    "parameters": _at_parameters,
}
