"""Sets up a run: everything that the loop works with is built and checked before the first step."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
from ml_collections import ConfigDict

from glcic_jax.data import SkippedFiles, Sources, directory_of, fingerprint, input_pipeline, open_sources
from glcic_jax.errors import ConfigError, DataError, DivergedError, Stopped, one_line
from glcic_jax.files import expand_home, write_atomically
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.distributed import AXIS, all_gather, broadcast_from_first, is_lead_process
from glcic_jax.training.health import Health
from glcic_jax.training.metric_log import MetricLog, RunningMean
from glcic_jax.training.progress_line import ProgressLine
from glcic_jax.training.resume import differences, earlier_compute_dtype, flatten, restore_run
from glcic_jax.training.schedule import Schedule, create_schedule
from glcic_jax.training.task import Examples, FindWeights, State, Task, TrainingData
from glcic_jax.training.tasks import check_values, task_of
from glcic_jax.training.updates import resolve_compute_dtype
from glcic_jax.training.workdir import lock_holder, lock_workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeadProcessOutputs:
    """The held-out examples and the log, which only the lead process has."""

    examples: Examples
    log: MetricLog


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the loop works with; as a context manager, it closes all of it.

    Attributes:
      config: See configs/common.py.
      workdir: The run's directory.
      task: What it trains.
      schedule: The phases.
      training_key: The key of all steps.
      batches: This process's part of every batch, see `input_pipeline.train_batches`.
      image_count: Number of training images.
      fingerprints: Those of the training and the validation images, see `data.fingerprint`.
      skipped: The images that could not be read.
      checkpoints: The run's checkpoints, open for saving.
      progress: The progress line; silent in all processes but the lead.
      health: Watches the metrics.
      unlogged: The metrics since the last row of the log.
      lead: The lead process's outputs; None in all others.
      resources: Closes the files and releases the workdir.
    """

    config: ConfigDict
    workdir: Path
    task: Task
    schedule: Schedule
    training_key: jax.Array
    batches: Any
    image_count: int
    fingerprints: dict[str, dict[str, int]]
    skipped: SkippedFiles
    checkpoints: Checkpoints
    progress: ProgressLine
    health: Health
    unlogged: RunningMean
    lead: LeadProcessOutputs | None
    resources: contextlib.ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Stopped | DivergedError):
            self.resources.close()
        # After other errors only if this process is alone: closing waits for processes that may wait for this one.
        elif jax.process_count() == 1:
            try:
                self.resources.close()
            except Exception as second:
                # The first error explains what happened; a full disk is reported once.
                if not isinstance(error, OSError | DataError):
                    self.progress.log(f"on closing: {one_line(second)}")


def create_run(config: ConfigDict, workdir: Path, find_weights: FindWeights | None = None) -> tuple[Run, State]:
    """Builds everything that the loop works with; all processes call it together.

    Args:
      config: See configs/common.py.
      workdir: The run's directory. Nothing is written before configuration and data are checked.
      find_weights: See `loop.train`.

    Returns:
      The run, which holds the workdir's lock until it is closed; and its state on one device, fresh or from the
      newest sound checkpoint.

    Raises:
      UserError: The configuration, the data or the workdir cannot be used, or the workdir holds another run.
    """
    check_values(config)
    config = config.copy_and_resolve_references()
    config.compute_dtype = resolve_compute_dtype(config.compute_dtype, earlier_compute_dtype(workdir))
    task = task_of(config)(config, AXIS)
    schedule = create_schedule([(name, config.phases[name]) for name in task.steps])
    sources = open_sources(config.data)
    fingerprints = {part: fingerprint(source) for part, source in sources._asdict().items()}
    _check_start_from(config)
    with contextlib.ExitStack() as resources:
        resources.enter_context(_lock_for_all_processes(workdir))
        _check_same_config(config)
        # Open for the life of the process, like stderr itself.
        stream = sys.stderr if is_lead_process() else Path(os.devnull).open("w")  # noqa: SIM115
        progress = ProgressLine(schedule, config.batch_size, task.costs, task.display.labels, stream)
        parameters_key, training_key, examples_key = jax.random.split(jax.random.key(config.seed), 3)

        batches, skipped = _create_data(config, workdir=workdir, sources=sources, log=progress.log)
        checkpoints = Checkpoints(workdir, config.keep_checkpoints, task.best_metric)
        state, meta = _resume(
            config,
            workdir=workdir,
            task=task,
            schedule=schedule,
            state=task.create_state(parameters_key),
            checkpoints=checkpoints,
            batches=batches,
            sources=sources,
            fingerprints=fingerprints,
            skipped=skipped,
            log=progress.log,
            find_weights=find_weights,
        )
        lead = None
        if is_lead_process():
            lead = _create_logs(
                config, workdir=workdir, task=task, sources=sources, skipped=skipped, state=state, key=examples_key
            )
        for close in (checkpoints.close, *([lead.log.close] if lead else []), progress.close):
            resources.callback(close)
        run = Run(
            config=config,
            workdir=workdir,
            task=task,
            schedule=schedule,
            training_key=training_key,
            batches=batches,
            image_count=len(sources.train),
            fingerprints=fingerprints,
            skipped=skipped,
            checkpoints=checkpoints,
            progress=progress,
            health=Health(
                task.symptoms, config.warn.steps, config.warn.to_dict(), progress.log, meta.get("below")
            ),
            unlogged=RunningMean(**meta.get("unlogged", {})),
            lead=lead,
            resources=resources.pop_all(),
        )
        return run, state


def _check_start_from(config: ConfigDict) -> None:
    """Raises DataError if `start_from` is not the workdir of a run."""
    if config.start_from and not (expand_home(config.start_from) / "checkpoints").is_dir():
        raise DataError(
            f"start_from: {config.start_from} is not the workdir of a run; train it first "
            "(glcic train --config=completion) or give --config.start_from=RUN"
        )


def _create_data(
    config: ConfigDict, *, workdir: Path, sources: Sources, log: Callable[[str], None]
) -> tuple[Any, SkippedFiles]:
    """Returns this process's batches, and the list of images that could not be read."""
    train_count, validation_count = len(sources.train), len(sources.validation)
    counts = all_gather(train_count)
    if len(set(counts)) > 1:
        raise DataError(f"the processes see {counts} training images: each needs the same data set")
    log(
        f"{train_count} training and {validation_count} validation images from {config.data.source}; "
        f"{jax.device_count()} x {jax.local_devices()[0].device_kind}, {config.compute_dtype}"
    )
    if config.compute_dtype == "float32" and jax.default_backend() == "gpu":
        log("float32 takes about twice the memory of --config.compute_dtype=bfloat16 on a GPU")
    skipped = SkippedFiles(
        workdir / ("skipped.txt" if is_lead_process() else f"skipped_{jax.process_index()}.txt"),
        train_count + validation_count,
        config.data.max_skipped_fraction,
        directory_of(config.data),
    )
    batches = input_pipeline.train_batches(
        sources.train,
        config.data,
        config.batch_size // jax.process_count(),
        config.seed,
        skipped,
        jax.process_index(),
        jax.process_count(),
    )
    return batches, skipped


def _resume(
    config: ConfigDict,
    *,
    workdir: Path,
    task: Task,
    schedule: Schedule,
    state: State,
    checkpoints: Checkpoints,
    batches: Any,
    sources: Sources,
    fingerprints: dict[str, dict[str, int]],
    skipped: SkippedFiles,
    log: Callable[[str], None],
    find_weights: FindWeights | None,
) -> tuple[State, dict[str, Any]]:
    """Returns the state to train from and its checkpoint's `meta` item, empty for a new run.

    Moves `batches` to the checkpoint's position, and opens `checkpoints` for saving.
    """
    restored = restore_run(config, task, state, checkpoints, schedule, fingerprints, log)
    checkpoints.open()
    if restored is None or restored.meta["step"] < schedule.total_steps:
        checkpoints.check_space(state)
    if restored is None:
        data = TrainingData(
            config=config.data,
            workdir=workdir,
            sources=sources,
            skipped=skipped,
            log=log,
            find_weights=find_weights,
        )
        return task.begin(state, data), {}
    indices = input_pipeline.next_index(restored.data_state["next_index"], jax.process_count())
    batches.set_state({"next_index": indices[jax.process_index()]})
    before, now = restored.meta["images"], len(sources.train)
    if before != now:
        log(f"the data set has {now} training images, before {before}: from now on they come in a new order")
    return restored.state, restored.meta


def _create_logs(
    config: ConfigDict,
    *,
    workdir: Path,
    task: Task,
    sources: Sources,
    skipped: SkippedFiles,
    state: State,
    key: jax.Array,
) -> LeadProcessOutputs:
    """Writes config.json, and opens the log and the held-out examples."""
    write_atomically(workdir / "config.json", config.to_json_best_effort(indent=2) + "\n")
    image = input_pipeline.validation_batch(
        sources.validation, config.data, config.validation_images, config.seed, skipped
    )
    examples = task.create_examples(image, state, key)
    return LeadProcessOutputs(examples=examples, log=MetricLog(workdir, int(state.step), task))


@contextlib.contextmanager
def _lock_for_all_processes(workdir: Path) -> Iterator[None]:
    """Locks the workdir in the lead process.

    Raises:
      DataError: It is locked, cannot be written, or is not the same directory for all processes.
    """
    with lock_workdir(workdir) if is_lead_process() else contextlib.nullcontext():
        holder = broadcast_from_first(lock_holder(workdir))
        # Read after the broadcast: before it, the lead process may not have written the file. All processes raise:
        # one that ends alone would leave the others waiting.
        if any(all_gather(int(lock_holder(workdir) != holder))):
            raise DataError(
                f"the processes do not see the same directory {workdir}: give a --workdir on a file system that "
                "all hosts share"
            )
        yield


def _check_same_config(config: ConfigDict) -> None:
    """Compares the configuration with the lead process's; with different ones, processes would wait forever.

    Raises:
      ConfigError: They differ.
    """
    own = flatten(json.loads(config.to_json_best_effort()))
    lead = broadcast_from_first(own)
    changed = sorted(key for key in own.keys() | lead.keys() if own.get(key) != lead.get(key))
    if any(all_gather(len(changed))):  # All processes raise: one that ends alone would leave the others waiting.
        details = f"; process 0 and process {jax.process_index()}: {differences(changed, lead, own)}"
        raise ConfigError(
            "the processes were given different configurations, and each needs the same"
            + (details if changed else "")
        )
