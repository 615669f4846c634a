"""The page that compares runs: one HTML file with curves, configurations, numbers and pictures of all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glcic_jax.evaluation import statistics
from glcic_jax.evaluation.report import cells, curves
from glcic_jax.evaluation.report.page import Pictures, labels, picture_row, render
from glcic_jax.evaluation.report.report import what_to_know
from glcic_jax.evaluation.scores import Evaluation
from glcic_jax.evaluation.tables import markdown_table
from glcic_jax.files import write_atomically

MOST_IMAGES = 12


class RunRecord(NamedTuple):
    """What a training run left behind.

    Attributes:
      name: As in the evaluation.
      rows: Of metrics.jsonl; empty where there are none.
      config: Values by their dotted keys; empty where the configuration is not known.
      versions: Of the packages that it ran with.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    versions: Mapping[str, str]


class Differing(NamedTuple):
    """A key whose values are not the same in all runs.

    Attributes:
      key: Dotted.
      values: Of each run, as text; "-" where it has none.
    """

    key: str
    values: list[str]


def write_comparison(
    evaluation: Evaluation, pictures: Pictures, runs: Sequence[RunRecord], path: str | Path
) -> None:
    """Writes the page: means, differences from the first, curves, what was set differently, pictures.

    Args:
      evaluation: Of all runs on the same images; the others are compared with the first.
      pictures: Asked once for each of the first images.
      runs: The runs, in the evaluation's order.
      path: Of the HTML file.

    Raises:
      DataError: The file cannot be written.
    """
    means = statistics.means(evaluation)
    first, *others = evaluation.scores
    names = [scores.name for scores in evaluation.scores]
    pairs = [(scores.name, place, 0) for place, scores in enumerate(others, start=1)]
    shown = range(min(len(evaluation.images), MOST_IMAGES))
    page = render(
        "comparison.html",
        evaluation=evaluation,
        first=first.name,
        results=cells.results(evaluation, means),
        paired=cells.paired(evaluation, pairs),
        runs=[run.name for run in runs],
        without_rows=[run.name for run in runs if not run.rows],
        without_config=[run.name for run in runs if not run.config],
        without_versions=[run.name for run in runs if not run.versions],
        known_configs=sum(bool(run.config) for run in runs),
        known_versions=sum(bool(run.versions) for run in runs),
        charts=curves.charts([run.name for run in runs], [run.rows for run in runs]),
        area=(curves.WIDTH, curves.HEIGHT),
        config=differing([run.config for run in runs]),
        versions=differing([run.versions for run in runs]),
        rows=[picture_row(evaluation, pictures(index, names), index) for index in shown],
        kinds=labels(evaluation),
        markdown=markdown_table(evaluation),
        **what_to_know(evaluation, means),
    )
    write_atomically(path, page)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[Differing]:
    """The keys whose values differ among those that have any, in order; a list and a tuple of the same are one.

    Args:
      settings: Values by key, one mapping a run; an empty one is not known and differs from nothing.
    """
    known = [one for one in settings if one]
    found = []
    for key in sorted({key for one in known for key in one}):
        if len({_text(one, key) for one in known}) > 1:
            found.append(Differing(key, [_text(one, key) for one in settings]))
    return found


def _text(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "-"
    value = settings[key]
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
