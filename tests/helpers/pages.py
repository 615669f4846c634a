"""Evaluations made up for tests of tables and pages, and a reader of pages."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from glcic_jax.evaluation.scores import Evaluation, Scores

VOID = {"meta", "img", "input", "br", "line", "polyline", "circle"}


def evaluation(
    count=12, names=("run, step 7", "mean fill", "Telea"), metrics=("hole_l1", "hole_psnr", "ssim"), **kept
):
    """Every method is a little worse than the one before it, on every image."""
    rng = np.random.default_rng(0)
    hard = {metric: rng.uniform(0.1, 0.2, count) for metric in metrics}
    scores = []
    for place, name in enumerate(names):
        sign = {metric: -1 if metric.endswith(("psnr", "ssim")) else 1 for metric in metrics}
        noise = {metric: rng.uniform(0.009, 0.011, count) * place for metric in metrics}
        scores.append(Scores(name, {m: hard[m] + sign[m] * noise[m] for m in metrics}))
    images = [f"folder/{index:03d}.png" for index in range(count)]
    kept = {"protocol": {"data": "folder:pictures", "masks": "centre"}, "scores": scores, **kept}
    return Evaluation("A title", images=images, hole_ratio=np.linspace(0.05, 0.35, count), **kept)


class Drawn:
    """Pictures that can be told apart, and which of them were asked for.

    Args:
      of: The evaluation that they are of.
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
    """A page's elements: [tag, attributes, text inside], in order; fails where a tag is left open.

    Args:
      text: Of the page.
    """

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

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

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


def decoded(uri):
    """The picture in a data URI, [H, W, 3] uint8."""
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
