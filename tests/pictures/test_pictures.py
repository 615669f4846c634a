"""A picture to complete keeps everything that its file holds, and a bad file is one clear line."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
import tifffile
from helpers.common import one_line
from helpers.picture_files import (
    STORED,
    encode,
    encode_16,
    encode_tiff,
    exif_block,
    noise,
    png_chunk,
    png_header,
    with_chunk,
)
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.pictures import (
    Picture,
    encode_picture,
    fitted,
    format_for,
    opening,
    read_picture,
    readable_suffixes,
    suffix_for,
)
from glcic_jax.pictures.metadata import parse_exif, upright_exif
from glcic_jax.pictures.picture import _FORMATS as picture_formats
from glcic_jax.pictures.reading import decode
from glcic_jax.pictures.rgb_files import load_image

PROFILES = {space: bytes(16) + space + bytes(200) for space in (b"RGB ", b"GRAY", b"CMYK")}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
EXIF = upright_exif(parse_exif(exif_block()), turned=False)


def refusal(content, name: str = "a.png", **options) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(content, name, **options)
    assert str(caught.value).startswith(f"{name}: ")
    return one_line(caught)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA", "JPEG2000", "BMP", "PPM"])
def test_eight_bits_survive_lossless_formats(kind):
    for channels in MODES:
        picture = Picture(noise(channels), "PNG", EXIF, PROFILES[b"RGB " if channels > 2 else b"GRAY"])
        back = read_picture(encode_picture(picture, kind, quality=100))
        expected = fitted(picture, kind)
        np.testing.assert_array_equal(back.pixels, expected.pixels)
        assert back.pixels.dtype == np.uint8
        assert back.format == kind
        assert back.icc_profile == expected.icc_profile
        if kind in ("PNG", "TIFF"):
            np.testing.assert_array_equal(back.pixels, picture.pixels)
            assert back.icc_profile == picture.icc_profile
        if kind in ("PNG", "WEBP", "TIFF"):
            assert back.exif == picture.exif


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied_and_reset(orientation):
    upright = noise(3)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    picture = read_picture(encode(stored, "PNG", exif=exif_block(orientation)))
    np.testing.assert_array_equal(picture.pixels, upright)
    assert picture.stored_size == (None if orientation == 1 else stored.shape[1::-1])
    assert parse_exif(picture.exif)[0x112] == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_format_is_read_upright_and_written_so(kind):
    stored = np.ascontiguousarray(STORED[6](noise(3)))
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read_picture(encode(stored, kind, exif=exif_block(6), **options))  # Pillow turns a TIFF itself.
    assert picture.size == (11, 7)
    assert picture.stored_size == (7, 11)
    if kind != "JPEG":
        np.testing.assert_array_equal(picture.pixels, noise(3))
    again = read_picture(encode_picture(picture, kind))
    assert (again.size, again.stored_size, parse_exif(again.exif)[0x112]) == ((11, 7), None, 1)


@pytest.mark.parametrize("orientation", [None, 1, 6])
def test_heic_is_read_upright_and_written_with_and_without_exif(orientation):
    pytest.importorskip("pillow_heif")
    assert opening.heif_formats() == ["HEIF"]
    ramps = np.meshgrid(np.arange(48) * 4, np.arange(64) * 3)
    upright = np.stack([*ramps, np.full((64, 48), 100)], -1).astype(np.uint8)
    exif = exif_block(orientation) if orientation else None
    picture = read_picture(encode(STORED[orientation or 1](upright), "HEIF", quality=90, exif=exif))
    for shown in (picture, read_picture(encode_picture(picture, "HEIF"))):
        np.testing.assert_allclose(shown.pixels.astype(int), upright, atol=12)
        assert (b"maker's note" in shown.exif) == (orientation is not None)
        assert shown.notes == ()


def test_an_exif_block_of_none_is_no_exif_block():
    with Image.open(io.BytesIO(encode(noise(3), "PNG"))) as image:
        image.info["exif"] = None  # As pillow_heif does.
        assert decode(image, b"").exif == b""


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP", "AVIF", "BMP", "PPM", "GIF"])
def test_pixels_are_those_that_training_reads(kind):
    if kind not in opening.readable_formats() and kind != "MPO":
        pytest.skip(f"this Pillow reads no {kind}")
    content = encode(noise(3, height=24, width=32), kind)
    np.testing.assert_array_equal(read_picture(content).pixels, load_image(content))


def test_the_first_picture_of_an_mpo_is_read_as_jpeg():
    first, second = Image.fromarray(noise(3)), Image.fromarray(255 - noise(3))
    picture = read_picture(encode(first, "MPO", save_all=True, append_images=[second]))
    assert picture.format == "JPEG"
    np.testing.assert_array_equal(picture.pixels, load_image(encode(first, "JPEG")))
    assert any("first of the 2 images" in note for note in picture.notes)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb_as_in_training_and_loses_its_profile(kind):
    ink = Image.frombytes("CMYK", (11, 7), noise(4).tobytes())
    content = encode(ink, kind, icc_profile=PROFILES[b"CMYK"])
    picture = read_picture(content)
    np.testing.assert_array_equal(picture.pixels, load_image(content))
    assert picture.icc_profile == b""
    assert any("CMYK was converted to RGB" in note for note in picture.notes)
    assert any("profile (CMYK)" in note for note in picture.notes)


def test_grey_stays_grey_and_one_bit_becomes_grey():
    for kind in ("PNG", "JPEG", "TIFF"):
        content = encode(noise(1), kind)
        assert read_picture(content).pixels.shape == (7, 11, 1)
        np.testing.assert_array_equal(read_picture(content).pixels[..., 0], load_image(content)[..., 0])
    bits = noise(1)[..., 0] > 99
    picture = read_picture(encode(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(picture.pixels[..., 0], bits * np.uint8(255))
    assert picture.notes
    assert read_picture(b"P1 2 1 0 1").pixels[0, :, 0].tolist() == [255, 0]


def test_palettes_become_rgb_or_rgba():
    indices = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    indices.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
    plain = read_picture(encode(indices, "PNG"))
    np.testing.assert_array_equal(plain.pixels, [[(10, 20, 30), (200, 0, 0), (0, 200, 0)]])
    for clear in (1, b"\xff\x00\x80"):
        alpha = [255, 0, 128] if isinstance(clear, bytes) else [255, 0, 255]
        picture = read_picture(encode(indices, "PNG", transparency=clear))
        np.testing.assert_array_equal(picture.alpha, [alpha])
        np.testing.assert_array_equal(picture.colour, plain.pixels)
        assert "palette" in picture.notes[0]


def test_one_transparent_colour_becomes_alpha():
    colours = np.array([[(10, 20, 30), (10, 20, 31)]], np.uint8)
    picture = read_picture(encode(colours, "PNG", transparency=(10, 20, 31)))
    np.testing.assert_array_equal(picture.alpha, [[255, 0]])
    np.testing.assert_array_equal(picture.colour, colours)
    grey = np.array([[7, 8]], np.uint8)
    np.testing.assert_array_equal(read_picture(encode(grey, "PNG", transparency=7)).pixels, [[(7, 0), (8, 255)]])
    deep = np.array([[300, 301]], np.uint16)
    picture = read_picture(with_chunk(encode(deep, "PNG"), b"tRNS", struct.pack(">H", 301)))
    np.testing.assert_array_equal(picture.pixels, [[(300, 65535), (301, 0)]])
    deep = np.array([[(300, 1, 2), (301, 1, 2)]], np.uint16)
    picture = read_picture(with_chunk(encode_16(deep), b"tRNS", struct.pack(">HHH", 300, 1, 2)))
    np.testing.assert_array_equal(picture.pixels, [[(300, 1, 2, 0), (301, 1, 2, 65535)]])
    four_bits = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\x3f")  # The greys 3 and 15 of 15.
    chunks = ((b"IHDR", four_bits), (b"tRNS", b"\0\x03"), (b"IDAT", pixels), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    np.testing.assert_array_equal(read_picture(png).pixels, [[(51, 0), (255, 255)]])


@pytest.mark.parametrize("options", [{}, {"exif": EXIF}, {"icc_profile": b"p" * 301}])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_lossless_webp_stays_lossless(options, lossless, tmp_path):
    (tmp_path / "a.webp").write_bytes(encode(noise(4), "WEBP", lossless=lossless, exact=True, **options))
    picture = read_picture(tmp_path / "a.webp")
    assert picture.lossless == lossless
    again = read_picture(encode_picture(picture, "WEBP"))
    assert again.lossless == lossless
    assert np.array_equal(again.pixels, picture.pixels) == lossless


def test_colours_under_full_transparency_survive_a_lossless_webp():
    pixels = noise(4)
    pixels[..., 3] = 0
    picture = read_picture(encode(pixels, "PNG"))
    assert not picture.lossless
    np.testing.assert_array_equal(read_picture(encode_picture(picture, "WEBP", quality=100)).pixels, pixels)


def test_what_a_format_cannot_hold_is_left_out_and_reported():
    picture = Picture(np.array([[(0, 65535), (65535, 0), (0, 32768)]], np.uint16), "PNG", exif_block(), b"p" * 200)
    notes = " ".join(fitted(picture, "BMP").notes)
    for word in ("16 bits", "white", "profile", "EXIF"):
        assert word in notes
    np.testing.assert_array_equal(fitted(picture, "BMP").pixels[0, :, 0], [0, 255, 127])
    assert read_picture(encode_picture(picture, "BMP")).pixels.shape == (1, 3, 1)
    grey = Picture(noise(2), "PNG", icc_profile=PROFILES[b"GRAY"])
    assert fitted(grey, "WEBP").pixels.shape[-1] == 4
    assert fitted(grey, "WEBP").icc_profile == b""
    kept = fitted(grey, "PNG")
    np.testing.assert_array_equal(kept.pixels, grey.pixels)
    assert (kept.format, kept.icc_profile, kept.notes) == ("PNG", grey.icc_profile, ())
    large = Picture(noise(3), "PNG", b"Exif\0\0" + bytes(70_000))
    assert fitted(large, "JPEG").exif == b""
    assert "GIF" in " ".join(fitted(Picture(noise(3), "GIF"), "PNG").notes)
    wide = Picture(np.zeros((1, 16384, 3), np.uint8), "PNG")
    with pytest.raises(DataError) as caught:
        encode_picture(wide, "WEBP")
    assert one_line(caught).startswith("image: is 16384 x 1 pixels, and WEBP holds at most 16383 on a side")


def test_every_suffix_of_a_readable_format_counts_as_an_image():
    suffixes = readable_suffixes()
    assert suffixes >= {".jpg", ".jfif", ".jpe", ".tga", ".pnm", ".pbm", ".dib", ".ico", ".pcx", ".heic", ".tif"}
    assert suffixes.isdisjoint({".eps", ".pdf", ".psd", ".txt", ".mp4"})
    for suffix in (suffix for kind in picture_formats.values() for suffix in kind.suffixes):
        if Image.registered_extensions().get(suffix) in opening.readable_formats():
            assert suffix in suffixes


def test_laying_over_white_rounds():
    colour, alpha = (grid.astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
    laid = fitted(Picture(np.dstack([colour, alpha]), "PNG"), "JPEG").pixels[..., 0]
    exact = (colour * (alpha / 255.0)) + (255 - alpha.astype(float))
    assert np.abs(laid - exact).max() <= 0.5 + 1e-9


def test_the_format_is_the_suffix_s_then_the_wanted_one_then_the_picture_s(tmp_path):
    jpeg, gif = Picture(noise(3), "JPEG"), Picture(noise(3), "GIF")
    assert format_for("a.TIF", jpeg, None) == "TIFF"
    assert format_for(None, jpeg, "png") == format_for(tmp_path / "a", jpeg, ".PNG") == "PNG"
    assert format_for(None, jpeg, None) == "JPEG"
    assert format_for(None, gif, None) == "PNG"
    assert format_for("a.jpeg", gif, "jpg") == "JPEG"
    assert suffix_for("JPEG") == ".jpg"
    for path, wanted, words in (
        ("a.gif", None, "choose one of"),
        (None, "xyz", "'xyz'"),
        ("a.png", "jpg", "--format says JPEG"),
    ):
        with pytest.raises(DataError, match=words):
            format_for(path, jpeg, wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM"])
def test_a_truncated_file_is_refused(kind):
    content = encode(noise(3, height=60, width=80), kind)
    for share in (0.2, 0.5, 0.9):
        refusal(content[: int(len(content) * share)])


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"<html></html>", bytes(500), b"II*\0" + bytes(50)])
def test_files_that_are_no_pictures_are_refused(tmp_path, content):
    refusal(content)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert ("empty" in refusal(path, str(path))) == (not content)
    with pytest.raises(DataError, match="no such file"):
        read_picture(tmp_path / "missing.png")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_pages_are_refused(kind):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime", "blue")]
    assert "3 frames" in refusal(encode(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_reduced_pages_of_a_tiff_are_no_pages():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(noise(3), photometric="rgb")
        writer.write(noise(3)[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_picture(file.getvalue()).pixels, noise(3))
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(noise(3), photometric="rgb")
        writer.write(noise(3), photometric="rgb")
    assert "2 frames or pages" in refusal(file.getvalue())


def test_a_file_of_a_few_bytes_is_said_to_be_short():
    assert "the file ends after 1 of at least 4 bytes" in refusal(b"\xff")


def test_heic_without_its_package_names_the_extra(monkeypatch):
    for module in ("reading", "opening"):
        monkeypatch.setattr(f"glcic_jax.pictures.{module}.heif_formats", list)
    for brand in (b"heic", b"heix", b"mif1"):
        content = b"\0\0\0\x1cftyp" + brand + bytes(100)
        assert "glcic-jax[heic]" in refusal(content, "a.heic")


def test_the_pixel_limit_is_ours_and_not_that_of_pillow(monkeypatch):
    content = encode(noise(3), "PNG")
    message = refusal(content, max_pixels=76)
    for word in ("11 x 7", "77", "76", "--max-pixels"):
        assert word in message
    assert read_picture(content, max_pixels=77).size == (11, 7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    for kind in ("PNG", "JPEG", "BMP"):
        assert read_picture(encode(noise(3), kind)).size == (11, 7)
    assert Image.MAX_IMAGE_PIXELS == 3
    assert "50000 x 50000" in refusal(png_header(50_000, 50_000))
    rare = encode_tiff(noise(2, np.uint16), photometric="minisblack", extrasamples=["unassalpha"])
    assert "--max-pixels" in refusal(rare, max_pixels=76)


def test_threads_have_limits_of_their_own():
    content, wrong = encode(noise(3), "PNG"), []

    def read(limit: int) -> None:
        for _ in range(40):
            try:
                read_picture(content, max_pixels=limit)
                refused = False
            except DataError:
                refused = True
            if refused != (limit < 77):
                wrong.append(limit)

    threads = [threading.Thread(target=read, args=(limit,)) for limit in (10, 77, 76, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_picture_converted_in_strips_is_the_same(monkeypatch):
    contents = [encode(noise(channels), "PNG") for channels in MODES]
    contents.append(encode(Image.fromarray(noise(3)).quantize(9), "PNG"))
    whole = [read_picture(content).pixels for content in contents]
    monkeypatch.setattr("glcic_jax.pictures.colours._STRIP_PIXELS", 2 * 11)
    for content, expected in zip(contents, whole, strict=True):
        np.testing.assert_array_equal(read_picture(content).pixels, expected)
