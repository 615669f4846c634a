"""The schedule: which phase trains at a step, and when something is due. The only arithmetic on steps.

A step is a number of updates done: the update from step 0 to step 1 belongs to the phase at step 0.

Reference: Iizuka et al. 2017, Algorithm 1.
"""

import dataclasses
from collections.abc import Sequence

from glcic_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training: steps `start` to `stop - 1`.

    Attributes:
      name: Its name in `Task.steps`.
      index: Its place in the schedule, from 0.
      start: Its first step.
      stop: The first step after it.
    """

    name: str
    index: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The phases in order; made by `create_schedule`."""

    phases: tuple[Phase, ...]

    @property
    def total_steps(self) -> int:
        """The step at which training ends (T_train in the paper)."""
        return self.phases[-1].stop

    def phase_at(self, step: int) -> Phase:
        """Returns the phase of the update after `step`; the last phase if training has ended."""
        return next((phase for phase in self.phases if step < phase.stop), self.phases[-1])

    def is_due(self, step: int, every: int) -> bool:
        """Returns whether something done `every` steps is due after `step` updates.

        True at every multiple and at the end of each phase; if `every` is 0, only at the end of each phase.
        """
        return (every > 0 and step % every == 0) or any(step == phase.stop for phase in self.phases)

    def history(self, step: int) -> tuple[tuple[str, int], ...]:
        """Returns the phases of the first `step` updates: pairs of a name and a number of updates."""
        return tuple(
            (phase.name, min(phase.stop, step) - phase.start) for phase in self.phases if phase.start < step
        )


def create_schedule(phases: Sequence[tuple[str, int]]) -> Schedule:
    """Lays phases end to end.

    Args:
      phases: Pairs of a name and a number of steps; phases of 0 steps are left out.

    Raises:
      ConfigError: A length is negative, or all lengths are 0.
    """
    laid: list[Phase] = []
    start = 0
    for name, steps in phases:
        if steps < 0:
            raise ConfigError(f"phase {name!r} has {steps} steps: give 0 or more")
        if steps:
            laid.append(Phase(name, len(laid), start, start + steps))
            start += steps
    if not laid:
        raise ConfigError("phases holds no step: give at least one phase of at least one step")
    return Schedule(tuple(laid))
