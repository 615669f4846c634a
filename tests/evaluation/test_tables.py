"""The tables of an evaluation in Markdown, CSV and JSON; the HTML ones are tested with the report."""

import csv
import math

import numpy as np
import pytest
from helpers.pages import evaluation

from glcic_jax.errors import DataError
from glcic_jax.evaluation import tables
from glcic_jax.evaluation.scores import METRICS, Scores


def cells(line):
    """The texts between the pipes of a line."""
    return [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")]


def test_markdown_has_every_method_and_the_notes():
    names = ("a|b `c` <script>\n*d*", "Telea")
    found = evaluation(40, names=names, not_computed={"LPIPS": "no weights", "FID": "no weights"})
    lines = tables.markdown_results(found).splitlines()
    assert cells(lines[0]) == ["method", "hole L1 ↓", "hole PSNR, dB ↑", "SSIM ↑", "images/s"]
    assert lines[1] == "|---|--:|--:|--:|--:|"
    assert [len(cells(line)) for line in lines[:4]] == [5] * 4
    assert "a\\|b \\`c\\` \\<script\\>; \\*d\\*" in lines[2]
    mean = found.scores[0].values["hole_l1"].mean()
    assert cells(lines[2])[1].startswith(f"**{mean:.4f}** [")
    assert "**" not in lines[3]
    assert lines[4] == ""
    notes = "\n".join(lines[5:])
    assert "- 40 images. " in notes
    assert "LPIPS: not computed (no weights)." in notes
    assert tables.FEW not in notes
    assert tables.FEW in tables.markdown_results(evaluation(5))


def test_markdown_shows_fid_and_lpips_if_they_were_computed():
    scores = [
        Scores("a", {"lpips": np.full(12, 0.25)}, 1234.5, 12.345),
        Scores("b", {"lpips": np.full(12, math.nan)}),
    ]
    lines = tables.markdown_results(evaluation(scores=scores)).splitlines()
    assert cells(lines[0]) == ["method", "LPIPS ↓", "FID ↓", "images/s"]
    assert cells(lines[2]) == ["a", "0.2500 [0.2500, 0.2500]", "12.35", "1234"]
    assert cells(lines[3]) == ["b", "-", "-", "-"]
    assert "LPIPS, b: 12 without a number of 12 images" in lines[-1]
    assert not any("not computed" in line for line in lines)


def test_the_markdown_file_has_title_verdict_and_protocol(tmp_path):
    tables.write_markdown(evaluation(notes=["A note."]), tmp_path / "deep" / "a.md")
    text = (tmp_path / "deep" / "a.md").read_text(encoding="utf-8")
    assert text.startswith("# A title\n\nrun, step 7 against")
    assert tables.markdown_results(evaluation()) in text
    assert "- masks: centre\n- A note.\n" in text


def test_csv_holds_every_number_exactly(tmp_path):
    found = evaluation(5, indices=[0, 1, 3, 4, 7])
    found.scores[0].values["hole_psnr"][1:4] = (math.inf, math.nan, 1 / 3)
    found.images[1] = 'a,"b"\n\udcffé.png'
    tables.write_csv(found, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "index", "hole_ratio", "method", "hole_l1", "hole_psnr", "ssim"]
    assert len(rows) == 5 * 3
    assert rows[3]["image"] == 'a,"b"\\n\\udcffé.png'
    assert [row["hole_psnr"] for row in rows[::3]][1:3] == ["inf", ""]
    for place, row in enumerate(rows):
        index, method = divmod(place, 3)
        assert (int(row["index"]), row["method"]) == (found.indices[index], found.scores[method].name)
        assert float(row["hole_ratio"]) == found.hole_ratio[index]
        for metric in ("hole_l1", "ssim"):
            assert float(row[metric]) == found.scores[method].values[metric][index]
    assert float(rows[9]["hole_psnr"]) == 1 / 3


def test_every_metric_can_be_shown():
    found = evaluation(metrics=tuple(METRICS))
    assert len(cells(tables.markdown_results(found).splitlines()[0])) == len(METRICS) + 2


def test_sharpness_is_shown_as_it_is_and_compared_by_its_distance_from_1():
    found = evaluation(40, names=("run", "Telea"), metrics=("hole_sharpness", "l1"))
    head, _, run, telea, *notes = tables.markdown_results(found).splitlines()
    assert cells(head)[1] == "hole sharpness → 1"
    means = [scores.values["hole_sharpness"].mean() for scores in found.scores]
    assert cells(run)[1].startswith(f"{means[0]:.3f} [")
    assert cells(telea)[1].startswith(f"**{means[1]:.3f}** [")  # The larger of two below 1.
    assert "- hole sharpness: bold and paired differences are by each image's distance from 1." in notes
    differences = tables.paired_differences(found, first_is_baseline=False)
    assert [(column.label, column.arrow) for column in differences.columns[1:]] == [
        ("hole sharpness, distance from 1", "↓"),
        ("L1", "↓"),
    ]
    assert differences.rows[0][1].value == pytest.approx(means[1] - means[0])
    assert differences.rows[0][1].mark == "worse"
    assert [tables.in_words(arrow) for arrow in ("↑", "↓", "→ 1")] == ["higher", "lower", "closer to 1"]


def test_the_judges_training_half_is_not_reported_as_missing():
    tested = np.where(np.arange(12) % 2, 0.5, np.nan)
    lines = tables.markdown_results(
        evaluation(scores=[Scores("a", {"judge": tested}), Scores("b", {"judge": tested})])
    ).splitlines()
    assert cells(lines[0]) == ["method", "judge ↓", "images/s"]
    assert cells(lines[2])[1] == "0.500 [0.500, 0.500]"
    (note,) = [line for line in lines if line.startswith("- judge")]
    assert "over the 6 images on which it was not trained; 0.5: it cannot tell" in note
    assert not any("without a number" in line for line in lines)


def test_only_settings_that_differ_are_listed():
    runs = {"a": {"seed": 0, "data.size": 64, "same": [1, 2]}, "b": {"seed": 1, "same": (1, 2)}, "c": {}}
    table = tables.differing_settings("key", runs)
    assert [column.label for column in table.columns] == ["key", "a", "b", "c"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["data.size", "64", "-", "-"],
        ["seed", "0", "1", "-"],
    ]
    for values, expected in (({"a": ""}, '""'), ({"a": 1}, "1"), ({"a": True}, "true")):
        (row,) = tables.differing_settings("key", {"x": values, "y": {"a": "other"}}).rows
        assert [cell.text for cell in row] == ["a", expected, "other"]
    assert tables.differing_settings("key", {"x": {"a": 1}, "y": {"a": 1}, "z": {}}) is None
    assert tables.differing_settings("key", {"x": {}, "y": {}}) is None


def test_a_file_that_cannot_be_written_is_a_data_error(tmp_path):
    for write in (tables.write_csv, tables.write_markdown, tables.write_json):
        with pytest.raises(DataError, match="is a directory"):
            write(evaluation(), tmp_path)


def test_the_results_fit_a_terminal():
    scores = [
        Scores(
            "runs/a/long/path/of/a/run/that/was/trained, step 500000, blended", dict.fromkeys(METRICS, ones), 7.0
        )
        for ones in (np.linspace(0.1, 0.2, 40), np.linspace(0.3, 0.9, 40))
    ]
    text = tables.text_results(evaluation(40, scores=scores))
    assert max(map(len, text.splitlines())) <= 100
    heads = [line for line in text.splitlines() if line.startswith("method ")]
    for metric in METRICS.values():
        assert sum(f" {metric.label} " in line for line in heads) >= 1
    first = text.splitlines()[1]
    assert first.startswith("runs/a/long/path/of/…")
    assert ", step 500000, blended " in first
    assert " 0.1500* " in first
    assert "[" not in text.partition("\n- ")[0]
    assert "- 40 images; table.md has the intervals." in text
