"""The page of an evaluation: one HTML file that holds its pictures and asks for nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glcic_jax.evaluation import statistics
from glcic_jax.evaluation.report import cells
from glcic_jax.evaluation.report.cells import FEWEST_WITH_INTERVAL, BinRows, Cell, Head
from glcic_jax.evaluation.report.page import (
    THUMBNAIL_SIDE,
    Embedded,
    PictureRow,
    Pictures,
    embed,
    labels,
    picture_row,
    render,
)
from glcic_jax.evaluation.scores import FID, METRICS, Evaluation
from glcic_jax.evaluation.tables import markdown_table
from glcic_jax.files import write_atomically

MOST_LISTED = 200


class Listed(NamedTuple):
    """An image in the list of all.

    Attributes:
      image: Its name.
      thumbnails: Input, the first method's picture, original; None where there is none.
      cells: The fraction that is hole, and the first method's numbers.
    """

    image: str
    thumbnails: list[Embedded | None]
    cells: list[Cell]


class Group(NamedTuple):
    """Images with neighbouring ranks, and their pictures."""

    title: str
    rows: list[PictureRow]


def write_report(evaluation: Evaluation, pictures: Pictures, path: str | Path) -> None:
    """Writes the page: results, differences, hole sizes, best, median and worst images, all images, protocol.

    Args:
      evaluation: What was measured; the page is about its first method.
      pictures: Asked once for each image that is shown.
      path: Of the HTML file.

    Raises:
      DataError: The file cannot be written.
    """
    subject, *others = evaluation.scores
    means = statistics.means(evaluation)
    pairs = [(scores.name, 0, place) for place, scores in enumerate(others, start=1)]
    bin_heads, bins = cells.by_hole_ratio(evaluation)
    metric = _ranked_by(evaluation)
    groups, listed = _with_pictures(evaluation, pictures, metric)
    page = render(
        "report.html",
        evaluation=evaluation,
        subject=subject.name,
        verdict=statistics.verdict(evaluation),
        results=cells.results(evaluation, means),
        paired=cells.paired(evaluation, pairs),
        bin_heads=bin_heads,
        bins=bins,
        few_in_bins=_few_in_bins(bins),
        without_hole=int(np.count_nonzero(np.asarray(evaluation.hole_ratio) == 0)),
        ranked_by=METRICS[metric].label,
        groups=groups,
        rows=[row for group in groups for row in group.rows],
        kinds=labels(evaluation),
        listed=listed,
        list_heads=[Head("hole, %"), *(cells.head(METRICS[name]) for name in evaluation.metrics)],
        markdown=markdown_table(evaluation),
        **what_to_know(evaluation, means),
    )
    write_atomically(path, page)


def what_to_know(evaluation: Evaluation, means: list[dict[str, statistics.Mean]]) -> dict[str, Any]:
    """The sentences around the tables, by the names that the templates have for them."""
    fid = statistics.has_fid(evaluation)
    return {
        "intervals": statistics.INTERVALS,
        "bold": statistics.BOLD,
        "few": statistics.FEW if len(evaluation.images) < statistics.FEW_IMAGES else "",
        "left_out": statistics.left_out(evaluation, means),
        "not_computed": statistics.not_computed(evaluation),
        "metrics": [METRICS[name] for name in evaluation.metrics] + [FID] * fid,
    }


def _few_in_bins(bins: Sequence[BinRows]) -> str:
    few = [one.label for one in bins if one.images < statistics.FEW_IMAGES]
    if not few:
        return ""
    return (
        f"Fewer than {statistics.FEW_IMAGES} images, too few to rely on: {', '.join(few)}; fewer than "
        f"{FEWEST_WITH_INTERVAL} have no interval."
    )


def _ranked_by(evaluation: Evaluation) -> str:
    """The metric that images are ranked by: that of the hole, where there are holes."""
    count = len(evaluation.images)
    values = statistics.values_of(evaluation.scores[0], "hole_l1", count)
    return "hole_l1" if np.isfinite(values).any() else "l1"


def _with_pictures(evaluation: Evaluation, pictures: Pictures, metric: str) -> tuple[list[Group], list[Listed]]:
    """All that shows pictures; they are embedded as they come, so that no others are held."""
    count = len(evaluation.images)
    values = statistics.values_of(evaluation.scores[0], metric, count)
    extremes = list(statistics.extremes(values))
    ranked = np.count_nonzero(np.isfinite(values))
    ranks = {index: rank for group in extremes for rank, index in group.images}
    rows, listed = {}, []
    for index in sorted({*ranks, *range(min(count, MOST_LISTED))}):
        of_image = pictures(index, [scores.name for scores in evaluation.scores[: None if index in ranks else 1]])
        if index in ranks:
            rows[index] = picture_row(evaluation, of_image, index, f"rank {ranks[index]:,} of {ranked:,}")
        if index < MOST_LISTED:
            listed.append(_listed(evaluation, of_image, index))
    groups = [Group(group.title, [rows[index] for _, index in group.images]) for group in extremes]
    return groups, listed


def _listed(evaluation: Evaluation, pictures: dict[str, np.ndarray], index: int) -> Listed:
    kinds = ("input", evaluation.scores[0].name, "original")
    thumbnails = [embed(pictures[kind], THUMBNAIL_SIDE) if kind in pictures else None for kind in kinds]
    ratio = float(evaluation.hole_ratio[index])
    hole = cells.plain(ratio, statistics.number(100 * ratio, 1))
    row = [hole, *cells.of_image(evaluation, 0, index)]
    return Listed(evaluation.images[index], thumbnails, row)
