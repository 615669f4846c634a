"""The training loop: three phases over one state."""

import contextlib
import errno
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from glcic_jax.errors import ConfigError, DataError, DivergedError, Stopped, UserError, one_line
from glcic_jax.model import images
from glcic_jax.runtime import enable_compile_cache, is_out_of_device_memory
from glcic_jax.training import distributed
from glcic_jax.training.distributed import pmap_step, replicate, shard_batch, unreplicate
from glcic_jax.training.progress_line import Stopwatch
from glcic_jax.training.schedule import Phase, Schedule
from glcic_jax.training.setup import Desk, Run, open_run, plan_run
from glcic_jax.training.signals import StopRequest
from glcic_jax.training.state import TrainState
from glcic_jax.training.steps import step_of
from glcic_jax.training.summary import write_summary
from glcic_jax.training.validation import mean_metrics, save_grid
from glcic_jax.training.workdir import holder, locked

# Metrics of so many steps wait on the devices at most, whatever the intervals: each is looked at before long.
_MOST_PENDING = 100


def train(config: ConfigDict, workdir: Path) -> TrainState:
    """Trains through all phases, from the beginning or from the newest sound checkpoint in `workdir`.

    Args:
      config: See configs/common.py.
      workdir: Where checkpoints, logs, grids and the summary go.

    Returns:
      The last state, on one device.

    Raises:
      UserError: The configuration, the data or the workdir cannot be used, or the losses left the finite
        numbers.
      Stopped: SIGTERM or Ctrl-C came, and the run was saved.
    """
    if config.compile_cache:
        enable_compile_cache(Path(config.compile_cache))
    plan = plan_run(config)
    with _worded(workdir), _alone_in(workdir):
        run, state = open_run(config, plan, workdir)
        with StopRequest() as stop, _closing(run):
            state = _loop(run, state, stop)
            run.checkpoints.wait()
            if run.desk is not None:
                write_summary(workdir, config, run.schedule, run.desk.validation, state)
                run.progress.say(f"done: {workdir / 'summary.md'}")
    return state


@contextlib.contextmanager
def _closing(run: Run) -> Iterator[None]:
    """Closes a run; after an error too, where all processes are sure to come here together."""
    try:
        yield
    except (Stopped, DivergedError):
        run.close()
        raise
    except BaseException as first:
        # Closing waits for the other processes, who may be waiting for this one.
        if jax.process_count() == 1:
            try:
                run.close()
            except Exception as error:
                # It is the first error that tells what happened; a full disk is told once.
                if not isinstance(first, (OSError, DataError)):
                    run.progress.say(f"on closing: {one_line(error)}")
        raise
    run.close()


# What the operating system says of a disk, and not of a mistake in a program.
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def _worded(workdir: Path) -> Iterator[None]:
    """Says in words what a full disk or a lost process makes raise."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise DataError(
            f"{error.filename or workdir}: {error.strerror}. The checkpoints in {workdir} are intact; the same "
            "command goes on from the newest when this is mended"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise UserError(
            f"process {jax.process_index()} cannot go on with the others: one of them may have ended, and says "
            f"why. The same commands go on from the newest checkpoint in {workdir} ({one_line(error)})"
        ) from error


@contextlib.contextmanager
def _alone_in(workdir: Path) -> Iterator[None]:
    """Locks the workdir for the first process, on behalf of all.

    Raises:
      DataError: It is taken, cannot be written, or is not the same directory for all processes.
    """
    with locked(workdir) if distributed.is_first() else contextlib.nullcontext():
        mine = holder(workdir)
        theirs = distributed.broadcast_from_first(mine)
        # All learn of it: one that leaves alone would leave the others waiting.
        if any(distributed.all_gather(int(holder(workdir) != theirs))):
            raise DataError(
                f"the processes do not all see the same {workdir}: name a --workdir on a file system that all "
                "hosts share"
            )
        yield


def _loop(run: Run, state: TrainState, stop: StopRequest) -> TrainState:
    """Trains up to the schedule's last step; returns the state on one device."""
    first = int(state.step)
    if first and not run.checkpoints.steps():
        # Begun with another run's checkpoint, which that run may delete: from here on this one has its own.
        _save(run, state, {})
    begun = time.perf_counter() - (run.desk.log.elapsed_before if run.desk else 0.0)
    state = replicate(state)
    for phase in run.schedule.phases:
        if phase.stop > first:
            state = _train_phase(run, state, stop, phase, max(first, phase.start), begun)
    return unreplicate(state)


def _train_phase(
    run: Run, state: TrainState, stop: StopRequest, phase: Phase, first: int, begun: float
) -> TrainState:
    """Trains from step `first` to the end of a phase; `begun` is when the run began, for the log.

    Raises:
      Stopped: It was asked to, and has saved.
    """
    updates: dict[Any, Any] = {}
    key = replicate(run.training_key)  # Else every update would copy it from the first device to the others.
    clock = Stopwatch()
    pending: list[Any] = []
    run.progress.start_phase(phase, first)
    for step in range(first, phase.stop):
        asked = time.perf_counter()
        batch = shard_batch(next(run.batches))
        # Only what the devices had to wait for counts: while they still work, nothing is lost.
        if pending and jax.tree.leaves(pending[-1])[0].is_ready():
            clock.waiting += time.perf_counter() - asked
        step_function = step_of(phase.name, step - phase.start, state.spec)
        if step_function in updates:
            state, metrics = updates[step_function](state, batch, key)
            clock.steps += 1
        else:
            # This update's time is the compiler's: it is told as such, and left out of images/s.
            jax.block_until_ready(pending[-1:])
            if updates:
                clock.pause()
            else:
                clock = Stopwatch()  # Nothing was trained yet: the input's start is not counted either.
            updates[step_function] = pmap_step(step_function)
            compiling = time.perf_counter()
            state, metrics = _first_update(updates[step_function], state, batch, key)
            name = step_function.__name__.replace("_", " ")
            run.progress.say(f"  compiled the {name} in {time.perf_counter() - compiling:.1f} s")
            clock.resume()
        pending.append(metrics)
        # One update stays in flight, so that batches do not pile up on the devices.
        jax.block_until_ready(pending[-2:-1])
        run.progress.advance()
        due = _is_anything_due(run.config, run.schedule, step + 1)
        # After the last step there is nothing to stop any more.
        stopping = stop.is_due(step + 1) and step + 1 < run.schedule.total_steps
        if due or stopping or len(pending) >= _MOST_PENDING:
            _collect(run, phase, step + 1, pending)
        if due:
            clock.pause()
            _report(run, state, step + 1, phase, clock, time.perf_counter() - begun)
            clock.resume()
        if stopping:
            _save_and_stop(run, state, step + 1, stop)
    return state


def _first_update(update: Any, state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Any]:
    """The first update by a program, which is compiled first; waits for it.

    Raises:
      ConfigError: It does not fit the devices' memory.
    """
    try:
        return jax.block_until_ready(update(state, batch, key))
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
        raise ConfigError(
            "the batch does not fit the devices' memory: take --config.remat=activations, raise "
            "--config.accumulation_steps, lower --config.batch_size, or take --config.compute_dtype=bfloat16 "
            f"({one_line(error)})"
        ) from error


def _is_anything_due(config: ConfigDict, schedule: Schedule, step: int) -> bool:
    intervals = config.log_every, config.validate_every, config.grid_every, config.checkpoint_every
    return any(schedule.is_due(step, every) for every in intervals)


def _collect(run: Run, phase: Phase, step: int, pending: list[Any]) -> None:
    """Takes the metrics of the last steps from the devices, looks at them, and keeps them for the log.

    Raises:
      DivergedError: One is not finite.
    """
    rows = [{name: float(value) for name, value in vars(metrics).items()} for metrics in jax.device_get(pending)]
    pending.clear()
    run.health.watch(phase.name, step, rows)
    run.unlogged.add(rows)


def _report(run: Run, state: TrainState, step: int, phase: Phase, clock: Stopwatch, elapsed: float) -> None:
    """Logs, validates, draws and saves what is due after `step` updates."""
    config, schedule = run.config, run.schedule
    due = {name: schedule.is_due(step, config[f"{name}_every"]) for name in ("validate", "grid", "checkpoint")}
    run.checkpoints.check()
    local = unreplicate(state)
    values = run.unlogged.take()
    rates = clock.rates(config.batch_size) if clock.steps else {}
    validation: dict[str, float] = {}
    if run.desk is not None:
        # A checkpoint is ranked by its validation, so it always has one.
        if any(due.values()):
            validation = _validate(run.desk, local, run.workdir, config.grid_images if due["grid"] else 0)
        row = {**values, **{f"validation_{name}": value for name, value in validation.items()}, **rates}
        written = {**row, "skipped_files": len(run.skipped), "elapsed_seconds": elapsed}
        run.desk.log.write(step, phase.name, written)
        if rates:
            run.progress.report(step, phase, row)
    if due["checkpoint"]:
        _save(run, local, distributed.broadcast_from_first(validation))


def _validate(desk: Desk, state: TrainState, workdir: Path, grid_images: int) -> dict[str, float]:
    """Measures C on the validation images, and draws the first few of them."""
    validation = desk.validation
    completions = validation.evaluate(state.inference_variables)
    if grid_images:
        shown = slice(0, grid_images)
        mean_pixel, output = (
            np.asarray(images.to_uint8(jnp.asarray(array)))
            for array in (state.mean_pixel, completions.output[shown])
        )
        masked = np.where(validation.mask[shown] > 0.5, mean_pixel, validation.image[shown])
        columns = [masked, output, completions.completed[shown], validation.image[shown]]
        save_grid(workdir, int(state.step), columns, desk.log)
    return mean_metrics(completions.metrics)


def _save(run: Run, state: TrainState, validation: dict[str, float]) -> None:
    """Starts to save; all processes together."""
    data_state = {"next_index": distributed.all_gather(run.batches.get_state()["next_index"])}
    run.checkpoints.save(
        state,
        data_state,
        run.config.to_dict(),
        validation,
        unlogged=run.unlogged.state(),
        below=run.health.state(),
        images=run.images,
    )


def _save_and_stop(run: Run, state: TrainState, step: int, stop: StopRequest) -> None:
    """Saves, without a validation: a process that is told to end has no time for one.

    Raises:
      Stopped: Always.
    """
    if not run.schedule.is_due(step, run.config.checkpoint_every):
        _save(run, unreplicate(state), {})
    run.checkpoints.wait()
    assert stop.signal is not None
    raise Stopped(signal.Signals(stop.signal), step)
