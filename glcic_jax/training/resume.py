"""Finds the checkpoint that a run resumes from, and checks that its configuration allows it."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, DataError, UserError
from glcic_jax.files import expand_home
from glcic_jax.training.checkpoints import Checkpoints, DamagedCheckpointError, Restored
from glcic_jax.training.distributed import broadcast_from_first, is_lead_process
from glcic_jax.training.schedule import Schedule, create_schedule
from glcic_jax.training.task import State, Task

# As `ResumeKeys.shapes`, `fixed` and `on_or_off`: the keys that all tasks share.
_SHAPES = ("data.image_size", "optimizer.name")
_FIXED = (
    "seed",
    "data.source",
    "data.train_split",
    "data.validation_split",
    "data.validation_fraction",
    "data.listing",
    "data.centre_crop",
)
_ON_OR_OFF = ("optimizer.adam.decay_steps",)

# Keys that say where the images are.
_IMAGES = ("data.source", "data.listing")

# The values of keys before they existed; other keys were off.
_EARLIER = {"task": "completion"}


_OTHER_IMAGES = "--config.start_from=RUN in another --workdir goes on from this run with other images"

# The fingerprints of the parts "train" and "validation".
Images = Mapping[str, Mapping[str, int]]


class _OtherNetworksError(ConfigError):
    """The checkpoint's arrays have other shapes than the configuration's."""


def restore_run(
    config: ConfigDict,
    task: Task,
    state: State,
    checkpoints: Checkpoints,
    schedule: Schedule,
    images: Images,
    log: Callable[[str], None],
) -> Restored | None:
    """Restores the workdir's newest sound checkpoint, or that of `start_from`; the same one in all processes.

    Newer ones that are damaged or belong to other networks are moved aside.

    Args:
      config: The configuration.
      task: What it trains.
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
    restored = _search(config, task, state, checkpoints, schedule, images, log) if is_lead_process() else None
    step = broadcast_from_first(None if restored is None else restored.meta["step"])
    if step is None or restored is not None:
        return restored
    origin = checkpoints if checkpoints.steps() else Checkpoints(expand_home(config.start_from))
    return _restore_step(origin, task, state, step)


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
    task: Task,
    state: State,
    checkpoints: Checkpoints,
    schedule: Schedule,
    images: Images,
    log: Callable[[str], None],
) -> Restored | None:
    for path in checkpoints.set_strays_aside():
        log(f"{path.name} in the folder of checkpoints is not a checkpoint: moved to {path}")
    if checkpoints.steps():
        restored, passed_over = _newest_sound(config, task, state, checkpoints, schedule, log, images)
        for step in passed_over:
            log(f"moved to {checkpoints.set_aside(step)}")
    elif config.start_from:
        origin = Checkpoints(expand_home(config.start_from))
        if not origin.steps():
            raise DataError(f"start_from: {config.start_from} holds no finished checkpoint yet")
        restored, _ = _newest_sound(config, task, state, origin, schedule, log)
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
    task: Task,
    state: State,
    checkpoints: Checkpoints,
    schedule: Schedule,
    log: Callable[[str], None],
    images: Images | None = None,
) -> tuple[Restored, list[int]]:
    """Returns the newest checkpoint that this configuration can resume, and the newer steps passed over.

    `images` are those of the run whose checkpoints these are; None if a new run starts from them.
    """
    passed_over: dict[int, UserError] = {}
    for step in reversed(checkpoints.steps()):
        try:
            meta = checkpoints.read_meta(step)
            changed = _check_config(config, task, meta, schedule, images)
            restored = _restore_step(checkpoints, task, state, step)
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


def _restore_step(checkpoints: Checkpoints, task: Task, state: State, step: int) -> Restored:
    """Restores one checkpoint, without the items that have not been trained yet.

    These are then the fresh ones of `state`, which may have another architecture.
    """
    return checkpoints.restore(state, step, _untrained_items(task, checkpoints.read_meta(step)))


def _untrained_items(task: Task, meta: dict[str, Any]) -> frozenset[str]:
    return task.untrained_items(name for name, _ in _past_phases(task, meta))


def _past_phases(task: Task, meta: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    phases = meta["config"]["phases"]
    return create_schedule([(name, phases[name]) for name in task.steps]).history(meta["step"])


def _check_images(meta: dict[str, Any], images: Images, fixed: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the `fixed` keys, without those of the images' place if the checkpoint was trained on the same.

    Raises:
      ConfigError: It was trained on other images.
    """
    old = meta.get("fingerprints")
    if old is None:  # Earlier versions saved none.
        return fixed
    if not old["train"].items() & images["train"].items():
        source = meta["config"]["data"]["source"]
        raise ConfigError(
            f"the run to resume has no image in common with these, by names and sizes; its own were at {source}: "
            f"give their place, or another --workdir; {_OTHER_IMAGES}"
        )
    return tuple(key for key in fixed if key not in _IMAGES) if old == images else fixed


def _check_config(
    config: ConfigDict, task: Task, meta: dict[str, Any], schedule: Schedule, images: Images | None
) -> str:
    """Returns what differs from a checkpoint's configuration.

    Raises:
      ConfigError: Its task, its past phases, a key that determines shapes, or within the same run another fixed
        key differs.
    """
    keys = task.resume_keys
    old = {**_EARLIER, **keys.earlier, **flatten(meta["config"])}
    new = flatten(json.loads(config.to_json_best_effort()))
    step = meta["step"]
    shapes = _SHAPES + keys.shapes
    # Another run may start from this one with other images, and another seed.
    fixed = shapes if images is None else _check_images(meta, images, shapes + _FIXED + keys.fixed)
    # A key that did not exist then was off.
    ignored = {key for key in new.keys() - old.keys() if not new[key]}
    changed = sorted(key for key in (old.keys() | new.keys()) - ignored if old.get(key) != new.get(key))
    if "task" in changed:
        raise _refusal(step, ["task"], old, new)
    untrained = tuple(f"{item}." for item in _untrained_items(task, meta))
    refused = [key for key in changed if key in fixed and not key.startswith(untrained)]
    on_or_off = _ON_OR_OFF + keys.on_or_off
    refused += sorted(_switched_on(old, on_or_off) ^ _switched_on(new, on_or_off))
    if _past_phases(task, meta) != schedule.history(step):
        refused += [key for key in changed if key.startswith("phases.")]
    if refused:
        kind = _OtherNetworksError if any(key in shapes for key in refused) else ConfigError
        raise _refusal(step, refused, old, new, kind)
    return differences(changed, old, new)


def _refusal(
    step: int,
    keys: Sequence[str],
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    kind: type[ConfigError] = ConfigError,
) -> ConfigError:
    remedy = f"; {_OTHER_IMAGES}" if set(keys) & set(_IMAGES) else ""
    return kind(
        f"the run to resume is at step {step} and was made with another configuration "
        f"({differences(keys, old, new)}): give another --workdir, or the old values of these keys" + remedy
    )


def _switched_on(values: Mapping[str, Any], on_or_off: Sequence[str]) -> set[str]:
    """Returns those of the keys that are on; those of other optimizers are off."""
    own = f"optimizer.{values['optimizer.name']}."
    return {key for key in on_or_off if values.get(key) and (key.startswith(own) or "optimizer." not in key)}


def differences(keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns the old and the new values of some keys as text."""
    return ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns nested dictionaries into one, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
