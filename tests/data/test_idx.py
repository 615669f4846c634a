"""MNIST's own files, and what the input pipeline admits."""

import gzip
import zlib

import numpy as np
import pytest
from helpers.common import load_config, one_line
from helpers.idx_files import blobs, idx_bytes, write_mnist

from glcic_jax.data import SkippedFiles, input_pipeline, open_images, open_sources
from glcic_jax.data.idx import read_idx
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.pictures import load_image, save_image

IMAGES = "train-images-idx3-ubyte"


def test_images_are_read_exactly(tmp_path):
    data = load_config("vanilla_gan").data
    data.source = f"idx:{write_mnist(tmp_path, 28)}"
    sources = open_sources(data)
    assert (len(sources.train), len(sources.validation)) == (40, 8)
    decoded = load_image(sources.train.read(13))
    np.testing.assert_array_equal(decoded, np.repeat(blobs(40, 28)[0][13, ..., None], 3, axis=-1))
    assert sources.train.name(13) == f"{tmp_path}/{IMAGES}.gz[13]"
    assert sources.train.short_name(13) == f"13-{zlib.crc32(blobs(40, 28)[0][13].tobytes()):08x}"
    batch = next(input_pipeline.train_batches(sources.train, data, 40, 0, SkippedFiles(None, 40, 0.0)))["image"]
    assert batch.shape == (40, 28, 28, 1)
    expected = {image.tobytes() for image in blobs(40, 28)[0]}
    assert {image.tobytes() for image in batch} == expected


def test_plain_files_and_labels_are_read_too(tmp_path):
    folder = write_mnist(tmp_path, 8)
    packed = folder / f"{IMAGES}.gz"
    (folder / IMAGES).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    image, label = read_idx(folder, "train")
    for found, expected in zip((image, label), blobs(40, 8), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(open_images(f"idx:{folder}", option="--data ").source) == 8  # Those held out.


GOOD = idx_bytes(blobs(3, 8)[0])
DAMAGES = {
    "truncated": (gzip.compress(GOOD[:-10]), "holds 182 bytes of data instead of 192 .3 x 8 x 8."),
    "too long": (gzip.compress(GOOD + b"xx"), "holds 194 bytes of data instead of 192"),
    "truncated by the download": (gzip.compress(GOOD)[:-12], "cannot be read"),
    "not compressed": (GOOD, "cannot be read"),
    "labels": (gzip.compress(idx_bytes(np.arange(3))), "begins with 00000801, not 00000803"),
    "a web page": (gzip.compress(b"<html>"), "begins with 3c68746d, not 00000803"),
    "nothing": (gzip.compress(b""), "begins with nothing, not 00000803"),
    "half a header": (gzip.compress(GOOD[:9]), "truncated within its header"),
    "no images": (gzip.compress(idx_bytes(np.zeros((0, 8, 8)))), "is empty .0 x 8 x 8."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_one_clear_line(tmp_path, damage):
    content, message = DAMAGES[damage]
    folder = write_mnist(tmp_path, 8)
    (folder / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(DataError, match=f"{IMAGES}.gz: {message}") as caught:
        open_images(f"idx:{folder}", "train", option="--data ")
    one_line(caught)


def test_missing_folders_files_and_splits_are_named(tmp_path):
    for reference in ("idx:", f"idx:{tmp_path / 'nowhere'}"):
        with pytest.raises(DataError, match="no such folder; give --data idx:"):
            open_images(reference, option="--data ")
    with pytest.raises(DataError, match=f"holds no {IMAGES}.gz"):
        open_images(f"idx:{tmp_path}", "train", option="--data ")
    with pytest.raises(ConfigError, match="unknown split of IDX files 'test': choose one of train, validation"):
        open_images(f"idx:{write_mnist(tmp_path, 8)}", "test", option="--data ")


def test_labels_of_another_number_are_refused(tmp_path):
    folder = write_mnist(tmp_path, 8)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.arange(3))))
    with pytest.raises(DataError, match="40 images and 3 labels of train"):
        read_idx(folder, "train")


@pytest.fixture
def pictures(tmp_path):
    """A folder of four colour pictures of 40 x 24 px, and its `config.data`."""
    rng = np.random.default_rng(0)
    for index in range(4):
        save_image(rng.integers(0, 256, (24, 40, 3), np.uint8), tmp_path / f"{index}.png")
    data = load_config("dcgan").data
    data.update(
        source=f"folder:{tmp_path}", validation_fraction=0.3, image_size=16, resize_range=(), centre_crop=16
    )
    return data


def first_batch(data):
    sources = open_sources(data)
    skipped = SkippedFiles(None, 4, data.max_skipped_fraction)
    return next(input_pipeline.train_batches(sources.train, data, 1, 0, skipped))["image"]


def test_centre_crop_cuts_the_middle(pictures, tmp_path):
    pictures.flip = False
    crops = [load_image(path)[4:20, 12:28].tobytes() for path in tmp_path.glob("*.png")]
    assert first_batch(pictures).tobytes() in crops


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"centre_crop": 0},
            r"has 40 x 24 px, and data\.image_size is 16: give data\.resize_range, such as \(16, 16\)",
        ),
        ({"centre_crop": 30}, r"has 40 x 24 px, and data\.centre_crop is 30"),
        ({"grey": True}, r"has colours, and data\.grey admits one channel"),
    ],
)
def test_images_of_another_size_or_channel_count_stop_the_run(pictures, changes, message):
    pictures.update(changes)
    with pytest.raises(DataError, match=message) as caught:
        first_batch(pictures)
    one_line(caught)
