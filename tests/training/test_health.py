"""Losses that left the finite numbers, and gradients that vanished."""

import numpy as np
import pytest

from glcic_jax.errors import DivergedError
from glcic_jax.training import health as health_module
from glcic_jax.training.health import Health
from glcic_jax.training.steps import CompletionMetrics, JointMetrics

LIMITS = {"discriminator_loss": 0.01, "gradient_norm": 1e-6}
SOUND = {
    "discriminator_loss": 1.0,
    "reconstruction_loss": 0.02,
    "reconstruction_gradient_norm": 0.1,
    "adversarial_gradient_norm": 0.1,
}


@pytest.fixture
def watched():
    said = []
    return Health(3, LIMITS, said.append), said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", SOUND)
def test_a_number_that_is_not_finite_is_named_with_its_step(watched, metric, value):
    health, _ = watched
    rows = [SOUND, SOUND, {**SOUND, metric: value}, SOUND]
    with pytest.raises(DivergedError, match=f"^{metric} is {value} at step 99:"):
        health.watch("joint", 100, rows)


@pytest.mark.parametrize(
    ("phase", "metric", "remedy"),
    [
        ("joint", "discriminator_loss", "non_saturating"),
        ("joint", "adversarial_gradient_norm", "non_saturating"),
        ("joint", "reconstruction_gradient_norm", "learning rate"),
        ("completion", "completion_gradient_norm", "learning rate"),
    ],
)
def test_a_metric_that_stays_near_zero_is_told_once(watched, phase, metric, remedy):
    health, said = watched
    health.watch(phase, 2, [{metric: 1e-9}] * 2)
    assert said == []
    health.watch(phase, 9, [{metric: 1e-9}] * 7)
    assert len(said) == 1
    assert f"warning: {metric} has been below" in said[0]
    assert "for 3 steps, up to step 3" in said[0]
    assert remedy in said[0]


def test_a_metric_that_rises_in_between_is_not_told(watched):
    health, said = watched
    for _ in range(5):
        health.watch("joint", 3, [{"discriminator_loss": value} for value in (0.001, 0.001, 0.5)])
    assert said == []


def test_a_second_fall_is_told_again(watched):
    health, said = watched
    low, high = {"discriminator_loss": 0.001}, {"discriminator_loss": 0.5}
    health.watch("joint", 7, [low] * 3 + [high] + [low] * 3)
    assert len(said) == 2


def test_d_alone_may_reach_a_loss_of_zero(watched):
    # It learns to tell a fixed C's completions from photographs, and that is what phase 2 is for.
    health, said = watched
    health.watch("discriminator", 10, [{"discriminator_loss": 0.0}] * 10)
    assert said == []


def test_what_was_counted_goes_on_in_another_process():
    said = []
    first = Health(3, LIMITS, said.append)
    first.watch("joint", 2, [{"discriminator_loss": 0.0}] * 2)
    second = Health(3, LIMITS, said.append, first.state())
    second.watch("joint", 3, [{"discriminator_loss": 0.0}])
    assert len(said) == 1
    # And one that has been told is not told again.
    Health(3, LIMITS, said.append, second.state()).watch("joint", 9, [{"discriminator_loss": 0.0}] * 6)
    assert len(said) == 1


def test_the_signs_are_metrics_of_their_phases_and_keys_of_the_configuration(config):
    fields = {"completion": CompletionMetrics, "joint": JointMetrics}
    for sign in health_module._SIGNS:
        assert sign.limit in config.warn
        for phase in sign.phases:
            assert sign.metric in fields[phase].__dataclass_fields__
