"""The training state of GLCIC, and how it is built from a configuration."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from glcic_jax.errors import ConfigError, lookup
from glcic_jax.model import images, losses, masks, networks
from glcic_jax.model.gradient_balance import Balance, balance_gradients
from glcic_jax.training.updates import (
    COMPUTE_DTYPES,
    NetworkState,
    UpdateSpec,
    create_optimizer,
    init_quickly,
    network_state,
    resolve_compute_dtype,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSpec(UpdateSpec):
    """Everything about the training that is not an array; static under jit.

    Attributes:
      completion_network: C.
      context_discriminator: D; None when only the reconstruction loss trains.
      completion_optimizer: C's optimizer, a chain that begins with `balance_gradients`.
      discriminator_optimizer: D's optimizer.
      mask_sampler: Draws one example's mask and local box, see `masks`.
      reconstruction_loss, adversarial_loss, discriminator_loss: Per-example losses, see `losses`.
      discriminator_weight: Factor on D's loss.
      input_form: How the hole in C's input is filled, see `images.network_input`.
      local_size: Side of the local patch in pixels.
      ema_decay: Decay of C's moving average; 0 for none.
    """

    completion_network: networks.CompletionNetwork
    context_discriminator: networks.ContextDiscriminator | None
    completion_optimizer: optax.GradientTransformationExtraArgs
    discriminator_optimizer: optax.GradientTransformationExtraArgs
    mask_sampler: masks.Sampler
    reconstruction_loss: losses.ReconstructionLoss
    adversarial_loss: Callable[[jax.Array], jax.Array]
    discriminator_loss: Callable[[jax.Array, jax.Array], jax.Array]
    discriminator_weight: float
    input_form: str
    local_size: int
    ema_decay: float


class TrainState(struct.PyTreeNode):
    """The whole training state at one step.

    Attributes:
      step: int32 scalar, number of updates in all phases.
      mean_pixel: [3] float32 in [0, 1], mean colour of the training set.
      completion: C.
      discriminator: D; None when only the reconstruction loss trains.
      ema: `params` and `batch_stats` of C, averaged over steps; None without a moving average.
      spec: The static part.
    """

    step: jax.Array
    mean_pixel: jax.Array
    completion: NetworkState
    discriminator: NetworkState | None
    ema: dict[str, Any] | None
    spec: TrainingSpec = struct.field(pytree_node=False)

    @property
    def inference_variables(self) -> dict[str, Any]:
        """C's variables for inference: the moving average if there is one."""
        return self.completion.variables if self.ema is None else self.ema

    def items(self) -> dict[str, Any]:
        """See `task.State`."""
        ema = {} if self.ema is None else {"ema": self.ema}
        items = {"completion": vars(self.completion) | ema}
        return items if self.discriminator is None else items | {"discriminator": vars(self.discriminator)}

    def facts(self) -> dict[str, Any]:
        """See `task.State`."""
        return {"mean_pixel": [float(value) for value in np.asarray(self.mean_pixel)]}

    def restored(self, items: Mapping[str, Any], meta: Mapping[str, Any]) -> Self:
        """See `task.State`."""
        completion, discriminator = dict(items["completion"]), self.discriminator
        if discriminator is not None and "discriminator" in items:
            discriminator = discriminator.replace(**items["discriminator"])
        return self.replace(
            step=jnp.asarray(meta["step"], jnp.int32),
            mean_pixel=jnp.asarray(meta["mean_pixel"], jnp.float32),
            ema=completion.pop("ema", None),
            completion=self.completion.replace(**completion),
            discriminator=discriminator,
        )


def create_spec(config: Any, axis_name: str | None = None) -> TrainingSpec:
    """Builds the static part of the training from a configuration (see configs/common.py).

    Args:
      config: The ConfigDict.
      axis_name: The pmap axis under which the steps run; None outside pmap.

    Raises:
      ConfigError: A name is unknown, or sizes do not fit together.
    """
    size, local_size = config.data.image_size, config.discriminator.local_size
    if size % 4:
        raise ConfigError(f"data.image_size is {size}: the completion network needs a multiple of 4")
    if local_size > size:
        raise ConfigError(f"discriminator.local_size {local_size} is larger than data.image_size {size}")
    _check_names(config)
    mask_sampler = masks.create_sampler(config.mask.sampler, config.mask.to_dict())
    # Rejects holes that do not fit before anything is compiled.
    jax.eval_shape(lambda key: mask_sampler(key, (size, size), local_size), jax.random.key(0))
    balance = balance_gradients(Balance(alpha=config.loss.alpha, **config.balance.to_dict()), axis_name)
    completion_optimizer, discriminator_optimizer = create_optimizers(config.optimizer.to_dict(), balance)
    completion_network, context_discriminator = _create_networks(config, axis_name)
    return TrainingSpec(
        completion_network=completion_network,
        context_discriminator=context_discriminator,
        completion_optimizer=completion_optimizer,
        discriminator_optimizer=discriminator_optimizer,
        mask_sampler=mask_sampler,
        reconstruction_loss=losses.create_reconstruction_loss(config.loss.reconstruction.to_dict()),
        adversarial_loss=lookup(losses.ADVERSARIAL_LOSSES, config.loss.adversarial, "adversarial loss"),
        discriminator_loss=losses.discriminator_loss,
        discriminator_weight=config.loss.discriminator_weight,
        input_form=config.completion.input_form,
        local_size=local_size,
        sync_batch_norm=config.sync_batch_norm,
        accumulation=config.accumulation_steps,
        ema_decay=config.completion.ema_decay,
        axis_name=axis_name,
    )


def _check_names(config: Any) -> None:
    """Rejects names that the networks would look up only when they run."""
    lookup(images.OUTPUT_ACTIVATIONS, config.completion.output_activation, "output activation")
    lookup(images.INPUT_FORMS, config.completion.input_form, "input form")
    images.check_input_form(config.completion.output_activation, config.completion.input_form)
    for order in (config.completion.layer_order, config.discriminator.layer_order):
        lookup(networks.LAYER_ORDERS, order, "layer order")
    lookup(networks.REMATS, config.remat, "remat")
    branches = config.discriminator.branches
    for branch in branches:
        lookup(networks.BRANCHES, branch, "discriminator branch")
    if len(set(branches)) < len(branches):
        raise ConfigError(f"discriminator.branches names a branch twice: {branches}")
    if not branches and (config.phases.discriminator or config.phases.joint):
        raise ConfigError("discriminator.branches is empty, so phases.discriminator and phases.joint must be 0")


def _create_networks(
    config: Any, axis_name: str | None
) -> tuple[networks.CompletionNetwork, networks.ContextDiscriminator | None]:
    dtype = COMPUTE_DTYPES[resolve_compute_dtype(config.compute_dtype)]
    batch_norm_axis = axis_name if config.sync_batch_norm else None
    completion_network = networks.CompletionNetwork(
        width=config.completion.width,
        layer_order=config.completion.layer_order,
        output_activation=config.completion.output_activation,
        remat=config.remat,
        dtype=dtype,
        axis_name=batch_norm_axis,
    )
    branches = tuple(config.discriminator.branches)
    if not branches:
        return completion_network, None
    context_discriminator = networks.ContextDiscriminator(
        branches=branches,
        local_size=config.discriminator.local_size,
        channels=tuple(tuple(config.discriminator[f"{branch}_channels"]) for branch in branches),
        width=config.discriminator.width,
        layer_order=config.discriminator.layer_order,
        dtype=dtype,
        axis_name=batch_norm_axis,
    )
    return completion_network, context_discriminator


def create_optimizers(
    options: Mapping[str, Any], balance: optax.GradientTransformationExtraArgs
) -> tuple[optax.GradientTransformationExtraArgs, optax.GradientTransformationExtraArgs]:
    """Returns the optax chains of C (balance, scale of the objective, optimizer) and of D (the optimizer).

    Args:
      options: `config.optimizer`.
      balance: From `balance_gradients`.
    """
    completion = optax.chain(balance, optax.scale(options["objective_scale"]), create_optimizer(options))
    return completion, optax.with_extra_args_support(create_optimizer(options))


def create_state(spec: TrainingSpec, key: jax.Array, image_size: int, mean_pixel: jax.Array) -> TrainState:
    """Returns a new state at step 0.

    Args:
      spec: From `create_spec`.
      key: Key of the initial parameters.
      image_size: Side of the training crops in pixels; fixes D's fully connected layers.
      mean_pixel: [3] float in [0, 1].
    """
    return init_quickly(functools.partial(_initial_state, spec, image_size=image_size, mean_pixel=mean_pixel), key)


def state_shapes(spec: TrainingSpec, image_size: int) -> TrainState:
    """The result of `create_state` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    create = functools.partial(_initial_state, spec, image_size=image_size, mean_pixel=jnp.zeros(3))
    return jax.eval_shape(create, jax.random.key(0))


def _initial_state(spec: TrainingSpec, key: jax.Array, image_size: int, mean_pixel: jax.Array) -> TrainState:
    completion_key, discriminator_key = jax.random.split(key)
    image = jnp.zeros((1, image_size, image_size, 4))
    variables = spec.completion_network.init(completion_key, image)
    completion = network_state(variables, spec.completion_optimizer)
    discriminator = None
    if spec.context_discriminator is not None:
        corner = jnp.zeros((1, 2), jnp.int32)
        variables = spec.context_discriminator.init(discriminator_key, image[..., :3], corner)
        discriminator = network_state(variables, spec.discriminator_optimizer)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        mean_pixel=jnp.asarray(mean_pixel, jnp.float32),
        completion=completion,
        discriminator=discriminator,
        ema=completion.variables if spec.ema_decay else None,
        spec=spec,
    )
