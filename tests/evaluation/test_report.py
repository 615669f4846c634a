"""The HTML report of an evaluation, and of a comparison of runs."""

import base64
import hashlib
import math
import re

import numpy as np
import pytest
from helpers.pages import Drawn, Page, decode_jpeg, evaluation, section, write_page

from glcic_jax.errors import DataError
from glcic_jax.evaluation.compare import RunRecord, training_section
from glcic_jax.evaluation.report.report import embed, write_report
from glcic_jax.evaluation.scores import Scores

BAD_NAME = "<script>alert('1')</script>\"&\udcff Größe 日本.png"
SHOWN_NAME = "<script>alert('1')</script>\"&\\udcff Größe 日本.png"
RUNS = ("runs/a, step 7", "runs/b, step 7", "c.safetensors")


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """An evaluation of 40 images, its page's text and elements."""
    found = evaluation(40)
    return found, *write_page(found, tmp_path_factory.mktemp("forty"))


def test_the_page_requests_nothing_and_runs_only_its_own_script(forty):
    _, text, page = forty
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
    styles = page.texts("style")[0]
    assert "url(" not in styles
    assert "@import" not in styles
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes, _ in page.all("a")} <= set(ids)


def test_names_are_escaped(tmp_path):
    scores = [Scores(BAD_NAME + str(place), {"hole_l1": np.linspace(0, place, 4)}) for place in range(3)]
    found = evaluation(4, scores=scores, protocol={BAD_NAME: BAD_NAME}, notes=[BAD_NAME])
    found.not_computed[BAD_NAME] = BAD_NAME
    found.images[0] = BAD_NAME
    text, page = write_page(found, tmp_path)
    assert len(page.all("script")) == len(re.findall("<script", text)) == 1
    assert {SHOWN_NAME, f"{SHOWN_NAME}1"} <= set(page.texts("th", scope="row"))
    assert page.texts("dt")[0] == page.texts("dd")[0] == SHOWN_NAME
    alts = [attributes["alt"] for attributes, _ in page.all("img", data_row="0")]
    assert f"{SHOWN_NAME}0 of {SHOWN_NAME}" in alts


def test_results_have_means_intervals_and_directions(forty):
    found, _, page = forty
    head, first, *others = page.rows()
    assert head == [
        "method",
        "hole L1 ↓, lower is better",
        "hole PSNR, dB ↑, higher is better",
        "SSIM ↑, higher is better",
        "images/s",
    ]
    mean = found.scores[0].values["hole_l1"].mean()
    assert first[0] == "run, step 7"
    assert re.fullmatch(rf"{mean:.4f}\[0\.\d{{4}}, 0\.\d{{4}}\]", first[1])
    assert first[-1] == "-"
    assert [row[0] for row in others] == ["mean fill", "Telea"]
    best = [attributes for attributes, _ in page.all("td") if "best" in attributes.get("class", "")]
    means = [found.scores[0].values[metric].mean() for metric in found.metrics]
    assert [float(attributes["data-order"]) for attributes in best] == means
    assert len(page.all("b")) == 3


def test_every_column_is_sorted_by_a_button(forty):
    _, _, page = forty
    assert len(page.all("table", class_="sortable")) == len(page.all("table")) == 4
    buttons = [text for attributes, text in page.all("button") if attributes.get("class") != "copy"]
    assert page.texts("th", aria_sort="none") == page.texts("th", scope="col") == buttons


def test_lpips_and_fid_have_columns_only_if_they_were_computed(tmp_path):
    _, page = write_page(evaluation(not_computed={"LPIPS": "no file was given"}), tmp_path)
    assert not any("LPIPS" in cell or "FID" in cell for cell in page.rows()[0])
    assert {"LPIPS: not computed (no file was given).", "FID: not computed."} <= set(page.texts("li"))
    values = {"l1": np.linspace(0, 1, 12), "lpips": np.linspace(0, 1, 12)}
    _, page = write_page(evaluation(scores=[Scores("a", values, fid=12.5), Scores("b", values)]), tmp_path)
    head, first, second = page.rows()
    assert head[2:4] == ["LPIPS ↓, lower is better", "FID ↓, lower is better"]
    assert (first[3], second[3]) == ("12.50", "-")
    assert not any("not computed" in text for text in page.texts("li"))


def test_paired_differences_say_better_or_worse(tmp_path):
    found = evaluation(40, names=("Telea", "run"))
    found.scores.reverse()  # Now the first is the worse one.
    text, page = write_page(found, tmp_path)
    head, row = Page(section(text, "differences")).rows()
    assert (head[0], row[0]) == ("minus", "Telea")
    gap = np.mean(found.scores[0].values["hole_l1"] - found.scores[1].values["hole_l1"])
    assert row[1].startswith(f"+{gap:.4f}[+0.0")
    assert [cell.endswith("]worse") for cell in row[1:]] == [True] * 3
    assert "worse on hole L1" in page.texts("p", class_="lead")[0]


def test_hole_sizes_have_their_bins(tmp_path):
    found = evaluation(12)
    found.hole_ratio[:2] = 0.0
    part = section(write_page(found, tmp_path)[0], "holes")
    _, *rows = Page(part).rows()
    assert "2 without a hole" in part
    labels = [row[0].partition("n = ") for row in rows]
    assert [label for label, _, _ in labels] == ["10-20 %"] * 3 + ["20-30 %"] * 3 + ["30-40 %"] * 3
    assert sum(int(count) for _, _, count in labels[::3]) == 10
    inside = (found.hole_ratio > 0.1) & (found.hole_ratio <= 0.2)
    mean = found.scores[0].values["hole_l1"][inside].mean()
    assert rows[0][1:3] == ["run, step 7", f"{mean:.4f}"]  # Without an interval.
    assert "Bins with fewer than 30 images, too few to rely on: 10-20 %, 20-30 %, 30-40 %; bins with" in part


def test_the_gallery_shows_each_rank_with_pictures_and_numbers(forty):
    found, _, page = forty
    order = np.argsort(found.scores[0].values["hole_l1"])
    wanted = [*range(4), *range(18, 22), *range(36, 40)]
    hole = 100 * found.hole_ratio[order]
    assert page.texts("h4") == [
        f"Rank {rank + 1} of 40: {found.images[order[rank]]}, hole {hole[rank]:.1f} %" for rank in wanted
    ]
    images = [attributes for attributes, _ in page.all("img") if "data-row" in attributes]
    assert len(images) == 12 * 5
    for place, attributes in enumerate(images):
        row, kind = divmod(place, 5)
        assert (attributes["data-row"], attributes["data-kind"]) == (str(row), str(kind))
        colour = (order[wanted[row]], 50 * kind, 9)
        np.testing.assert_allclose(decode_jpeg(attributes["src"]).mean(axis=(0, 1)), colour, atol=3)
    value = found.scores[1].values["hole_l1"][order[0]]
    assert page.texts("figure")[2].startswith(f"mean fill hole L1 {value:.4f}hole PSNR ")
    assert len(page.all("option")) == 12 + 5 + 5
    assert page.all("input", type="range")


def test_images_without_holes_are_ranked_by_the_whole_image(tmp_path):
    values = {"hole_l1": np.full(6, math.nan), "l1": np.arange(6.0)}
    _, page = write_page(evaluation(6, scores=[Scores("run", values)]), tmp_path)
    assert "By L1 of run" in " ".join(page.texts("p"))
    titles = [f"Rank {index + 1} of 6: folder/{index:03d}.png" for index in range(6)]
    assert [text.split(",")[0] for text in page.texts("h4")] == titles


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_make_a_page(tmp_path, count):
    _, page = write_page(evaluation(count), tmp_path)
    assert len(page.all("h4")) == count
    assert any("Fewer than 30 images" in text for text in page.texts("li"))


def test_the_list_ends_after_200_images_and_requests_each_once(tmp_path):
    found = evaluation(300)
    pictures = Drawn(found, side=130)
    text, page = write_page(found, tmp_path, pictures)
    assert len(pictures.asked) == len(set(pictures.asked)) <= 212
    assert set(range(200)) <= set(pictures.asked)
    assert len(page.rows(id="list")) == 201
    assert any("The first 200 of 300 images" in heading for heading in page.texts("h2"))
    assert len(text.encode()) < 6e6
    images = [attributes for attributes, _ in page.all("img") if attributes.get("src")]
    assert {max(int(image["width"]), int(image["height"])) for image in images} == {64, 256}


def test_the_list_has_the_first_methods_numbers(tmp_path):
    found = evaluation(4, indices=[0, 2, 3, 9])
    found.scores[0].values["hole_psnr"][:2] = (math.nan, math.inf)
    _, page = write_page(found, tmp_path)
    rows = page.rows(id="list")
    value = found.scores[0].values["hole_l1"][0]
    assert rows[1][:4] == ["folder/000.png", "0", "5.0", f"{value:.4f}"]
    assert [row[1] for row in rows[1:]] == ["0", "2", "3", "9"]
    assert [row[4] for row in rows[1:3]] == ["-", "∞"]
    assert {"", "inf"} <= {attributes.get("data-order") for attributes, _ in page.all("td")}


def test_protocol_metrics_and_markdown_are_there(tmp_path):
    found = evaluation(notes=["Mind this."], protocol={"versions": "jax 1\nflax 2"})
    text, page = write_page(found, tmp_path)
    assert "<dt>versions</dt><dd>jax 1\nflax 2</dd>" in text
    assert "Mind this." in page.texts("li")
    assert any("Gaussian window of 11 taps" in meaning for meaning in page.texts("dd"))
    assert page.texts("pre")[0].startswith("| method | hole L1 ↓ |")


def test_missing_pictures_are_shown_as_missing(tmp_path):
    found = evaluation(3)
    without_telea = lambda index, methods: Drawn(found)(index, set(methods) - {"Telea"})  # noqa: E731
    _, page = write_page(found, tmp_path, without_telea)
    assert len(page.all("span", class_="none")) == 3


def test_a_failed_report_leaves_the_old_one(tmp_path):
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
def test_pictures_keep_their_aspect_and_are_never_enlarged(shape, size):
    found = embed(np.full((*shape, 3), (200, 10, 90), np.uint8), 64)
    assert (found.width, found.height) == size
    picture = decode_jpeg(found.uri)
    assert picture.shape == (size[1], size[0], 3)
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), (200, 10, 90), atol=3)


def runs():
    def rows(values):
        return [{"step": 10 * (place + 1), "reconstruction_loss": value} for place, value in enumerate(values)]

    first = RunRecord(rows((3.0, 2.0, 1.0)), {"seed": 0, "data.size": 64}, {"jax": "1", "flax": "2"})
    second = RunRecord(rows((2.0, 1.5)), {"seed": 1}, {"jax": "1", "flax": "3"})
    return dict(zip(RUNS, (first, second, RunRecord([], {}, {})), strict=True))


def test_a_comparison_has_curves_settings_and_differences_from_the_first(tmp_path):
    found = evaluation(40, names=RUNS)
    text, page = write_page(found, tmp_path, training=training_section(runs()))
    assert page.texts("p", class_="lead")[0].startswith("3 runs on the same 40 images with the same holes.")
    training = Page(section(text, "training"))
    assert training.rows() == [["key", *RUNS], ["data.size", "64", "-", "-"], ["seed", "0", "1", "-"]]
    tables = section(text, "training").split("<table")
    assert "flax" in tables[2]
    assert "jax" not in tables[2].replace("flax", "")
    unknown = [f"The {what} of {RUNS[2]}: not known." for what in ("configuration", "package versions")]
    assert {f"{RUNS[2]} has no training log.", *unknown} <= set(training.texts("li"))
    ((curves, _),) = training.all("img", class_="curves")
    head, content = curves["src"].split(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(content).startswith(b"<?xml")
    differences = section(text, "differences")
    _, *rows = Page(differences).rows()
    assert [row[0] for row in rows] == [*RUNS[1:]]
    gap = np.mean(found.scores[1].values["hole_l1"] - found.scores[0].values["hole_l1"])
    assert rows[0][1].startswith(f"+{gap:.4f}[+0.0")
    assert all(cell.endswith("]worse") for row in rows for cell in row[1:])
    assert "not the chance in training" in differences


def test_a_comparison_of_one_unknown_run_makes_a_page(tmp_path):
    name = "<b>run</b>\udcff"
    training = training_section({name: RunRecord([], {}, {})})
    text, page = write_page(evaluation(1, names=(name,)), tmp_path, training=training)
    assert "There is no other run." in text
    assert page.texts("th", scope="row")[0] == "<b>run</b>\\udcff"
    assert "The configuration of &lt;b&gt;run&lt;/b&gt;\\udcff: not known." in text
    assert "the same, as far as known" not in text
    assert not page.all("img", class_="curves")
    assert page.texts("p", class_="lead")[0].startswith("1 run on the same 1 image with")


def test_equal_settings_are_reported_as_equal():
    known = RunRecord([], {"seed": 0}, {"jax": "1"})
    training = training_section({"a": known, "b": known, "c": RunRecord([], {}, {})})
    assert not training.settings
    assert "The configuration of all runs: the same, as far as known." in training.notes
