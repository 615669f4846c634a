"""Range checks of a configuration's numbers, before anything is built from them."""

import math

import jax
from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, lookup
from glcic_jax.model.networks import BRANCHES
from glcic_jax.training.state import OPTIMIZERS


def check_values(config: ConfigDict) -> None:
    """Refuses numbers that would fail later with a less clear error.

    Raises:
      ConfigError: A number is out of range, two do not fit together, or a name that selects numbers is unknown.
    """
    data, optimizer = config.data, config.optimizer
    lookup(OPTIMIZERS, optimizer.name, "optimizer")
    for branch in config.discriminator.branches:
        lookup(BRANCHES, branch, "discriminator branch")
    positive = {
        "accumulation_steps": config.accumulation_steps,
        "batch_size": config.batch_size,
        "data.mean_pixel_images": data.mean_pixel_images,
        "data.prefetch": data.prefetch,
        "completion.width": config.completion.width,
        "discriminator.width": config.discriminator.width,
        "discriminator.local_size": config.discriminator.local_size,
        "validation_images": config.validation_images,
        "grid_images": config.grid_images,
        "keep_checkpoints": config.keep_checkpoints,
        "warn.steps": config.warn.steps,
        "optimizer.learning_rate": optimizer[optimizer.name].learning_rate,
        "optimizer.objective_scale": optimizer.objective_scale,
    }
    for branch in config.discriminator.branches:
        name = f"{branch}_channels"
        positive[f"discriminator.{name}"] = min(config.discriminator[name], default=0)
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key} is {value}: it must be above 0")
    below = {  # Values in [0, end).
        "seed": (config.seed, 2**31 - 1),
        "data.validation_fraction": (data.validation_fraction, 1),
        "data.max_skipped_fraction": (data.max_skipped_fraction, 1),
        "optimizer.adadelta.rho": (optimizer.adadelta.rho, 1),
        "optimizer.adam.decay_steps": (optimizer.adam.decay_steps, math.inf),
        "completion.ema_decay": (config.completion.ema_decay, 1),
        "data.cache_images": (data.cache_images, math.inf),
        "data.threads": (data.threads, math.inf),
        **{key: (config[key], math.inf) for key in config if key.endswith("_every")},
    }
    for key, (value, end) in below.items():
        if not 0 <= value < end:
            raise ConfigError(f"{key} is {value}: it must be in [0, {end})")
    devices, parts = jax.device_count(), config.accumulation_steps
    if config.batch_size % (devices * parts):
        raise ConfigError(
            f"batch_size {config.batch_size} must be a multiple of {devices} devices x accumulation_steps {parts}"
        )
    if data.image_size < 12:
        raise ConfigError(f"data.image_size is {data.image_size}: SSIM and the networks need at least 12 px")
    sides = data.resize_range
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ConfigError(f"data.resize_range is {sides}: give two whole numbers, such as (256, 384)")
    if not data.image_size <= sides[0] <= sides[1]:
        raise ConfigError(
            f"data.resize_range is {sides}: it must start at data.image_size {data.image_size} or above, and "
            "may not end below its start"
        )
    if len(data.mean_pixel) not in (0, 3) or not all(0 <= value <= 1 for value in data.mean_pixel):
        raise ConfigError(f"data.mean_pixel is {data.mean_pixel}: give () or three numbers in [0, 1]")
