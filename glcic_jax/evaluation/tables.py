"""An evaluation as tables: Markdown to paste, CSV with the numbers of every image, JSON for machines."""

import csv
import io
import json
from pathlib import Path

import numpy as np

from glcic_jax.errors import printable
from glcic_jax.evaluation.scores import FID, METRICS, Evaluation, Metric, Scores
from glcic_jax.evaluation.statistics import (
    BOLD,
    FEW,
    FEW_IMAGES,
    INTERVALS,
    Mean,
    bracket,
    has_fid,
    left_out,
    means,
    not_computed,
    number,
    speed,
    values_of,
    verdict,
)
from glcic_jax.files import write_atomically

_MARKED = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|~&$@"})


def arrow(metric: Metric) -> str:
    """Which direction is better."""
    return "↑" if metric.higher_is_better else "↓"


def markdown_table(evaluation: Evaluation) -> str:
    """The means of all methods with their intervals, and below them what a reader of the table has to know."""
    table = means(evaluation)
    shown = [METRICS[name] for name in evaluation.metrics] + [FID] * has_fid(evaluation)
    heads = ["method", *(f"{metric.label} {arrow(metric)}" for metric in shown), "images/s"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * (len(heads) - 1)}"]
    for scores, row in zip(evaluation.scores, table, strict=True):
        lines.append(f"| {' | '.join(_cells(evaluation, scores, row))} |")
    count = len(evaluation.images)
    notes = [f"{count:,} {'image' if count == 1 else 'images'}. {INTERVALS}", BOLD]
    notes += [FEW] * (count < FEW_IMAGES)
    notes += [f"Left out of the mean: {_text(line)}." for line in left_out(evaluation, table)]
    notes += [f"{_text(line)}." for line in not_computed(evaluation)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _cells(evaluation: Evaluation, scores: Scores, row: dict[str, Mean]) -> list[str]:
    cells = [_text(scores.name)]
    for name in evaluation.metrics:
        mean, digits = row[name], METRICS[name].digits
        text = number(mean.interval.mean, digits)
        text = f"**{text}**" if mean.best else text
        cells.append(f"{text} {bracket(mean.interval, digits)}".rstrip())
    if has_fid(evaluation):
        cells.append(number(scores.fid, FID.digits))
    return [*cells, speed(scores.images_per_second)]


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return printable("; ".join(text.splitlines())).translate(_MARKED)


def write_markdown(evaluation: Evaluation, path: str | Path) -> None:
    """Writes the title, the result in a sentence, the table and the protocol.

    Raises:
      DataError: The file cannot be written.
    """
    parts = [f"# {_text(evaluation.title)}", _text(verdict(evaluation)), markdown_table(evaluation).rstrip()]
    protocol = [f"- {_text(heading)}: {_text(value)}" for heading, value in evaluation.protocol.items()]
    protocol += [f"- {_text(note)}" for note in evaluation.notes]
    if protocol:
        parts += ["## Protocol", "\n".join(protocol)]
    write_atomically(path, "\n\n".join(parts) + "\n")


def write_csv(evaluation: Evaluation, path: str | Path) -> None:
    """Writes one line for each image and method, with every metric that was computed.

    The numbers read back exactly; infinite ones are "inf", and the field is empty where there is none. An image's
    index is its place in the data set, which its mask goes by.

    Raises:
      DataError: The file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "index", "hole_ratio", "method", *evaluation.metrics])
    count = len(evaluation.images)
    columns = [
        (scores.name, [values_of(scores, metric, count) for metric in evaluation.metrics])
        for scores in evaluation.scores
    ]
    for index, image in enumerate(evaluation.images):
        ratio = _exact(evaluation.hole_ratio[index])
        for name, values in columns:
            numbers = [_exact(value[index]) for value in values]
            table.writerow([printable(image), evaluation.place(index), ratio, printable(name), *numbers])
    write_atomically(path, text.getvalue())


def _exact(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """Writes the means with their intervals, and the protocol; null where there is no number.

    Raises:
      DataError: The file cannot be written.
    """

    def plain(value: float) -> float | None:
        return value if abs(value) < float("inf") else None  # NaN is no JSON.

    rows = [
        {
            "name": scores.name,
            "images_per_second": scores.images_per_second,
            "fid": scores.fid,
            "metrics": {
                metric: {key: plain(value) for key, value in mean.interval._asdict().items()}
                for metric, mean in row.items()
            },
        }
        for scores, row in zip(evaluation.scores, means(evaluation), strict=True)
    ]
    content = {
        "title": evaluation.title,
        "images": len(evaluation.images),
        "protocol": dict(evaluation.protocol),
        "notes": list(evaluation.notes),
        "not_computed": dict(evaluation.not_computed),
        "rows": rows,
    }
    write_atomically(path, json.dumps(content, indent=2) + "\n")
