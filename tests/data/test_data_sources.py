"""The samples, folders and prepared TFDS data sets, and what a person is told where one is missing."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.common import ROOT, load_config, one_line
from PIL import Image

from glcic_jax.data import folders
from glcic_jax.data.check import Findings, find_images, inspect_items
from glcic_jax.data.folders import FileSource, held_out
from glcic_jax.data.input_pipeline import train_batches
from glcic_jax.data.skipped_files import SkippedFiles
from glcic_jax.data.sources import Sources, directory_of, open_sources
from glcic_jax.data.tfds import tfds_directory, training_splits
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.pictures.rgb_files import load_image

PREPARED = "tiny_photos"
TRAIN_IMAGES, VALIDATION_IMAGES = 6, 3


def open_with(source: str, **overrides) -> Sources:
    data = load_config("quickstart").data
    data.source = source
    data.update(overrides)
    return open_sources(data)


def names(source) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def relative_names(source, root: Path) -> list[str]:
    return [Path(name).relative_to(root).as_posix() for name in names(source)]


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(7))
    return path


def png(tag: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (tag * 20, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_the_samples_are_photographs_in_two_parts():
    sources = open_with("samples")
    train, validation = names(sources.train), names(sources.validation)
    assert len(train) >= 5
    assert len(validation) >= 2
    assert not set(train) & set(validation)
    for source in sources:
        for index in range(len(source)):
            assert Path(source.name(index)).read_bytes() == source.read(index)
            assert min(load_image(source.read(index)).shape[:2]) >= 300


def test_the_samples_take_no_argument():
    with pytest.raises(ConfigError, match="samples takes no argument, not 'faces'"):
        open_with("samples:faces")


@pytest.mark.parametrize("source", ["", "imagenet", "tfrecord:x", "Folder:x", "/home/photos", ":x"])
def test_an_unknown_source_is_an_error_that_lists_the_known(source):
    with pytest.raises(ConfigError, match=r"give samples, folder:PATH or tfds:NAME") as caught:
        open_with(source)
    assert repr(source) in one_line(caught)


def test_a_folder_of_any_nesting(tmp_path):
    root = tmp_path / ".photos: mine"  # Hidden itself, and with a colon: a person named it.
    wanted = ["a.jpg", "b/c/d/e.JPEG", "b/f.Png", "g.webp", "h.bmp", "i.tif", "j.TIFF", "k.gif", "sp ace/ü.ppm"]
    unwanted = [
        ".hidden.jpg",
        ".thumbnails/a.jpg",
        "b/.trash/c/a.jpg",
        "__MACOSX/a.jpg",
        "notes.txt",
        "jpg",
        "a.jpg.part",
    ]
    for name in wanted + unwanted:
        write_picture(root / name)
    (root / "empty.jpg").mkdir()
    sources = open_with(f"folder:{root}", validation_fraction=0.3)
    train, validation = (relative_names(source, root) for source in sources)
    assert sorted(train + validation) == sorted(wanted)
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert sources.train.read(0) == png(7)


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in "abc":
        write_picture(tmp_path / "photos" / f"{name}.png")
    sources = open_with("folder:~/photos")
    assert len(sources.train) + len(sources.validation) == 3


def test_links_are_followed_and_a_loop_ends(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write_picture(root / "a.png")
    write_picture(root / "sub" / "b.png")
    write_picture(elsewhere / "c.png")
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "sub" / "self").symlink_to(root / "sub")
    sources = open_with(f"folder:{root}")
    found = [relative_names(source, root) for source in sources]
    assert sorted(itertools.chain(*found)) == ["a.png", "linked/c.png", "sub/b.png"]


def test_a_linked_folder_has_one_name_whatever_the_file_system_lists_first(tmp_path, monkeypatch):
    for name in ("m/a.png", "m/b.png", "c.png"):
        write_picture(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "m")
    (tmp_path / "z_link").symlink_to(tmp_path / "m")
    plain_scandir = os.scandir

    class Sorted:
        def __init__(self, path, reverse: bool):
            with plain_scandir(path) as entries:
                self._entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=reverse))

        def __iter__(self):
            return self._entries

        def __next__(self):
            return next(self._entries)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def close(self):
            return None

    listings = []
    for reverse in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", lambda path, reverse=reverse: Sorted(path, reverse))
            listings.append([relative_names(source, tmp_path) for source in open_with(f"folder:{tmp_path}")])
    assert listings[0] == listings[1]


def test_adding_files_moves_none(tmp_path):
    for number in range(60):
        write_picture(tmp_path / f"{number:03}.png")
    before = open_with(f"folder:{tmp_path}", validation_fraction=0.2)
    assert 3 <= len(before.validation) <= 25
    for number in range(60):
        write_picture(tmp_path / f"{number:03}_b.png")
        write_picture(tmp_path / "new" / f"{number:03}.png")
    after = open_with(f"folder:{tmp_path}", validation_fraction=0.2)
    assert set(names(before.train)) < set(names(after.train))
    assert set(names(before.validation)) < set(names(after.validation))
    assert not set(names(after.train)) & set(names(after.validation))
    assert len(after.train) + len(after.validation) == 180


def test_the_split_does_not_depend_on_where_the_folder_is(tmp_path):
    for number in range(40):
        write_picture(tmp_path / "one" / f"{number}.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two" / "deeper")
    one = open_with(f"folder:{tmp_path / 'one'}", validation_fraction=0.2)
    two = open_with(f"folder:{tmp_path / 'two' / 'deeper'}/", validation_fraction=0.2)
    assert relative_names(one.validation, tmp_path / "one") == relative_names(
        two.validation, tmp_path / "two" / "deeper"
    )


# A file's place between 0 and 1. Should these change, every person's validation images leak into training.
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.jpg", 0.3148659),
        ("album/2017/IMG_0001.JPG", 0.14266166),
        ("ü/é.png", 0.95278458),
        ("Places365_val_00000001.jpg", 0.64986874),
    ],
)
def test_held_out_is_the_same_for_ever(name, place):
    assert not held_out(name, place - 1e-6)
    assert held_out(name, place + 1e-6)


def test_held_out_keeps_to_its_fraction():
    count = sum(held_out(f"album/{number}.jpg", 0.1) for number in range(5000))
    assert 400 < count < 600
    assert not any(held_out(f"{number}", 0.0) for number in range(100))
    assert all(held_out(f"{number}", 1.0) for number in range(100))


def test_held_out_takes_a_name_that_is_no_unicode(tmp_path):
    assert isinstance(held_out(os.fsdecode(b"caf\xe9.jpg"), 0.5), bool)


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_tiny_folder_gives_both_parts(tmp_path, count, fraction):
    for number in range(count):
        write_picture(tmp_path / f"{number}.png")
    sources = open_with(f"folder:{tmp_path}", validation_fraction=fraction)
    assert len(sources.train) >= 1
    assert len(sources.validation) >= 1
    assert sorted(names(sources.train) + names(sources.validation)) == sorted(map(str, tmp_path.iterdir()))


@pytest.mark.parametrize("count", [0, 1])
def test_a_folder_with_too_few_images_is_an_error(tmp_path, count):
    (tmp_path / "notes.txt").write_text("no picture")
    for number in range(count):
        write_picture(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=f"{count} image files found .*at least 2 are needed") as caught:
        open_with(f"folder:{tmp_path}")
    assert one_line(caught).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "broken", "loop", "huge"])
def test_what_is_no_file_of_a_usable_size_is_an_error_at_once(tmp_path, kind):
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**31)
    else:
        path.symlink_to({"device": "/dev/zero", "broken": "nowhere", "loop": path}[kind])
    with pytest.raises(DataError) as caught:
        FileSource(tmp_path, [path.name]).read(0)
    assert one_line(caught).startswith(f"{path}: cannot be read (")


def test_a_name_of_any_bytes_stays_on_one_line(tmp_path):
    names = [os.fsdecode(b"\xff.jpg"), "a\nb.jpg", "\u2028.jpg", "tab\t.jpg", "plain.jpg"]
    for name in names:
        write_picture(tmp_path / name)
    sources = open_with(f"folder:{tmp_path}")
    for source in sources:
        for index in range(len(source)):
            assert source.read(index) == png(7)
            assert len(source.name(index).encode().splitlines()) == 1
            assert source.name(index).isprintable()


def test_a_folder_of_other_files_is_told_as_such(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.HEIC").write_bytes(b"")
    with pytest.raises(DataError, match=r"0 image files found .*files with other suffixes: 3 \.heic"):
        open_with(f"folder:{tmp_path}")


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_missing_folder_is_an_error_that_says_how_to_name_one(tmp_path, kind):
    path = {"missing": tmp_path / "nowhere", "file": write_picture(tmp_path / "a.png"), "empty": ""}[kind]
    with pytest.raises(DataError, match=r"no such folder; give --config\.data\.source=folder:/path") as caught:
        open_with(f"folder:{path}")
    assert one_line(caught).startswith(f"folder:{path}: ")


def test_large_files_are_read_one_at_a_time(tmp_path, monkeypatch):
    path = write_picture(tmp_path / "a.png")
    lock = threading.Lock()
    monkeypatch.setattr(folders, "_large_files", lock)
    lock.acquire()
    assert FileSource(tmp_path, [path.name]).read(0) == png(7)
    monkeypatch.setattr(folders, "LARGE_FILE", 10)
    reader = threading.Thread(target=FileSource(tmp_path, [path.name]).read, args=(0,), daemon=True)
    reader.start()
    reader.join(0.2)
    assert reader.is_alive()
    lock.release()
    reader.join(10)
    assert not reader.is_alive()


def test_what_can_be_checked_is_known(own_copy):
    data = load_config("quickstart").data
    for source, directory in (
        ("samples", None),
        ("folder:/my photos", Path("/my photos")),
        (f"tfds:{PREPARED}", own_copy),
    ):
        data.update(source=source, tfds_dir=str(own_copy.parents[1]))
        assert directory_of(data) == directory


def test_a_file_that_went_away_is_an_error_that_names_it(tmp_path):
    path = write_picture(tmp_path / "a.png")
    source = FileSource(tmp_path, [path.name])
    path.unlink()
    with pytest.raises(DataError) as caught:
        source.read(0)
    assert one_line(caught) == f"{path}: cannot be read (No such file or directory)"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A TFDS directory with one data set, prepared as array_record by TFDS itself, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.utils import gcs_utils

    with pytest.MonkeyPatch.context() as patch, tfds.core.registered.skip_registration():
        patch.setattr(gcs_utils, "_is_gcs_disabled", True)  # It would ask the network for known data sets.

        class TinyPhotos(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict(
                    {"label": tfds.features.Scalar(np.int64), "image": tfds.features.Image()}
                )
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {
                    "train": self._generate_examples(range(TRAIN_IMAGES)),
                    "validation": self._generate_examples(range(TRAIN_IMAGES, TRAIN_IMAGES + VALIDATION_IMAGES)),
                }

            def _generate_examples(self, tags):
                for tag in tags:
                    yield tag, {"image": io.BytesIO(png(tag)), "label": tag}

        directory = tmp_path_factory.mktemp("tfds")
        TinyPhotos(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.fixture
def own_copy(prepared, tmp_path) -> Path:
    """The prepared data set, free to be spoilt."""
    shutil.copytree(prepared / PREPARED, tmp_path / PREPARED)
    return tmp_path / PREPARED / "1.0.0"


def change_info(directory: Path, **changes) -> None:
    path = directory / "dataset_info.json"
    info = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def red(content: bytes) -> int:
    return int(load_image(content)[0, 0, 0])


def test_a_prepared_tfds_data_set_gives_encoded_bytes(prepared):
    sources = open_with(f"tfds:{PREPARED}", tfds_dir=str(prepared))
    assert (len(sources.train), len(sources.validation)) == (TRAIN_IMAGES, VALIDATION_IMAGES)
    contents = [sources.train.read(index) for index in range(TRAIN_IMAGES)]
    assert sorted(contents) == sorted(map(png, range(TRAIN_IMAGES)))
    assert load_image(contents[0]).shape == (20, 30, 3)
    shown = {red(sources.validation.read(index)) // 20 for index in range(VALIDATION_IMAGES)}
    assert shown == set(range(TRAIN_IMAGES, TRAIN_IMAGES + VALIDATION_IMAGES))
    assert sources.train.name(2) == f"{PREPARED}/train[2]"


def test_a_prepared_tfds_data_set_trains(prepared):
    data = load_config("quickstart").data
    data.update(source=f"tfds:{PREPARED}", tfds_dir=str(prepared), image_size=16, resize_range=(16, 24))
    source = open_sources(data).train
    batches = train_batches(source, data, 3, 0, SkippedFiles(None, len(source), 0.0))
    epoch = np.concatenate([next(batches)["image"] for _ in range(TRAIN_IMAGES // 3)])
    assert epoch.shape == (TRAIN_IMAGES, 16, 16, 3)
    assert sorted(epoch[:, 8, 8, 0]) == [tag * 20 for tag in range(TRAIN_IMAGES)]


def test_a_prepared_tfds_data_set_is_checked_split_by_split(own_copy):
    planned = find_images(own_copy, validation_fraction=0.5)
    assert planned.parts == {"train": range(TRAIN_IMAGES), "validation": range(VALIDATION_IMAGES)}
    items = list(planned.items())
    findings = Findings()
    for item, finding in zip(items, inspect_items(own_copy, items), strict=True):
        findings.add(item, finding)
    assert findings.formats.total() == TRAIN_IMAGES + VALIDATION_IMAGES
    assert findings.formats == {"PNG": TRAIN_IMAGES + VALIDATION_IMAGES}
    assert findings.duplicates == 0
    assert findings.mean_pixel("train") == pytest.approx([np.mean(range(TRAIN_IMAGES)) * 20 / 255, 0, 0])


def test_a_prepared_data_set_is_found_below_a_path(own_copy):
    for path in (own_copy, own_copy.parent, own_copy.parents[1]):
        assert find_images(path, 0.5).root == own_copy
    write_picture(own_copy.parents[1] / "downloads" / "extracted" / "a.png")  # As TFDS leaves them.
    assert find_images(own_copy.parents[1], 0.5).root == own_copy
    shutil.copytree(own_copy, own_copy.with_name("2.0.0"))
    shutil.copytree(own_copy, own_copy.with_name("3.0.0.incompleteAB12CD"))
    with pytest.raises(DataError, match="holds several prepared data sets: give one of") as caught:
        find_images(own_copy.parents[1], 0.5)
    assert one_line(caught).endswith(f"{own_copy}, {own_copy.with_name('2.0.0')}")


def test_the_check_names_the_command_that_converts(own_copy):
    root = own_copy.parents[1]
    moved = own_copy.parent / "small" / "1.0.0"
    shutil.copytree(own_copy, moved)
    change_info(own_copy, fileFormat="tfrecord")
    change_info(moved, fileFormat="tfrecord", configName="small")
    for path, name in ((own_copy, PREPARED), (moved, f"{PREPARED}/small")):
        with pytest.raises(DataError, match="convert it") as caught:
            find_images(path, 0.5)
        assert one_line(caught).endswith(f"glcic data prepare {name}:1.0.0 --data-dir={root}")


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (["train", "validation", "test"], ("train", "validation")),
        (["test", "train"], ("train", "test")),
        (["trainA", "trainB", "testA", "testB"], ("trainA", "testA")),
        (["train"], ("train[:98%]", "train[98%:]")),
        (["all"], ("all[:98%]", "all[98%:]")),
    ],
)
def test_splits_are_chosen_by_their_names(splits, chosen):
    assert training_splits(splits) == chosen


def test_a_slice_of_a_split(prepared):
    sources = open_with(
        f"tfds:{PREPARED}", tfds_dir=str(prepared), train_split="train[:4]", validation_split="train[4:]"
    )
    assert (len(sources.train), len(sources.validation)) == (4, TRAIN_IMAGES - 4)
    contents = [source.read(index) for source in sources for index in range(len(source))]
    assert sorted(contents) == sorted(map(png, range(TRAIN_IMAGES)))


def test_the_environment_names_the_directory(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(open_with(f"tfds:{PREPARED}", tfds_dir="").train) == TRAIN_IMAGES


def test_a_missing_data_set_names_three_ways_on(tmp_path):
    with pytest.raises(DataError) as caught:
        open_with("tfds:places365_small", tfds_dir=str(tmp_path))
    message = one_line(caught)
    assert f"places365_small is not prepared in {tmp_path}" in message
    assert f"glcic data prepare places365_small --data-dir={tmp_path};" in message
    assert "--config.data.source=folder:/path/to/photographs" in message
    assert "--config.data.source=samples" in message
    assert os.listdir(tmp_path) == []  # Nothing was begun.


@pytest.mark.parametrize("file_format", ["tfrecord", None])
def test_a_tfrecord_preparation_is_refused(own_copy, file_format):
    # None: TFDS wrote no format before it knew a second one.
    change_info(own_copy, fileFormat=file_format)
    for path in own_copy.glob("*.array_record-*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    with pytest.raises(DataError, match="is prepared as tfrecord, which has no random access") as caught:
        open_with(f"tfds:{PREPARED}", tfds_dir=str(own_copy.parents[1]))
    assert one_line(caught).endswith(f"glcic data prepare {PREPARED} --data-dir={own_copy.parents[1]}")


def test_the_command_names_the_usual_directory_by_leaving_it_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"prepare it: glcic data prepare celeb_a:2\.1\.0;") as caught:
        open_with("tfds:celeb_a:2.1.0", tfds_dir="")
    assert f"not prepared in {tmp_path}:" in one_line(caught)


@pytest.mark.parametrize("part", ["train_split", "validation_split"])
def test_a_wrong_split_is_an_error_that_lists_the_splits(prepared, part):
    with pytest.raises(DataError, match="has no split 'test': choose from train, validation") as caught:
        open_with(f"tfds:{PREPARED}", tfds_dir=str(prepared), **{part: "test"})
    one_line(caught)


def test_a_malformed_slice_is_a_data_error(prepared):
    with pytest.raises(DataError, match="abc") as caught:
        open_with(f"tfds:{PREPARED}", tfds_dir=str(prepared), train_split="train[abc]")
    one_line(caught)


def test_a_data_set_needs_a_name(prepared):
    with pytest.raises((DataError, ConfigError)):
        open_with("tfds:", tfds_dir=str(prepared))


@pytest.mark.parametrize("damage", ["truncated", "missing", "information"])
def test_a_damaged_preparation_is_a_data_error(own_copy, damage):
    records = next(own_copy.glob("*-train.array_record-*"))
    if damage == "truncated":
        records.write_bytes(records.read_bytes()[:200])
    elif damage == "missing":
        records.unlink()
    else:
        (own_copy / "dataset_info.json").write_text("{")
    with pytest.raises(DataError) as caught:
        open_with(f"tfds:{PREPARED}", tfds_dir=str(own_copy.parents[1]))
    assert str(own_copy) in one_line(caught)


def test_a_data_set_without_images_is_refused(own_copy):
    path = own_copy / "features.json"
    features = json.loads(path.read_text())
    del features["featuresDict"]["features"]["image"]
    path.write_text(json.dumps(features))
    with pytest.raises(DataError, match="has no image feature"):
        open_with(f"tfds:{PREPARED}", tfds_dir=str(own_copy.parents[1]))


def test_of_two_versions_the_newest_is_opened(own_copy):
    for version in ("1.10.0", "1.9.0"):
        newer = own_copy.with_name(version)
        shutil.copytree(own_copy, newer)
        change_info(newer, version=version)
    assert tfds_directory(PREPARED, str(own_copy.parents[1])) == own_copy.with_name("1.10.0")
    for path in own_copy.with_name("1.10.0").glob("*-validation*"):
        shutil.copy(path, str(path).replace("-validation", "-train"))
    splits = json.loads((own_copy / "dataset_info.json").read_text())["splits"]
    splits[0].update(shardLengths=[str(VALIDATION_IMAGES)])
    change_info(own_copy.with_name("1.10.0"), splits=splits)
    opened = open_with(f"tfds:{PREPARED}", tfds_dir=str(own_copy.parents[1]))
    assert len(opened.train) == VALIDATION_IMAGES  # What only 1.10.0 holds.


def test_a_version_can_be_chosen(own_copy):
    shutil.copytree(own_copy, own_copy.with_name("2.0.0"))
    shutil.copytree(own_copy, own_copy.with_name("3.0.0.incompleteAB12CD"))  # As an interrupted TFDS leaves it.
    root = str(own_copy.parents[1])
    assert tfds_directory(PREPARED, root) == own_copy.with_name("2.0.0")
    assert tfds_directory(f"{PREPARED}:1.0.0", root) == own_copy
    assert len(open_with(f"tfds:{PREPARED}:1.0.0", tfds_dir=root).train) == TRAIN_IMAGES
    with pytest.raises(DataError, match=f"choose one of tfds:{PREPARED}:1.0.0, tfds:{PREPARED}:2.0.0") as caught:
        open_with(f"tfds:{PREPARED}:3.0.0", tfds_dir=root)
    one_line(caught)


WITHOUT_TENSORFLOW = """
import importlib.machinery, sys, types

class NoTensorFlow(importlib.machinery.PathFinder):
    # As on a machine without it. A None in sys.modules would not do: TFDS takes that for an imported TensorFlow.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = NoTensorFlow
sys.modules["tensorflow_datasets"] = None
tfds_dir, folder = sys.argv[1:]
from glcic_jax.data.sources import open_sources
from glcic_jax.errors import DataError
from glcic_jax.pictures.rgb_files import load_image
from glcic_jax.data.folders import FileSource, held_out

def opened(source):
    return open_sources(types.SimpleNamespace(
        source=source, tfds_dir=tfds_dir, train_split="train", validation_split="validation",
        validation_fraction=0.5, listing="",
    ))

for source in ("samples", f"folder:{folder}"):
    load_image(opened(source).train.read(0))
try:
    opened("tfds:tiny_photos")
except DataError as error:
    print(error)
del sys.modules["tensorflow_datasets"]
print(load_image(opened("tfds:tiny_photos").train.read(0)).shape)
print(sorted({"tensorflow", "jax"} & set(sys.modules)))
"""


def test_neither_tensorflow_nor_without_need_tfds_is_imported(prepared, tmp_path):
    for name in "ab":
        write_picture(tmp_path / f"{name}.png")
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(prepared), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    refusal, shape, imported = process.stdout.splitlines()
    assert "needs TFDS: pip install tensorflow-datasets" in refusal
    assert shape == "(20, 30, 3)"
    assert imported == "[]"
