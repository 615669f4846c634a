"""The schedule: which phase a step belongs to, and when something is due. The only step arithmetic.

A step is a count of updates done: the update that takes the state from step 0 to step 1 belongs to the phase
that holds step 0.

Reference: Iizuka et al. 2017, Algorithm 1.
"""

import dataclasses
from collections.abc import Sequence

from glcic_jax.errors import ConfigError

PHASE_NAMES = ("completion", "discriminator", "joint")


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training: steps `start` to `stop - 1`.

    Attributes:
      name: One of `PHASE_NAMES`.
      index: Its place in the schedule, from 0.
      start: Its first step.
      stop: The first step after it.
    """

    name: str
    index: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The phases in order; build one with `create_schedule`."""

    phases: tuple[Phase, ...]

    @property
    def total_steps(self) -> int:
        """The step at which training is over (T_train in the paper)."""
        return self.phases[-1].stop

    def phase_at(self, step: int) -> Phase:
        """Returns the phase that trains the update after `step`; the last one when training is over."""
        for phase in self.phases:
            if step < phase.stop:
                return phase
        return self.phases[-1]

    def is_due(self, step: int, every: int) -> bool:
        """Says whether something done `every` steps is due after the update that led to `step`.

        True at every multiple, and at the end of each phase whatever its length; 0: at those ends alone.
        """
        return (every > 0 and step % every == 0) or any(step == phase.stop for phase in self.phases)

    def history(self, step: int) -> tuple[tuple[str, int], ...]:
        """What the first `step` updates were: pairs of a phase's name and how many of them it trained."""
        return tuple(
            (phase.name, min(phase.stop, step) - phase.start) for phase in self.phases if phase.start < step
        )

    def has_trained_discriminator(self, step: int) -> bool:
        """Says whether the discriminator is another than at the beginning after `step` updates."""
        return any(name != "completion" for name, _ in self.history(step))


def create_schedule(phases: Sequence[tuple[str, int]]) -> Schedule:
    """Lays phases end to end.

    Args:
      phases: Pairs of a name in `PHASE_NAMES` and a number of steps; a phase of 0 steps is left out.

    Raises:
      ConfigError: A name is unknown, a length is negative, or no step is left.
    """
    laid: list[Phase] = []
    start = 0
    for name, steps in phases:
        if name not in PHASE_NAMES:
            raise ConfigError(f"unknown phase {name!r} in phases: choose from {', '.join(PHASE_NAMES)}")
        if steps < 0:
            raise ConfigError(f"phase {name!r} has {steps} steps: give 0 or more")
        if steps:
            laid.append(Phase(name, len(laid), start, start + steps))
            start += steps
    if not laid:
        raise ConfigError("phases holds no step: give at least one phase of at least one step")
    return Schedule(tuple(laid))
