"""Range checks of a configuration."""

import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.training.tasks import check_values


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("accumulation_steps", (0, -2)),
        ("batch_size", (0, -4)),
        ("data.threads", (-1,)),
        ("data.prefetch", (0,)),
        ("data.mean_pixel", ((0.5, 0.5), (0.5, 0.5, 127.0))),
        ("data.image_size", (8,)),
        ("data.resize_range", ((16, 48), (48, 40), (32,), (32, 48, 32, 40))),
        ("data.validation_fraction", (2.0,)),
        ("data.max_skipped_fraction", (-1.0,)),
        ("data.cache_images", (-1,)),
        ("completion.ema_decay", (1.0,)),
        ("completion.width", (0.0,)),
        ("validation_images", (0,)),
        ("grid_images", (0,)),
        ("keep_checkpoints", (0,)),
        ("seed", (-1, 2**63)),
        ("discriminator.global_channels", ((),)),
        ("discriminator.local_channels", ((64, 0),)),
        ("optimizer.adadelta.rho", (2.0,)),
        ("optimizer.adadelta.learning_rate", (-1.0,)),
        ("optimizer.adam.decay_steps", (-1,)),
        ("optimizer.objective_scale", (0.0, -1.0)),
        ("log_every", (-1,)),
        ("warn.steps", (0,)),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(config, key, values):
    check_values(config)
    for value in values:
        config.update_from_flattened_dict({key: value})
        with pytest.raises(ConfigError, match=key.replace(".adadelta.learning", ".learning")):
            check_values(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.name", "sgd", "unknown optimizer 'sgd': choose one of adadelta, adam"),
        ("discriminator.branches", ("left",), "unknown discriminator branch 'left': choose one of global, local"),
    ],
)
def test_unknown_names_are_refused_with_the_valid_ones(config, key, value, message):
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        check_values(config)


def test_batch_must_divide_into_parts(config):
    config.accumulation_steps = 3
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of"):
        check_values(config)
