"""The report: one HTML file that holds its pictures and requests nothing."""

import base64
import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from glcic_jax.evaluation import tables
from glcic_jax.evaluation.scores import FID, METRICS, Evaluation, count_of, format_number
from glcic_jax.evaluation.statistics import extremes, hole_ratio_bins, verdict
from glcic_jax.files import write_atomically

LARGEST_SIDE = 256  # Of a picture in the report, in pixels.
THUMBNAIL_SIDE = 64
MOST_LISTED = 200
_JPEG_QUALITY = 85
_CAPTIONED = ("hole_l1", "hole_psnr", "lpips")


class Pictures(Protocol):
    """Returns an image's pictures by label: "input" with a white hole, the named methods' and "original".

    Each is [H, W, 3] uint8; the report says "no picture" for a missing label.
    """

    def __call__(self, index: int, methods: Collection[str]) -> dict[str, np.ndarray]: ...


class Training(NamedTuple):
    """The training of the compared runs.

    Attributes:
      curves: An SVG file of their curves; empty if no run has any.
      settings: Tables of the settings that differ.
      notes: Sentences on settings that all runs share, and on missing records.
    """

    curves: str
    settings: Sequence[tables.Table]
    notes: Sequence[str]


class Embedded(NamedTuple):
    """A JPEG inside the page: its data URI, width and height in pixels."""

    uri: str
    width: int
    height: int


# A picture in the gallery: its label, the picture if there is one, and the method's numbers.
_Pane = tuple[str, Embedded | None, list[str]]


class _Shown(NamedTuple):
    """An image in the gallery; `place` numbers all of them."""

    place: int
    rank: str
    image: str
    hole: str
    panes: list[_Pane]


def write_report(
    evaluation: Evaluation, pictures: Pictures, path: str | Path, training: Training | None = None
) -> None:
    """Writes the report: results, differences, hole sizes, best, median and worst images, all images, protocol.

    Args:
      evaluation: The scores; images are ranked by the first method.
      pictures: Called once for each image that is shown.
      path: The HTML file.
      training: For a comparison of runs with the first as the baseline; None: an evaluation of the first.

    Raises:
      DataError: The file cannot be written.
    """
    subject, *others = evaluation.scores
    key = "hole_l1" if np.isfinite(subject.values.get("hole_l1", np.nan)).any() else "l1"
    gallery, thumbnails = _embed_pictures(evaluation, pictures, key)
    differences = tables.paired_differences(evaluation, first_is_baseline=training is not None)
    bins = hole_ratio_bins(evaluation.hole_ratio)
    page = _render(
        evaluation=evaluation,
        subject=subject.name,
        verdict=verdict(evaluation),
        count=count_of(len(evaluation.images), "image"),
        results=tables.to_html(tables.results(evaluation), "Results"),
        notes=tables.notes_on_results(evaluation),
        markdown=tables.markdown_results(evaluation),
        differences=tables.to_html(differences, "Paired differences") if others else "",
        holes=tables.to_html(tables.by_hole_size(evaluation), "By hole size") if bins else "",
        without_hole=int(np.count_nonzero(np.asarray(evaluation.hole_ratio) == 0)),
        few_in_bins=[label for label, indices in bins.items() if len(indices) < tables.FEW_IMAGES],
        few_images=tables.FEW_IMAGES,
        fewest_with_interval=tables.FEWEST_WITH_INTERVAL,
        training=training,
        curves=_data_uri("image/svg+xml", training.curves.encode()) if training and training.curves else "",
        settings=[tables.to_html(table, "Settings that differ") for table in training.settings]
        if training
        else [],
        ranked_by=METRICS[key].label,
        gallery=gallery,
        kinds=["input", *(scores.name for scores in evaluation.scores), "original"],
        largest_side=LARGEST_SIDE,
        listed=len(thumbnails),
        images=tables.to_html(tables.per_image(evaluation, thumbnails), "All images", ident="list", tall=True),
        metrics=[METRICS[name] for name in evaluation.metrics] + [FID] * evaluation.has_fid,
        in_words=tables.in_words,
    )
    write_atomically(path, page)


def _embed_pictures(
    evaluation: Evaluation, pictures: Pictures, key: str
) -> tuple[dict[str, list[_Shown]], list[Markup]]:
    """The gallery of the best, median and worst images by a metric, and thumbnails of the first images.

    Only one image's pictures are in memory at a time.
    """
    values = evaluation.scores[0].values[key]
    groups = extremes(values)
    in_gallery = {index for group in groups.values() for _, index in group}
    panes, thumbnails = {}, []
    for index in sorted({*in_gallery, *range(min(len(evaluation.images), MOST_LISTED))}):
        methods = evaluation.scores if index in in_gallery else evaluation.scores[:1]
        of_image = pictures(index, [scores.name for scores in methods])
        if index in in_gallery:
            panes[index] = _panes(evaluation, of_image, index)
        if index < MOST_LISTED:
            labels = ("input", evaluation.scores[0].name, "original")
            small = [embed(of_image[label], THUMBNAIL_SIDE) for label in labels if label in of_image]
            image = Markup('<img src="{}" width="{}" height="{}" alt="">')
            thumbnails.append(Markup("").join(image.format(*embedded) for embedded in small))
    ranked, place = np.count_nonzero(np.isfinite(values)), 0
    gallery: dict[str, list[_Shown]] = {}
    for title, group in groups.items():
        gallery[title] = []
        for rank, index in group:
            hole = f"{format_number(100 * evaluation.hole_ratio[index], 1)} %"
            shown = _Shown(place, f"rank {rank:,} of {ranked:,}", evaluation.images[index], hole, panes[index])
            gallery[title].append(shown)
            place += 1
    return gallery, thumbnails


def _panes(evaluation: Evaluation, pictures: Mapping[str, np.ndarray], index: int) -> list[_Pane]:
    """An image's pictures with the metrics of each method."""
    keys = [key for key in _CAPTIONED if key in evaluation.metrics] or evaluation.metrics[:2]
    numbers = {"input": ["hole shown"], "original": []}
    for scores in evaluation.scores:
        texts = [(METRICS[key], format_number(scores.values[key][index], METRICS[key].digits)) for key in keys]
        numbers[scores.name] = [metric.with_unit(f"{metric.name} {text}") for metric, text in texts]
    labels = ["input", *(scores.name for scores in evaluation.scores), "original"]
    return [
        (label, embed(pictures[label], LARGEST_SIDE) if label in pictures else None, numbers[label])
        for label in labels
    ]


def embed(picture: np.ndarray, longest_side: int) -> Embedded:
    """Encodes a picture [H, W, 3] uint8 as JPEG, reduced if a side is longer than `longest_side` pixels."""
    height, width = picture.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(picture)
    if size != (width, height):
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    content = io.BytesIO()
    # Full chroma resolution keeps the edges of holes sharp.
    image.save(content, format="JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True)
    return Embedded(_data_uri("image/jpeg", content.getvalue()), *size)


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _render(**values: Any) -> str:
    """Fills in the template; text is escaped, and the page's policy allows its own script alone."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("glcic_jax.evaluation.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: tables.shown(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (environment.get_template(name).render() for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("report.html")
    return page.render(script=Markup(script), style=Markup(style), script_hash=digest, **values)
