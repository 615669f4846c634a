"""Pictures side by side: one row an image, with every method's picture and its numbers below."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glcic_jax.evaluation.report.page import GRID_SIDE, Embedded, embed
from glcic_jax.evaluation.score_summary import number, values_of
from glcic_jax.evaluation.scores import METRICS, Evaluation

_BELOW = ("hole_l1", "hole_psnr")


class Pane(NamedTuple):
    """One picture of a row.

    Attributes:
      label: "input", a method's name or "original".
      picture: None where there is none.
      caption: The numbers below it, a line each.
    """

    label: str
    picture: Embedded | None
    caption: str


class PictureRow(NamedTuple):
    """One image.

    Attributes:
      title: What stands before its name, as "rank 1 of 60"; may be empty.
      image: Its name.
      hole: How much of it is hole, as text.
      panes: Its pictures.
    """

    title: str
    image: str
    hole: str
    panes: list[Pane]


def percent(ratio: float) -> str:
    """A fraction as text."""
    return f"{number(100 * ratio, 1)} %"


def labels(evaluation: Evaluation) -> list[str]:
    """What the pictures of a row are, in their order."""
    return ["input", *(scores.name for scores in evaluation.scores), "original"]


def picture_row(
    evaluation: Evaluation, pictures: dict[str, np.ndarray], index: int, title: str = ""
) -> PictureRow:
    """Embeds an image's pictures.

    Args:
      evaluation: What was measured.
      pictures: By label, each [H, W, 3] uint8; other names in it are not shown.
      index: Of the image.
      title: What stands before its name.
    """
    hole = percent(evaluation.hole_ratio[index])
    captions = ["hole shown", *(_numbers(evaluation, place, index) for place in range(len(evaluation.scores))), ""]
    panes = []
    for label, caption in zip(labels(evaluation), captions, strict=True):
        picture = embed(pictures[label], GRID_SIDE) if label in pictures else None
        panes.append(Pane(label, picture, caption))
    return PictureRow(title, evaluation.images[index], hole, panes)


def _numbers(evaluation: Evaluation, place: int, index: int) -> str:
    names: Sequence[str] = [name for name in _BELOW if name in evaluation.metrics] or evaluation.metrics[:2]
    lines = []
    for name in names:
        metric = METRICS[name]
        label, _, unit = metric.label.partition(", ")
        value = values_of(evaluation.scores[place], name, len(evaluation.images))[index]
        lines.append(f"{label} {number(value, metric.digits)} {unit}".rstrip())
    return "\n".join(lines)
