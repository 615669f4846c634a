"""Files whose missing pixels decoders invent are refused, by completion and by training; intact ones are read."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.common import ROOT, one_line
from helpers.picture_files import encode, noise, smooth_picture
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.pictures import load_image, opening, read_picture

PIXELS = np.clip(smooth_picture(64, 96).astype(int) + noise(3, height=64, width=96) // 4, 0, 255).astype(np.uint8)
KINDS = {
    "baseline": ("JPEG", {}),
    "optimised": ("JPEG", {"optimize": True, "quality": 40}),
    "grey": ("JPEG", {"grey": True}),
    "restarts": ("JPEG", {"restart_marker_rows": 1}),
    "progressive": ("JPEG", {"progressive": True}),
    "progressive grey": ("JPEG", {"progressive": True, "grey": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "AVIF": ("AVIF", {}),
    "HEIC": ("HEIF", {}),
    "JPEG 2000": ("JPEG2000", {}),
}
JPEGS = [name for name, (kind, _) in KINDS.items() if kind == "JPEG"]


def intact(name: str) -> bytes:
    kind, options = KINDS[name]
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
        opening.heif_formats()
    elif kind not in opening.readable_formats():
        pytest.skip(f"this Pillow reads no {kind}")
    options = dict(options)
    return encode(PIXELS[..., :1] if options.pop("grey", False) else PIXELS, kind, **options)


def assert_refused(content: bytes, words: str = "cannot be read as an image", training: bool = True) -> None:
    for read in (read_picture, load_image) if training else (read_picture,):
        with pytest.raises(DataError, match=words) as caught:
            read(content, "a.jpg")
        assert one_line(caught).startswith("a.jpg: ")


@pytest.mark.parametrize("name", KINDS)
def test_intact_files_are_read(name):
    content = intact(name)
    read_picture(content)
    if KINDS[name][0] != "HEIF":
        with Image.open(io.BytesIO(content)) as expected:
            np.testing.assert_array_equal(load_image(content), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("share", [0.6, 0.75, 0.9, 0.98])
def test_a_jpeg_that_was_cut_and_given_an_end_marker_is_refused(name, share):
    content = intact(name)
    assert_refused(content[: int(share * len(content))] + b"\xff\xd9", training=False)


def test_training_skips_a_jpeg_that_was_cut_and_given_an_end_marker_also_where_it_decodes_at_reduced_size():
    content = intact("baseline")
    cut = content[: len(content) // 2] + b"\xff\xd9"
    with Image.open(io.BytesIO(cut)) as image:
        image.load()  # libjpeg invents the rest.
    for at_least in (None, 32, 8):
        with pytest.raises(DataError, match="truncated"):
            load_image(cut, at_least=at_least)
        load_image(content, at_least=at_least)


def test_bytes_behind_the_end_of_a_jpeg_are_no_damage():
    for name in JPEGS:
        content = intact(name)
        for more in (bytes(4096), b"a camera's own data \xff\xd8\xff"):
            np.testing.assert_array_equal(read_picture(content + more).pixels, read_picture(content).pixels)
            np.testing.assert_array_equal(load_image(content + more), load_image(content))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.4, 0.7, 0.9])
def test_a_file_whose_end_was_never_written_is_refused(name, share):
    content = intact(name)
    written = content[: int(share * len(content))]
    zeros = written + bytes(len(content) - len(written))
    if KINDS[name][0] == "HEIF":
        assert_refused(zeros, training=False)
    else:
        assert_refused(zeros)


def test_a_wrong_checksum_of_the_pixels_of_a_png_is_damage():
    content = bytearray(intact("PNG"))
    content[content.index(b"IEND") - 5] ^= 1
    assert_refused(bytes(content), "checksum")


def test_scans_that_contradict_their_frame_are_damage():
    content = intact("progressive")
    scan = content.index(b"\xff\xda") + 4  # Its number of components, then the first of them.
    assert_refused(content[: scan + 1] + b"\x77" + content[scan + 2 :], "header of a scan")


def test_small_and_flat_pictures_are_no_damage():
    for side in (1, 8, 64):
        for colour in (0, 255):
            pixels = np.full((side, side, 3), colour, np.uint8)
            for kind in ("JPEG", "PNG", "WEBP"):
                for options in ({}, {"JPEG": {"progressive": True}, "WEBP": {"lossless": True}}.get(kind, {})):
                    np.testing.assert_array_equal(load_image(encode(pixels, kind, **options)), pixels)


@pytest.mark.parametrize("silent", [False, True])
def test_libtiff_prints_nothing_once_it_is_silenced(tmp_path, silent):
    content = encode(noise(3, height=64, width=64), "TIFF", compression="tiff_lzw")
    with Image.open(io.BytesIO(content)) as image:
        start, size = image.tag_v2[273][0], image.tag_v2[279][0]
    (tmp_path / "a.tif").write_bytes(
        content[: start + size // 2] + bytes(size - size // 2) + content[start + size :]
    )
    code = (
        "from pathlib import Path; from glcic_jax.pictures import load_image, silence_libtiff; "
        f"{'silence_libtiff(); ' if silent else ''}load_image(Path('a.tif').read_bytes(), 'a.tif')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "DataError" in process.stderr
    assert process.stderr.startswith("Traceback") == silent, process.stderr
