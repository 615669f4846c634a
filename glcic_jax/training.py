"""The training loop: three phases over one state, and the one place where steps are pmapped."""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from glcic_jax import data_sources, images, input_pipeline
from glcic_jax.checkpoints import Checkpoints
from glcic_jax.continuation import check_values, restore_run
from glcic_jax.devices import AXIS, parallel, replicate, share, unreplicate
from glcic_jax.errors import ConfigError, DataError, UserError, one_line
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
    run, state = _prepare(config, workdir)
    try:
        state = _loop(run, state)
    finally:
        run.progress.close()
        run.log.close()
        run.checkpoints.close()
    write_summary(workdir, config, run.schedule, run.validation, state)
    run.progress.say(f"done: {workdir / 'summary.md'}")
    return state


def _prepare(config: ConfigDict, workdir: Path) -> tuple[_Run, TrainState]:
    """Builds all that the loop works with; checks everything that can be checked before it writes anything."""
    check_values(config)
    schedule = create_schedule([(name, config.phases[name]) for name in PHASE_NAMES])
    recipe = create_recipe(config, AXIS)
    sources = data_sources.open_sources(config.data)
    if config.start_from and not (Path(config.start_from).expanduser() / "checkpoints").is_dir():
        raise DataError(
            f"start_from: {config.start_from} is not the workdir of a run; train it first "
            "(python main.py --config=configs/completion.py) or give --config.start_from=RUN"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    except OSError as error:
        raise DataError(f"the workdir {workdir} cannot be written ({error}): name another --workdir") from error
    progress = ProgressLine(schedule, config.batch_size)
    progress.say(
        f"{len(sources.train)} training and {len(sources.validation)} validation images from "
        f"{config.data.source}; {jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    )
    skipped = input_pipeline.SkippedFiles(
        workdir / "skipped.txt",
        len(sources.train) + len(sources.validation),
        config.data.max_skipped_fraction,
        config.data.source,
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
    examples = input_pipeline.validation_batch(
        sources.validation, config.data, config.validation_images, config.seed, skipped
    )
    state = create_state(recipe, _keys(config)[0], config.data.image_size, jnp.zeros(3))
    restored = restore_run(config, state, checkpoints, schedule, progress.say)
    if restored is None:
        mean = input_pipeline.kept_mean_pixel(
            workdir / "mean_pixel.json", sources.train, config.data, skipped, progress.say
        )
        state = state.replace(mean_pixel=jnp.asarray(mean))
    else:
        state = restored.state
        batches.set_state(restored.data_state)
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
    validation = FixedExamples(examples, recipe, np.asarray(state.mean_pixel), _keys(config)[2])
    log = MetricLog(workdir, int(state.step))
    return _Run(config, workdir, schedule, batches, skipped, validation, checkpoints, log, progress), state


def _keys(config: ConfigDict) -> jax.Array:
    """The keys of the parameters, of training and of the validation images' holes."""
    return jax.random.split(jax.random.key(config.seed), 3)


def _enable_compile_cache(directory: str) -> None:
    # What the environment says counts for more than the configuration.
    if directory and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).expanduser()))


def _loop(run: _Run, state: TrainState) -> TrainState:
    """Trains up to the schedule's last step; returns the state on one device."""
    first = int(state.step)
    begun = time.perf_counter() - run.log.elapsed_before
    state = replicate(state)
    for phase in run.schedule.phases:
        if phase.stop > first:
            state = _train_phase(run, state, phase, max(first, phase.start), begun)
    return unreplicate(state)


def _train_phase(run: _Run, state: TrainState, phase: Phase, first: int, begun: float) -> TrainState:
    """Trains from step `first` to the end of a phase; `begun` is when the run began, for the log."""
    key = _keys(run.config)[1]
    update = parallel(STEPS[phase.name])
    clock = Stopwatch()
    pending: list[Any] = []
    run.progress.start_phase(phase, first)
    for step in range(first, phase.stop):
        asked = time.perf_counter()
        batch = share(next(run.batches))
        # Only what the devices had to wait for counts: while they still work, nothing is lost.
        if pending and jax.tree.leaves(pending[-1])[0].is_ready():
            clock.waiting += time.perf_counter() - asked
        if step == first:
            # This update's time is the compiler's: it is told as such, and left out of images/s.
            compiling = time.perf_counter()
            state, metrics = _first_update(update, state, batch, key)
            run.progress.say(f"  compiled the {phase.name} step in {time.perf_counter() - compiling:.1f} s")
            clock = Stopwatch()
        else:
            state, metrics = update(state, batch, key)
            clock.steps += 1
        pending.append(metrics)
        # One update stays in flight, so that batches do not pile up on the devices.
        jax.block_until_ready(pending[-2:-1])
        run.progress.advance()
        if _is_anything_due(run.config, run.schedule, step + 1):
            values = _collect(pending, step + 1, run.workdir, run.config.optimizer.name)
            pending.clear()
            clock.pause()
            _report(run, state, step + 1, phase, values, clock, time.perf_counter() - begun)
            clock.resume()
    return state


def _first_update(update: Any, state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Any]:
    """A phase's first update, which is compiled first; waits for it.

    Raises:
      ConfigError: It does not fit the devices' memory.
    """
    try:
        return jax.block_until_ready(update(state, batch, key))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            "the batch does not fit the devices' memory: raise --config.accumulation_steps, lower "
            f"--config.batch_size, or take --config.compute_dtype=bfloat16 ({one_line(error)})"
        ) from error


def _is_anything_due(config: ConfigDict, schedule: Schedule, step: int) -> bool:
    intervals = config.log_every, config.validate_every, config.grid_every, config.checkpoint_every
    return any(schedule.is_due(step, every) for every in intervals)


def _collect(pending: list[Any], step: int, workdir: Path, optimizer: str) -> dict[str, float]:
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
                    f"--config.optimizer.{optimizer}.learning_rate or --config.compute_dtype=float32"
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
