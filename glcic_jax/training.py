"""The training loop: three phases over one state, and the one place where steps are pmapped."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from glcic_jax import data_sources, images, input_pipeline
from glcic_jax.checkpoints import Checkpoints
from glcic_jax.devices import AXIS, parallel, replicate, share, unreplicate
from glcic_jax.errors import ConfigError, DataError, UserError
from glcic_jax.evaluation import FixedExamples, mean_metrics
from glcic_jax.phases import PHASE_NAMES, Phase, Schedule, create_schedule
from glcic_jax.reporting import MetricLog, ProgressLine, Stopwatch, save_grid
from glcic_jax.state import TrainState, create_recipe, create_state
from glcic_jax.steps import STEPS
from glcic_jax.summary import write_summary


class _Run(NamedTuple):
    """All that the loop works with."""

    config: ConfigDict
    workdir: Path
    schedule: Schedule
    batches: Any
    skipped: input_pipeline.SkippedFiles
    validation: FixedExamples
    checkpoints: Checkpoints
    log: MetricLog
    progress: ProgressLine


def train(config: ConfigDict, workdir: Path) -> TrainState:
    """Trains through all phases, from the beginning or from the newest checkpoint in `workdir`.

    Args:
      config: See configs/common.py.
      workdir: Where checkpoints, logs, grids and the summary go.

    Returns:
      The last state, on one device.

    Raises:
      UserError: The configuration, the data or the workdir cannot be used, or the losses left the finite
        numbers.
    """
    _enable_compile_cache(config.compile_cache)
    _check_batch(config)
    schedule = create_schedule([(name, config.phases[name]) for name in PHASE_NAMES])
    sources = data_sources.open_sources(config.data)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
    except OSError as error:
        raise DataError(f"the workdir {workdir} cannot be written ({error}): name another --workdir") from error
    progress = ProgressLine(schedule, config.batch_size)
    skipped = input_pipeline.SkippedFiles(
        workdir / "skipped.txt", len(sources.train), config.data.max_skipped_fraction
    )
    progress.say(
        f"{len(sources.train)} training and {len(sources.validation)} validation images from "
        f"{config.data.source}; {jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    )
    mean = input_pipeline.kept_mean_pixel(
        workdir / "mean_pixel.json", sources.train, config.data, skipped, progress.say
    )
    state = create_state(
        create_recipe(config, AXIS), jax.random.key(config.seed), config.data.image_size, jnp.asarray(mean)
    )
    batches = input_pipeline.train_batches(
        sources.train, config.data, config.batch_size // jax.process_count(), config.seed, skipped
    )
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    state = _restore(config, workdir, state, batches, checkpoints, schedule, progress)
    examples = input_pipeline.validation_batch(
        sources.validation, config.data, config.validation_images, config.seed
    )
    validation = FixedExamples(examples, state.recipe, np.asarray(state.mean_pixel), config.seed)
    log = MetricLog(workdir, int(state.step))
    run = _Run(config, workdir, schedule, batches, skipped, validation, checkpoints, log, progress)
    try:
        state = _loop(run, state)
    finally:
        progress.close()
        log.close()
        checkpoints.close()
    write_summary(workdir, config, schedule, validation, state)
    progress.say(f"done: {workdir / 'summary.md'}")
    return state


def _enable_compile_cache(directory: str) -> None:
    # What the environment says counts for more than the configuration.
    if directory and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).expanduser()))


def _check_batch(config: ConfigDict) -> None:
    devices = jax.device_count()
    if config.batch_size <= 0 or config.batch_size % (devices * config.accumulation_steps):
        raise ConfigError(
            f"batch_size {config.batch_size} must be a multiple of {devices} devices x "
            f"accumulation_steps {config.accumulation_steps}"
        )
    low, high = config.data.resize_range
    if not config.data.image_size <= low <= high:
        raise ConfigError(
            f"data.resize_range ({low}, {high}) must not begin below data.image_size "
            f"{config.data.image_size}, nor end before it begins"
        )


def _restore(
    config: ConfigDict,
    workdir: Path,
    state: TrainState,
    batches: Any,
    checkpoints: Checkpoints,
    schedule: Schedule,
    progress: ProgressLine,
) -> TrainState:
    """Goes on from the workdir's newest checkpoint, or from that of `start_from`; else from the beginning."""
    step = checkpoints.latest_step()
    origin = checkpoints if step is not None else None
    if origin is None and config.start_from:
        start = Path(config.start_from).expanduser()
        if not (start / "checkpoints").is_dir():
            raise DataError(
                f"start_from: {start} is not the workdir of a run; train it first "
                "(python main.py --config=configs/completion.py) or give --config.start_from=RUN"
            )
        origin = Checkpoints(start, config.keep_checkpoints)
        step = origin.latest_step()
    if origin is None or step is None:
        return state
    restored = origin.restore(state, step)
    if origin is not checkpoints:
        origin.close()
    batches.set_state(restored.data_state)
    phase = schedule.phase_at(step)
    progress.say(f"going on from step {step} of {schedule.total_steps} (phase {phase.name})")
    return restored.state


def _loop(run: _Run, state: TrainState) -> TrainState:
    """Trains up to the schedule's last step; returns the state on one device."""
    config, schedule = run.config, run.schedule
    key = jax.random.key(config.seed)
    begun = time.perf_counter()
    clock = Stopwatch()
    pending: list[Any] = []
    phase: Phase | None = None
    update: Callable[..., Any] | None = None
    first, last = int(state.step), schedule.total_steps
    state = replicate(state)
    for step in range(first, last):
        compiling = phase is not (phase := schedule.phase_at(step))
        if compiling or update is None:
            run.progress.start_phase(phase, step)
            update = parallel(STEPS[phase.name])
        asked = time.perf_counter()
        batch = share(next(run.batches))
        clock.waiting += time.perf_counter() - asked
        if compiling:
            clock.pause()
            state, metrics = _first_update(run, phase, update, state, batch, key)
            clock.resume()
        else:
            state, metrics = update(state, batch, key)
            clock.steps += 1
        pending.append(metrics)
        run.progress.advance()
        done = step + 1
        if _is_anything_due(config, schedule, done):
            values = _collect(pending, done, run.workdir)
            pending.clear()
            clock.pause()
            _report(run, state, done, phase, values, clock, run.log.elapsed_before + time.perf_counter() - begun)
            clock.resume()
    return unreplicate(state)


def _first_update(
    run: _Run, phase: Phase, update: Callable[..., Any], state: TrainState, batch: Any, key: jax.Array
) -> tuple[TrainState, Any]:
    """A phase's first update, whose time is the compiler's."""
    begun = time.perf_counter()
    state, metrics = jax.block_until_ready(update(state, batch, key))
    run.progress.say(f"  compiled the {phase.name} step in {time.perf_counter() - begun:.1f} s")
    return state, metrics


def _is_anything_due(config: ConfigDict, schedule: Schedule, step: int) -> bool:
    intervals = config.log_every, config.validate_every, config.grid_every, config.checkpoint_every
    return any(schedule.is_due(step, every) for every in intervals)


def _collect(pending: list[Any], step: int, workdir: Path) -> dict[str, float]:
    """The mean of each metric over the steps since the last call; waits for the devices.

    Raises:
      UserError: A metric is not finite.
    """
    fetched = [vars(metrics) for metrics in jax.device_get(pending)]
    for offset, metrics in enumerate(fetched):
        for name, value in metrics.items():
            if not np.isfinite(value):
                raise UserError(
                    f"{name} is {value} at step {step - len(fetched) + offset + 1}: training has diverged and "
                    f"was stopped. The checkpoints in {workdir} are from before; go on from them with a lower "
                    "--config.optimizer.adadelta.learning_rate or --config.compute_dtype=float32"
                )
    return {name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]}


def _report(
    run: _Run,
    state: TrainState,
    step: int,
    phase: Phase,
    values: dict[str, float],
    clock: Stopwatch,
    elapsed: float,
) -> None:
    """Logs, validates, draws and saves what is due after `step` updates."""
    config, schedule = run.config, run.schedule
    due = {name: schedule.is_due(step, config[f"{name}_every"]) for name in ("validate", "grid", "checkpoint")}
    local = unreplicate(state)
    validation: dict[str, float] = {}
    # A checkpoint is ranked by its validation, so it always has one.
    if any(due.values()):
        completions = run.validation.evaluate(local.inference_variables)
        validation = mean_metrics(completions.metrics)
        if due["grid"]:
            count = config.grid_images
            masked = np.where(
                run.validation.mask > 0.5, np.asarray(local.mean_pixel), run.validation.image / 255.0
            )
            shown = (masked, completions.output, completions.completed, run.validation.image / 255.0)
            columns = [np.asarray(images.to_uint8(jnp.asarray(column[:count]))) for column in shown]
            save_grid(run.workdir, step, columns, run.log)
    rates = clock.rates(config.batch_size) if clock.steps else {}
    row = {**values, **{f"validation_{name}": value for name, value in validation.items()}, **rates}
    run.log.write(step, phase.name, {**row, "skipped_files": len(run.skipped), "elapsed_seconds": elapsed})
    if rates:
        run.progress.report(step, phase, row)
    if due["checkpoint"]:
        run.checkpoints.save(local, run.batches.get_state(), config.to_dict(), validation)
