"""The count, the file and the limit of images that training cannot read."""

import re
import threading
from pathlib import Path

import pytest
from helpers.common import one_line

from glcic_jax.data.skipped_files import SkippedFiles
from glcic_jax.errors import DataError


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "skipped.txt"


def test_an_image_is_named_once_over_errors_and_runs(path, caplog):
    name = "a: b\nc\u2028\udcff.jpg"
    for run in range(2):
        skipped = SkippedFiles(path, 2, 0.5)
        skipped.add(name, DataError(f"{name}: cannot be read (Input/output error)"))
        skipped.add(name, FileNotFoundError(2, "No such file or directory"))
        assert len(skipped) == 1
        assert len(caplog.records) == 1, run
    line = "a: b\\nc\\u2028\\udcff.jpg: cannot be read (Input/output error)"
    assert path.read_text() == line + "\n"
    assert caplog.records[0].getMessage() == f"skipped: {line}"


def test_the_limit_error_names_the_check_and_a_limit_that_suffices(path):
    skipped = SkippedFiles(path, 30, 0.01, Path("/my photos"))
    with pytest.raises(DataError, match="1 of 30 images cannot be read") as caught:
        skipped.add("a.jpg", DataError("a.jpg: cannot be read"))
    message = one_line(caught)
    assert str(path) in message
    assert "`glcic data check '/my photos'` lists all" in message
    enough = float(re.search(r"--config\.data\.max_skipped_fraction=([\d.]+) is enough", message)[1])
    SkippedFiles(None, 30, enough).add("a.jpg", DataError("a.jpg: cannot be read"))


def test_the_limit_error_gives_no_useless_advice():
    with pytest.raises(DataError, match=r"allows\. Remove or replace them, or train without them: "):
        SkippedFiles(None, 200, 0.0).add("a", DataError("bad"))
    skipped = SkippedFiles(None, 2, 0.99)
    skipped.add("a", DataError("bad"))
    with pytest.raises(DataError, match=r"2 of 2 images .* allows\. Remove or replace them\. The last: b: bad"):
        skipped.add("b", DataError("bad"))


def test_an_unwritable_file_is_an_error_that_names_the_image(path):
    path.mkdir()
    with pytest.raises(DataError, match=r"skipped\.txt: cannot be written .* picture 4: bad") as caught:
        SkippedFiles(path, 10, 0.5).add("picture 4", DataError("bad"))
    one_line(caught)


def test_threads_add_each_image_once(path):
    skipped = SkippedFiles(path, 1000, 1.0)

    def add_all() -> None:
        for number in range(200):
            skipped.add(f"picture {number}", DataError("bad"))

    threads = [threading.Thread(target=add_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(skipped) == 200
    assert sorted(path.read_text().splitlines()) == sorted(f"picture {number}: bad" for number in range(200))
