"""The script of the report in a real browser."""

import re
import shutil
import subprocess

import pytest
from helpers.pages import Page, evaluation, write_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")

CLICKS = """
const table = document.querySelector("table.sortable");
const names = () => Array.from(table.tBodies[0].rows, (row) => row.cells[0].textContent).join("; ");
const seen = [];
for (const column of [1, 1, 0, 4]) {
  table.tHead.rows[0].cells[column].querySelector("button").click();
  seen.push(`${names()} ${table.tHead.rows[0].cells[column].getAttribute("aria-sort")}`);
}
const range = document.querySelector("input[type=range]");
range.value = 30;
range.dispatchEvent(new Event("input"));
seen.push(document.querySelector(".over").style.clipPath);
document.querySelector("select.right").value = "4";
document.querySelector("select.right").dispatchEvent(new Event("change"));
seen.push(document.querySelector(".under").alt);
const search = document.querySelector("input[type=search]");
search.value = "FOLDER/003";
search.dispatchEvent(new Event("input"));
seen.push(document.querySelectorAll("#list tbody tr:not([hidden])").length);
document.title = seen.join(" | ");
"""


def shown(path, profile):
    """The elements of a page after its script has run."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ]
    command = [BROWSER, *options, "--dump-dom", path.as_uri()]
    process = subprocess.run(command, capture_output=True, timeout=60, check=True)
    return Page(re.sub(r"<!DOCTYPE[^>]*>", "", process.stdout.decode()))


def test_the_policy_allows_the_script(tmp_path):
    write_page(evaluation(4), tmp_path)
    page = shown(tmp_path / "report.html", tmp_path / "profile")
    assert not [attributes for _, attributes, _ in page.elements if "hidden" in attributes]
    over, under = (page.all("img", class_=name)[0][0]["src"] for name in ("over", "under"))
    assert over == page.all("img", data_row="0", data_kind="0")[0][0]["src"]
    assert under == page.all("img", data_row="0", data_kind="1")[0][0]["src"]


def test_sorting_slider_and_filter(tmp_path):
    found = evaluation(4)
    text, _ = write_page(found, tmp_path)
    text = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", f"<script>{CLICKS}</script></body>")
    (tmp_path / "report.html").write_text(text)
    page = shown(tmp_path / "report.html", tmp_path / "profile")
    best = found.images[found.scores[0].values["hole_l1"].argmin()]
    first, second, third = "run, step 7", "mean fill", "Telea"
    assert page.all("title")[0][1].split(" | ") == [
        f"{first}; {second}; {third} ascending",
        f"{third}; {second}; {first} descending",
        f"{second}; {first}; {third} ascending",
        f"{second}; {first}; {third} ascending",  # Images/s: none has any.
        "inset(0px 70% 0px 0px)",
        f"original of {best}",
        "1",
    ]
