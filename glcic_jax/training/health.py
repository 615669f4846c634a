"""Whether a training is still one: numbers that are finite, and gradients that still move something."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from glcic_jax.errors import DIVERGED_REMEDY, DivergedError


@dataclasses.dataclass(frozen=True)
class _Sign:
    """A metric that stays below a value while a phase trains, and what to do about it."""

    metric: str
    limit: str
    phases: tuple[str, ...]
    means: str
    remedy: str


_SIGNS = (
    _Sign(
        "discriminator_loss",
        "discriminator_loss",
        ("joint",),
        "D tells every image apart, and C learns little from it",
        "--config.loss.adversarial=non_saturating, a smaller --config.discriminator.width, or fewer "
        "--config.phases.discriminator",
    ),
    _Sign(
        "completion_gradient_norm",
        "gradient_norm",
        ("completion",),
        "C has stopped moving",
        "a higher learning rate, --config.optimizer.name=adam, or --config.compute_dtype=float32",
    ),
    _Sign(
        "reconstruction_gradient_norm",
        "gradient_norm",
        ("joint",),
        "the reconstruction loss no longer moves C",
        "a higher learning rate, --config.optimizer.name=adam, or --config.compute_dtype=float32",
    ),
    _Sign(
        "adversarial_gradient_norm",
        "gradient_norm",
        ("joint",),
        "the adversarial term no longer moves C",
        "--config.loss.adversarial=non_saturating, or fewer --config.phases.discriminator",
    ),
)


class Health:
    """Watches the metrics of every step.

    Args:
      steps: How many steps in a row a metric must stay below its limit before the user is told, once.
      limits: The limits: `discriminator_loss` and `gradient_norm`.
      say: Tells the user one line.
      below: What `state` gave, where a run goes on.
    """

    def __init__(
        self,
        steps: int,
        limits: Mapping[str, float],
        say: Callable[[str], None],
        below: Mapping[str, int] | None = None,
    ):
        self._steps = steps
        self._limits = limits
        self._say = say
        self._below = dict(below or {})

    def watch(self, phase: str, last_step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Looks at the metrics of consecutive steps, which end with `last_step`.

        Raises:
          DivergedError: One is not finite.
        """
        for number, row in enumerate(rows, start=last_step - len(rows) + 1):
            for name, value in row.items():
                if not np.isfinite(value):
                    raise DivergedError(
                        f"{name} is {value} at step {number}: training has diverged and was stopped before it was "
                        f"saved. {DIVERGED_REMEDY}"
                    )
            for sign in _SIGNS:
                if phase in sign.phases and sign.metric in row:
                    self._count(sign, row[sign.metric], number)

    def state(self) -> dict[str, int]:
        """For how many steps each metric has been below its limit; JSON-able."""
        return dict(self._below)

    def _count(self, sign: _Sign, value: float, step: int) -> None:
        limit = self._limits[sign.limit]
        self._below[sign.metric] = self._below.get(sign.metric, 0) + 1 if value < limit else 0
        if self._below[sign.metric] == self._steps:
            self._say(
                f"warning: {sign.metric} has been below {limit:g} for {self._steps} steps, up to step {step} "
                f"({value:.3g}): {sign.means}. What may help: {sign.remedy}"
            )
