"""Tables of an evaluation, and their writers: text, Markdown to paste, CSV with exact numbers, HTML."""

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

from glcic_jax.errors import printable
from glcic_jax.evaluation.scores import (
    FID,
    METRICS,
    Evaluation,
    Metric,
    Scores,
    count_of,
    format_difference,
    format_number,
    format_speed,
)
from glcic_jax.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Mean,
    compared,
    hole_ratio_bins,
    mean_interval,
    means,
    verdict,
)
from glcic_jax.files import write_atomically

FEW_IMAGES = 30
FEWEST_WITH_INTERVAL = 10  # Images in a bin of hole sizes.
_BINNED = ("hole_l1", "hole_psnr", "ssim")
TEXT_WIDTH = 100  # Characters of a line in a terminal.
_NAME_WIDTH = 44
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|~&$@"})

_INTERVALS = (
    f"In brackets: {100 * CONFIDENCE:.0f} % percentile bootstrap intervals from {RESAMPLES:,} resamples of the "
    "images. They cover other images of the same kind, not another training run."
)
_BEST = (
    "{}: the best mean, where the interval of its paired differences from the second best does not contain 0. "
    "No correction is made for the number of comparisons; FID and images/s have no interval and are never {}."
)
FEW = f"Fewer than {FEW_IMAGES} images: the intervals are too narrow to rely on."


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      label: Its heading.
      name: Its name in a CSV file; empty: the label.
      arrow: "↑" if higher is better, "↓" if lower is, such as "→ 1" if the number is, or "".
      is_number: Whether its cells are numbers.
    """

    label: str
    name: str = ""
    arrow: str = ""
    is_number: bool = True


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      text: What a reader sees.
      value: The exact number, by which HTML tables sort and which CSV files hold; None for text.
      detail: Lines below the text: the interval, a verdict.
      mark: "best", "better", "worse" or "".
      thumbnails: HTML in front of the text.
    """

    text: str
    value: float | None = None
    detail: str = ""
    mark: str = ""
    thumbnails: Markup = Markup("")


class Table(NamedTuple):
    """Columns and rows; the first cell of a row names it."""

    columns: Sequence[Column]
    rows: Iterable[Sequence[Cell]]


def to_markdown(table: Table) -> str:
    """Writes a Markdown table."""
    heads = [f"{column.label} {column.arrow}".rstrip() for column in table.columns]
    lines = [
        f"| {' | '.join(heads)} |",
        "|" + "".join("--:|" if column.is_number else "---|" for column in table.columns),
    ]
    lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in table.rows]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = _plain(cell.text) if cell.value is None else cell.text
    return " ".join([f"**{text}**" if cell.mark == "best" else text, *cell.detail.splitlines()])


def _plain(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return printable("; ".join(text.splitlines())).translate(_ESCAPED)


def to_text(table: Table, width: int = TEXT_WIDTH) -> str:
    """Writes aligned columns, without the intervals and with * at the best; those that do not fit follow below."""
    cells = [[f"{column.label} {column.arrow}".rstrip() for column in table.columns]]
    cells += [[printable(cell.text) + "*" * (cell.mark == "best") for cell in row] for row in table.rows]
    names = [name if len(name) <= _NAME_WIDTH else f"{name[:20]}…{name[21 - _NAME_WIDTH :]}" for name, *_ in cells]
    names = [name.ljust(max(map(len, names))) for name in names]
    blocks: list[list[str]] = []
    for column in range(1, len(cells[0])):
        texts = [row[column].removesuffix("*") + ("*" if row[column].endswith("*") else " ") for row in cells]
        added = [text.rjust(max(map(len, texts)) + 1) for text in texts]
        if not blocks or len(blocks[-1][0]) + len(added[0]) > width:
            blocks.append(names)
        blocks[-1] = [line + text for line, text in zip(blocks[-1], added, strict=True)]
    return "\n\n".join("\n".join(map(str.rstrip, block)) for block in blocks) + "\n"


def to_csv(table: Table) -> str:
    """Writes CSV: numbers that read back exactly, "inf" for infinite ones and an empty field for NaN."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name or column.label for column in table.columns])
    writer.writerows(
        [printable(cell.text) if cell.value is None else _exact(cell.value) for cell in row] for row in table.rows
    )
    return text.getvalue()


def _exact(value: float) -> str:
    return "" if np.isnan(value) else repr(value)


def shown(text: str) -> str:
    """Text for a page: keeps line breaks and escapes other characters that are not printable."""
    return "\n".join(map(printable, text.split("\n")))


def to_html(table: Table, label: str, *, ident: str = "", tall: bool = False) -> Markup:
    """Writes a table that scrolls in a box and is sorted by the script of the page.

    Args:
      table: The table.
      label: Its name for screen readers.
      ident: Its id; empty: none.
      tall: Whether it has many rows and scrolls vertically.
    """
    heads = Markup("").join(map(_html_head, table.columns))
    rows = Markup("\n").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(_html_cell(cell, index == 0) for index, cell in enumerate(row))
        )
        for row in table.rows
    )
    return Markup(
        '<div class="box{}" role="region" aria-label="{}" tabindex="0">\n<table class="sortable"{}>\n'
        "<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>\n</div>"
    ).format(" tall" if tall else "", label, Markup(' id="{}"').format(ident) if ident else "", heads, rows)


def _html_head(column: Column) -> Markup:
    direction = Markup(' <span aria-hidden="true">{}</span><span class="unseen">, {} is better</span>').format(
        column.arrow, in_words(column.arrow)
    )
    return Markup('<th scope="col"{} aria-sort="none"><button type="button">{}{}</button></th>').format(
        Markup(' class="number"') if column.is_number else "",
        shown(column.label),
        direction if column.arrow else "",
    )


def in_words(arrow: str) -> str:
    """What is better by an arrow: "higher", "lower" or such as "closer to 1"."""
    return {"↑": "higher", "↓": "lower"}.get(arrow, arrow.replace("→", "closer to"))


def _html_cell(cell: Cell, is_first: bool) -> Markup:
    text = escape(shown(cell.text))
    content = cell.thumbnails + (Markup("<b>{}</b>").format(text) if cell.mark == "best" else text)
    content += Markup("").join(Markup("<small>{}</small>").format(line) for line in cell.detail.splitlines())
    if is_first:
        return Markup('<th scope="row" data-order="{}">{}</th>').format(shown(cell.text), content)
    if cell.value is None:
        return Markup('<td data-order="{}">{}</td>').format(shown(cell.text), content)
    return Markup('<td class="number {}" data-order="{}">{}</td>').format(cell.mark, _exact(cell.value), content)


def _metric_column(key: str, metric: Metric) -> Column:
    return Column(metric.label, key, metric.arrow)


def _metric_columns(keys: Iterable[str]) -> list[Column]:
    return [_metric_column(key, METRICS[key]) for key in keys]


def _compared_column(key: str) -> Column:
    metric = METRICS[key]
    if metric.target is None:
        return _metric_column(key, metric)
    return Column(f"{metric.label}, distance from {metric.target:g}", key, "↓")


def _number(value: float | None, text: str) -> Cell:
    return Cell(text, np.nan if value is None else float(value))


def _mean(mean: Mean, metric: Metric) -> Cell:
    interval = mean.interval
    text = format_number(interval.mean, metric.digits)
    return Cell(text, interval.mean, interval.bracket(metric.digits), "best" if mean.best else "")


def results(evaluation: Evaluation) -> Table:
    """Every method's means with their intervals, its FID and its speed."""

    def row(scores: Scores, of_method: Mapping[str, Mean]) -> list[Cell]:
        cells = [Cell(scores.name), *(_mean(of_method[key], METRICS[key]) for key in evaluation.metrics)]
        if evaluation.has_fid:
            cells.append(_number(scores.fid, format_number(scores.fid, FID.digits)))
        return [*cells, _number(scores.images_per_second, format_speed(scores.images_per_second))]

    columns = [Column("method", is_number=False), *_metric_columns(evaluation.metrics)]
    columns += [_metric_column("fid", FID)] * evaluation.has_fid
    rows = [row(*pair) for pair in zip(evaluation.scores, means(evaluation), strict=True)]
    return Table([*columns, Column("images/s")], rows)


def paired_differences(evaluation: Evaluation, *, first_is_baseline: bool) -> Table:
    """Differences from the first method on the same images.

    Args:
      evaluation: The scores.
      first_is_baseline: True: each other method minus the first; False: the first minus each other.
    """
    first, *others = evaluation.scores

    def cell(other: Scores, key: str) -> Cell:
        pair = (other, first) if first_is_baseline else (first, other)
        metric, count = METRICS[key], len(evaluation.images)
        interval, verdict = compared(pair[0].values[key], pair[1].values[key], metric)
        over = f"{interval.finite:,} of {count:,} images" if interval.left_out else ""
        detail = "\n".join(filter(None, (interval.bracket(metric.digits, format_difference), over, verdict)))
        mark = verdict if verdict in ("better", "worse") else ""
        return Cell(format_difference(interval.mean, metric.digits), interval.mean, detail, mark)

    columns = [Column("method" if first_is_baseline else "minus", is_number=False)]
    rows = [[Cell(other.name), *(cell(other, key) for key in evaluation.metrics)] for other in others]
    return Table([*columns, *map(_compared_column, evaluation.metrics)], rows)


def by_hole_size(evaluation: Evaluation) -> Table:
    """The methods' means over the images of each bin of hole sizes; no interval from fewer than 10 images."""
    keys = [key for key in _BINNED if key in evaluation.metrics]

    def cell(values: np.ndarray, metric: Metric) -> Cell:
        interval = mean_interval(values)
        if interval.finite < FEWEST_WITH_INTERVAL:
            interval = interval._replace(low=np.nan, high=np.nan)
        return _mean(Mean(interval), metric)

    columns = [Column("hole", is_number=False), Column("method", is_number=False), *_metric_columns(keys)]
    rows = [
        [
            Cell(label, detail=f"n = {len(indices):,}"),
            Cell(scores.name),
            *(cell(scores.values[key][indices], METRICS[key]) for key in keys),
        ]
        for label, indices in hole_ratio_bins(evaluation.hole_ratio).items()
        for scores in evaluation.scores
    ]
    return Table(columns, rows)


def per_image(evaluation: Evaluation, thumbnails: Sequence[Markup] | None = None) -> Table:
    """Every method's numbers on every image, or the first method's alone beside thumbnails.

    Args:
      evaluation: The scores.
      thumbnails: Of the first images, which are then the only rows; None: all images and methods.
    """

    def rows() -> Iterator[list[Cell]]:
        for place in range(len(evaluation.images) if thumbnails is None else len(thumbnails)):
            ratio = float(evaluation.hole_ratio[place])
            index = place if evaluation.indices is None else evaluation.indices[place]
            image = Cell(evaluation.images[place], thumbnails=thumbnails[place] if thumbnails else Markup(""))
            head = [image, Cell(str(index), index), Cell(format_number(100 * ratio, 1), ratio)]
            for scores in evaluation.scores if thumbnails is None else evaluation.scores[:1]:
                method = [Cell(scores.name)] if thumbnails is None else []
                values = [(METRICS[key], float(scores.values[key][place])) for key in evaluation.metrics]
                yield (
                    head + method + [Cell(format_number(value, metric.digits), value) for metric, value in values]
                )

    columns = [Column("image", is_number=False), Column("#", "index"), Column("hole, %", "hole_ratio")]
    columns += [Column("method", is_number=False)] if thumbnails is None else []
    return Table([*columns, *_metric_columns(evaluation.metrics)], rows())


def differing_settings(label: str, settings: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """The settings whose values differ between runs; None if there are none.

    Args:
      label: Heading of the first column, such as "key".
      settings: Values by key for each run by its name; empty if unknown, which differs from nothing.
    """

    def text(values: Mapping[str, Any], key: str) -> str:
        value = values.get(key, "-")
        return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)

    known = [values for values in settings.values() if values]
    keys = sorted({key for values in known for key in values})
    rows = [
        [Cell(key), *(Cell(text(values, key)) for values in settings.values())]
        for key in keys
        if len({text(values, key) for values in known}) > 1
    ]
    return Table([Column(name, is_number=False) for name in (label, *settings)], rows) if rows else None


def notes_on_results(evaluation: Evaluation, mark: str = "bold") -> list[str]:
    """Notes on the results, whose best means have a mark: intervals, images left out, metrics not computed."""
    count = len(evaluation.images)
    notes = [_INTERVALS, _BEST.format(mark.capitalize(), mark), *([FEW] if count < FEW_IMAGES else [])]
    for key in evaluation.metrics:
        label, target = METRICS[key].label, METRICS[key].target
        if target is not None:
            notes.append(f"{label}: {mark} and paired differences are by each image's distance from {target:g}.")
        if key == "judge":
            tested = int(np.count_nonzero(~np.isnan(evaluation.scores[0].values[key])))
            notes.append(
                f"{label}: accuracy of a network trained to tell completed from original patches, over the "
                f"{count_of(tested, 'image')} on which it was not trained; 0.5: it cannot tell. The intervals do "
                "not cover the chance in its training."
            )
            continue
        for scores, row in zip(evaluation.scores, means(evaluation), strict=True):
            parts = [f"{row[key].infinite:,} infinite"] if row[key].infinite else []
            parts += [f"{row[key].missing:,} without a number"] if row[key].missing else []
            if parts:
                where = f"{label}, {scores.name}"
                notes.append(
                    f"Left out of the mean: {where}: {' and '.join(parts)} of {count_of(count, 'image')}."
                )
    missing = dict(evaluation.not_computed)
    if "lpips" not in evaluation.metrics:
        missing.setdefault("LPIPS", "")
    if not evaluation.has_fid:
        missing.setdefault("FID", "")
    notes += [f"{label}: not computed" + (f" ({reason})." if reason else ".") for label, reason in missing.items()]
    return notes


def markdown_results(evaluation: Evaluation) -> str:
    """The results in Markdown, and below them their notes."""
    first, *others = notes_on_results(evaluation)
    notes = [f"{count_of(len(evaluation.images), 'image')}. {first}", *others]
    return to_markdown(results(evaluation)) + "\n" + "".join(f"- {_plain(note)}\n" for note in notes)


def text_results(evaluation: Evaluation) -> str:
    """The results as text for a terminal, and below them their notes."""
    _, *others = notes_on_results(evaluation, mark="*")
    notes = [f"{count_of(len(evaluation.images), 'image')}; table.md has the intervals.", *others]
    wrap = textwrap.TextWrapper(TEXT_WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "\n".join([to_text(results(evaluation)), *(wrap.fill(printable(note)) for note in notes)])


def write_markdown(evaluation: Evaluation, path: str | Path) -> None:
    """Writes the title, the verdict, the results and the protocol."""
    parts = [f"# {_plain(evaluation.title)}", _plain(verdict(evaluation)), markdown_results(evaluation).rstrip()]
    protocol = [f"- {_plain(heading)}: {_plain(value)}" for heading, value in evaluation.protocol.items()]
    protocol += [f"- {_plain(note)}" for note in evaluation.notes]
    if protocol:
        parts += ["## Protocol", "\n".join(protocol)]
    write_atomically(path, "\n\n".join(parts) + "\n")


def write_csv(evaluation: Evaluation, path: str | Path) -> None:
    """Writes one line per image and method with every metric; `index` is the place that selects the mask."""
    write_atomically(path, to_csv(per_image(evaluation)))


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """Writes the means with their intervals, and the protocol; null where a number is not finite."""

    def finite(value: float) -> float | None:
        return value if abs(value) < float("inf") else None

    rows = [
        {
            "name": scores.name,
            "images_per_second": scores.images_per_second,
            "fid": scores.fid,
            "metrics": {
                key: {name: finite(value) for name, value in mean.interval._asdict().items()}
                for key, mean in row.items()
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
