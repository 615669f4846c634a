"""Sixteen bits and TIFFs of rare kinds: read whole or refused, and written so that other programs read them."""

import io

import numpy as np
import pytest
import tifffile
from pictures.test_pictures import PROFILES, encode, exif_block, noise
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.pictures import sixteen_bit
from glcic_jax.pictures.picture import Picture, encode_picture, fitted, read_picture
from glcic_jax.pictures.rgb_files import load_image


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def test_eight_bits_are_the_nearest():
    values = np.arange(65536).astype(np.uint16)
    np.testing.assert_array_equal(sixteen_bit.eight_bit(values), np.round(values / 257.0))


def test_grey_and_alpha_in_a_deep_tiff_are_rgba_which_others_read():
    picture = Picture(noise(2, np.uint16), "PNG", icc_profile=PROFILES[b"GRAY"])
    content = encode_picture(picture, "TIFF")
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image), (picture.pixels >> 8)[..., [0, 0, 0, 1]])
    back = read_picture(content)
    np.testing.assert_array_equal(back.pixels, picture.pixels[..., [0, 0, 0, 1]])
    assert back.icc_profile == b""
    notes = " ".join(fitted(picture, "TIFF").notes)
    for words in ("written as RGBA", "profile was left out"):
        assert words in notes
    assert fitted(picture, "PNG").pixels.shape[-1] == 2


def test_grey_and_alpha_of_another_writer_are_read_from_a_deep_tiff():
    pixels = noise(2, np.uint16)
    content = tiff(pixels, photometric="minisblack", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_picture(content).pixels, pixels)
    for options in ({}, {"compression": "zlib"}):
        content = tiff(noise(2, np.uint16, 60, 80), photometric="minisblack", extrasamples=[2], **options)
        for share in (0.5, 0.9, 0.999):
            with pytest.raises(DataError):
                read_picture(content[: int(len(content) * share)])


def test_a_truncated_rare_tiff_is_told_from_its_offsets():
    content = tiff(noise(2, np.uint16, 60, 80), photometric="minisblack", extrasamples=[2])
    with pytest.raises(ValueError, match="truncated"):
        sixteen_bit.decode_rare_tiff(content[:-1])


def test_deep_grey_where_0_is_white():
    pixels = noise(1, np.uint16)[..., 0]
    picture = read_picture(tiff(pixels, photometric="miniswhite"))
    np.testing.assert_array_equal(picture.pixels[..., 0], 65535 - pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_channel_that_is_left_out_is_noted(dtype):
    content = tiff(noise(4, dtype), photometric="rgb", extrasamples=["unspecified"])
    picture = read_picture(content)
    np.testing.assert_array_equal(picture.pixels, noise(4, dtype)[..., :3])
    assert [note[:9] for note in picture.notes] == ["a channel"]
    for channels in (1, 3, 4):
        assert read_picture(encode_picture(Picture(noise(channels, dtype), "TIFF"), "TIFF")).notes == ()


def test_deep_cmyk_is_noted_as_cut():
    picture = read_picture(tiff(noise(4, np.uint16), photometric="separated"))
    assert picture.pixels.dtype == np.uint8
    assert {note[:4] for note in picture.notes} == {"CMYK", "16-b"}


@pytest.mark.parametrize(("unit", "dpi"), [(2, (100, 50)), (3, (254, 127)), (1, None)])
def test_resolution_of_a_rare_tiff_has_a_unit(unit, dpi):
    values = np.zeros((7, 11, 3), np.float32)
    content = tiff(values, photometric="rgb", resolution=(100, 50), resolutionunit=unit)
    assert read_picture(content).dpi == (dpi if dpi is None else pytest.approx(dpi))


def test_resolution_turns_with_the_picture():
    for orientation, dpi in ((1, (300, 150)), (6, (150, 300))):
        content = encode(noise(3), "JPEG", exif=exif_block(orientation), dpi=(300, 150))
        assert read_picture(content).dpi == dpi


@pytest.mark.parametrize("channels", [1, 3])
def test_a_highlight_of_a_float_tiff_is_clipped_and_noted(channels):
    pixels = np.full((20, 20, channels), 0.5, np.float32)
    pixels[3, 4] = 1.2
    kind = {"photometric": "rgb"} if channels == 3 else {}
    content = tiff(pixels if channels == 3 else pixels[..., 0], **kind)
    picture = read_picture(content)
    assert picture.pixels.dtype == np.uint16
    assert (picture.pixels[0, 0] == 32768).all()
    assert (picture.pixels[3, 4] == 65535).all()
    assert "0.25 % are brighter and were clipped" in picture.notes[0]
    pixels[3, 4] = 1.0
    assert "clipped" not in read_picture(tiff(pixels if channels == 3 else pixels[..., 0], **kind)).notes[0]
    if channels == 1:
        assert load_image(content)[0, 0, 0] == 128


def test_laying_over_white_rounds():
    colour, alpha = (grid.astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
    laid = fitted(Picture(np.dstack([colour, alpha]), "PNG"), "JPEG").pixels[..., 0]
    exact = (colour * (alpha / 255.0)) + (255 - alpha.astype(float))
    assert np.abs(laid - exact).max() <= 0.5 + 1e-9
