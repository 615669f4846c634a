"""Synthetic evaluations and pictures for tests of tables and reports, and an HTML parser."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from glcic_jax.evaluation.report.report import write_report
from glcic_jax.evaluation.scores import Evaluation, Scores

VOID = {"meta", "img", "input", "br"}


def evaluation(
    count=12, names=("run, step 7", "mean fill", "Telea"), metrics=("hole_l1", "hole_psnr", "ssim"), **kept
):
    """On every image each method is a little worse than the one before it."""
    rng = np.random.default_rng(0)
    first = {metric: rng.uniform(0.1, 0.2, count) for metric in metrics}
    scores = []
    for place, name in enumerate(names):
        sign = {metric: -1 if metric.endswith(("psnr", "ssim")) else 1 for metric in metrics}
        noise = {metric: rng.uniform(0.009, 0.011, count) * place for metric in metrics}
        scores.append(Scores(name, {m: first[m] + sign[m] * noise[m] for m in metrics}))
    images = [f"folder/{index:03d}.png" for index in range(count)]
    kept = {"protocol": {"data": "folder:pictures", "masks": "centre"}, "scores": scores, **kept}
    kept.setdefault("not_computed", {})
    return Evaluation("A title", images=images, hole_ratio=np.linspace(0.05, 0.35, count), **kept)


class Drawn:
    """Distinguishable pictures of an evaluation; `asked` lists the requested images.

    Args:
      of: The evaluation.
      side: The shorter side; the longer is twice it.
    """

    def __init__(self, of, side=20):
        self.asked = []
        self._labels = ["input", *(scores.name for scores in of.scores), "original"]
        self._side = side

    def __call__(self, index, methods):
        self.asked.append(index)
        shape = (self._side, 2 * self._side, 3)
        return {
            label: np.full(shape, (index, 50 * place, 9), np.uint8)
            for place, label in enumerate(self._labels)
            if label in ("input", "original", *methods)
        }


class Page(HTMLParser):
    """The elements of a page, [tag, attributes, text inside] in order; fails on an unclosed tag."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        element = [tag, dict(attrs), ""]
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def all(self, tag, **wanted):
        """The elements with a tag and attributes, as (attributes, text)."""
        wanted = {name.strip("_").replace("_", "-"): value for name, value in wanted.items()}
        return [
            (attributes, " ".join(text.split()))
            for kind, attributes, text in self.elements
            if kind == tag and all(attributes.get(name) == value for name, value in wanted.items())
        ]

    def texts(self, tag, **wanted):
        """The texts of the elements with a tag and attributes."""
        return [text for _, text in self.all(tag, **wanted)]

    def rows(self, **wanted):
        """The rows of the first table with these attributes: a list of their cells' texts."""
        rows, inside = [], False
        for kind, attributes, text in self.elements:
            if kind == "table":
                if rows:
                    break
                inside = all(attributes.get(name) == value for name, value in wanted.items())
            elif inside and kind == "tr":
                rows.append([])
            elif inside and kind in ("th", "td"):
                rows[-1].append(" ".join(text.split()))
        return rows


def write_page(found, folder, pictures=None, training=None):
    """Writes a report; returns its text and its elements."""
    write_report(found, pictures or Drawn(found), folder / "report.html", training)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def section(text, name):
    """The part of a page below the heading with an id."""
    start = text.index(f'<h2 id="{name}">')
    end = text.find("<h2", start + 1)
    return text[start : end if end > 0 else text.index("</main>")]


def decode_jpeg(uri):
    """The picture in a data URI, [H, W, 3] uint8."""
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
