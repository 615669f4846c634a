"""GLCIC: its training state, the updates of its three phases, its validation."""

from glcic_jax.training.tasks.completion.state import (
    TrainingSpec,
    TrainState,
    create_spec,
    create_state,
    state_shapes,
)
from glcic_jax.training.tasks.completion.steps import STEPS
from glcic_jax.training.tasks.completion.task import CURVES, CompletionTask

__all__ = [
    "CURVES",
    "STEPS",
    "CompletionTask",
    "TrainState",
    "TrainingSpec",
    "create_spec",
    "create_state",
    "state_shapes",
]
