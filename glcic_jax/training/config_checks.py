"""Range checks of a configuration's numbers, before anything is built from them."""

import jax
from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError


def check_values(config: ConfigDict) -> None:
    """Refuses numbers that would fail later, and less clearly.

    Raises:
      ConfigError: One is out of its range, or two do not fit together.
    """
    data, parts, devices = config.data, config.accumulation_steps, jax.device_count()
    positive = {
        "accumulation_steps": parts,
        "batch_size": config.batch_size,
        "data.mean_pixel_images": data.mean_pixel_images,
        "data.threads": data.threads,
        "data.prefetch": data.prefetch,
        "completion.width": config.completion.width,
        "discriminator.width": config.discriminator.width,
        "discriminator.local_size": config.discriminator.local_size,
        "validation_images": config.validation_images,
        "grid_images": config.grid_images,
        "keep_checkpoints": config.keep_checkpoints,
    }
    for branch in config.discriminator.branches:
        channels = config.discriminator[f"{branch}_channels"]
        positive[f"discriminator.{branch}_channels"] = min(channels, default=0)
    positive["optimizer.learning_rate"] = config.optimizer[config.optimizer.name].learning_rate
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key} is {value}: it must be above 0")
    bounded = {
        "seed": (config.seed, 2**31 - 1),
        "data.validation_fraction": (data.validation_fraction, 1),
        "data.max_skipped_fraction": (data.max_skipped_fraction, 1),
        "optimizer.adadelta.rho": (config.optimizer.adadelta.rho, 1),
        "optimizer.adam.decay_steps": (config.optimizer.adam.decay_steps, float("inf")),
        "completion.ema_decay": (config.completion.ema_decay, 1),
        "data.cache_images": (data.cache_images, float("inf")),
        **{key: (config[key], float("inf")) for key in config if key.endswith("_every")},
    }
    for key, (value, end) in bounded.items():
        if not 0 <= value < end:
            raise ConfigError(f"{key} is {value}: it must be in [0, {end})")
    if config.batch_size % (devices * parts):
        raise ConfigError(
            f"batch_size {config.batch_size} must be a multiple of {devices} devices x accumulation_steps {parts}"
        )
    if data.image_size < 12:
        raise ConfigError(f"data.image_size is {data.image_size}: SSIM and the networks need at least 12 px")
    sides = data.resize_range
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ConfigError(f"data.resize_range is {sides}: give two whole numbers, once: (256, 384)")
    if not data.image_size <= sides[0] <= sides[1]:
        raise ConfigError(
            f"data.resize_range {sides} must not begin below data.image_size {data.image_size}, nor end "
            "before it begins"
        )
    if len(data.mean_pixel) not in (0, 3) or not all(0 <= value <= 1 for value in data.mean_pixel):
        raise ConfigError(f"data.mean_pixel is {data.mean_pixel}: give () or three numbers in [0, 1]")
