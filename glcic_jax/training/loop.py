"""The training loop: the phases of a task over one state."""

import contextlib
import errno
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, DataError, Stopped, UserError, one_line
from glcic_jax.pictures import save_image
from glcic_jax.runtime import enable_compile_cache, is_out_of_device_memory
from glcic_jax.training.distributed import (
    all_gather,
    broadcast_from_first,
    pmap_step,
    replicate,
    shard_batch,
    unreplicate,
)
from glcic_jax.training.progress_line import Stopwatch
from glcic_jax.training.schedule import Phase
from glcic_jax.training.setup import Run, create_run
from glcic_jax.training.signals import StopRequest
from glcic_jax.training.task import FindWeights, State

# Largest number of steps whose metrics wait on the devices, so that NaN is noticed in time for any interval.
_MAX_PENDING = 100

# OSErrors that are the disk's fault, not the program's.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


def train(config: ConfigDict, workdir: Path, find_weights: FindWeights | None = None) -> State:
    """Trains all phases, from the beginning or from the newest sound checkpoint in `workdir`.

    Args:
      config: See configs/common.py.
      workdir: Where checkpoints, logs, grids and the summary go.
      find_weights: `weights.find_weights`, if the configuration names weights for the networks to begin with.

    Returns:
      The last state, on one device.

    Raises:
      UserError: The configuration, the data or the workdir cannot be used, or training has diverged.
      Stopped: SIGTERM or Ctrl-C was received, and the run was saved.
    """
    if config.compile_cache:
        enable_compile_cache(Path(config.compile_cache))
    with _failures_as_user_errors(workdir):
        run, state = create_run(config, workdir, find_weights)
        with StopRequest() as stop, run:
            state = _train_steps(run, state, stop)
            run.checkpoints.wait()
            if run.lead is not None:
                from glcic_jax.training.summary import write_summary  # Imports matplotlib.

                write_summary(workdir, run.config, run.schedule, run.task, run.lead.examples, state)
                run.progress.log(f"done: {workdir / 'summary.md'}")
    return state


def _train_steps(run: Run, state: State, stop: StopRequest) -> State:
    """Trains to the schedule's last step; returns the state on one device."""
    schedule, first = run.schedule, int(state.step)
    if first and not run.checkpoints.steps():
        # Started from another run's checkpoint, which that run may delete: keep a copy.
        _save(run, state, {})
    started = time.perf_counter() - (run.lead.log.elapsed_before if run.lead else 0.0)
    state = replicate(state)
    key = replicate(run.training_key)  # Otherwise every update would copy it from the first device to the others.
    updates: dict[Any, Any] = {}
    pending: list[Any] = []
    clock = Stopwatch()
    for step in range(first, schedule.total_steps):
        phase = schedule.phase_at(step)
        if step in (first, phase.start):
            run.progress.start_phase(phase, step)
            clock = Stopwatch()
        batch = _next_batch(run, clock, pending)
        step_function = run.task.steps[phase.name]
        if step_function in updates:
            state, metrics = updates[step_function](state, batch, key)
            clock.steps += 1
        else:  # Compiling is reported, and left out of images/s.
            jax.block_until_ready(pending[-1:])
            clock.pause()
            updates[step_function] = pmap_step(step_function)
            state, metrics = _compile_and_update(run, updates[step_function], step_function, state, batch, key)
            clock.resume()
        pending.append(metrics)
        # One update stays in flight; more would pile up batches on the devices.
        jax.block_until_ready(pending[-2:-1])
        run.progress.advance()
        due = any(schedule.is_due(step + 1, run.config[f"{what}_every"]) for what in _REPORTS)
        stopping = stop.is_due(step + 1) and step + 1 < schedule.total_steps
        if due or stopping or len(pending) >= _MAX_PENDING:
            _collect_metrics(run, phase, step + 1, pending)
        if due:
            clock.pause()
            _report(run, state, step + 1, phase, clock, time.perf_counter() - started)
            clock.resume()
        if stopping:
            _save_and_stop(run, state, step + 1, stop)
    return unreplicate(state)


def _next_batch(run: Run, clock: Stopwatch, pending: list[Any]) -> dict[str, Any]:
    """Returns the next batch, split over the devices; counts the time that the devices wait for it."""
    asked = time.perf_counter()
    batch = shard_batch(next(run.batches))
    if pending and jax.tree.leaves(pending[-1])[0].is_ready():  # Otherwise the devices are still busy.
        clock.waiting += time.perf_counter() - asked
    return batch


def _compile_and_update(
    run: Run, update: Any, step_function: Any, state: State, batch: Any, key: jax.Array
) -> tuple[State, Any]:
    """Runs the first update of a program, which compiles it, and waits for the result.

    Raises:
      ConfigError: The update does not fit into the devices' memory.
    """
    started = time.perf_counter()
    try:
        state, metrics = jax.block_until_ready(update(state, batch, key))
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
        raise ConfigError(
            f"the batch does not fit into the devices' memory: {run.task.memory_remedy} ({one_line(error)})"
        ) from error
    name = step_function.__name__.replace("_", " ")
    run.progress.compiled(name, time.perf_counter() - started)
    return state, metrics


def _collect_metrics(run: Run, phase: Phase, step: int, pending: list[Any]) -> None:
    """Moves pending metrics from the devices to the run's unlogged ones, and checks them.

    Raises:
      DivergedError: A metric is NaN or Inf.
    """
    rows = [{name: float(value) for name, value in vars(metrics).items()} for metrics in jax.device_get(pending)]
    pending.clear()
    run.health.watch(phase.name, step, rows)
    run.unlogged.add(rows)


def _report(run: Run, state: State, step: int, phase: Phase, clock: Stopwatch, elapsed: float) -> None:
    """Logs, and validates, draws a grid and saves if that is due after `step` updates."""
    due = {what: run.schedule.is_due(step, run.config[f"{what}_every"]) for what in _REPORTS}
    run.checkpoints.check()
    local = unreplicate(state)
    means = run.unlogged.take()
    rates = clock.rates(run.config.batch_size) if clock.steps else {}
    validation: dict[str, float] = {}
    if run.lead is not None:
        # Checkpoints are always validated, because their metrics rank them.
        if due["validate"] or due["grid"] or due["checkpoint"]:
            validation, grid = run.lead.examples.evaluate(local)
            if due["grid"]:
                save_image(grid, run.workdir / "grids" / f"step_{step:08d}.png")
                run.lead.log.picture(step, run.task.display.grid, grid)
        row = {**means, **{f"validation_{name}": value for name, value in validation.items()}, **rates}
        counts = {"skipped_files": len(run.skipped), "elapsed_seconds": elapsed}
        run.lead.log.write(step, phase.name, row | counts)
        if rates:
            run.progress.report(step, phase, row)
    if due["checkpoint"]:
        _save(run, local, broadcast_from_first(validation))


def _save(run: Run, state: State, validation: dict[str, float]) -> None:
    """Starts to save; all processes call it together."""
    run.checkpoints.save(
        state,
        {"next_index": all_gather(run.batches.get_state()["next_index"])},
        run.config.to_dict(),
        validation,
        unlogged=run.unlogged.state(),
        below=run.health.state(),
        images=run.image_count,
        fingerprints=run.fingerprints,
    )


def _save_and_stop(run: Run, state: State, step: int, stop: StopRequest) -> None:
    """Saves without validating, as a stopped process has no time for it.

    Raises:
      Stopped: Always.
    """
    if not run.schedule.is_due(step, run.config.checkpoint_every):
        _save(run, unreplicate(state), {})
    run.checkpoints.wait()
    assert stop.signal is not None
    raise Stopped(signal.Signals(stop.signal), step)


@contextlib.contextmanager
def _failures_as_user_errors(workdir: Path) -> Iterator[None]:
    """Explains a full or read-only disk, and the loss of another process."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise DataError(
            f"{error.filename or workdir}: {error.strerror}. The checkpoints in {workdir} are intact; once "
            "this is fixed, the same command resumes from the newest"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise UserError(
            f"process {jax.process_index()} cannot continue without the others: one of them may have ended, and "
            f"printed why. The same commands resume from the newest checkpoint in {workdir} ({one_line(error)})"
        ) from error


# What a report may include, each at its own interval `config.NAME_every`.
_REPORTS = ("log", "validate", "grid", "checkpoint")
