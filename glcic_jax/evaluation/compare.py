"""`glcic compare`: completes the same images with several runs and reports them beside their training."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glcic_jax.errors import ConfigError, DataError, printable
from glcic_jax.evaluation.evaluate import Request, conclude, measure, open_evaluator, pictures_of
from glcic_jax.evaluation.images import Selection
from glcic_jax.evaluation.report.report import Training, write_report
from glcic_jax.evaluation.scores import Evaluation
from glcic_jax.evaluation.tables import differing_settings
from glcic_jax.files import expand_home
from glcic_jax.progress import Log
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.metric_log import read_metrics
from glcic_jax.training.resume import flatten
from glcic_jax.training.summary import draw_curves
from glcic_jax.training.tasks.completion import CURVES
from glcic_jax.training.workdir import run_at

_MOST_IMAGES = 200


class RunRecord(NamedTuple):
    """The log, configuration and package versions of a run; empty for weights without a run.

    Attributes:
      metrics: The rows of metrics.jsonl.
      config: Values by dotted key.
      versions: Versions of packages.
    """

    metrics: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    versions: Mapping[str, str]


def compare(request: Request, page: Path, log: Log) -> Evaluation:
    """Completes the same images with every run, and writes a report of all.

    Args:
      request: Its subjects are runs, or weights without a run. With empty `data`, at most 200 images of the data
        set that the runs validate on.
      page: The HTML file.
      log: Receives messages.

    Raises:
      UserError: A run cannot be used, the request leaves open a data set or size that the runs do not share, no
        image can be measured, or the page cannot be written.
    """
    records = [_read_run(name) for name in request.subjects]
    side = _common_side(records) if request.side is None else request.side
    request = dataclasses.replace(request, side=side)
    if not request.data:
        request = _with_validation_data(request, records)
    evaluator = open_evaluator(request)
    measured = measure(evaluator, "comparing", log)
    names = [row.name for row in evaluator.rows]
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs"
    evaluation = conclude(evaluator, measured, f"Comparison of {title}")
    training = training_section(dict(zip(names, records, strict=True)))
    write_report(evaluation, pictures_of(evaluator, measured), page, training)
    return evaluation


def _read_run(name: str) -> RunRecord:
    found = run_at(expand_home(name))
    if found is None:
        return RunRecord([], {}, {})
    workdir, step = found
    checkpoints = Checkpoints(workdir)
    steps = [step] if step is not None else checkpoints.steps()
    if not steps:
        raise DataError(f"{printable(str(workdir))}: holds no finished checkpoint")
    meta = checkpoints.read_meta(steps[-1])
    return RunRecord(read_metrics(workdir), flatten(meta["config"]), meta["versions"])


def _common_side(records: Sequence[RunRecord]) -> int | None:
    """The side that all runs were trained on, in pixels; None if none is known."""
    sides = {record.config["data.image_size"] for record in records if record.config}
    if len(sides) > 1:
        sizes = " and ".join(map(str, sorted(sides)))
        raise ConfigError(f"the runs were trained on images of {sizes} px: give --size")
    return sides.pop() if sides else None


def _with_validation_data(request: Request, records: Sequence[RunRecord]) -> Request:
    """The request with the data that all runs validate on."""
    keys = ("source", "tfds_dir", "validation_split", "validation_fraction", "listing")
    found = {tuple(record.config.get(f"data.{key}", "") for key in keys) for record in records if record.config}
    if len(found) != 1:
        reason = "the runs were trained on different data" if found else "none of these is a run"
        raise ConfigError(f"{reason}: give --data FOLDER or tfds:NAME")
    source, tfds_dir, split, fraction, listing = found.pop()
    if not source.startswith("tfds:"):
        split = "validation"
    given = request.selection
    selection = Selection(
        given.split or split,
        given.count or _MOST_IMAGES,
        fraction,
        given.tfds_dir or tfds_dir,
        given.listing or listing,
    )
    return dataclasses.replace(request, data=source, selection=selection)


def training_section(runs: Mapping[str, RunRecord]) -> Training:
    """Collects the curves of runs by name, the settings that differ, and notes on missing records."""
    svg = io.StringIO()
    figure = draw_curves({name: run.metrics for name, run in runs.items() if run.metrics}, CURVES)
    if figure.axes:
        figure.savefig(svg, format="svg", metadata={"Date": None})
    settings, notes = [], [f"{name} has no training log." for name, run in runs.items() if not run.metrics]
    for label, what, of_runs in (
        ("key", "configuration", {name: run.config for name, run in runs.items()}),
        ("package", "package versions", {name: run.versions for name, run in runs.items()}),
    ):
        table = differing_settings(label, of_runs)
        unknown = [name for name, values in of_runs.items() if not values]
        notes += [f"The {what} of {name}: not known." for name in unknown]
        if table is not None:
            settings.append(table)
            notes.append(f"The {what}: only what differs is shown.")
        elif len(runs) - len(unknown) > 1:
            notes.append(f"The {what} of all runs: the same, as far as known.")
    return Training(svg.getvalue(), settings, notes)
