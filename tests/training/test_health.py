"""Diverged losses and vanishing gradients."""

import numpy as np
import pytest

from glcic_jax.errors import DivergedError
from glcic_jax.training.health import Health
from glcic_jax.training.tasks.completion import CompletionTask
from glcic_jax.training.tasks.completion.steps import CompletionMetrics, JointMetrics

SYMPTOMS = CompletionTask.symptoms
LIMITS = {"discriminator_loss": 0.01, "gradient_norm": 1e-6}
SOUND = {
    "discriminator_loss": 1.0,
    "reconstruction_loss": 0.02,
    "reconstruction_gradient_norm": 0.1,
    "adversarial_gradient_norm": 0.1,
}


@pytest.fixture
def watched():
    lines = []
    return Health(SYMPTOMS, 3, LIMITS, lines.append), lines


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", SOUND)
def test_nan_and_inf_are_reported_with_metric_and_step(watched, metric, value):
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
def test_metric_that_stays_near_zero_is_reported_once(watched, phase, metric, remedy):
    health, lines = watched
    health.watch(phase, 2, [{metric: 1e-9}] * 2)
    assert lines == []
    health.watch(phase, 9, [{metric: 1e-9}] * 7)
    assert len(lines) == 1
    assert f"warning: {metric} has been below" in lines[0]
    assert "for 3 steps, up to step 3" in lines[0]
    assert remedy in lines[0]


def test_metric_that_rises_in_between_is_not_reported(watched):
    health, lines = watched
    for _ in range(5):
        health.watch("joint", 3, [{"discriminator_loss": value} for value in (0.001, 0.001, 0.5)])
    assert lines == []


def test_second_fall_is_reported_again(watched):
    health, lines = watched
    low, high = {"discriminator_loss": 0.001}, {"discriminator_loss": 0.5}
    health.watch("joint", 7, [low] * 3 + [high] + [low] * 3)
    assert len(lines) == 2


def test_discriminator_phase_may_reach_a_loss_of_zero(watched):
    # There it learns to recognise a fixed C's completions.
    health, lines = watched
    health.watch("discriminator", 10, [{"discriminator_loss": 0.0}] * 10)
    assert lines == []


def test_counts_continue_in_another_process():
    lines = []
    first = Health(SYMPTOMS, 3, LIMITS, lines.append)
    first.watch("joint", 2, [{"discriminator_loss": 0.0}] * 2)
    second = Health(SYMPTOMS, 3, LIMITS, lines.append, first.state())
    second.watch("joint", 3, [{"discriminator_loss": 0.0}])
    assert len(lines) == 1
    # A metric that was reported is not reported again.
    Health(SYMPTOMS, 3, LIMITS, lines.append, second.state()).watch("joint", 9, [{"discriminator_loss": 0.0}] * 6)
    assert len(lines) == 1


def test_symptoms_name_metrics_of_their_phases_and_keys_of_the_configuration(config):
    fields = {"completion": CompletionMetrics, "joint": JointMetrics}
    for symptom in CompletionTask.symptoms:
        assert symptom.limit in config.warn
        for phase in symptom.phases:
            assert symptom.metric in fields[phase].__dataclass_fields__
