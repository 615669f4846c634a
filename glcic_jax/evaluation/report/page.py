"""What all pages share: their frame, text from outside made harmless, and pictures inside the file."""

import base64
import hashlib
import io
from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from glcic_jax.errors import printable

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
