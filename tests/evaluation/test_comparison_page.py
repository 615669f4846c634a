"""The page that compares runs, and its curves."""

import math

import numpy as np
import pytest
from helpers.pages import Drawn, Page, decoded, evaluation

from glcic_jax.evaluation.report.comparison import Differing, RunRecord, differing, write_comparison
from glcic_jax.evaluation.report.curves import HEIGHT, WIDTH, charts

NAMES = ("runs/a, step 7", "runs/b, step 7", "c.safetensors")


def rows(key="reconstruction_loss", values=(3.0, 2.0, 1.0)):
    return [{"step": 10 * (place + 1), key: value} for place, value in enumerate(values)]


def runs():
    first = RunRecord(NAMES[0], rows(), {"seed": 0, "data.size": 64, "same": [1, 2]}, {"jax": "1", "flax": "2"})
    second = RunRecord(NAMES[1], rows(values=(2.0, 1.5)), {"seed": 1, "same": (1, 2)}, {"jax": "1", "flax": "3"})
    return [first, second, RunRecord(NAMES[2], [], {}, {})]


def written(tmp_path, found=None, records=None, pictures=None):
    """The page's text and its elements."""
    found = found or evaluation(20, names=NAMES)
    write_comparison(found, pictures or Drawn(found), runs() if records is None else records, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    return text, Page(text)


def part(text, name):
    """The page's section with a heading's id."""
    begin = text.index(f'<h2 id="{name}">')
    end = text.find("<h2", begin + 1)
    return text[begin:end]


def test_a_curve_goes_through_its_points():
    (chart,) = charts(["a", "b"], [rows(), rows(values=(2.0, 1.5))])
    assert chart.title == "reconstruction loss in the hole"
    assert not chart.logarithmic
    assert [line.run for line in chart.lines] == [0, 1]
    assert chart.lines[0].pieces == [f"0.0,0.0 {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH:.1f},{HEIGHT:.1f}"]
    assert chart.lines[1].pieces == [f"0.0,{HEIGHT / 2:.1f} {WIDTH / 2:.1f},{HEIGHT * 0.75:.1f}"]
    assert [tick.label for tick in chart.values] == ["1", "1.5", "2", "2.5", "3"]
    assert chart.values[0].place == f"{HEIGHT:.1f}"
    assert [tick.label for tick in chart.steps] == ["10", "15", "20", "25", "30"]


def test_numbers_of_many_sizes_are_drawn_on_a_logarithmic_scale():
    (chart,) = charts(["a"], [rows("adversarial_weight", (1e-4, 1e-2, 1.0))])
    assert chart.logarithmic
    assert chart.lines[0].pieces == [f"0.0,{HEIGHT:.1f} {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH:.1f},0.0"]
    assert [tick.label for tick in chart.values] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert not charts(["a"], [rows(values=(-1.0, 100.0))])[0].logarithmic


def test_a_curve_breaks_where_there_is_no_number():
    values = (1.0, 2.0, math.nan, 3.0, math.inf, 1.0, 2.0, "x", True, None)
    (chart,) = charts(["a", "b"], [rows(values=values), rows("other")])
    (line,) = chart.lines
    assert [piece.count(",") for piece in line.pieces] == [2, 2]
    assert len(line.dots) == 1
    assert line.dots[0][1] == "0.0"
    assert chart.missing == ["b"]


def test_of_many_points_neighbours_are_averaged():
    values = np.where(np.arange(100_000) % 2, 3.0, 1.0)
    values[:50_000] += 10
    (chart,) = charts(["a"], [rows(values=values.tolist())])
    points = chart.lines[0].pieces[0].split()
    assert 200 <= len(points) <= 500
    assert {point.split(",")[1] for point in points} == {"0.0", f"{HEIGHT:.1f}"}


@pytest.mark.parametrize("values", [(), (math.nan,), (2.0,), (2.0, 2.0), (0.0, 0.0)])
def test_curves_of_little(values):
    found = charts(["a"], [rows(values=values)])
    finite = np.isfinite(values).any()
    assert len(found) == finite
    if finite:
        places = [number for line in found[0].lines for piece in line.pieces for number in piece.split()]
        assert all(0 <= float(n) <= WIDTH for place in places for n in place.split(","))


def test_only_what_differs_is_listed():
    found = differing([run.config for run in runs()])
    assert found == [Differing("data.size", ["64", "-", "-"]), Differing("seed", ["0", "1", "-"])]
    assert differing([{"a": 1}, {"a": 1}, {}]) == []
    assert differing([{"a": ""}, {"a": "x"}]) == [Differing("a", ['""', "x"])]
    assert differing([{"a": 1}, {"a": True}]) == [Differing("a", ["1", "true"])]
    assert differing([{}, {}]) == differing([]) == []


def test_the_page_has_curves_settings_and_what_is_missing(tmp_path):
    text, page = written(tmp_path)
    curves = Page(part(text, "curves"))
    assert [name for _, name in curves.all("li")] == [*NAMES[:2]]
    assert [attributes["class"] for attributes, _ in curves.all("polyline")] == ["run-0 dash-0", "run-1 dash-1"]
    assert f"{NAMES[2]} has no training log." in [text for _, text in curves.all("p")]
    settings = Page(part(text, "settings"))
    assert settings.rows() == [["key", *NAMES], ["data.size", "64", "-", "-"], ["seed", "0", "1", "-"]]
    assert "flax" in part(text, "settings")
    assert "jax" not in part(text, "settings").replace("flax", "")
    assert f"The configuration of {NAMES[2]} is not known." in [text for _, text in settings.all("p")]
    assert "'none'" in page.all("meta", http_equiv="Content-Security-Policy")[0][0]["content"]


def test_every_run_is_compared_with_the_first(tmp_path):
    found = evaluation(40, names=NAMES)
    text, page = written(tmp_path, found)
    assert [row[0] for row in page.rows()[1:]] == [*NAMES]
    section = part(text, "differences")
    rows_of = Page(section).rows()
    assert [row[0] for row in rows_of[1:]] == [*NAMES[1:]]
    gap = np.mean(found.scores[1].values["hole_l1"] - found.scores[0].values["hole_l1"])
    assert rows_of[1][1].startswith(f"+{gap:.4f}[+0.0")
    assert all(cell.endswith("]worse") for row in rows_of[1:] for cell in row[1:])
    assert "not of the chance in training" in " ".join(section.split())


def test_the_first_twelve_images_are_side_by_side(tmp_path):
    found = evaluation(20, names=NAMES)
    pictures = Drawn(found)
    _, page = written(tmp_path, found, pictures=pictures)
    assert pictures.asked == list(range(12))
    images = [attributes for attributes, _ in page.all("img") if "data-row" in attributes]
    assert len(images) == 12 * 5
    for place, attributes in enumerate(images):
        index, kind = divmod(place, 5)
        np.testing.assert_allclose(decoded(attributes["src"])[0, 0], (index, 50 * kind, 9), atol=3)
    assert [text.split(",")[0] for _, text in page.all("h4")] == found.images[:12]


def test_runs_without_anything_make_a_page(tmp_path):
    found = evaluation(1, names=("<b>run</b>\udcff",))
    text, page = written(tmp_path, found, [RunRecord("<b>run</b>\udcff", [], {}, {})])
    assert "There is no other run." in text
    assert page.all("th", scope="row")[0][1] == "<b>run</b>\\udcff"
    assert "configuration differs" not in text
    assert "The configuration of &lt;b&gt;run&lt;/b&gt;\\udcff is not known." in text
    assert "ran with are not known" in text
    assert not page.all("polyline")
    assert "1 run on the same 1 image with" in page.all("p", class_="lead")[0][1]
