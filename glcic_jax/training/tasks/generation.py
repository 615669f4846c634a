"""Generative adversarial networks as a task: one phase, in which each step updates D and then G.

Reference: Goodfellow et al. 2014, Algorithm 1.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from glcic_jax.errors import lookup
from glcic_jax.model import images, losses
from glcic_jax.model.gans import GANS, draw_latents, generate, generate_walks
from glcic_jax.pictures import save_image, tile, tile_all
from glcic_jax.training.config_checks import check_below, check_positive
from glcic_jax.training.health import Symptom
from glcic_jax.training.task import Batch, Display, Findings, ResumeKeys, TrainingData
from glcic_jax.training.updates import (
    COMPUTE_DTYPES,
    NetworkState,
    UpdateSpec,
    accumulate,
    apply_gradients,
    create_optimizer,
    init_quickly,
    mean_over_devices,
    network_state,
    resolve_compute_dtype,
)

_WALKS, _WALK_POINTS = 8, 10  # Lines between latents in the summary, and images of each.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationSpec(UpdateSpec):
    """Everything about the training that is not an array; static under jit.

    Attributes:
      generator, discriminator: G and D, see `gans`.
      optimizer: Of each network.
      adversarial_loss: Of G, see `losses`.
      discriminator_weight: Factor on D's loss.
    """

    generator: Any
    discriminator: Any
    optimizer: optax.GradientTransformationExtraArgs
    adversarial_loss: Callable[[jax.Array], jax.Array]
    discriminator_weight: float


class GenerationState(struct.PyTreeNode):
    """The whole training state at one step: see `task.State`."""

    step: jax.Array
    generator: NetworkState
    discriminator: NetworkState
    spec: GenerationSpec = struct.field(pytree_node=False)

    def items(self) -> dict[str, Any]:
        """See `task.State`."""
        return {"generator": vars(self.generator), "discriminator": vars(self.discriminator)}

    def facts(self) -> dict[str, Any]:
        """See `task.State`."""
        return {}

    def restored(self, items: Mapping[str, Any], meta: Mapping[str, Any]) -> Self:
        """See `task.State`."""
        networks = {name: getattr(self, name).replace(**item) for name, item in items.items()}
        return self.replace(step=jnp.asarray(meta["step"], jnp.int32), **networks)


class GenerationMetrics(struct.PyTreeNode):
    """Float32 scalars, averaged over the batch; accuracies are fractions in [0, 1]."""

    discriminator_loss: jax.Array
    real_accuracy: jax.Array
    fake_accuracy: jax.Array
    discriminator_gradient_norm: jax.Array
    adversarial_loss: jax.Array
    generator_gradient_norm: jax.Array


class _Draws(struct.PyTreeNode):
    """Images, and what the two updates draw for each: latents, and keys of D's dropout."""

    image: jax.Array
    latents: jax.Array
    new_latents: jax.Array
    real_key: jax.Array
    fake_key: jax.Array
    new_key: jax.Array


def adversarial_step(
    state: GenerationState, batch: Batch, key: jax.Array
) -> tuple[GenerationState, GenerationMetrics]:
    """Updates D on real and generated images, then G against the updated D on images of new latents."""
    spec, old_g, old_d = state.spec, state.generator, state.discriminator
    draws = _draw(state, batch, key)

    def gradients_of_d(batch_stats: Any, part: _Draws) -> tuple[Any, Any, None]:
        fake, _ = _run(spec.generator, old_g.params, old_g.batch_stats, part.latents)

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            real_logits, stats = _run(spec.discriminator, params, batch_stats, part.image, keys=part.real_key)
            fake_logits, stats = _run(spec.discriminator, params, stats, fake, keys=part.fake_key)
            loss = losses.discriminator_loss(real_logits, fake_logits).mean()
            return spec.discriminator_weight * loss, (
                stats,
                loss,
                jnp.mean(real_logits > 0),
                jnp.mean(fake_logits < 0),
            )

        (_, (stats, *values)), grads = jax.value_and_grad(loss_of, has_aux=True)(old_d.params)
        return stats, (grads, *values), None

    d_stats, means, _ = accumulate(spec, gradients_of_d, old_d.batch_stats, draws)
    d_grads, d_loss, real_accuracy, fake_accuracy = mean_over_devices(spec, means)
    new_d = apply_gradients(spec, old_d, spec.optimizer, d_grads, d_stats)

    def gradients_of_g(batch_stats: Any, part: _Draws) -> tuple[Any, Any, None]:
        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            fake, stats = _run(spec.generator, params, batch_stats, part.new_latents)
            logits, _ = _run(spec.discriminator, new_d.params, new_d.batch_stats, fake, keys=part.new_key)
            return spec.adversarial_loss(logits).mean(), stats

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(old_g.params)
        return stats, (grads, loss), None

    g_stats, means, _ = accumulate(spec, gradients_of_g, old_g.batch_stats, draws)
    g_grads, g_loss = mean_over_devices(spec, means)
    new_g = apply_gradients(spec, old_g, spec.optimizer, g_grads, g_stats)
    metrics = GenerationMetrics(
        discriminator_loss=d_loss,
        real_accuracy=real_accuracy,
        fake_accuracy=fake_accuracy,
        discriminator_gradient_norm=optax.tree.norm(d_grads),
        adversarial_loss=g_loss,
        generator_gradient_norm=optax.tree.norm(g_grads),
    )
    return state.replace(step=state.step + 1, generator=new_g, discriminator=new_d), metrics


def _draw(state: GenerationState, batch: Batch, key: jax.Array) -> _Draws:
    generator = state.spec.generator
    step_key = jax.random.fold_in(key, state.step)

    def draw(place: jax.Array) -> tuple[jax.Array, ...]:
        latent_key, new_latent_key, *dropout_keys = jax.random.split(jax.random.fold_in(step_key, place), 5)
        latents = (generator.draw_latent(one, generator.latent_size) for one in (latent_key, new_latent_key))
        return (*latents, *dropout_keys)

    return _Draws(images.to_float(batch["image"]), *jax.vmap(draw)(batch["place"]))


def _run(network: Any, params: Any, batch_stats: Any, *arguments: Any, **options: Any) -> tuple[jax.Array, Any]:
    """Runs a network in training mode: its output and the updated running statistics."""
    variables = {"params": params, "batch_stats": batch_stats}
    output, updated = network.apply(variables, *arguments, train=True, mutable=["batch_stats"], **options)
    return output, updated.get("batch_stats", {})


class FixedLatents:
    """Latents that are the same at every validation, beside held-out images.

    Args:
      image: [N, S, S, C] uint8, held-out images.
      generator: G.
      key: Key of the latents.
      shown: Number of images in a grid.
    """

    def __init__(self, image: np.ndarray, generator: Any, key: jax.Array, shown: int):
        self._image, self._generator, self._shown = image, generator, shown
        self._latents = draw_latents(generator, key, max(len(image), shown, 2))

    def evaluate(self, state: GenerationState) -> Findings:
        """See `task.Examples`; the grid shows the images of the first latents."""
        samples = generate(self._generator, state.generator.variables, self._latents)
        of_images = _mean_distance(self._image)
        # There may be one held-out image, or all may be alike.
        metrics = {"diversity": _mean_distance(samples[: len(self._image)]) / of_images} if of_images else {}
        return Findings(metrics, tile_all(samples[: self._shown]))

    def summarise(self, workdir: Path, state: GenerationState) -> list[str]:
        """See `task.Examples`; writes samples.png, real.png and walk.png."""
        metrics, grid = self.evaluate(state)
        save_image(grid, workdir / "samples.png")
        save_image(tile_all(self._image[: self._shown]), workdir / "real.png")
        ends = self._latents[: _WALKS + 1]
        walks = generate_walks(self._generator, state.generator.variables, ends, _WALK_POINTS)
        save_image(tile(list(walks.swapaxes(0, 1))), workdir / "walk.png")
        return [
            "## Samples\n\nGenerated images, of the latents of all grids, and held-out ones.\n\n"
            "![samples](samples.png) ![real images](real.png)",
            *(
                f"Mean distance between two generated images, divided by that of held-out ones: {value:.3f}. "
                "Near 0, G makes one image of all latents."
                for value in metrics.values()
            ),
            "## Walks between latents\n\nEach row: from one of the latents to the next.\n\n![walk](walk.png)",
        ]


def _mean_distance(image: np.ndarray) -> float:
    """The mean Euclidean distance of neighbours in a batch of images; 0 for fewer than two."""
    flat = image.reshape(len(image), -1).astype(np.float32)
    return float(np.linalg.norm(flat[1:] - flat[:-1], axis=1).mean()) if len(flat) > 1 else 0.0


class GenerationTask:
    """See `task.Task`."""

    steps = types.MappingProxyType({"adversarial": adversarial_step})
    costs = types.MappingProxyType({"adversarial": 1.0})
    metrics = tuple(field.name for field in dataclasses.fields(GenerationMetrics))
    validation_metrics = ("diversity",)
    best_metric = ""  # No number of a GAN's ranks its checkpoints.
    symptoms = (
        Symptom(
            "discriminator_loss",
            "discriminator_loss",
            ("adversarial",),
            "D recognises every generated image, and G learns little from it",
            "--config.loss.adversarial=non_saturating, or a lower learning rate",
        ),
        Symptom(
            "generator_gradient_norm",
            "gradient_norm",
            ("adversarial",),
            "G no longer changes",
            "--config.loss.adversarial=non_saturating, or --config.compute_dtype=float32",
        ),
    )
    display = Display(
        labels={
            "discriminator_loss": "d_loss",
            "adversarial_loss": "g_loss",
            "real_accuracy": "real_acc",
            "fake_accuracy": "fake_acc",
        },
        curves=(
            ("discriminator loss", ("discriminator_loss",)),
            ("generator loss", ("adversarial_loss",)),
            ("accuracy of D", ("real_accuracy", "fake_accuracy")),
            ("gradient norms", ("discriminator_gradient_norm", "generator_gradient_norm")),
            ("diversity of samples (held-out images: 1)", ("validation_diversity",)),
            ("images/s", ("images_per_second",)),
        ),
        phase_table=(("D loss", "discriminator_loss"), ("G loss", "adversarial_loss")),
        grid="generated images of fixed latents",
    )
    resume_keys = ResumeKeys(
        shapes=("network.name", "network.width", "network.latent_size", "data.grey"), fixed=(), on_or_off=()
    )
    sections = ("network", "loss")
    inference_item = "generator"
    memory_remedy = (
        "raise --config.accumulation_steps, lower --config.batch_size, or take --config.compute_dtype=bfloat16"
    )

    def __init__(self, config: ConfigDict, axis_name: str | None = None):
        self._config = config
        self._image_shape = (config.data.image_size, config.data.image_size, 1 if config.data.grey else 3)
        dtype = COMPUTE_DTYPES[resolve_compute_dtype(config.compute_dtype)]
        shared = {"dtype": dtype, "axis_name": axis_name if config.sync_batch_norm else None}
        self.spec = GenerationSpec(
            generator=_generator(config, **shared),
            discriminator=GANS[config.network.name].discriminator(width=config.network.width, **shared),
            optimizer=optax.with_extra_args_support(create_optimizer(config.optimizer.to_dict())),
            adversarial_loss=lookup(losses.ADVERSARIAL_LOSSES, config.loss.adversarial, "adversarial loss"),
            discriminator_weight=config.loss.discriminator_weight,
            sync_batch_norm=config.sync_batch_norm,
            accumulation=config.accumulation_steps,
            axis_name=axis_name,
        )
        jax.eval_shape(self._initial_state, jax.random.key(0))  # Refuses sizes before anything is compiled.

    @staticmethod
    def check(config: ConfigDict) -> None:
        check_positive({f"network.{key}": config.network[key] for key in ("width", "latent_size")})
        check_below({"optimizer.sgd.momentum": (config.optimizer.sgd.momentum, 1)})

    def create_state(self, key: jax.Array) -> GenerationState:
        return init_quickly(self._initial_state, key)

    def state_shapes(self) -> GenerationState:
        """The result of `create_state` as `jax.ShapeDtypeStruct`s; allocates nothing."""
        return jax.eval_shape(self._initial_state, jax.random.key(0))

    def _initial_state(self, key: jax.Array) -> GenerationState:
        spec = self.spec
        generator_key, discriminator_key = jax.random.split(key)
        latents, image = jnp.zeros((1, spec.generator.latent_size)), jnp.zeros((1, *self._image_shape))
        return GenerationState(
            step=jnp.zeros((), jnp.int32),
            generator=network_state(spec.generator.init(generator_key, latents), spec.optimizer),
            discriminator=network_state(spec.discriminator.init(discriminator_key, image), spec.optimizer),
            spec=spec,
        )

    def begin(self, state: GenerationState, data: TrainingData) -> GenerationState:
        return state

    def untrained_items(self, phases: Iterable[str]) -> frozenset[str]:
        return frozenset()

    def create_examples(self, image: np.ndarray, state: GenerationState, key: jax.Array) -> FixedLatents:
        return FixedLatents(image, self.spec.generator, key, self._config.grid_images)

    @staticmethod
    def exported(meta: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        return _generator(ConfigDict(meta["config"])), {}


def _generator(config: ConfigDict, **fields: Any) -> Any:
    network = config.network
    return lookup(GANS, network.name, "network").generator(
        image_size=config.data.image_size,
        channels=1 if config.data.grey else 3,
        latent_size=network.latent_size,
        width=network.width,
        **fields,
    )
