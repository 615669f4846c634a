"""Opening a run: all that the loop works with is built and checked before the first step."""

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from glcic_jax.data import input_pipeline, skipped_files
from glcic_jax.data import sources as data_sources
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.files import write_atomically
from glcic_jax.training import distributed
from glcic_jax.training.checkpoints import Checkpoints, Restored
from glcic_jax.training.config_checks import check_values
from glcic_jax.training.distributed import AXIS
from glcic_jax.training.health import Health
from glcic_jax.training.metric_log import MetricLog, RunningMean
from glcic_jax.training.progress_line import ProgressLine
from glcic_jax.training.resume import differences, flatten, restore_run, restore_step
from glcic_jax.training.schedule import PHASE_NAMES, Schedule, create_schedule
from glcic_jax.training.state import TrainingSpec, TrainState, create_spec, create_state
from glcic_jax.training.validation import FixedExamples


@dataclasses.dataclass(frozen=True)
class Desk:
    """What only the first process has: it validates, writes logs and draws."""

    validation: FixedExamples
    log: MetricLog


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the loop works with.

    Attributes:
      config, workdir, schedule: What is trained, where, and for how long.
      training_key: The key of all steps.
      batches: This process's part of every batch, see `input_pipeline.train_batches`.
      images: Number of training images.
      skipped: The images that could not be read.
      checkpoints: The run's; opened.
      progress: What the user sees; silent in all processes but the first.
      health: Watches the metrics.
      unlogged: The metrics of the steps since the last row of the log.
      desk: None in all processes but the first.
    """

    config: ConfigDict
    workdir: Path
    schedule: Schedule
    training_key: jax.Array
    batches: Any
    images: int
    skipped: skipped_files.SkippedFiles
    checkpoints: Checkpoints
    progress: ProgressLine
    health: Health
    unlogged: RunningMean
    desk: Desk | None

    def close(self) -> None:
        """Closes the logs, and waits for the checkpoint that is being written."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.checkpoints.close)
            if self.desk is not None:
                stack.callback(self.desk.log.close)
            stack.callback(self.progress.close)


class Plan(NamedTuple):
    """What a configuration comes to before anything is written."""

    schedule: Schedule
    spec: TrainingSpec
    sources: data_sources.Sources


def plan_run(config: ConfigDict) -> Plan:
    """Checks all that can be checked without a workdir.

    Raises:
      UserError: The configuration or the data cannot be used.
    """
    check_values(config)
    schedule = create_schedule([(name, config.phases[name]) for name in PHASE_NAMES])
    spec = create_spec(config, AXIS)
    sources = data_sources.open_sources(config.data)
    if config.start_from and not (Path(config.start_from).expanduser() / "checkpoints").is_dir():
        raise DataError(
            f"start_from: {config.start_from} is not the workdir of a run; train it first "
            "(python main.py --config=configs/completion.py) or give --config.start_from=RUN"
        )
    return Plan(schedule, spec, sources)


def open_run(config: ConfigDict, plan: Plan, workdir: Path) -> tuple[Run, TrainState]:
    """Builds all that the loop works with; the state is fresh, or that of the newest sound checkpoint.

    Args:
      config: See configs/common.py.
      plan: What `plan_run` made of it.
      workdir: The run's directory; exists, and is this run's alone.

    Raises:
      UserError: The data or the workdir cannot be used, or the workdir holds another run.
    """
    _agree(config)
    schedule, spec, sources = plan
    images = len(sources.train)
    counts = distributed.all_gather(images)
    if len(set(counts)) > 1:
        raise DataError(f"the processes see {counts} training images: each needs the same data set")
    progress = _open_progress(schedule, config.batch_size)
    progress.say(
        f"{images} training and {len(sources.validation)} validation images from {config.data.source}; "
        f"{jax.device_count()} x {jax.local_devices()[0].device_kind}"
    )
    skipped = _open_skipped(config, workdir, sources)
    batches = input_pipeline.train_batches(
        sources.train,
        config.data,
        config.batch_size // jax.process_count(),
        config.seed,
        skipped,
        jax.process_index(),
        jax.process_count(),
    )
    parameters_key, training_key, holes_key = jax.random.split(jax.random.key(config.seed), 3)
    state = create_state(spec, parameters_key, config.data.image_size, jnp.zeros(3))
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    restored = _restore(config, state, checkpoints, schedule, progress)
    checkpoints.open()
    unlogged, below = RunningMean(), {}
    if restored is None or restored.meta["step"] < schedule.total_steps:
        checkpoints.check_space(state)
    if restored is None:
        mean = _mean_pixel(config, workdir, sources.train, skipped, progress)
        state = state.replace(mean_pixel=jnp.asarray(mean, jnp.float32))
    else:
        state = restored.state
        unlogged, below = RunningMean(**restored.meta["unlogged"]), restored.meta["below"]
        _go_to(batches, restored, images, progress)
    desk = None
    if distributed.is_first():
        write_atomically(workdir / "config.json", config.to_json_best_effort(indent=2) + "\n")
        desk = _open_desk(config, workdir, spec, sources.validation, skipped, state, holes_key)
    health = Health(config.warn.steps, config.warn.to_dict(), progress.say, below)
    parts = batches, images, skipped, checkpoints, progress, health, unlogged, desk
    return Run(config, workdir, schedule, training_key, *parts), state


def _agree(config: ConfigDict) -> None:
    """Compares the configuration with the first process's: with another, they would wait for each other for ever.

    Raises:
      ConfigError: They differ.
    """
    mine = flatten(json.loads(config.to_json_best_effort()))
    first = distributed.broadcast_from_first(mine)
    changed = sorted(key for key in mine.keys() | first.keys() if mine.get(key) != first.get(key))
    # All learn of it: one that leaves alone would leave the others waiting.
    if any(distributed.all_gather(len(changed))):
        raise ConfigError(
            "the processes were given different configurations, and each needs the same"
            + (
                f"; process 0 and process {jax.process_index()}: {differences(changed, first, mine)}"
                if changed
                else ""
            )
        )


def _open_progress(schedule: Schedule, batch_size: int) -> ProgressLine:
    # Kept open for the life of the process, like stderr itself.
    stream = sys.stderr if distributed.is_first() else Path(os.devnull).open("w")  # noqa: SIM115
    return ProgressLine(schedule, batch_size, stream)


def _open_skipped(config: ConfigDict, workdir: Path, sources: data_sources.Sources) -> skipped_files.SkippedFiles:
    name = "skipped.txt" if distributed.is_first() else f"skipped_{jax.process_index()}.txt"
    available = len(sources.train) + len(sources.validation)
    most = config.data.max_skipped_fraction
    return skipped_files.SkippedFiles(workdir / name, available, most, data_sources.directory_of(config.data))


def _restore(
    config: ConfigDict, state: TrainState, checkpoints: Checkpoints, schedule: Schedule, progress: ProgressLine
) -> Restored | None:
    """Restores in every process what the first one finds to be the newest that is sound."""
    restored = None
    if distributed.is_first():
        restored = restore_run(config, state, checkpoints, schedule, progress.say)
    step = distributed.broadcast_from_first(None if restored is None else restored.meta["step"])
    if step is None or distributed.is_first():
        return restored
    origin = checkpoints if checkpoints.steps() else Checkpoints(Path(config.start_from).expanduser())
    return restore_step(origin, state, step)


def _go_to(batches: Any, restored: Restored, images: int, progress: ProgressLine) -> None:
    """Moves the stream of images to where the checkpoint was."""
    indices = input_pipeline.next_index(restored.data_state["next_index"], jax.process_count())
    batches.set_state({"next_index": indices[jax.process_index()]})
    before = restored.meta["images"]
    if before != images:
        progress.say(
            f"the data set has {images} training images and had {before}: from here on they come in a new order"
        )


def _mean_pixel(
    config: ConfigDict,
    workdir: Path,
    source: data_sources.ImageSource,
    skipped: skipped_files.SkippedFiles,
    progress: ProgressLine,
) -> list[float]:
    mean = None
    if distributed.is_first():
        path = workdir / "mean_pixel.json"
        found = input_pipeline.kept_mean_pixel(path, source, config.data, skipped, progress.say)
        mean = [float(value) for value in found]
    return distributed.broadcast_from_first(mean)


def _open_desk(
    config: ConfigDict,
    workdir: Path,
    spec: TrainingSpec,
    source: data_sources.ImageSource,
    skipped: skipped_files.SkippedFiles,
    state: TrainState,
    key: jax.Array,
) -> Desk:
    examples = input_pipeline.validation_batch(source, config.data, config.validation_images, config.seed, skipped)
    validation = FixedExamples(examples, spec, np.asarray(state.mean_pixel), key)
    return Desk(validation, MetricLog(workdir, int(state.step)))
