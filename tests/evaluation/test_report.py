"""The page of an evaluation."""

import base64
import hashlib
import math
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import numpy as np
import pytest
from helpers.common import ROOT
from helpers.pages import Drawn, Page, decoded, evaluation

from glcic_jax.errors import DataError
from glcic_jax.evaluation.report.page import embed
from glcic_jax.evaluation.report.report import write_report
from glcic_jax.evaluation.scores import Scores

BAD_NAME = "<script>alert('1')</script>\"&\udcff Größe 日本.png"
SHOWN_NAME = "<script>alert('1')</script>\"&\\udcff Größe 日本.png"


def written(found, tmp_path, pictures=None):
    """The page's text and its elements."""
    write_report(found, pictures or Drawn(found), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_pages_need_no_jax():
    code = "import sys; from glcic_jax.evaluation.report import comparison, report; print('jax' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"


def test_the_templates_are_part_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["glcic_jax.evaluation.report"]
    for path in (ROOT / "glcic_jax" / "evaluation" / "report" / "templates").iterdir():
        assert any(fnmatch(f"templates/{path.name}", pattern) for pattern in patterns), path


def test_the_page_asks_for_nothing_and_runs_its_own_script_only(tmp_path):
    text, page = written(evaluation(), tmp_path)
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0][0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for _, attributes, _ in page.elements:
        assert not {"action", "data", "srcset", "poster"} & set(attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    styles = page.all("style")[0][1]
    assert "url(" not in styles
    assert "@import" not in styles
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes, _ in page.all("a")} <= set(ids)


def test_names_from_outside_are_text(tmp_path):
    scores = [Scores(BAD_NAME + str(place), {"hole_l1": np.linspace(0, place, 4)}) for place in range(3)]
    found = evaluation(4, scores=scores, protocol={BAD_NAME: BAD_NAME}, notes=[BAD_NAME])
    found.not_computed[BAD_NAME] = BAD_NAME
    found.images[0] = BAD_NAME
    text, page = written(found, tmp_path)
    assert len(page.all("script")) == 1
    assert len(re.findall("<script", text)) == 1
    names = [name for _, name in page.all("th", scope="row")]
    assert SHOWN_NAME in names
    assert f"{SHOWN_NAME}1" in names
    assert page.all("dt")[0][1] == page.all("dd")[0][1] == SHOWN_NAME
    assert any(
        attributes["alt"] == f"{SHOWN_NAME}0 of {SHOWN_NAME}" for attributes, _ in page.all("img", data_row="0")
    )


def test_the_table_has_means_intervals_and_directions(tmp_path):
    found = evaluation(40)
    _, page = written(found, tmp_path)
    head, first, *others = page.rows()
    assert head == ["method", "hole L1 ↓, lower is better", "hole PSNR, dB ↑, higher is better"] + [
        "SSIM ↑, higher is better",
        "images/s",
    ]
    mean = found.scores[0].values["hole_l1"].mean()
    assert first[:1] == ["run, step 7"]
    assert re.fullmatch(rf"{mean:.4f}\[0\.\d{{4}}, 0\.\d{{4}}\]", first[1])
    assert first[-1] == "-"
    assert [row[0] for row in others] == ["mean fill", "Telea"]
    best = [attributes for attributes, _ in page.all("td") if "best" in attributes["class"]]
    assert [float(attributes["data-order"]) for attributes in best] == [
        found.scores[0].values[metric].mean() for metric in found.metrics
    ]
    assert len(page.all("b")) == 3


def test_columns_are_sorted_by_buttons(tmp_path):
    _, page = written(evaluation(), tmp_path)
    tables = len(page.all("table", class_="sortable"))
    assert tables == 3
    sortable = page.all("th", aria_sort="none")
    buttons = [text for attributes, text in page.all("button") if attributes.get("class") != "copy"]
    assert [text for _, text in sortable] == buttons
    assert len(sortable) == 5 + 4 + 6


def test_lpips_and_fid_have_columns_only_where_they_were_computed(tmp_path):
    _, page = written(evaluation(not_computed={"LPIPS": "no file was given"}), tmp_path)
    assert not any("LPIPS" in cell or "FID" in cell for cell in page.rows()[0])
    notes = [text for _, text in page.all("li")]
    assert "LPIPS: not computed (no file was given)" in notes
    assert "FID: not computed" in notes
    scores = [
        Scores("a", {"lpips": np.linspace(0, 1, 12)}, fid=12.5),
        Scores("b", {"lpips": np.linspace(0, 1, 12)}),
    ]
    _, page = written(evaluation(scores=scores), tmp_path)
    head, first, second = page.rows()
    assert head[1:3] == ["LPIPS ↓, lower is better", "FID ↓, lower is better"]
    assert (first[2], second[2]) == ("12.50", "-")
    assert not any("not computed" in text for _, text in page.all("li"))


def test_paired_differences_say_better_or_worse(tmp_path):
    found = evaluation(40, names=("Telea", "run"))
    found.scores.reverse()  # Now the first is the worse one.
    text, page = written(found, tmp_path)
    section = Page(text[text.index('<h2 id="differences">') : text.index('<h2 id="holes">')])
    head, row = section.rows()
    assert (head[0], row[0]) == ("minus", "Telea")
    gap = np.mean(found.scores[0].values["hole_l1"] - found.scores[1].values["hole_l1"])
    assert row[1].startswith(f"+{gap:.4f}[+0.0")
    assert [cell.endswith("]worse") for cell in row[1:]] == [True] * 3
    assert "worse on hole L1" in page.all("p", class_="lead")[0][1]


def test_hole_sizes_have_their_bins(tmp_path):
    found = evaluation(12)
    found.hole_ratio[:2] = 0.0
    text, _ = written(found, tmp_path)
    part = text[text.index('<h2 id="holes">') : text.index('<h2 id="pictures">')]
    rows = Page(part).rows()
    assert "2 without a hole" in part
    bins = [row[0] for row in rows[1:] if len(row) == 5]
    counts = [int(re.search(r"n = (\d+)", label).group(1)) for label in bins]
    assert [label.partition("n =")[0] for label in bins] == ["10-20 %", "20-30 %", "30-40 %"]
    assert sum(counts) == 10
    inside = (found.hole_ratio > 0.1) & (found.hole_ratio <= 0.2)
    mean = found.scores[0].values["hole_l1"][inside].mean()
    assert rows[1][1] == "run, step 7"
    assert rows[1][2] == f"{mean:.4f}"  # Of so few no interval.
    assert "Fewer than 30 images, too few to rely on: 10-20 %, 20-30 %, 30-40 %; fewer than 10 have no" in part


def test_grids_show_each_rank_with_its_pictures_and_numbers(tmp_path):
    found = evaluation(30)
    _, page = written(found, tmp_path)
    order = np.argsort(found.scores[0].values["hole_l1"])
    wanted = [*range(4), *range(13, 17), *range(26, 30)]
    titles = [text for _, text in page.all("h4")]
    hole = 100 * found.hole_ratio[order]
    assert titles == [
        f"Rank {rank + 1} of 30: {found.images[order[rank]]}, hole {hole[rank]:.1f} %" for rank in wanted
    ]
    panes = [
        (attributes, decoded(attributes["src"])) for attributes, _ in page.all("img") if "data-row" in attributes
    ]
    assert len(panes) == 12 * 5
    for place, (attributes, picture) in enumerate(panes):
        row, kind = divmod(place, 5)
        assert (attributes["data-row"], attributes["data-kind"]) == (str(row), str(kind))
        colour = (order[wanted[row]], 50 * kind, 9)
        np.testing.assert_allclose(picture.mean(axis=(0, 1)), colour, atol=3)
    value = found.scores[1].values["hole_l1"][order[0]]
    figure = page.all("figure")[2][1]
    assert figure.startswith(f"mean fill hole L1 {value:.4f}hole PSNR ")
    choices = [text for _, text in page.all("option")]
    assert len(choices) == 12 + 5 + 5
    assert page.all("input", type="range")


def test_images_without_holes_are_ranked_by_the_whole_image(tmp_path):
    values = {"hole_l1": np.full(6, math.nan), "l1": np.arange(6.0)}
    _, page = written(evaluation(6, scores=[Scores("run", values)]), tmp_path)
    assert "By L1 of run" in " ".join(text for _, text in page.all("p"))
    assert [text.split(",")[0] for _, text in page.all("h4")] == [
        f"Rank {index + 1} of 6: folder/{index:03d}.png" for index in range(6)
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_make_a_page(tmp_path, count):
    found = evaluation(count)
    _, page = written(found, tmp_path)
    assert len(page.all("h4")) == count
    assert any("Fewer than 30 images" in text for _, text in page.all("li"))


def test_the_list_stops_at_200_images_and_asks_once_for_each(tmp_path):
    found = evaluation(300)
    pictures = Drawn(found, side=200)
    text, page = written(found, tmp_path, pictures)
    assert len(pictures.asked) == len(set(pictures.asked)) <= 212
    assert set(range(200)) <= set(pictures.asked)
    assert len(page.rows(id="list")) == 201
    assert any("The first 200 of 300 images" in heading for _, heading in page.all("h2"))
    assert len(text.encode()) < 6e6
    sides = {
        max(int(attributes["width"]), int(attributes["height"]))
        for attributes, _ in page.all("img")
        if attributes.get("src")
    }
    assert sides == {64, 256}


def test_the_list_has_the_first_methods_numbers(tmp_path):
    found = evaluation(4)
    found.scores[0].values["hole_psnr"][:3] = (math.nan, math.inf, -math.inf)
    _, page = written(found, tmp_path)
    rows = page.rows(id="list")
    assert rows[1][:1] == ["0"]
    assert rows[1][2:5] == ["folder/000.png", "5.0", f"{found.scores[0].values['hole_l1'][0]:.4f}"]
    assert [row[5] for row in rows[1:4]] == ["-", "∞", "\u2212∞"]
    orders = [attributes.get("data-order") for attributes, _ in page.all("td")]
    assert {"", "inf", "-inf"} <= set(orders)


def test_the_protocol_the_meanings_and_the_markdown_are_there(tmp_path):
    found = evaluation(notes=["Mind this."], protocol={"versions": "jax 1\nflax 2"})
    text, page = written(found, tmp_path)
    assert "<dt>versions</dt><dd>jax 1\nflax 2</dd>" in text
    assert "Mind this." in [note for _, note in page.all("li")]
    assert any("Gaussian window of 11 taps" in meaning for _, meaning in page.all("dd"))
    markdown = page.all("pre")[0][1]
    assert markdown.startswith("| method | hole L1 ↓ |")


def test_pictures_that_are_missing_leave_a_gap(tmp_path):
    found = evaluation(3)

    def without_telea(index, methods):
        return Drawn(found)(index, [name for name in methods if name != "Telea"])

    _, page = written(found, tmp_path, without_telea)
    assert len(page.all("span", class_="none")) == 3


def test_what_stood_there_stays_where_the_page_cannot_be_made(tmp_path):
    (tmp_path / "report.html").write_text("old")

    def broken(index, methods):
        raise DataError(f"{index}.png: cannot be read")

    with pytest.raises(DataError, match="cannot be read"):
        write_report(evaluation(), broken, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "old"
    with pytest.raises(DataError, match="is a directory"):
        write_report(evaluation(3), Drawn(evaluation(3)), tmp_path)


@pytest.mark.parametrize(
    ("shape", "size"), [((100, 50), (32, 64)), ((30, 20), (20, 30)), ((1, 1000), (64, 1)), ((64, 64), (64, 64))]
)
def test_thumbnails_keep_their_shape_and_are_never_enlarged(shape, size):
    found = embed(np.full((*shape, 3), (200, 10, 90), np.uint8), 64)
    assert (found.width, found.height) == size
    picture = decoded(found.uri)
    assert picture.shape == (size[1], size[0], 3)
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), (200, 10, 90), atol=3)
