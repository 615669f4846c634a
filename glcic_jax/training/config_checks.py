"""Range checks of a configuration's numbers, before anything is built from them."""

import math
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError
from glcic_jax.training.updates import optimizer_choice


def check_positive(values: Mapping[str, float]) -> None:
    """Raises ConfigError if a value, given by its key, is not above 0."""
    for key, value in values.items():
        if value <= 0:
            raise ConfigError(f"{key} is {value}: it must be above 0")


def check_below(values: Mapping[str, tuple[float, float]]) -> None:
    """Raises ConfigError if a value, given by its key with a limit, is not in [0, limit)."""
    for key, (value, end) in values.items():
        if not 0 <= value < end:
            raise ConfigError(f"{key} is {value}: it must be in [0, {end})")


def check_shared_values(config: ConfigDict) -> None:
    """Checks the keys that the configurations of all tasks have.

    Raises:
      ConfigError: A number is out of range, or two do not fit together, or the optimizer is unknown.
    """
    data, optimizer = config.data, config.optimizer
    optimizer_choice(optimizer)
    check_positive(
        {
            "accumulation_steps": config.accumulation_steps,
            "batch_size": config.batch_size,
            "data.prefetch": data.prefetch,
            "validation_images": config.validation_images,
            "grid_images": config.grid_images,
            "keep_checkpoints": config.keep_checkpoints,
            "warn.steps": config.warn.steps,
            "data.image_size": data.image_size,
            "optimizer.learning_rate": optimizer[optimizer.name].learning_rate,
        }
    )
    check_below(
        {
            "seed": (config.seed, 2**31 - 1),
            "data.validation_fraction": (data.validation_fraction, 1),
            "data.max_skipped_fraction": (data.max_skipped_fraction, 1),
            "data.centre_crop": (data.centre_crop, math.inf),
            "optimizer.adam.decay_steps": (optimizer.adam.decay_steps, math.inf),
            "data.cache_images": (data.cache_images, math.inf),
            "data.threads": (data.threads, math.inf),
            **{key: (config[key], math.inf) for key in config if key.endswith("_every")},
        }
    )
    devices, parts = jax.device_count(), config.accumulation_steps
    if config.batch_size % (devices * parts):
        raise ConfigError(
            f"batch_size {config.batch_size} must be a multiple of {devices} devices x accumulation_steps {parts}"
        )
    sides = data.resize_range
    if len(sides) not in (0, 2) or not all(isinstance(side, int) for side in sides):
        raise ConfigError(f"data.resize_range is {sides}: give two whole numbers, such as (256, 384), or ()")
    if sides and not data.image_size <= sides[0] <= sides[1]:
        raise ConfigError(
            f"data.resize_range is {sides}: it must start at data.image_size {data.image_size} or above, and "
            "may not end below its start"
        )
