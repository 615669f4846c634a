"""The samples and folders: what is opened, how it is split, and the errors."""

import csv
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest
from helpers.common import load_config, one_line
from helpers.images import open_with, png, short_names, write_png

from glcic_jax.data import folders, sources
from glcic_jax.data.folders import FileSource, held_out
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.pictures.rgb_files import load_image


def test_samples_are_photographs_in_two_disjoint_parts():
    train, validation = open_with("samples")
    assert (len(train), len(validation)) == (340, 40)
    contents = [source.read(index) for source in (train, validation) for index in range(len(source))]
    assert len(set(contents)) == 380
    assert {min(load_image(content).shape[:2]) for content in contents} == {96}


def test_samples_have_a_free_licence_and_an_origin():
    with (Path(sources.__file__).parent / "samples" / "sources.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["split"] for row in rows) == {"train": 340, "validation": 40}
    assert len({row["file"] for row in rows}) == 380
    assert all(row["licence"].lower().startswith(("cc0", "public domain")) and row["source"] for row in rows)


@pytest.mark.parametrize("reference", ["", "imagenet", "tfrecord:x", "Folder:x", "/no/photos", ":x"])
def test_an_unknown_source_lists_the_valid_ones(reference):
    words = r"no such folder or kind of data: give .*, idx:PATH or tfds:NAME as --config\.data\.source$"
    with pytest.raises(ConfigError, match=words) as caught:
        open_with(reference)
    assert repr(reference) in one_line(caught)
    assert sorted(sources.SOURCES) == ["folder", "idx", "samples", "tfds"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("samples:faces", "samples takes no argument, not 'faces'"),
        ("tfds:", "needs a name: --config.data.source=tfds:places365_small"),
    ],
)
def test_a_wrong_argument_is_a_config_error(reference, words):
    with pytest.raises(ConfigError) as caught:
        open_with(reference)
    assert words in one_line(caught)


@pytest.mark.parametrize("reference", ["samples", "folder", "path"])
def test_open_images_opens_one_split(tmp_path, reference):
    for name in ("a.png", "b.png", "c.avif"):
        write_png(tmp_path / name)
    folder = reference != "samples"
    reference = {"folder": f"folder:{tmp_path}", "path": str(tmp_path)}.get(reference, reference)
    options = {"option": "--data ", "validation_fraction": 0.5}
    train, validation = (sources.open_images(reference, split, **options) for split in ("train", "validation"))
    assert train.split == ("train (validation fraction 0.5)" if folder else "train")
    default = sources.open_images(reference, **options)
    assert default.split == ("all" if folder else "validation")
    expected = (
        short_names(train.source) + short_names(validation.source) if folder else short_names(validation.source)
    )
    assert sorted(short_names(default.source)) == sorted(expected)
    with pytest.raises(ConfigError, match=r"unknown split of .*'test'.*train, validation"):
        sources.open_images(reference, "test", **options)


def test_a_folder_of_any_nesting(tmp_path):
    root = tmp_path / ".photos: mine"  # Hidden, and with a colon: the user chose it.
    wanted = ["a.jpg", "b/c/d/e.JPEG", "b/f.Png", "g.webp", "h.bmp", "i.tif", "j.TIFF", "k.gif", "sp ace/ü.ppm"]
    wanted += ["l.jfif", "m.JPE", "n.tga", "o.pnm", "p.heic", "q.avif"]
    hidden = [".hidden.jpg", ".thumbnails/a.jpg", "b/.trash/c/a.jpg", "__MACOSX/a.jpg"]
    hidden += ["@eaDir/a.jpg/b.jpg", "$RECYCLE.BIN/a.jpg"]
    for name in [*wanted, *hidden, "notes.txt", "jpg", "a.jpg.part"]:
        write_png(root / name)
    (root / "empty.jpg").mkdir()
    parts = open_with(f"folder:{root}", validation_fraction=0.3)
    train, validation = map(short_names, parts)
    assert sorted(train + validation) == sorted(wanted)
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert parts.train.read(0) == png(7)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in "abc":
        write_png(tmp_path / "photos" / f"{name}.png")
    assert sum(map(len, open_with("folder:~/photos"))) == 3


def test_links_are_followed_and_a_loop_ends(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in (root / "a.png", root / "sub" / "b.png", elsewhere / "c.png"):
        write_png(path)
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "sub" / "self").symlink_to(root / "sub")
    train, validation = map(short_names, open_with(f"folder:{root}"))
    assert sorted(train + validation) == ["a.png", "linked/c.png", "sub/b.png"]


def test_a_linked_folder_has_one_name_in_any_order_of_the_file_system(tmp_path, monkeypatch):
    for name in ("m/a.png", "m/b.png", "c.png"):
        write_png(tmp_path / name)
    for name in ("link", "z_link"):
        (tmp_path / name).symlink_to(tmp_path / "m")
    walk = os.walk
    listings = []
    for reverse in (False, True):

        def walk_in_order(*arguments, reverse=reverse, **options):
            for folder, subfolders, files in walk(*arguments, **options):
                subfolders.sort(reverse=reverse)
                yield folder, subfolders, files

        with monkeypatch.context() as patch:
            patch.setattr(os, "walk", walk_in_order)
            listings.append([short_names(source) for source in open_with(f"folder:{tmp_path}")])
    assert listings[0] == listings[1]


def test_adding_files_or_moving_the_folder_moves_no_file_between_the_parts(tmp_path):
    root = tmp_path / "one"
    for number in range(60):
        write_png(root / f"{number:03}.png")
    before = [set(short_names(source)) for source in open_with(f"folder:{root}", validation_fraction=0.2)]
    assert 3 <= len(before[1]) <= 25
    for number in range(60):
        write_png(root / f"{number:03}_b.png")
        write_png(root / "new" / f"{number:03}.png")
    shutil.copytree(root, tmp_path / "two" / "deeper")
    after = [
        [set(short_names(source)) for source in open_with(f"folder:{path}", validation_fraction=0.2)]
        for path in (root, f"{tmp_path}/two/deeper/")
    ]
    assert after[0] == after[1]
    assert before[0] < after[0][0]
    assert before[1] < after[0][1]
    assert not after[0][0] & after[0][1]
    assert len(after[0][0] | after[0][1]) == 180


# A file's hash between 0 and 1. If these change, the validation images of every earlier run leak into training.
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.jpg", 0.3148659),
        ("album/2017/IMG_0001.JPG", 0.14266166),
        ("ü/é.png", 0.95278458),
        ("Places365_val_00000001.jpg", 0.64986874),
    ],
)
def test_held_out_never_changes(name, place):
    assert not held_out(name, place - 1e-6)
    assert held_out(name, place + 1e-6)


def test_held_out_keeps_its_fraction():
    assert 400 < sum(held_out(f"album/{number}.jpg", 0.1) for number in range(5000)) < 600
    assert not any(held_out(f"{number}", 0.0) for number in range(100))
    assert all(held_out(f"{number}", 1.0) for number in range(100))
    assert isinstance(held_out(os.fsdecode(b"caf\xe9.jpg"), 0.5), bool)  # No Unicode.


@pytest.mark.parametrize("fraction", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_a_tiny_folder_gives_both_parts(tmp_path, count, fraction):
    for number in range(count):
        write_png(tmp_path / f"{number}.png")
    train, validation = map(short_names, open_with(f"folder:{tmp_path}", validation_fraction=fraction))
    assert train
    assert validation
    assert sorted(train + validation) == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_an_error_that_names_the_other_files(tmp_path, count):
    (tmp_path / "phone.PSD").write_bytes(b"")
    for number in range(count):
        write_png(tmp_path / f"{number}.png")
    words = rf"{count} image files found .*at least 2 are needed.*files with other suffixes: 1 \.psd"
    with pytest.raises(DataError, match=words) as caught:
        open_with(f"folder:{tmp_path}")
    assert one_line(caught).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "broken", "loop", "huge", "missing"])
def test_an_unusable_file_is_an_error_at_once(tmp_path, kind):
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**31)
    elif kind != "missing":
        path.symlink_to({"device": "/dev/zero", "broken": "nowhere", "loop": path}[kind])
    with pytest.raises(DataError) as caught:
        FileSource(tmp_path, ["a.jpg"]).read(0)
    assert one_line(caught).startswith(f"{path}: cannot be read (")
    if kind == "missing":
        assert one_line(caught).endswith("(No such file or directory)")


def test_a_name_of_any_bytes_is_printed_on_one_line(tmp_path):
    for name in (os.fsdecode(b"\xff.jpg"), "a\nb.jpg", "\u2028.jpg", "tab\t.jpg", "plain.jpg"):
        write_png(tmp_path / name)
    for source in open_with(f"folder:{tmp_path}"):
        for index in range(len(source)):
            assert source.read(index) == png(7)
            assert source.name(index).isprintable()


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_missing_folder_is_an_error_that_names_the_option(tmp_path, kind):
    path = {"missing": tmp_path / "nowhere", "file": write_png(tmp_path / "a.png"), "empty": ""}[kind]
    with pytest.raises(DataError, match=r"no such folder; give --config\.data\.source=folder:/path") as caught:
        open_with(f"folder:{path}")
    assert one_line(caught).startswith(f"folder:{path}: ")


def test_large_files_are_read_one_at_a_time(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png")
    source, lock = FileSource(tmp_path, ["a.png"]), threading.Lock()
    monkeypatch.setattr(folders, "_large_files", lock)
    lock.acquire()
    assert source.read(0) == png(7)
    monkeypatch.setattr(folders, "LARGE_FILE", 10)
    reader = threading.Thread(target=source.read, args=(0,), daemon=True)
    reader.start()
    reader.join(0.2)
    assert reader.is_alive()
    lock.release()
    reader.join(10)
    assert not reader.is_alive()


def test_directory_of_is_what_data_check_takes(tmp_path):
    data = load_config("quickstart").data
    version = tmp_path / "tiny_photos" / "1.0.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").touch()
    for source, directory in (
        ("samples", None),
        ("folder:/my photos", Path("/my photos")),
        (str(tmp_path), tmp_path),
        ("tfds:tiny_photos", version),
    ):
        data.update(source=source, tfds_dir=str(tmp_path))
        assert sources.directory_of(data) == directory
