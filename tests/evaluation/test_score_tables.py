"""What an evaluation's numbers say, and its tables."""

import csv
import math

import numpy as np
import pytest
from helpers.pages import evaluation

from glcic_jax.errors import DataError
from glcic_jax.evaluation import statistics
from glcic_jax.evaluation.scores import METRICS, Evaluation, Scores
from glcic_jax.evaluation.tables import markdown_table, write_csv, write_markdown

MINUS = "\u2212"


def of(values, names=("run", "Telea"), metric="hole_l1"):
    """An evaluation of one metric, from one list of numbers for each method."""
    scores = [Scores(name, {metric: np.array(value, float)}) for name, value in zip(names, values, strict=True)]
    count = len(values[0])
    return Evaluation("title", {}, [f"{i}.png" for i in range(count)], np.full(count, 0.2), scores)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12344, "0.123"),
        (-1.5, f"{MINUS}1.500"),
        (-0.0001, "0.000"),
        (math.nan, "-"),
        (None, "-"),
        (math.inf, "∞"),
        (-math.inf, f"{MINUS}∞"),
    ],
)
def test_numbers_as_text(value, text):
    assert statistics.number(value, 3) == text


def test_differences_have_their_sign():
    assert [statistics.difference(v, 2) for v in (1.0, -1.0, 0.001, 0.0)] == [
        "+1.00",
        f"{MINUS}1.00",
        "0.00",
        "0.00",
    ]
    assert [statistics.speed(v) for v in (12.345, 1234.5, None)] == ["12.3", "1234", "-"]


def test_the_best_is_marked_only_where_it_is_surely_better_than_the_second():
    hard = np.linspace(0.1, 0.9, 40)
    sure = statistics.means(of([hard + 0.01, hard + 0.001 * np.arange(40) % 0.003]))
    assert [row["hole_l1"].best for row in sure] == [False, True]
    noise = np.where(np.arange(40) % 2, 0.1, -0.0999)
    unsure = statistics.means(of([hard, hard + noise]))
    assert [row["hole_l1"].best for row in unsure] == [False, False]
    higher = statistics.means(of([hard + 0.01, hard], metric="ssim"))
    assert [row["ssim"].best for row in higher] == [True, False]
    assert not statistics.means(of([[0.1], [0.2]]))[0]["hole_l1"].best
    assert not statistics.means(of([hard], names=["run"]))[0]["hole_l1"].best


def test_a_mean_that_is_best_by_what_is_left_out_of_it_is_not_marked():
    # On the images that both have, the second is better; the first lacks those that are hard for both.
    first = np.array([20.0] * 5 + [np.inf] * 20)
    second = np.array([21.0] * 5 + [10.0] * 20)
    table = statistics.means(of([first, second], metric="psnr"))
    assert table[0]["psnr"].interval.mean > table[1]["psnr"].interval.mean
    assert not table[0]["psnr"].best
    assert not table[1]["psnr"].best
    assert statistics.left_out(of([first, second], metric="psnr"), table) == [
        "PSNR, dB, run: 20 infinite of 25 images"
    ]


@pytest.mark.parametrize(
    ("shift", "word"), [(-0.05, "better on"), (0.05, "worse on"), (0.0, "no difference found on")]
)
def test_the_verdict_says_which_it_is(shift, word):
    hard = np.linspace(0.1, 0.9, 40)
    noise = np.where(np.arange(40) % 2, 0.01, -0.01)
    text = statistics.verdict(of([hard + shift + noise, hard]))
    assert text.startswith(f"run against the best classical fill of each metric, over 40 images: {word} hole L1 (")
    assert "against 0.5000 of Telea; difference" in text
    assert "95 % interval [" in text


def test_the_verdict_is_against_the_best_classical_fill_of_each_metric():
    names = ("run", "other run", "mean fill", "Telea, blended")
    values = {
        "run": (0.1, 25.0),
        "other run": (0.01, 40.0),
        "mean fill": (0.3, 22.0),
        "Telea, blended": (0.2, 20.0),
    }
    spread = np.linspace(-0.01, 0.01, 40)
    scores = [
        Scores(name, {"hole_l1": values[name][0] + spread, "hole_psnr": values[name][1] - spread})
        for name in names
    ]
    text = statistics.verdict(evaluation(40, scores=scores))
    assert "better on hole L1 (0.1000 against 0.2000 of Telea, blended" in text
    assert "better on hole PSNR (25.00 dB against 22.00 dB of mean fill; difference +3.00 dB" in text
    text = statistics.verdict(evaluation(40, scores=scores[:2]))
    assert "the best other method" in text
    assert "worse on hole L1 (0.1000 against 0.0100 of other run" in text


def test_the_verdict_of_little():
    assert statistics.verdict(of([[0.1]], names=["run"])) == "run by itself, over 1 image: hole L1 0.1000."
    assert "too few images to tell on hole L1" in statistics.verdict(of([[0.1], [0.2]]))
    assert "no hole that could be measured" in statistics.verdict(of([[math.nan] * 3, [0.1] * 3]))
    assert statistics.verdict(of([[0.1, 0.2], [math.nan] * 2])).endswith("images: hole L1 0.1500.")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 11, 12, 13, 40])
def test_best_median_and_worst_hold_no_image_twice(count):
    values = np.random.default_rng(count).permutation(count).astype(float)
    values = np.append(values, [np.nan, np.inf])
    groups = list(statistics.extremes(values))
    images = [pair for group in groups for pair in group.images]
    assert len({index for _, index in images}) == len(images)
    assert all(values[index] == rank - 1 for rank, index in images)
    assert len(images) == (count if count < 3 else 3 * min(4, count // 3))
    if count >= 3:
        assert [group.title for group in groups] == ["Best", "Median", "Worst"]
        ranks = [rank for rank, _ in groups[1].images]
        assert abs(np.mean(ranks) - (count + 1) / 2) <= 0.5
        assert groups[2].images[-1][0] == count


def test_metrics_that_are_missing_say_why():
    found = evaluation(not_computed={"LPIPS": "no weights"})
    assert statistics.not_computed(found) == ["LPIPS: not computed (no weights)", "FID: not computed"]
    with_fid = evaluation(scores=[Scores("run", {"lpips": np.ones(12)}, fid=3.0)])
    assert statistics.not_computed(with_fid) == []


def cells(line):
    """What stands between a line's pipes."""
    return [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")]


def test_markdown_has_every_method_and_the_notes():
    names = ("a|b `c` <script>\n*d*", "Telea")
    found = evaluation(40, names=names, not_computed={"LPIPS": "no weights", "FID": "no weights"})
    lines = markdown_table(found).splitlines()
    assert cells(lines[0]) == ["method", "hole L1 ↓", "hole PSNR, dB ↑", "SSIM ↑", "images/s"]
    assert [len(cells(line)) for line in lines[:4]] == [5] * 4
    assert "a\\|b \\`c\\` \\<script\\>; \\*d\\*" in lines[2]
    mean = found.scores[0].values["hole_l1"].mean()
    assert cells(lines[2])[1].startswith(f"**{mean:.4f}** [")
    assert "**" not in lines[3]
    assert lines[4] == ""
    notes = "\n".join(lines[5:])
    assert "- 40 images. " in notes
    assert "LPIPS: not computed (no weights)." in notes
    assert statistics.FEW not in notes
    assert statistics.FEW in markdown_table(evaluation(5))


def test_markdown_shows_fid_and_lpips_where_they_were_computed():
    scores = [Scores("a", {"lpips": np.full(12, 0.25)}, 1234.5, 12.345), Scores("b", {})]
    lines = markdown_table(evaluation(scores=scores)).splitlines()
    assert cells(lines[0]) == ["method", "LPIPS ↓", "FID ↓", "images/s"]
    assert cells(lines[2]) == ["a", "0.2500 [0.2500, 0.2500]", "12.35", "1234"]
    assert cells(lines[3]) == ["b", "-", "-", "-"]
    assert "LPIPS, b: 12 without a number of 12 images" in lines[-1]


def test_the_markdown_file_stands_for_itself(tmp_path):
    write_markdown(evaluation(notes=["A note."]), tmp_path / "deep" / "a.md")
    text = (tmp_path / "deep" / "a.md").read_text(encoding="utf-8")
    assert text.startswith("# A title\n\nrun, step 7 against")
    assert markdown_table(evaluation()) in text
    assert "- masks: centre\n- A note.\n" in text


def test_csv_holds_every_number_exactly(tmp_path):
    found = evaluation(5)
    found.scores[0].values["hole_psnr"][1:4] = (math.inf, math.nan, 1 / 3)
    found.images[1] = 'a,"b"\n\udcffé.png'
    write_csv(found, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "index", "hole_ratio", "method", "hole_l1", "hole_psnr", "ssim"]
    assert len(rows) == 5 * 3
    assert rows[3]["image"] == 'a,"b"\\n\\udcffé.png'
    assert [row["hole_psnr"] for row in rows[::3]][1:3] == ["inf", ""]
    for place, row in enumerate(rows):
        index, method = divmod(place, 3)
        assert (int(row["index"]), row["method"]) == (index, found.scores[method].name)
        assert float(row["hole_ratio"]) == found.hole_ratio[index]
        for metric in ("hole_l1", "ssim"):
            assert float(row[metric]) == found.scores[method].values[metric][index]
    assert float(rows[9]["hole_psnr"]) == 1 / 3


def test_files_that_cannot_be_written_are_one_line(tmp_path):
    for write in (write_csv, write_markdown):
        with pytest.raises(DataError, match="is a directory"):
            write(evaluation(), tmp_path)


def test_every_metric_can_be_shown(tmp_path):
    found = evaluation(metrics=tuple(METRICS))
    assert len(cells(markdown_table(found).splitlines()[0])) == len(METRICS) + 2


def test_what_one_method_does_perfectly_does_not_speak_against_it():
    rng = np.random.default_rng(0)
    perfect = np.where(np.arange(100) < 90, np.inf, 20.0)
    other = rng.uniform(20.5, 30.0, 100)
    found = statistics.compared(perfect, other, METRICS["psnr"])
    assert found.verdict == "no verdict: infinite for one of the two in 90"
    assert found.interval.finite == 10
    assert statistics.compared(other, other - 1, METRICS["psnr"]).verdict == "better"
    assert statistics.compared(other, other - 1, METRICS["l1"]).verdict == "worse"


@pytest.mark.parametrize(("rate", "text"), [(0.0312, "0.0312"), (1.25, "1.25"), (48.26, "48.3"), (1151.4, "1151")])
def test_a_speed_has_three_digits(rate, text):
    assert statistics.speed(rate) == text
