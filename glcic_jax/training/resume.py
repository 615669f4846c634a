"""Before the first step: which configurations can run, and which may go on from a checkpoint."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, DataError, UserError
from glcic_jax.training.checkpoints import Checkpoints, Restored
from glcic_jax.training.schedule import PHASE_NAMES, Schedule, create_schedule
from glcic_jax.training.state import TrainState

# What decides the arrays of a state; and what else a run keeps to from its first step to its last.
_SHAPES = (
    "data.image_size",
    "completion.width",
    "discriminator.branches",
    "discriminator.width",
    "discriminator.local_size",
    "discriminator.global_channels",
    "discriminator.local_channels",
    "optimizer.name",
)
_FIXED = (
    "seed",
    "data.source",
    "data.train_split",
    "data.validation_split",
    "data.validation_fraction",
    "data.listing",
    "data.mean_pixel",
    "completion.layer_order",
    "completion.input_form",
    "completion.output_activation",
    "discriminator.layer_order",
)

# What a state keeps arrays for from the first step on or not at all: a moving average, an optimizer's place in its
# decay. 0 is off; other values may replace each other.
_ON_OR_OFF = ("completion.ema_decay", "optimizer.adam.decay_steps")


class _OtherNetworksError(ConfigError):
    """A checkpoint of arrays of another shape than the configuration's."""


def restore_run(
    config: ConfigDict,
    state: TrainState,
    checkpoints: Checkpoints,
    schedule: Schedule,
    say: Callable[[str], None],
) -> Restored | None:
    """Restores the workdir's newest sound checkpoint, or that of `start_from`.

    Newer ones that are damaged, or of other networks, are set aside, and the user is told.

    Args:
      config: The configuration.
      state: A fresh state of its spec.
      checkpoints: The workdir's.
      schedule: The configuration's phases.
      say: Tells the user one line.

    Returns:
      What was found; None where there is neither.

    Raises:
      ConfigError: The workdir holds another run.
      DataError: There are checkpoints, and none is sound.
    """
    # Only the first process comes here, before the others look: two would move the same folder.
    for path in checkpoints.set_strays_aside():
        say(f"{path.name} among the checkpoints is none: moved to {path}")
    if checkpoints.steps():
        restored, passed_over = _newest_sound(config, state, checkpoints, schedule, _SHAPES + _FIXED, say)
        for step in passed_over:
            say(f"moved to {checkpoints.set_aside(step)}")
    elif config.start_from:
        origin = Checkpoints(Path(config.start_from).expanduser())
        if not origin.steps():
            raise DataError(f"start_from: {config.start_from} holds no finished checkpoint yet")
        restored, _ = _newest_sound(config, state, origin, schedule, _SHAPES, say)
    else:
        return None
    step = restored.meta["step"]
    if step >= schedule.total_steps:
        say(f"step {step}: all {schedule.total_steps} steps are done; raise config.phases to go on")
    else:
        say(f"going on from step {step} of {schedule.total_steps} (phase {schedule.phase_at(step).name})")
    return restored


def _newest_sound(
    config: ConfigDict,
    state: TrainState,
    checkpoints: Checkpoints,
    schedule: Schedule,
    fixed: tuple[str, ...],
    say: Callable[[str], None],
) -> tuple[Restored, list[int]]:
    """The newest checkpoint that this configuration can go on from, and the steps of those passed over."""
    passed_over: dict[int, UserError] = {}
    for step in reversed(checkpoints.steps()):
        try:
            changed = _check_continuation(config, checkpoints.read_meta(step), schedule, fixed)
            restored = restore_step(checkpoints, state, step)
        except (_OtherNetworksError, DataError) as error:
            passed_over[step] = error
            continue
        for reason in passed_over.values():
            say(f"passed over: {reason}")
        if changed:
            say(f"changed since then: {changed}")
        return restored, list(passed_over)
    # Where all that can be read is another run, that is what the user has to hear.
    refusals = [reason for reason in passed_over.values() if isinstance(reason, ConfigError)]
    if refusals:
        raise refusals[0]
    reasons = "; ".join(str(reason) for reason in passed_over.values())
    raise DataError(f"no checkpoint is sound: {reasons}. Name another --workdir to start anew")


def restore_step(checkpoints: Checkpoints, state: TrainState, step: int) -> Restored:
    """Restores one checkpoint, see `Checkpoints.restore`; but for a discriminator that was not trained yet.

    That is the fresh one of `state`, and may be another than the checkpoint's.
    """
    if _schedule_of(checkpoints.read_meta(step)).has_trained_discriminator(step):
        return checkpoints.restore(state, step)
    restored = checkpoints.restore(state.replace(discriminator=None), step)
    return restored._replace(state=restored.state.replace(discriminator=state.discriminator))


def _schedule_of(meta: dict[str, Any]) -> Schedule:
    """The phases of the run that a checkpoint's `meta` item is of."""
    return create_schedule([(name, meta["config"]["phases"][name]) for name in PHASE_NAMES])


def _check_continuation(
    config: ConfigDict,
    meta: dict[str, Any],
    schedule: Schedule,
    fixed: tuple[str, ...],
) -> str:
    """Refuses to continue one run as another, whose `fixed` keys or past phases differ; returns what else does."""
    old = flatten(meta["config"])
    new = flatten(json.loads(config.to_json_best_effort()))
    step = meta["step"]
    # A key that is newer than the run was off in it.
    newer = {key for key in new.keys() - old.keys() if not new[key]}
    changed = sorted(key for key in (old.keys() | new.keys()) - newer if old.get(key) != new.get(key))
    passed = _schedule_of(meta)
    refused = [key for key in changed if key in fixed]
    if not passed.has_trained_discriminator(step):
        refused = [key for key in refused if not key.startswith("discriminator.")]
    refused += sorted(_switched_on(old) ^ _switched_on(new))
    if passed.history(step) != schedule.history(step):
        refused += [key for key in changed if key.startswith("phases.")]
    if refused:
        kind = _OtherNetworksError if any(key in _SHAPES for key in refused) else ConfigError
        raise kind(
            f"the run to go on from is at step {step} and was made with another configuration "
            f"({differences(refused, old, new)}): name another --workdir, or give these keys their old values"
        )
    return differences(changed, old, new)


def _switched_on(values: Mapping[str, Any]) -> set[str]:
    """Those of `_ON_OR_OFF` that a run with these values has; an optimizer that it does not use has none."""
    own = f"optimizer.{values['optimizer.name']}."
    return {key for key in _ON_OR_OFF if values.get(key) and (key.startswith(own) or "optimizer." not in key)}


def differences(keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Says what some keys were and are."""
    return ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to one, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
