import csv
import hashlib

import pytest
from helpers.common import command_runner, one_line
from helpers.images import open_with, png, short_names
from PIL import Image

from glcic_jax.commands.main import cli
from glcic_jax.data.folders import PARTS, ListedImage, listed_files, read_listing
from glcic_jax.data.sources import open_sources
from glcic_jax.errors import DataError, UserError
from glcic_jax.evaluation.images import Selection, open_images

FILES = {"a/1.png": "train", "a/2.png": "train", "b.png": "validation", "c.png": "test", "d,e.png": "train"}


@pytest.fixture
def photos(tmp_path):
    """A folder of five pictures, one of them in no part, and its listing with their hashes."""
    root = tmp_path / "photos"
    (root / "a").mkdir(parents=True)
    lines = ["licence,part,file,sha256"]
    for tag, (file, part) in enumerate(FILES.items()):
        content = png(tag)
        (root / file).write_bytes(content)
        lines.append(f'CC0,{part},"{file}",{hashlib.sha256(content).hexdigest().upper()}')
    Image.new("RGB", (20, 20)).save(root / "unlisted.png")
    (tmp_path / "listing.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def listing(photos):
    return photos.with_name("listing.csv")


def test_training_takes_what_is_listed_and_nothing_else(photos, listing):
    sources = open_with(f"folder:{photos}", listing=str(listing), validation_fraction=1.0)
    assert short_names(sources.train) == ["a/1.png", "a/2.png", "d,e.png"]
    assert short_names(sources.validation) == ["b.png"]
    assert sources.train.read(2) == png(4)


@pytest.mark.parametrize(("split", "names"), [("", ["b.png"]), ("test", ["c.png"]), ("validation", ["b.png"])])
def test_evaluation_takes_any_part(photos, listing, split, names):
    images = open_images(f"folder:{photos}", Selection(split, listing=str(listing)))
    assert images.names == names
    assert "listing.csv" in images.description


def test_a_part_that_is_none_is_refused(photos, listing):
    with pytest.raises(UserError) as caught:
        open_images(f"folder:{photos}", Selection("all", listing=str(listing)))
    assert "test, train, validation" in one_line(caught)


def test_a_listing_of_what_is_no_folder_is_refused(listing):
    with pytest.raises(UserError) as caught:
        open_images("samples", Selection(listing=str(listing)))
    assert "give --data folder:PATH" in one_line(caught)


def test_the_command_measures_the_part_that_is_asked_for(photos, listing, tmp_path):
    def evaluate(*more):
        report = ["--report", str(tmp_path / "report"), "--baselines", "", "--no-blending", "--size", "32"]
        arguments = ["evaluate", "mean", "--data", f"folder:{photos}", "--listing", str(listing), *report, *more]
        return command_runner().invoke(cli, arguments)

    done = evaluate("--split", "test")
    assert done.exit_code == 0, done.output
    with open(tmp_path / "report" / "images.csv", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {"c.png"}
    assert isinstance(evaluate("--split", "middle").exception, UserError)


def test_training_refuses_a_listing_of_what_is_no_folder(config, listing):
    config.data.listing = str(listing)
    with pytest.raises(UserError) as caught:
        open_sources(config.data)
    assert "and samples is not a folder: give --config.data.source=folder:PATH" in one_line(caught)


def test_a_listing_without_hashes_will_do(photos, listing):
    listing.write_text("file,part\nb.png,train\n")
    assert listed_files(photos, listing, "train") == ["b.png"]


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_column(listing):
    listing.write_bytes(b"\xef\xbb\xbffile,part\r\nb.png,train\r\n")
    assert read_listing(listing) == [ListedImage("b.png", "train")]


def test_files_that_are_not_there_are_named(photos, listing):
    (photos / "a/2.png").unlink()
    with pytest.raises(DataError) as caught:
        listed_files(photos, listing, "train")
    assert "1 of the 3 images" in one_line(caught)
    assert "are missing: a/2.png" in one_line(caught)


def test_other_listed_files_the_same_name_are_named(photos, listing):
    (photos / "b.png").write_bytes(png(9))
    assert listed_files(photos, listing, "train")
    with pytest.raises(DataError) as caught:
        listed_files(photos, listing, "validation")
    assert "differ (sha256): b.png" in one_line(caught)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file\nb.png\n", "part is missing"),
        ("", "file is missing"),
        ("file;part\nb.png;train\n", "separated by commas"),
        ("file,part\n../b.png,train\n", "line 2: '../b.png' is not a file below the folder"),
        ("file,part\n/b.png,train\n", "is not a file below the folder"),
        ("file,part\n,train\n", "'' is not a file below the folder"),
        ("file,part\nb.png\n", "part (listing.csv, line 2)"),
        ("file,part\nb.png,training\n", f"one of {', '.join(sorted(PARTS))}"),
        ("file,part\nb.png,train\nb.png,test\n", "names b.png twice"),
        ("file,part\nb.png,train\n.//./b.png,test\n", "names b.png twice"),
        ("file,part,sha256\nb.png,train,123\n", "'123' is not a sha256"),
        (f"file,part\n{'x' * 300}.png,train\n", "are missing"),
        ("file,part\nb.png,test\n", "lists no images of the part train; its parts: test"),
    ],
)
def test_a_listing_that_cannot_be_used_is_refused_in_one_line(photos, listing, monkeypatch, text, expected):
    listing.write_text(text)
    monkeypatch.chdir(listing.parent)
    with pytest.raises(UserError) as caught:
        listed_files(photos, listing.relative_to(listing.parent), "train")
    assert expected in one_line(caught)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00file"])
def test_a_listing_that_cannot_be_read_is_refused(listing, content):
    listing.unlink()
    if content is not None:
        listing.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_listing(listing)
    assert ("no such listing" if content is None else "cannot be read as a listing") in one_line(caught)
