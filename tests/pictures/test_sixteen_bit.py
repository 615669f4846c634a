"""16-bit pictures and rare TIFFs: read whole or refused, and written so that other programs read them."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from helpers.picture_files import STORED, encode, encode_16, encode_tiff, exif_block, noise
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.pictures import Picture, encode_picture, fitted, load_image, opening, read_picture, sixteen_bit
from glcic_jax.pictures.metadata import box_bits, parse_exif, upright_exif

PROFILES = {1: bytes(16) + b"GRAY" + bytes(200), 3: bytes(16) + b"RGB " + bytes(200)}
EXIF = upright_exif(parse_exif(exif_block()), turned=False)


def test_eight_bits_are_the_nearest():
    values = np.arange(65536).astype(np.uint16)
    np.testing.assert_array_equal(sixteen_bit.eight_bit(values), np.round(values / 257.0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_survive_with_profile_exif_and_resolution(kind, channels):
    profile = PROFILES[3 if channels > 2 else 1]
    picture = Picture(noise(channels, np.uint16), kind, EXIF, profile, (300.0, 150.0))
    content = encode_picture(picture, kind)
    back = read_picture(content)
    picture = fitted(picture, kind)  # Changes grey with alpha in a TIFF alone.
    assert back.pixels.dtype == np.uint16
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    assert back.icc_profile == picture.icc_profile
    assert back.dpi == pytest.approx((300, 150), abs=0.02)
    assert back.exif == EXIF
    assert back.notes == ()
    # Other decoders agree.
    if kind == "TIFF":
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), picture.pixels.squeeze())
    elif channels != 2:
        order = {1: None, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[channels]
        other = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        other = other[..., None] if order is None else cv2.cvtColor(other, order)
        np.testing.assert_array_equal(other, picture.pixels)


def test_grey_with_alpha_in_a_16_bit_tiff_becomes_rgba():
    picture = Picture(noise(2, np.uint16), "PNG", icc_profile=PROFILES[1])
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


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_of_another_writer_are_read(channels, suffix):
    pixels = noise(channels, np.uint16)
    np.testing.assert_array_equal(read_picture(encode_16(pixels, suffix)).pixels, pixels)


def test_jpeg_2000_keeps_16_bits_and_reports_their_loss():
    rows, columns = np.mgrid[0:64, 0:80].astype(np.uint16)
    pixels = np.dstack([1000 * rows, 800 * columns, np.full_like(rows, 65535)])
    picture = read_picture(encode_16(pixels, ".jp2"))
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.pixels.astype(int) - pixels).max() <= 2**9
    assert picture.notes == ()
    assert any("16 bits were rounded to 8" in note for note in fitted(picture, "JPEG2000").notes)
    deep = encode_16(noise(3, np.uint16, 64, 64), ".jp2")
    depths = bytes((15, 1, 1)) * 3
    assert depths in deep
    deep = deep.replace(depths, bytes((11, 1, 1)) * 3)  # 12 bits, which OpenCV does not scale.
    assert "more than 8 bits" in " ".join(read_picture(deep).notes)


def test_a_ppm_of_more_than_8_bits_reports_their_loss():
    picture = read_picture(encode_16(noise(3, np.uint16), ".ppm"))
    assert picture.pixels.dtype == np.uint8
    assert [note[:31] for note in picture.notes] == ["16-bit colour was read as 8-bit"]
    assert "12-bit colour" in read_picture(b"P3 1 1 4095 0 4095 9").notes[0]
    for kind in ("JPEG2000", "PPM"):
        assert read_picture(encode(noise(3, height=40, width=40), kind)).notes == ()


@pytest.mark.parametrize(
    "options", [{"planarconfig": "separate"}, {"bigtiff": True}, {"tile": (16, 16)}, {"compression": "zlib"}]
)
def test_rarer_16_bit_tiffs_are_read(options):
    pixels = noise(3, np.uint16)
    stored = np.ascontiguousarray(np.moveaxis(pixels, -1, 0)) if "planarconfig" in options else pixels
    picture = read_picture(encode_tiff(stored, photometric="rgb", **options))
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, pixels)


def test_alpha_of_a_tiff_by_its_kind():
    pixels = noise(4, np.uint16)
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])
    picture = read_picture(encode_tiff(pixels, photometric="rgb", extrasamples=["assocalpha"]))
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.alpha, pixels[..., 3])
    divided = 65535.0 * pixels[..., :3] / np.maximum(pixels[..., 3:], 1)
    np.testing.assert_allclose(picture.colour, divided, atol=0.51)
    for dtype in (np.uint8, np.uint16):
        unknown = encode_tiff(noise(4, dtype), photometric="rgb", extrasamples=["unspecified"])
        picture = read_picture(unknown)
        np.testing.assert_array_equal(picture.pixels, noise(4, dtype)[..., :3])
        assert [note[:9] for note in picture.notes] == ["a channel"]
        for channels in (1, 3, 4):
            assert read_picture(encode_picture(Picture(noise(channels, dtype), "TIFF"), "TIFF")).notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_16_bit_tiff_is_turned_once(order):
    upright = noise(3, np.uint16) % 200  # The high bytes alone would not tell the turns apart.
    for orientation in (1, 3, 6):
        stored = np.ascontiguousarray(STORED[orientation](upright))
        tags = [(274, 3, 1, orientation, True)]
        picture = read_picture(
            encode_tiff(stored, photometric="rgb", extratags=tags, byteorder=order, compression="zlib")
        )
        assert picture.pixels.dtype == np.uint16
        np.testing.assert_array_equal(picture.pixels, upright)
        assert picture.stored_size == (None if orientation == 1 else stored.shape[1::-1])


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_lzw_tiff_that_only_opencv_decodes_is_turned_once(orientation):
    upright = noise(3, np.uint16)
    content = encode_16(np.ascontiguousarray(STORED[orientation](upright)), ".tiff")
    planar = struct.pack("<HHIHH", 284, 3, 1, 1, 0)
    assert planar in content
    picture = read_picture(content.replace(planar, struct.pack("<HHIHH", 274, 3, 1, orientation, 0)))
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, upright)


def test_grey_is_scaled_to_16_bits():
    swapped = Image.frombytes("I;16B", (3, 1), np.array([[0, 300, 65535]], ">u2").tobytes())
    np.testing.assert_array_equal(read_picture(encode(swapped, "TIFF")).pixels[0, :, 0], [0, 300, 65535])
    for values, expected in (
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 32768, 65535]),
        (np.array([[0, 300, 65535]], np.int32), [0, 300, 65535]),
    ):
        picture = read_picture(encode(values, "TIFF"))
        assert picture.pixels.dtype == np.uint16
        np.testing.assert_array_equal(picture.pixels[0, :, 0], expected)
        assert "16 bits" in picture.notes[0]
    for order in "<>":
        content = encode_tiff(np.array([[(0.0, 0.5, 1.0)]], order + "f4"), photometric="rgb", byteorder=order)
        np.testing.assert_array_equal(read_picture(content).pixels, [[(0, 32768, 65535)]])
    pixels = noise(1, np.uint16)[..., 0]
    inverted = read_picture(encode_tiff(pixels, photometric="miniswhite"))
    np.testing.assert_array_equal(inverted.pixels[..., 0], 65535 - pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_highlight_of_a_float_tiff_is_clipped_and_reported(channels):
    kind = {"photometric": "rgb"} if channels == 3 else {}
    pixels = np.full((20, 20, channels) if channels == 3 else (20, 20), 0.5, np.float32)
    pixels[3, 4] = 1.2
    content = encode_tiff(pixels, **kind)
    picture = read_picture(content)
    assert picture.pixels.dtype == np.uint16
    assert (picture.pixels[0, 0] == 32768).all()
    assert (picture.pixels[3, 4] == 65535).all()
    assert "0.25 % are brighter and were clipped" in picture.notes[0]
    if channels == 1:
        assert load_image(content)[0, 0, 0] == 128
    pixels[3, 4] = 1.0
    assert "clipped" not in read_picture(encode_tiff(pixels, **kind)).notes[0]


def test_16_bit_cmyk_is_reported_as_cut():
    picture = read_picture(encode_tiff(noise(4, np.uint16), photometric="separated"))
    assert picture.pixels.dtype == np.uint8
    assert {note[:4] for note in picture.notes} == {"CMYK", "16-b"}


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_truncated_16_bits_are_refused(kind, channels):
    content = encode_picture(Picture(noise(channels, np.uint16, 60, 80), kind), kind)
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(DataError):
            read_picture(content[: int(len(content) * share)])


def test_grey_with_alpha_of_another_writer_is_read_or_refused():
    grey = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
    np.testing.assert_array_equal(
        read_picture(encode_tiff(noise(2, np.uint16), **grey)).pixels, noise(2, np.uint16)
    )
    for options in ({}, {"compression": "zlib"}):
        content = encode_tiff(noise(2, np.uint16, 60, 80), **grey, **options)
        for share in (0.5, 0.9, 0.999):
            with pytest.raises(DataError):
                read_picture(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="truncated"):
        sixteen_bit.decode_tiff(encode_tiff(noise(2, np.uint16, 60, 80), **grey)[:-1])


def test_a_damaged_16_bit_png_is_not_read_as_8_bit():
    content = encode_picture(Picture(noise(3, np.uint16, 60, 80), "PNG"), "PNG")
    checksum = content.index(b"IEND") - 9
    for damaged in (
        content[:checksum] + bytes([content[checksum] ^ 1]) + content[checksum + 1 :],
        content[: content.index(b"IEND") - 40],
    ):
        with pytest.raises(DataError):
            read_picture(damaged)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_that_are_no_brightness_are_reported_if_few_and_refused_if_many(wrong, channels):
    values = np.linspace(0, 1, 60 * channels, dtype=np.float32).reshape(6, 10, channels)
    for rows in (1, 4):
        values[:rows, :4] = wrong
        content = encode_tiff(values.squeeze(), photometric="rgb" if channels == 3 else "minisblack")
        if rows == 1:
            picture = read_picture(content)
            assert "6.7 % are negative, infinite or not numbers and became black" in picture.notes[0]
            assert (picture.pixels[:1, :4] == 0).all()
            continue
        for read in (read_picture, load_image):
            with pytest.raises(DataError, match="27 % of its values are negative") as caught:
                read(content, "a.tif")
            assert str(caught.value).startswith("a.tif: ")


def test_negative_integers_are_refused():
    values = np.arange(-30, 30, dtype=np.int16).reshape(6, 10)
    with pytest.raises(DataError, match="50 % of its values are negative"):
        read_picture(encode_tiff(values, photometric="minisblack"))


def heic(pixels: np.ndarray, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    opening.heif_formats()
    file = io.BytesIO()
    image = pillow_heif.from_bytes(mode="RGB;16", size=pixels.shape[1::-1], data=pixels.tobytes())
    image.save(file, quality=95, chroma=444, **options)
    return file.getvalue()


def test_a_heic_of_10_bits_keeps_them_and_its_colour_space_where_the_output_holds_them():
    ramp = np.linspace(0, 65535, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint16)
    content = heic(ramp, color_primaries=9, matrix_coefficients=9, full_range_flag=1)  # BT.2020.
    picture = read_picture(content)
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.pixels.astype(int) - ramp).mean() < 400
    assert len(np.unique(picture.pixels)) > 256
    assert fitted(picture, "PNG").notes == ()
    png = encode_picture(picture, "PNG")
    assert b"cICP\x09" in png
    assert read_picture(png).png_colour == picture.png_colour
    notes = " ".join(fitted(picture, "JPEG").notes)
    assert "16 bits were rounded to 8" in notes
    assert "colour space (wide gamut or HDR) was left out: JPEG" in notes


def test_an_ordinary_heic_or_avif_has_no_notes_and_a_deep_avif_has_one(monkeypatch):
    for kind in ("HEIF", "AVIF"):
        if kind in (*opening.readable_formats(), *opening.heif_formats()):
            content = encode(noise(3, height=64, width=64), kind)
            assert (read_picture(content).notes, read_picture(content).png_colour) == ((), ())
            assert box_bits(content) == 8
    assert box_bits(content.replace(b"pixi\0\0\0\0\x03\x08", b"pixi\0\0\0\0\x03\x0a")) == 10
    if kind == "AVIF":
        monkeypatch.setattr("glcic_jax.pictures.reading.box_bits", lambda content: 10)
        assert "10-bit colour was read as 8-bit" in read_picture(content).notes[0]
