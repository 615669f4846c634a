"""Prepared TFDS data sets: found, opened and checked without TensorFlow."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.common import ROOT, load_config, one_line
from helpers.images import contents, open_with, png, write_png

from glcic_jax.data.check import Findings, find_images, inspect_items
from glcic_jax.data.input_pipeline import train_batches
from glcic_jax.data.skipped_files import SkippedFiles
from glcic_jax.data.sources import open_images, open_sources
from glcic_jax.data.tfds import tfds_directory, training_splits
from glcic_jax.errors import DataError
from glcic_jax.pictures.rgb_files import load_image

NAME = "tiny_photos"
TRAIN, VALIDATION = 6, 3  # Numbers of images.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A TFDS data directory with one data set, which TFDS itself prepares as array_record."""
    import tensorflow_datasets as tfds
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
                    "train": self._generate_examples(range(TRAIN)),
                    "validation": self._generate_examples(range(TRAIN, TRAIN + VALIDATION)),
                }

            def _generate_examples(self, tags):
                for tag in tags:
                    yield tag, {"image": io.BytesIO(png(tag)), "label": tag}

        directory = tmp_path_factory.mktemp("tfds")
        TinyPhotos(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.fixture
def own_copy(prepared, tmp_path) -> Path:
    """The directory of the prepared version, free to be damaged."""
    shutil.copytree(prepared / NAME, tmp_path / NAME)
    return tmp_path / NAME / "1.0.0"


def change_info(directory: Path, **changes) -> None:
    path = directory / "dataset_info.json"
    info = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def test_a_prepared_data_set_gives_encoded_images(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    for tfds_dir in ("", str(prepared)):
        train, validation = open_with(f"tfds:{NAME}", tfds_dir=tfds_dir)
        assert contents(train) == sorted(map(png, range(TRAIN)))
        assert contents(validation) == sorted(map(png, range(TRAIN, TRAIN + VALIDATION)))
        assert load_image(train.read(0)).shape == (20, 30, 3)
        assert train.name(2) == train.short_name(2) == f"{NAME}/train[2]"


def test_a_prepared_data_set_trains(prepared):
    data = load_config("quickstart").data
    data.update(source=f"tfds:{NAME}", tfds_dir=str(prepared), image_size=16, resize_range=(16, 24))
    source = open_sources(data).train
    batches = train_batches(source, data, 3, 0, SkippedFiles(None, len(source), 0.0))
    epoch = np.concatenate([next(batches)["image"] for _ in range(TRAIN // 3)])
    assert epoch.shape == (TRAIN, 16, 16, 3)
    assert sorted(epoch[:, 8, 8, 0]) == [tag * 20 for tag in range(TRAIN)]


def test_a_prepared_data_set_is_checked_split_by_split(own_copy):
    images = find_images(own_copy, validation_fraction=0.5)
    assert images.parts == {"train": range(TRAIN), "validation": range(VALIDATION)}
    items = list(images.items())
    findings = Findings()
    for item, finding in zip(items, inspect_items(own_copy, items), strict=True):
        findings.add(item, finding)
    assert findings.formats == {"PNG": TRAIN + VALIDATION}
    assert findings.duplicates == 0
    assert findings.mean_pixel("train") == pytest.approx([np.mean(range(TRAIN)) * 20 / 255, 0, 0])


def test_a_prepared_data_set_is_found_below_a_path(own_copy):
    root = own_copy.parents[1]
    write_png(root / "downloads" / "extracted" / "a.png")  # TFDS leaves them.
    for path in (own_copy, own_copy.parent, root):
        assert find_images(path, 0.5).root == own_copy
    for version in ("2.0.0", "3.0.0.incompleteAB12CD"):
        shutil.copytree(own_copy, own_copy.with_name(version))
    with pytest.raises(DataError, match="holds several prepared data sets: give one of") as caught:
        find_images(root, 0.5)
    assert one_line(caught).endswith(f"{own_copy}, {own_copy.with_name('2.0.0')}")


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
def test_training_splits_are_chosen_by_name(splits, chosen):
    assert training_splits(splits) == chosen


def test_splits_and_slices(prepared):
    options = {"tfds_dir": str(prepared)}
    train, rest = open_with(f"tfds:{NAME}", train_split="train[:4]", validation_split="train[4:]", **options)
    assert (len(train), len(rest)) == (4, TRAIN - 4)
    assert sorted(contents(train) + contents(rest)) == sorted(map(png, range(TRAIN)))
    images = open_images(f"tfds:{NAME}", option="--data ", **options)
    assert images.split == "1.0.0, validation"
    assert len(images.source) == VALIDATION


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_split": "test"}, "has no split 'test': choose from train, validation"),
        ({"validation_split": "test"}, "has no split 'test': choose from train, validation"),
        ({"train_split": "train[abc]"}, "abc"),
    ],
)
def test_a_wrong_split_is_a_data_error(prepared, options, words):
    with pytest.raises(DataError) as caught:
        open_with(f"tfds:{NAME}", tfds_dir=str(prepared), **options)
    assert words in one_line(caught)


def test_a_missing_data_set_names_three_ways_on(tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        open_with("tfds:places365_small", tfds_dir=str(tmp_path))
    message = one_line(caught)
    assert f"places365_small is not prepared in {tmp_path}" in message
    assert f"glcic data prepare places365_small --data-dir={tmp_path};" in message
    assert "--config.data.source=folder:/path/to/photographs" in message
    assert "--config.data.source=samples" in message
    assert "glcic train --config=quickstart" in message
    assert os.listdir(tmp_path) == []  # No download was begun.
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"prepare it: glcic data prepare celeb_a:2\.1\.0;") as caught:
        open_with("tfds:celeb_a:2.1.0", tfds_dir="")
    assert f"not prepared in {tmp_path}:" in one_line(caught)


@pytest.mark.parametrize("file_format", ["tfrecord", None])
def test_a_tfrecord_preparation_names_the_command_that_converts(own_copy, file_format):
    root = own_copy.parents[1]
    change_info(own_copy, fileFormat=file_format)  # None: early versions of TFDS wrote no format.
    with pytest.raises(DataError, match="is prepared as tfrecord, which has no random access") as caught:
        open_with(f"tfds:{NAME}", tfds_dir=str(root))
    assert one_line(caught).endswith(f"glcic data prepare {NAME} --data-dir={root}")
    configured = own_copy.parent / "small" / "1.0.0"
    shutil.copytree(own_copy, configured)
    change_info(configured, configName="small")
    for path, name in ((own_copy, NAME), (configured, f"{NAME}/small")):
        with pytest.raises(DataError, match="convert it") as caught:
            find_images(path, 0.5)
        assert one_line(caught).endswith(f"glcic data prepare {name}:1.0.0 --data-dir={root}")
    with pytest.raises(DataError, match=rf"several configurations of {NAME}: choose one of tfds:{NAME}/small"):
        open_with(f"tfds:{NAME}", tfds_dir=str(root))


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
        open_with(f"tfds:{NAME}", tfds_dir=str(own_copy.parents[1]))
    assert str(own_copy) in one_line(caught)


def test_a_data_set_without_images_is_refused(own_copy):
    path = own_copy / "features.json"
    features = json.loads(path.read_text())
    del features["featuresDict"]["features"]["image"]
    path.write_text(json.dumps(features))
    with pytest.raises(DataError, match="has no image feature"):
        open_with(f"tfds:{NAME}", tfds_dir=str(own_copy.parents[1]))


def test_the_newest_version_or_the_chosen_one_is_opened(own_copy):
    root = str(own_copy.parents[1])
    for version in ("1.10.0", "1.9.0", "3.0.0.incompleteAB12CD"):  # The last is left by an interrupted TFDS.
        shutil.copytree(own_copy, own_copy.with_name(version))
    newest = own_copy.with_name("1.10.0")
    for path in newest.glob("*-validation*"):
        shutil.copy(path, str(path).replace("-validation", "-train"))
    splits = json.loads((own_copy / "dataset_info.json").read_text())["splits"]
    splits[0].update(shardLengths=[str(VALIDATION)])
    change_info(newest, version="1.10.0", splits=splits)
    assert tfds_directory(NAME, root) == newest
    assert len(open_with(f"tfds:{NAME}", tfds_dir=root).train) == VALIDATION
    assert tfds_directory(f"{NAME}:1.0.0", root) == own_copy
    assert len(open_with(f"tfds:{NAME}:1.0.0", tfds_dir=root).train) == TRAIN
    with pytest.raises(DataError, match=f"choose one of tfds:{NAME}:1.0.0, tfds:{NAME}:1.9.0") as caught:
        open_with(f"tfds:{NAME}:3.0.0", tfds_dir=root)
    one_line(caught)


WITHOUT_TENSORFLOW = """
import importlib.machinery, sys, types

class NoTensorFlow(importlib.machinery.PathFinder):
    # As on a machine without it. TFDS would take None in sys.modules for an imported TensorFlow.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = NoTensorFlow
sys.modules["tensorflow_datasets"] = None
tfds_dir, folder = sys.argv[1:]
from glcic_jax.data.sources import open_sources
from glcic_jax.errors import DataError
from glcic_jax.pictures.rgb_files import load_image

def opened(source):
    return open_sources(types.SimpleNamespace(
        source=source, tfds_dir=tfds_dir, train_split="train", validation_split="validation",
        validation_fraction=0.5, listing="",
    ))

load_image(opened(f"folder:{folder}").train.read(0))
try:
    opened("tfds:tiny_photos")
except DataError as error:
    print(error)
del sys.modules["tensorflow_datasets"]
for source in ("tfds:tiny_photos", "samples"):
    print(load_image(opened(source).train.read(0)).shape)
print(sorted({"tensorflow", "jax"} & set(sys.modules)))
"""


def test_reading_imports_no_tensorflow_and_tfds_only_for_tfds(prepared, tmp_path):
    for name in "ab":
        write_png(tmp_path / f"{name}.png")
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(prepared), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    refusal, shape, _, imported = process.stdout.splitlines()
    assert "needs TFDS: pip install tensorflow-datasets" in refusal
    assert shape == "(20, 30, 3)"
    assert imported == "[]"
