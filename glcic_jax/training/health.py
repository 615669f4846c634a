"""Stops a training on NaN or Inf; warns when gradients vanish or the discriminator wins."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from glcic_jax.errors import DIVERGED_REMEDY, DivergedError


@dataclasses.dataclass(frozen=True)
class Symptom:
    """A metric that stays below a limit of `config.warn` in some phases, its meaning, and remedies."""

    metric: str
    limit: str
    phases: tuple[str, ...]
    meaning: str
    remedy: str


class Health:
    """Watches the metrics of every step.

    Args:
      symptoms: What to watch for.
      steps: Number of consecutive steps below a limit after which the user is warned, once.
      limits: The limits that the symptoms name.
      log: Shows the user one line.
      below: The `state()` that a checkpoint holds, for a resumed run.
    """

    def __init__(
        self,
        symptoms: Sequence[Symptom],
        steps: int,
        limits: Mapping[str, float],
        log: Callable[[str], None],
        below: Mapping[str, int] | None = None,
    ):
        self._symptoms = symptoms
        self._steps = steps
        self._limits = limits
        self._log = log
        self._below = dict(below or {})

    def watch(self, phase: str, last_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Checks the metrics of consecutive steps that end with `last_step`.

        Raises:
          DivergedError: A metric is NaN or Inf.
        """
        for step, row in enumerate(rows, start=last_step - len(rows) + 1):
            for name, value in row.items():
                if not np.isfinite(value):
                    raise DivergedError(
                        f"{name} is {value} at step {step}: training has diverged and was stopped before it was "
                        f"saved. {DIVERGED_REMEDY}"
                    )
            for symptom in self._symptoms:
                if phase in symptom.phases and symptom.metric in row:
                    self._count(symptom, row[symptom.metric], step)

    def state(self) -> dict[str, int]:
        """Returns the number of steps that each metric has been below its limit, as JSON values."""
        return dict(self._below)

    def _count(self, symptom: Symptom, value: float, step: int) -> None:
        metric, limit = symptom.metric, self._limits[symptom.limit]
        self._below[metric] = self._below.get(metric, 0) + 1 if value < limit else 0
        if self._below[metric] == self._steps:
            self._log(
                f"warning: {metric} has been below {limit:g} for {self._steps} steps, up to step {step} "
                f"({value:.3g}): {symptom.meaning}. What may help: {symptom.remedy}"
            )
