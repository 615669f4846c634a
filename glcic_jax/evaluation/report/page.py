"""What all pages share: their frame, text from outside made harmless, and pictures inside the file."""

import base64
import hashlib
import io
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from glcic_jax.errors import printable
from glcic_jax.evaluation.scores import METRICS, Evaluation
from glcic_jax.evaluation.statistics import number, values_of

GRID_SIDE = 256
THUMBNAIL_SIDE = 64
_JPEG_QUALITY = 85


class Pictures(Protocol):
    """Gives an image's pictures: "input" with its hole shown, some methods' by their names, and "original".

    Each is [H, W, 3] uint8; sizes may differ between images.
    """

    def __call__(self, index: int, methods: Collection[str]) -> dict[str, np.ndarray]: ...


class Embedded(NamedTuple):
    """A picture that is part of the page.

    Attributes:
      uri: Of its data.
      width, height: In pixels, as it is embedded.
    """

    uri: str
    width: int
    height: int


def embed(picture: np.ndarray, longest_side: int) -> Embedded:
    """Makes a JPEG, reduced where a side is longer than `longest_side`, never enlarged.

    Args:
      picture: [H, W, 3] uint8.
      longest_side: In pixels.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(picture)
    if size != (width, height):
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    content = io.BytesIO()
    # Colours at full resolution: a hole's edge is sharp in them too.
    image.save(content, format="JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True)
    return Embedded(f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}", *size)


def render(template: str, **values: Any) -> str:
    """Fills a template of the package in; all text is escaped.

    The page's policy lets it load nothing, and run its own script only.

    Args:
      template: Its file's name.
      values: What the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("glcic_jax.evaluation.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_one_that_shows,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (environment.get_template(name).render() for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(template)
    return page.render(script=Markup(script), style=Markup(style), script_hash=digest, **values)


def _one_that_shows(value: Any) -> Any:
    """What a page shows of a value: of text all that is printable, the rest as escapes, lines kept."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(printable, value.split("\n")))
    return value


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
