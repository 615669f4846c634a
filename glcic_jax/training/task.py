"""What the loop trains: a task, with its states and its held-out examples.

The loop, the logs and the checkpoints know these protocols alone; `tasks/` holds the tasks.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import jax
import numpy as np
from ml_collections import ConfigDict

from glcic_jax.data import SkippedFiles, Sources
from glcic_jax.training.health import Symptom

Batch = dict[str, jax.Array]
Step = Callable[[Any, Batch, jax.Array], tuple[Any, Any]]
"""One update: a pure function `(state, batch, key) -> (state, metrics)`, see `distributed.pmap_step`.

`batch` is one device's shard: `{"image": [n, S, S, C] uint8, "place": [n] int32}`, where `place` is each example's
index in the global batch. `key` is the run's key, the same for every step and device; what a step draws depends on
the key, the step and the place alone. Metrics are a dataclass of float32 scalars.
"""


FindWeights = Callable[[str], Any]
"""`weights.find_weights`, which this room may not import."""


class State(Protocol):
    """The whole training state at one step: a frozen pytree."""

    @property
    def step(self) -> jax.Array:
        """int32 scalar, number of updates in all phases."""

    def items(self) -> dict[str, Any]:
        """The arrays to save: a pytree for each item of a checkpoint, which restores without the others."""

    def facts(self) -> dict[str, Any]:
        """What is saved beside the arrays, as JSON values by name."""

    def restored(self, items: Mapping[str, Any], meta: Mapping[str, Any]) -> Self:
        """Returns the state at `meta["step"]` with the facts in `meta`.

        Items of `Task.untrained_items` may be left out, and stay as they are.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data of a run, for what a task measures before the first step.

    Attributes:
      config: `config.data`.
      workdir: The run's directory.
      sources: The images.
      skipped: Receives images that cannot be read.
      log: Shows the user one line.
      find_weights: See `loop.train`.
    """

    config: ConfigDict
    workdir: Path
    sources: Sources
    skipped: SkippedFiles
    log: Callable[[str], None]
    find_weights: FindWeights | None


class Findings(NamedTuple):
    """The result of a validation.

    Attributes:
      metrics: Numbers by their names in `Task.validation_metrics`.
      grid: [H, W, 3] uint8, a picture of the first examples.
    """

    metrics: dict[str, float]
    grid: np.ndarray


class Examples(Protocol):
    """Examples that are the same at every validation; only the lead process has them."""

    def evaluate(self, state: Any) -> Findings:
        """Measures and draws what a state, on one device, makes of the examples."""

    def summarise(self, workdir: Path, state: Any) -> list[str]:
        """Writes pictures into the workdir, and returns the sections of summary.md that show them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Display:
    """How a task's numbers and grids are shown.

    Attributes:
      labels: The metrics in the progress line, and their labels.
      curves: Title of each plot, and the one or two columns of metrics.jsonl that it shows.
      phase_table: Heading and metric of each column of the summary's table of phases.
      grid: The columns of a grid, in words.
    """

    labels: Mapping[str, str]
    curves: tuple[tuple[str, tuple[str, ...]], ...]
    phase_table: tuple[tuple[str, str], ...]
    grid: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeKeys:
    """The keys of the configuration that may not change within a run, beside those that all tasks share.

    Attributes:
      shapes: Those that determine the arrays of a state.
      fixed: Further ones.
      on_or_off: Those whose arrays exist only if the value is not 0; other values may replace each other.
      earlier: The values of keys before they existed; other keys were off.
    """

    shapes: tuple[str, ...]
    fixed: tuple[str, ...]
    on_or_off: tuple[str, ...]
    earlier: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """A system to train, built from a configuration by `tasks.task_of(config)(config, axis_name)`.

    Attributes:
      steps: The update of each phase by its name, in order of training; `config.phases` has their numbers.
      costs: Time of one step of each phase relative to the first, for estimates.
      metrics: Names of the steps' metrics.
      validation_metrics: Names of the metrics of a validation.
      best_metric: The validation metric whose lowest value marks the best checkpoint; "" if none does.
      symptoms: What warns of a training that goes wrong.
      display: How its numbers and grids are shown.
      resume_keys: What may not change within a run.
      sections: The sections of the configuration that it needs.
      inference_item: The item of a state that holds the network that inference uses.
      memory_remedy: What to do if a batch does not fit into memory, in words.
    """

    steps: Mapping[str, Step]
    costs: Mapping[str, float]
    metrics: tuple[str, ...]
    validation_metrics: tuple[str, ...]
    best_metric: str
    symptoms: tuple[Symptom, ...]
    display: Display
    resume_keys: ResumeKeys
    sections: tuple[str, ...]
    inference_item: str
    memory_remedy: str

    def __init__(self, config: ConfigDict, axis_name: str | None = None):
        """Builds the networks for steps under the pmap axis; raises ConfigError if names or sizes do not fit."""

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises ConfigError if one of the task's own numbers is out of range."""

    def create_state(self, key: jax.Array) -> Any:
        """Returns a new state at step 0."""

    def begin(self, state: Any, data: TrainingData) -> Any:
        """Returns the state of a new run, with what the task measures in its data; all processes call it.

        Raises:
          ConfigError: The weights that it is to begin with are of another network.
          WeightsError: They cannot be read.
        """

    def untrained_items(self, phases: Iterable[str]) -> frozenset[str]:
        """Returns the items of a state that these phases do not train; their networks may still change."""

    def create_examples(self, image: np.ndarray, state: Any, key: jax.Array) -> Examples:
        """Returns the examples of held-out images, [N, S, S, C] uint8."""

    @staticmethod
    def exported(meta: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Returns the network that inference uses, from the `meta` item of a checkpoint.

        Returns:
          The module, and what describes it in a file of weights beside its origin.
        """
