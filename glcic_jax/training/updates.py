"""What the updates of all systems share: a network's state, optimizers, arithmetic types, accumulation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from glcic_jax.errors import lookup
from glcic_jax.model.networks import Variables

P = TypeVar("P")
T = TypeVar("T")
U = TypeVar("U")

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_AUTO = "auto"
_BFLOAT16_CAPABILITY = 8.0  # Of NVIDIA's GPUs since Ampere.

_FINAL_RATE = 0.1  # Adam's learning rate after its decay, as a fraction of the initial rate.


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateSpec:
    """How a batch is spread over devices and parts; static under jit.

    Attributes:
      sync_batch_norm: Whether batch statistics are computed over all devices.
      accumulation: Number of parts into which each device's batch is split.
      axis_name: The pmap axis; None outside pmap.
    """

    sync_batch_norm: bool
    accumulation: int
    axis_name: str | None


class NetworkState(struct.PyTreeNode):
    """One network's float32 parameters and running statistics, and its optimizer's state."""

    params: Any
    batch_stats: Any
    optimizer_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The collections that `Module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def network_state(variables: Variables, optimizer: optax.GradientTransformation) -> NetworkState:
    """Returns the state of a network from its initial variables."""
    params = variables["params"]
    return NetworkState(params, variables.get("batch_stats", {}), optimizer.init(params))


def init_quickly(create: Callable[..., T], *arguments: Any) -> T:
    """Calls a function that draws initial parameters, compiled without optimisation.

    It runs once; optimising the random number generators would take most of a minute.
    """
    return jax.jit(create, compiler_options={"xla_backend_optimization_level": 0})(*arguments)


def resolve_compute_dtype(name: str, earlier: str | None = None) -> str:
    """Returns the type of the arithmetic that `config.compute_dtype` stands for.

    Args:
      name: A name in `COMPUTE_DTYPES`, or "auto".
      earlier: What "auto" stood for earlier in this run, or None.

    Returns:
      A name in `COMPUTE_DTYPES`; for "auto" `earlier`, else bfloat16 on devices that multiply it fast.

    Raises:
      ConfigError: The name is unknown.
    """
    lookup({**COMPUTE_DTYPES, _AUTO: None}, name, "compute_dtype")
    if name != _AUTO:
        return name
    return earlier or ("bfloat16" if _multiplies_bfloat16_fast(jax.local_devices()[0]) else "float32")


def _multiplies_bfloat16_fast(device: jax.Device) -> bool:
    try:
        return float(getattr(device, "compute_capability", "")) >= _BFLOAT16_CAPABILITY
    except ValueError:  # No GPU of NVIDIA's.
        return device.platform != "cpu"


def create_optimizer(options: Mapping[str, Any]) -> optax.GradientTransformation:
    """Returns the optimizer that `config.optimizer` names, with the options under that name.

    Raises:
      ConfigError: It has no options of that name.
    """
    return optimizer_choice(options)(options[options["name"]])


def optimizer_choice(options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], optax.GradientTransformation]:
    """Returns the entry of `OPTIMIZERS` that `config.optimizer` names; errors as in `create_optimizer`."""
    choices = {name: create for name, create in OPTIMIZERS.items() if name in options}
    return lookup(choices, options["name"], "optimizer")


def _adadelta(options: Mapping[str, Any]) -> optax.GradientTransformation:
    # Without a learning rate optax.adadelta does not flip the update's sign, and ascends.
    return optax.adadelta(learning_rate=options["learning_rate"], rho=options["rho"], eps=options["eps"])


def _adam(options: Mapping[str, Any]) -> optax.GradientTransformation:
    rate, steps = options["learning_rate"], options["decay_steps"]
    schedule = optax.cosine_decay_schedule(rate, steps, _FINAL_RATE) if steps else rate
    return optax.adam(schedule, b1=options["b1"], b2=options["b2"])


def _sgd(options: Mapping[str, Any]) -> optax.GradientTransformation:
    return optax.sgd(options["learning_rate"], momentum=options["momentum"])


def accumulate(
    spec: UpdateSpec, function: Callable[[Any, P], tuple[Any, T, U]], carry: Any, batch: P
) -> tuple[Any, T, U]:
    """Applies `function` to the batch in `spec.accumulation` parts.

    Means of gradients and losses equal the whole batch's, except for BatchNorm, which normalises each part by
    its own statistics and updates the running ones once a part.

    Args:
      spec: Gives the number of parts.
      function: `(carry, part) -> (carry, values, arrays)`, where the arrays have one row per example.
      carry: Such as the running statistics, before the first part.
      batch: Arrays with one row per example.

    Returns:
      The last carry, the mean of the values, and the arrays of all parts joined.
    """
    parts = spec.accumulation
    if parts == 1:
        return function(carry, batch)
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(function, carry, jax.tree.map(lambda x: x[0], split))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(carry_and_sum: tuple[Any, T], part: P) -> tuple[tuple[Any, T], U]:
        carry, values, arrays = function(carry_and_sum[0], part)
        return (carry, jax.tree.map(jnp.add, carry_and_sum[1], values)), arrays

    (carry, total), stacked = jax.lax.scan(add, (carry, zeros), split)
    arrays = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)
    return carry, jax.tree.map(lambda x: x / parts, total), arrays


def mean_over_devices(spec: UpdateSpec, values: T) -> T:
    """Averages every leaf over the spec's pmap axis, if it has one."""
    return values if spec.axis_name is None else jax.lax.pmean(values, spec.axis_name)


def apply_gradients(
    spec: UpdateSpec,
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


OPTIMIZERS: dict[str, Callable[[Mapping[str, Any]], optax.GradientTransformation]] = {
    "adadelta": _adadelta,
    "adam": _adam,
    "sgd": _sgd,
}
