"""What files say beside their pixels is kept where the format can, and named where it cannot."""

import io
import struct

import numpy as np
import pytest
from pictures.test_pictures import PROFILES, encode, encode_16, noise, with_chunk
from PIL import Image

from glcic_jax.pictures.metadata import is_lossless_webp, jpeg2000_bits, png_colour
from glcic_jax.pictures.picture import encode_picture, fitted, read_picture

WIDE_GAMUT = (12, 13, 0, 1)  # cICP: Display P3.


def chunk_of(png: bytes, kind: bytes) -> bytes:
    place = png.index(kind)
    return png[place + 4 : place + 4 + struct.unpack(">L", png[place - 4 : place])[0]]


@pytest.mark.parametrize(
    "options", [{}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}, {"icc_profile": b"p" * 301}]
)
@pytest.mark.parametrize("lossless", [True, False])
def test_a_lossless_webp_stays_one(options, lossless, tmp_path):
    content = encode(noise(4), "WEBP", lossless=lossless, exact=True, **options)
    (tmp_path / "a.webp").write_bytes(content)
    for source in (content, tmp_path / "a.webp"):
        assert is_lossless_webp(source) == lossless
        picture = read_picture(source)
        assert picture.lossless == lossless
    again = encode_picture(picture, "WEBP")
    assert is_lossless_webp(again) == lossless
    assert np.array_equal(read_picture(again).pixels, picture.pixels) == lossless
    assert not read_picture(encode(noise(3), "PNG")).lossless


def test_invisible_colours_of_a_lossless_webp_are_kept():
    pixels = noise(4)
    pixels[..., 3] = 0
    picture = read_picture(encode(pixels, "PNG"))
    np.testing.assert_array_equal(read_picture(encode_picture(picture, "WEBP", quality=100)).pixels, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_pngs_colours_mean_the_same_afterwards(dtype, tmp_path):
    png = encode(noise(3), "PNG") if dtype == np.uint8 else encode_16(noise(3, np.uint16))
    for kind, data in ((b"gAMA", struct.pack(">L", 100_000)), (b"cICP", bytes(WIDE_GAMUT)), (b"tIME", bytes(7))):
        png = with_chunk(png, kind, data)
    (tmp_path / "a.png").write_bytes(png)
    picture = read_picture(tmp_path / "a.png")
    again = encode_picture(picture, "PNG")
    with Image.open(io.BytesIO(again)) as image:
        image.load()  # Which checks the checksums.
        assert image.info["gamma"] == 1.0
    assert chunk_of(again, b"cICP") == bytes(WIDE_GAMUT)
    assert b"tIME" not in again
    np.testing.assert_array_equal(read_picture(again).pixels, noise(3, dtype))
    assert fitted(picture, "PNG").notes == ()
    assert any("description of its colours" in note for note in fitted(picture, "TIFF").notes)
    assert b"cICP" not in encode_picture(picture, "TIFF")


def test_of_colours_only_a_loss_is_noted():
    plain = with_chunk(encode(noise(3), "PNG"), b"sRGB", b"\0")
    gamma = with_chunk(encode(noise(3), "PNG"), b"gAMA", struct.pack(">L", 100_000))
    profile = with_chunk(
        encode(noise(3), "PNG", icc_profile=PROFILES[b"RGB "]), b"gAMA", struct.pack(">L", 100_000)
    )
    for png, noted in ((plain, False), (gamma, True), (profile, False), (encode(noise(3), "PNG"), False)):
        assert bool(fitted(read_picture(png), "JPEG").notes) == noted


@pytest.mark.parametrize("kind", [".jp2", ".ppm"])
def test_sixteen_bits_are_kept_or_their_loss_is_noted(kind, tmp_path):
    rows, columns = np.mgrid[0:64, 0:80].astype(np.uint16)
    pixels = np.dstack([1000 * rows, 800 * columns, np.full_like(rows, 65535)])
    (tmp_path / "a").write_bytes(encode_16(pixels, kind))
    picture = read_picture(tmp_path / "a")
    if kind == ".jp2":
        assert jpeg2000_bits(tmp_path / "a") == 16
        assert np.abs(picture.pixels.astype(int) - pixels).max() <= 2**9
        assert picture.pixels.dtype == np.uint16
        assert picture.notes == ()
        assert any("16 bits were rounded to 8" in note for note in fitted(picture, "JPEG2000").notes)
    else:
        assert picture.pixels.dtype == np.uint8
        assert [note[:31] for note in picture.notes] == ["16-bit colour was read as 8-bit"]


def test_eight_bits_are_no_loss():
    for kind in ("JPEG2000", "PPM"):
        assert read_picture(encode(noise(3, height=40, width=40), kind)).notes == ()
    assert jpeg2000_bits(encode(noise(3, height=40, width=40), "JPEG2000")) == 8
    assert read_picture(b"P1 2 1 0 1").pixels[0, :, 0].tolist() == [255, 0]
    assert "12-bit colour" in read_picture(b"P3 1 1 4095 0 4095 9").notes[0]


@pytest.mark.parametrize("content", [b"", b"RIFF", bytes(200), b"\xff" * 200, b"\x89PNG\r\n\x1a\n" + b"\xff" * 40])
def test_what_has_no_chunks_says_nothing(content):
    assert png_colour(content) == b""
    assert not is_lossless_webp(content)
    assert jpeg2000_bits(content) == 8
