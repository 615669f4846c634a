"""Finds the checkpoint that a run resumes from, and checks that its configuration allows it."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, DataError, UserError
from glcic_jax.files import expand_home
from glcic_jax.model.networks import BRANCHES
from glcic_jax.training.checkpoints import Checkpoints, DamagedCheckpointError, Restored
from glcic_jax.training.distributed import broadcast_from_first, is_lead_process
from glcic_jax.training.schedule import PHASE_NAMES, Schedule, create_schedule
from glcic_jax.training.state import TrainState

# Keys that determine the arrays of a state.
_SHAPES = (
    "data.image_size",
    "completion.width",
    "discriminator.branches",
    "discriminator.width",
    "discriminator.local_size",
    *(f"discriminator.{branch}_channels" for branch in BRANCHES),
    "optimizer.name",
)
# Further keys that may not change within a run.
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

# Keys that say where the images are.
_IMAGES = ("data.source", "data.listing")

# Keys whose arrays exist only if the value is not 0; values other than 0 may replace each other.
_ON_OR_OFF = ("completion.ema_decay", "optimizer.adam.decay_steps")


_OTHER_IMAGES = "--config.start_from=RUN in another --workdir goes on from this run with other images"

# The fingerprints of the parts "train" and "validation".
Images = Mapping[str, Mapping[str, int]]


class _OtherNetworksError(ConfigError):
    """The checkpoint's arrays have other shapes than the configuration's."""


def restore_run(
    config: ConfigDict,
    state: TrainState,
    checkpoints: Checkpoints,
    schedule: Schedule,
    images: Images,
    log: Callable[[str], None],
) -> Restored | None:
    """Restores the workdir's newest sound checkpoint, or that of `start_from`; the same one in all processes.

    Newer ones that are damaged or belong to other networks are moved aside.

    Args:
      config: The configuration.
      state: A fresh state of its spec.
      checkpoints: The workdir's checkpoints.
      schedule: The configuration's phases.
      images: The fingerprints of the training and the validation images.
      log: Shows the user one line.

    Returns:
      The checkpoint; None if a new run begins.

    Raises:
      ConfigError: The checkpoints belong to a run with another configuration.
      DataError: There are checkpoints, and all are damaged.
    """
    # Only the lead process searches, because two processes would move the same folder.
    restored = _search(config, state, checkpoints, schedule, images, log) if is_lead_process() else None
    step = broadcast_from_first(None if restored is None else restored.meta["step"])
    if step is None or restored is not None:
        return restored
    origin = checkpoints if checkpoints.steps() else Checkpoints(expand_home(config.start_from))
    return _restore_step(origin, state, step)


def earlier_compute_dtype(workdir: Path) -> str | None:
    """Returns the `compute_dtype` of the workdir's newest readable checkpoint, the same in all processes."""
    found = None
    checkpoints = Checkpoints(workdir)
    for step in reversed(checkpoints.steps()) if is_lead_process() else ():
        with contextlib.suppress(DataError):
            found = checkpoints.read_meta(step)["config"].get("compute_dtype")
            break
    return broadcast_from_first(found)


def _search(
    config: ConfigDict,
    state: TrainState,
    checkpoints: Checkpoints,
    schedule: Schedule,
    images: Images,
    log: Callable[[str], None],
) -> Restored | None:
    for path in checkpoints.set_strays_aside():
        log(f"{path.name} in the folder of checkpoints is not a checkpoint: moved to {path}")
    if checkpoints.steps():
        restored, passed_over = _newest_sound(config, state, checkpoints, schedule, _SHAPES + _FIXED, log, images)
        for step in passed_over:
            log(f"moved to {checkpoints.set_aside(step)}")
    elif config.start_from:
        origin = Checkpoints(expand_home(config.start_from))
        if not origin.steps():
            raise DataError(f"start_from: {config.start_from} holds no finished checkpoint yet")
        restored, _ = _newest_sound(config, state, origin, schedule, _SHAPES, log)
    else:
        return None
    step, total = restored.meta["step"], schedule.total_steps
    if step >= total:
        log(f"step {step}: all {total} steps are done; raise config.phases to train further")
    else:
        log(f"resuming from step {step} of {total} (phase {schedule.phase_at(step).name})")
    return restored


def _newest_sound(
    config: ConfigDict,
    state: TrainState,
    checkpoints: Checkpoints,
    schedule: Schedule,
    fixed: tuple[str, ...],
    log: Callable[[str], None],
    images: Images | None = None,
) -> tuple[Restored, list[int]]:
    """Returns the newest checkpoint that this configuration can resume, and the newer steps passed over.

    With `images`, a checkpoint of other images is refused.
    """
    passed_over: dict[int, UserError] = {}
    for step in reversed(checkpoints.steps()):
        try:
            meta = checkpoints.read_meta(step)
            changed = _check_config(config, meta, schedule, _check_images(meta, images, fixed))
            restored = _restore_step(checkpoints, state, step)
        except (_OtherNetworksError, DamagedCheckpointError) as error:
            passed_over[step] = error
            continue
        for reason in passed_over.values():
            log(f"passed over: {reason}")
        if changed:
            log(f"changed since then: {changed}")
        return restored, list(passed_over)
    # If all readable checkpoints belong to another run, that is the user's error.
    refusals = [reason for reason in passed_over.values() if isinstance(reason, ConfigError)]
    if refusals:
        raise refusals[0]
    reasons = "; ".join(map(str, passed_over.values()))
    raise DataError(f"no checkpoint is sound: {reasons}. Give another --workdir to start a new run")


def _restore_step(checkpoints: Checkpoints, state: TrainState, step: int) -> Restored:
    """Restores one checkpoint, without its discriminator if that has not been trained yet.

    The discriminator is then the fresh one of `state`, which may have another architecture.
    """
    if _schedule_of(checkpoints.read_meta(step)).has_trained_discriminator(step):
        return checkpoints.restore(state, step)
    restored = checkpoints.restore(state.replace(discriminator=None), step)
    return restored._replace(state=restored.state.replace(discriminator=state.discriminator))


def _schedule_of(meta: dict[str, Any]) -> Schedule:
    return create_schedule([(name, meta["config"]["phases"][name]) for name in PHASE_NAMES])


def _check_images(meta: dict[str, Any], images: Images | None, fixed: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the `fixed` keys, without those of the images' place if the checkpoint was trained on the same.

    Raises:
      ConfigError: It was trained on other images.
    """
    old = meta.get("fingerprints")  # Earlier versions saved none.
    if images is None or old is None:
        return fixed
    if not old["train"].items() & images["train"].items():
        source = meta["config"]["data"]["source"]
        raise ConfigError(
            f"the run to resume was trained on other images, then found at {source} (no name and size in common): "
            f"give their place, or another --workdir; {_OTHER_IMAGES}"
        )
    return tuple(key for key in fixed if key not in _IMAGES) if old == images else fixed


def _check_config(config: ConfigDict, meta: dict[str, Any], schedule: Schedule, fixed: tuple[str, ...]) -> str:
    """Returns what differs from a checkpoint's configuration.

    Raises:
      ConfigError: One of the `fixed` keys or a past phase differs.
    """
    old = flatten(meta["config"])
    new = flatten(json.loads(config.to_json_best_effort()))
    step = meta["step"]
    # A key that did not exist then was off.
    ignored = {key for key in new.keys() - old.keys() if not new[key]}
    ignored |= {
        f"discriminator.{branch}_channels" for branch in BRANCHES if branch not in config.discriminator.branches
    }
    changed = sorted(key for key in (old.keys() | new.keys()) - ignored if old.get(key) != new.get(key))
    past = _schedule_of(meta)
    refused = [key for key in changed if key in fixed]
    if not past.has_trained_discriminator(step):
        refused = [key for key in refused if not key.startswith("discriminator.")]
    refused += sorted(_switched_on(old) ^ _switched_on(new))
    if past.history(step) != schedule.history(step):
        refused += [key for key in changed if key.startswith("phases.")]
    if refused:
        remedy = f"; {_OTHER_IMAGES}" if set(refused) & set(_IMAGES) else ""
        kind = _OtherNetworksError if any(key in _SHAPES for key in refused) else ConfigError
        raise kind(
            f"the run to resume is at step {step} and was made with another configuration "
            f"({differences(refused, old, new)}): give another --workdir, or the old values of these keys" + remedy
        )
    return differences(changed, old, new)


def _switched_on(values: Mapping[str, Any]) -> set[str]:
    """Returns the keys of `_ON_OR_OFF` that are on; those of other optimizers are off."""
    own = f"optimizer.{values['optimizer.name']}."
    return {key for key in _ON_OR_OFF if values.get(key) and (key.startswith(own) or "optimizer." not in key)}


def differences(keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns the old and the new values of some keys as text."""
    return ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns nested dictionaries into one, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
