"""`glcic compare`: several runs on the same images with the same masks, beside how they were trained."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from glcic_jax.errors import ConfigError, DataError, printable
from glcic_jax.evaluation.evaluate import Request, conclude, open_evaluator, pictures_of
from glcic_jax.evaluation.examples import Part
from glcic_jax.evaluation.journal import Journal
from glcic_jax.evaluation.report.comparison import RunRecord, write_comparison
from glcic_jax.evaluation.scores import Evaluation
from glcic_jax.progress import Log, Progress
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.metric_log import read_metrics
from glcic_jax.training.resume import flatten
from glcic_jax.training.workdir import run_at

_IMAGES = 200


def compare(request: Request, page: Path, tell: Log) -> Evaluation:
    """Completes the same images with every run, and writes the page.

    Args:
      request: The runs are its subjects, and weights without a run may be among them. Empty data: what the runs
        validate on, at most 200 images of it.
      page: The HTML file.
      tell: Tells the user one line.

    Raises:
      UserError: A run cannot be used, the runs have no data or no size in common and none was asked for, no image
        can be measured, or the page cannot be written.
    """
    records = [_record(name) for name in request.subjects]
    request = dataclasses.replace(
        request,
        side=request.side if request.side is not None else _common_side(records),
        **_data(request, records),
    )
    evaluator = open_evaluator(request)
    with Journal(None, {}) as journal:
        with Progress("comparing", len(evaluator.examples), tell, unit="images") as progress:
            evaluator.run(journal, None, progress.advance)
        scores = evaluator.scores(journal, None)
    # Called as the weights that were found, as "runs/joint, step 500".
    names = [row.name for row in evaluator.rows]
    records = [record._replace(name=name) for record, name in zip(records, names, strict=True)]
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs"
    found = conclude(evaluator, journal.records, scores, f"Comparison of {title}")
    write_comparison(found, pictures_of(evaluator, journal), records, page)
    return found


def _record(name: str) -> RunRecord:
    """What a run's directory says of it; nothing where the name is of weights alone."""
    at = run_at(Path(name).expanduser())
    if at is None:
        return RunRecord(name, [], {}, {})
    workdir, step = at
    checkpoints = Checkpoints(workdir)
    steps = [step] if step is not None else checkpoints.steps()
    if not steps:
        raise DataError(f"{printable(str(workdir))}: holds no finished checkpoint")
    meta = checkpoints.read_meta(steps[-1])
    return RunRecord(name, read_metrics(workdir), flatten(meta["config"]), meta["versions"])


def _data(request: Request, records: list[RunRecord]) -> dict[str, Any]:
    """The data to compare on: what was asked for, or what all runs validate on."""
    if request.data:
        return {}
    keys = ("source", "tfds_dir", "validation_split", "validation_fraction", "listing")
    found = {
        json.dumps([record.config.get(f"data.{key}", "") for key in keys]) for record in records if record.config
    }
    if len(found) != 1:
        reason = "the runs were trained on different data" if found else "none of these is a run"
        raise ConfigError(f"{reason}: give --data folder:PATH or tfds:NAME")
    source, tfds_dir, split, fraction, listing = json.loads(found.pop())
    if source.partition(":")[0] != "tfds":
        split = "validation"
    asked = request.part
    part = Part(
        asked.split or split, asked.most or _IMAGES, fraction, asked.tfds_dir or tfds_dir, asked.listing or listing
    )
    return {"data": source, "part": part}


def _common_side(records: list[RunRecord]) -> int | None:
    """The size that all runs were trained on; None where there is none to be found."""
    sides = {record.config["data.image_size"] for record in records if record.config}
    if len(sides) > 1:
        sizes = " and ".join(map(str, sorted(sides)))
        raise ConfigError(f"the runs were trained on images of {sizes} px: give --size")
    return sides.pop() if sides else None
