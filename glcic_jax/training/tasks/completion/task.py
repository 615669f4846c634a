"""GLCIC as a task: C alone, D alone, both.

Reference: Iizuka et al. 2017, Algorithm 1.
"""

import dataclasses
import types
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, lookup
from glcic_jax.model import masks
from glcic_jax.model.metrics import ImageMetrics
from glcic_jax.model.networks import BRANCHES, CompletionNetwork
from glcic_jax.training.config_checks import check_below, check_positive
from glcic_jax.training.distributed import broadcast_from_first, is_lead_process
from glcic_jax.training.health import Symptom
from glcic_jax.training.task import Display, ResumeKeys, TrainingData
from glcic_jax.training.tasks.completion.state import TrainState, create_spec, create_state
from glcic_jax.training.tasks.completion.steps import STEPS, CompletionMetrics, JointMetrics
from glcic_jax.training.tasks.completion.validation import FixedExamples

_SYMPTOMS = (
    Symptom(
        "discriminator_loss",
        "discriminator_loss",
        ("joint",),
        "D recognises every completed image, and C learns little from it",
        "--config.loss.adversarial=non_saturating, a smaller --config.discriminator.width, or fewer "
        "--config.phases.discriminator",
    ),
    Symptom(
        "completion_gradient_norm",
        "gradient_norm",
        ("completion",),
        "C no longer changes",
        "a higher learning rate, --config.optimizer.name=adam, or --config.compute_dtype=float32",
    ),
    Symptom(
        "reconstruction_gradient_norm",
        "gradient_norm",
        ("joint",),
        "the reconstruction loss no longer changes C",
        "a higher learning rate, --config.optimizer.name=adam, or --config.compute_dtype=float32",
    ),
    Symptom(
        "adversarial_gradient_norm",
        "gradient_norm",
        ("joint",),
        "the adversarial loss no longer changes C",
        "--config.loss.adversarial=non_saturating, or fewer --config.phases.discriminator",
    ),
)

CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("reconstruction loss in the hole", ("reconstruction_loss",)),
    ("discriminator loss", ("discriminator_loss",)),
    ("accuracy of D", ("real_accuracy", "fake_accuracy")),
    ("weight of the adversarial gradient", ("adversarial_weight",)),
    ("validation PSNR in the hole, dB", ("validation_hole_psnr",)),
    ("validation L1 in the hole", ("validation_hole_l1",)),
    ("validation sharpness in the hole", ("validation_hole_sharpness",)),
    ("images/s", ("images_per_second",)),
)


class CompletionTask:
    """See `task.Task`."""

    steps = STEPS
    costs = types.MappingProxyType({"completion": 1.0, "discriminator": 0.5, "joint": 2.0})  # On a CPU at 64 px.
    metrics = tuple(
        dict.fromkeys(f.name for kind in (CompletionMetrics, JointMetrics) for f in dataclasses.fields(kind))
    )
    validation_metrics = tuple(field.name for field in dataclasses.fields(ImageMetrics))
    best_metric = "hole_l1"
    symptoms = _SYMPTOMS
    display = Display(
        labels={
            "reconstruction_loss": "rec_loss",
            "discriminator_loss": "d_loss",
            "adversarial_loss": "adv",
            "real_accuracy": "real_acc",
            "fake_accuracy": "fake_acc",
            "adversarial_weight": "weight",
        },
        curves=CURVES,
        phase_table=(
            ("reconstruction loss in the hole", "reconstruction_loss"),
            ("D loss", "discriminator_loss"),
        ),
        grid="input, raw output, completed, original",
    )
    resume_keys = ResumeKeys(
        shapes=(
            "completion.width",
            "discriminator.branches",
            "discriminator.width",
            "discriminator.local_size",
            *(f"discriminator.{branch}_channels" for branch in BRANCHES),
        ),
        fixed=(
            "data.mean_pixel",
            "completion.layer_order",
            "completion.input_form",
            "completion.output_activation",
            "discriminator.layer_order",
        ),
        on_or_off=("completion.ema_decay",),
        earlier={"discriminator.texture_channels": [64, 128, 256]},
    )
    sections = ("mask", "completion", "discriminator", "loss", "balance")
    inference_item = "completion"
    memory_remedy = (
        "take --config.remat=activations, raise --config.accumulation_steps, lower --config.batch_size, or take "
        "--config.compute_dtype=bfloat16"
    )

    def __init__(self, config: ConfigDict, axis_name: str | None = None):
        self._config = config
        self.spec = create_spec(config, axis_name)

    @staticmethod
    def check(config: ConfigDict) -> None:
        data = config.data
        for branch in config.discriminator.branches:
            lookup(BRANCHES, branch, "discriminator branch")
        check_positive(
            {
                "data.mean_pixel_images": data.mean_pixel_images,
                "completion.width": config.completion.width,
                "discriminator.width": config.discriminator.width,
                "discriminator.local_size": config.discriminator.local_size,
                "optimizer.objective_scale": config.optimizer.objective_scale,
                **{
                    f"discriminator.{branch}_channels": min(config.discriminator[f"{branch}_channels"], default=0)
                    for branch in config.discriminator.branches
                },
            }
        )
        check_below(
            {
                "optimizer.adadelta.rho": (config.optimizer.adadelta.rho, 1),
                "completion.ema_decay": (config.completion.ema_decay, 1),
            }
        )
        if config.start_from and config.completion.initial_weights:
            raise ConfigError(
                "start_from and completion.initial_weights both say what C begins with: give one of them"
            )
        if data.image_size < 12:
            raise ConfigError(f"data.image_size is {data.image_size}: SSIM and the networks need at least 12 px")
        if data.grey:
            raise ConfigError("data.grey is True: the completion network completes colour images; give False")
        if len(data.mean_pixel) not in (0, 3) or not all(0 <= value <= 1 for value in data.mean_pixel):
            raise ConfigError(f"data.mean_pixel is {data.mean_pixel}: give () or three numbers in [0, 1]")

    def create_state(self, key: jax.Array) -> TrainState:
        return create_state(self.spec, key, self._config.data.image_size, jnp.zeros(3))

    def begin(self, state: TrainState, data: TrainingData) -> TrainState:
        from glcic_jax.data.input_pipeline import kept_mean_pixel  # Imports OpenCV and Grain.

        if self._config.completion.initial_weights:
            return self._with_initial_weights(state, data)
        mean_pixel = None
        if is_lead_process():
            path = data.workdir / "mean_pixel.json"
            mean_pixel = kept_mean_pixel(path, data.sources.train, data.config, data.skipped, data.log).tolist()
        return state.replace(mean_pixel=jnp.asarray(broadcast_from_first(mean_pixel), jnp.float32))

    def _with_initial_weights(self, state: TrainState, data: TrainingData) -> TrainState:
        """Returns the state with the arrays and the mean pixel of weights, which must be of the same network."""
        name = self._config.completion.initial_weights
        if data.find_weights is None:
            raise ConfigError(f"completion.initial_weights is {name!r}, and `train` was given no `find_weights`")
        weights = data.find_weights(name).weights
        wanted = {key: self._config.completion[key] for key in ("width", "layer_order", "output_activation")}
        found = {key: getattr(weights.network, key) for key in wanted}
        wanted["input_form"], found["input_form"] = self.spec.input_form, weights.description.input_form
        differing = [key for key in wanted if wanted[key] != found[key]]
        if differing:
            options = " ".join(f"--config.completion.{key}={found[key]}" for key in differing)
            raise ConfigError(f"completion.initial_weights: {name} is of another network: it needs {options}")
        data.log(f"the completion network begins with the weights {name}")
        # Two copies: the steps donate a state's arrays, and each can be donated once.
        variables, average = (jax.tree.map(jnp.array, weights.variables) for _ in range(2))
        return state.replace(
            mean_pixel=jnp.asarray(weights.description.mean_pixel, jnp.float32),
            completion=state.completion.replace(**variables),
            ema=average if self.spec.ema_decay else None,
        )

    def untrained_items(self, phases: Iterable[str]) -> frozenset[str]:
        return frozenset() if set(phases) - {"completion"} else frozenset({"discriminator"})

    def create_examples(self, image: np.ndarray, state: TrainState, key: jax.Array) -> FixedExamples:
        return FixedExamples(image, self.spec, np.asarray(state.mean_pixel), key, self._config.grid_images)

    @staticmethod
    def exported(meta: Mapping[str, Any]) -> tuple[CompletionNetwork, dict[str, Any]]:
        config = meta["config"]
        fields = config["completion"]
        image_size = config["data"]["image_size"]
        facts = {
            "input_form": fields["input_form"],
            "mean_pixel": tuple(meta["mean_pixel"]),
            "image_size": image_size,
            "hole_sides": masks.hole_sides(config["mask"]["sampler"], config["mask"], image_size),
        }
        network = CompletionNetwork(fields["width"], fields["layer_order"], fields["output_activation"])
        return network, facts
