"""Images and masks as PIL images, arrays and files: what goes in comes back."""

import io
import zlib
from pathlib import Path, PurePath

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import tiny_weights
from PIL import Image

from glcic_jax.completion.completer import Completer
from glcic_jax.completion.inputs import open_hole, open_image
from glcic_jax.errors import DataError, WeightsError

HOLE = np.zeros((21, 30), bool)
HOLE[5:12, 20:30] = True


@pytest.fixture(scope="module")
def completer() -> Completer:
    return Completer(tiny_weights())


def pixels(channels=3, dtype=np.uint8) -> np.ndarray:
    values = np.random.default_rng(0).uniform(size=(21, 30, channels))
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else (values * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_a_pil_image_comes_back_in_its_mode(completer, mode):
    if mode == "I;16":
        image = Image.fromarray(pixels(1, np.uint16)[..., 0])
    else:
        channels = len(mode)
        image = Image.fromarray(pixels(channels)[..., 0] if channels == 1 else pixels(channels))
    image.info["icc_profile"] = b"a profile"
    completed = completer.complete(image, Image.fromarray(HOLE))
    assert (completed.mode, completed.size) == (mode, image.size) == (mode, (30, 21))
    assert completed.info["icc_profile"] == b"a profile"
    before, after = np.asarray(image), np.asarray(completed)
    np.testing.assert_array_equal(after[~HOLE], before[~HOLE])
    assert (after[HOLE] != before[HOLE]).mean() > 0.4


def test_tilde_in_a_path_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(pixels()).save(tmp_path / "image.png")
    Image.fromarray(HOLE).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(open_image("~/image.png").pixels, pixels())
    np.testing.assert_array_equal(open_hole(Path("~/mask.png"), (30, 21)), HOLE)


def test_pil_images_of_other_modes_take_the_nearest_mode(completer):
    rgb = Image.fromarray(pixels())
    for image, mode in (
        (rgb.convert("1"), "L"),
        (rgb.convert("P"), "RGB"),
        (rgb.convert("CMYK"), "RGB"),
        (rgb.convert("YCbCr"), "RGB"),
    ):
        completed = completer.complete(image, HOLE)
        assert completed.mode == mode
        np.testing.assert_array_equal(np.asarray(completed)[~HOLE], np.asarray(image.convert(mode))[~HOLE])
    with pytest.raises(DataError, match="mode F has no known range"):
        completer.complete(Image.fromarray(pixels(1, np.float32)[..., 0]), HOLE)


@pytest.mark.parametrize(
    ("mode", "space", "kept"),
    [
        ("CMYK", b"CMYK", False),
        ("CMYK", b"5CLR", False),
        ("YCbCr", b"RGB ", True),
        ("P", b"RGB ", True),
        ("LAB", b"Lab ", False),
        ("RGB", b"GRAY", False),
    ],
)
def test_a_colour_profile_is_kept_if_it_fits_the_pixels(mode, space, kept):
    image = Image.new(mode, (4, 3))
    profile = bytes(16) + space + bytes(200)
    image.info |= {"icc_profile": profile, "dpi": (72, 72)}
    opened = open_image(image)
    back = opened.restore(opened.pixels)
    assert back.mode == "RGB"
    assert back.info.get("icc_profile") == (profile if kept else None)
    assert back.info["dpi"] == (72, 72)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (np.uint8, (21, 30)),
        (np.uint8, (21, 30, 4)),
        (np.uint16, (21, 30, 3)),
        (np.float16, (21, 30, 1)),
        (np.float32, (21, 30, 2)),
        (np.float64, (21, 30, 3)),
    ],
)
def test_an_array_keeps_its_shape_and_dtype(completer, dtype, shape):
    array = pixels(shape[2] if len(shape) == 3 else 1, dtype).reshape(shape)
    before = array.copy()
    completed = completer.complete(array, HOLE)
    assert (completed.shape, completed.dtype) == (shape, array.dtype)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(completed[~HOLE], array[~HOLE])


def test_a_jax_array_comes_back_as_a_jax_array(completer):
    array = jnp.asarray(pixels(3, np.float32), jnp.bfloat16)
    completed = completer.complete(array, jnp.asarray(HOLE, jnp.float32))
    assert isinstance(completed, jax.Array)
    assert completed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(completed)[~HOLE], np.asarray(array)[~HOLE])


def test_files_and_pil_images_come_back_upright(completer, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path, mask = tmp_path / "turned.png", tmp_path / "mask.png"
    Image.fromarray(pixels()).save(path, exif=exif)
    Image.fromarray(HOLE).save(mask, exif=exif)
    turned, outside = np.rot90(pixels(), -1), np.rot90(~HOLE, -1)
    for image in (path, str(path), path.read_bytes(), Image.open(path)):
        for hole in (mask, mask.read_bytes(), Image.open(mask)):
            completed = completer.complete(image, hole)
            assert completed.size == (21, 30)
            np.testing.assert_array_equal(np.asarray(completed)[outside], turned[outside])
            assert completed.getexif().get(0x0112, 1) == 1
            written = io.BytesIO()
            completed.save(written, "PNG", exif=completed.info.get("exif", b""))
            assert Image.open(written).getexif().get(0x0112, 1) == 1


def test_every_way_to_hand_over_a_file_gives_the_same_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels()).save(path)
    content = path.read_bytes()
    with open(path, "rb") as file:
        for source in (path, str(path), PurePath(path), content, bytearray(content), io.BytesIO(content), file):
            opened = open_image(source)
            np.testing.assert_array_equal(opened.pixels, pixels())
            assert isinstance(opened.restore(opened.pixels), Image.Image)
    Image.fromarray(HOLE).save(path)
    for source in (PurePath(path), io.BytesIO(path.read_bytes()), bytearray(path.read_bytes())):
        np.testing.assert_array_equal(open_hole(source, (30, 21)), HOLE)
    with open(path, encoding="latin-1") as file, pytest.raises(DataError, match="mode 'rb'"):
        open_image(file)


@pytest.mark.parametrize(
    "mask",
    [
        HOLE,
        HOLE.astype(np.uint8),
        HOLE.astype(np.int64),
        HOLE.astype(np.uint8) * 255,
        HOLE.astype(np.float32)[..., None],
        Image.fromarray(HOLE),
        Image.fromarray(HOLE.astype(np.uint8) * 255).convert("RGB"),
        Image.fromarray(HOLE.astype(np.uint8) * 255).convert("P"),
    ],
)
def test_masks_of_every_type_give_the_same_hole(mask):
    np.testing.assert_array_equal(open_hole(mask, (30, 21)), HOLE)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 5), np.uint8), "C from 1 to 4"),
        (np.zeros((2, 4, 4, 3), np.uint8), "C from 1 to 4"),
        (np.zeros((0, 4, 3), np.uint8), "C from 1 to 4"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.zeros((4, 4, 3), bool), "bool"),
        ("none.png", "no such file"),
    ],
)
def test_invalid_images_are_refused(image, words):
    with pytest.raises(DataError, match=words):
        open_image(image)


def test_the_range_of_floats_is_checked_outside_the_hole_only(completer):
    for wrong in (255.0, np.nan, -0.1):
        array = np.where(HOLE[..., None], wrong, pixels(3, np.float64))
        assert np.isfinite(completer.complete(array, HOLE)).all()
        with pytest.raises(DataError, match=r"lies in \[0, 1\] outside the hole"):
            completer.complete(array, ~HOLE)


def test_a_mask_of_another_shape_and_missing_weights_are_errors(completer, store_home):
    with pytest.raises(DataError, match="the mask is 30 x 21 pixels, the image 10 x 10"):
        completer.complete(np.zeros((10, 10, 3), np.uint8), HOLE)
    with pytest.raises(WeightsError, match="no such file, run or name"):
        Completer.load("nothing")


def test_errors_name_what_python_can_give(completer, tmp_path):
    with pytest.raises(DataError, match=r"make a mask of the image's aspect ratio$"):
        completer.complete(pixels(), HOLE[:10])
    path = tmp_path / "huge.png"
    Image.new("L", (1, 1)).save(path)
    content = path.read_bytes()
    header = b"IHDR" + (60_000).to_bytes(4) * 2 + content[24:29]
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4) + content[33:])
    with pytest.raises(
        DataError, match=r"at most [\d,]+ are read: shrink it, or open it yourself and give an array$"
    ):
        completer.complete(path, HOLE)
