"""A picture to complete comes back with all that its file holds, or as one clear line."""

import dataclasses
import io
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from helpers.common import one_line
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.pictures import rgb_files
from glcic_jax.pictures.metadata import cleaned
from glcic_jax.pictures.picture import (
    Picture,
    encode_picture,
    fitted,
    format_for,
    read_picture,
    suffix_for,
    write_picture,
)
from glcic_jax.pictures.reading import decode
from glcic_jax.pictures.rgb_files import load_image

PROFILES = {space: bytes(16) + space + bytes(200) for space in (b"RGB ", b"GRAY", b"CMYK")}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# How a camera stores a picture: which side of the scene row 0 and column 0 hold.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def noise(channels: int, dtype: type = np.uint8, height: int = 7, width: int = 11) -> np.ndarray:
    largest = np.iinfo(dtype).max
    return np.random.default_rng(channels).integers(0, largest, (height, width, channels), dtype, endpoint=True)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    grey = isinstance(pixels, np.ndarray) and pixels.shape[2:] == (1,)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels[..., 0] if grey else pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def encode_16(pixels: np.ndarray, kind: str = ".png") -> bytes:
    order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[pixels.shape[-1]]
    done, content = cv2.imencode(kind, pixels if order is None else cv2.cvtColor(pixels, order))
    assert done
    return content.tobytes()


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with a chunk more before its pixels."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    place = png.index(b"IDAT") - 4
    return png[:place] + chunk + png[place:]


def exif_block(orientation: int = 1, thumbnail: bytes = b"", order: str = "<") -> bytes:
    """A camera's block: make, orientation, a sub-block with sizes and maker's note, and a thumbnail."""

    def entry(tag, kind, count, value):
        packed = struct.pack(order + ("HH" if kind == 3 else "L"), *((value, 0) if kind == 3 else (value,)))
        return struct.pack(order + "HHL", tag, kind, count) + packed

    note = b"maker's note at its own place"
    sub, second = 8 + 2 + 3 * 12 + 4, 8 + 2 + 3 * 12 + 4 + 2 + 3 * 12 + 4
    tail = second + (2 + 2 * 12 + 4 if thumbnail else 0)
    make = b"Cam\0"
    first = entry(0x10F, 2, 4, 0)[:8] + make + entry(0x112, 3, 1, orientation) + entry(0x8769, 4, 1, sub)
    inner = entry(0x927C, 7, len(note), tail) + entry(0xA002, 4, 1, 640) + entry(0xA003, 4, 1, 480)
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "L", 8)
    block += struct.pack(order + "H", 3) + first + struct.pack(order + "L", second if thumbnail else 0)
    block += struct.pack(order + "H", 3) + inner + bytes(4)
    if thumbnail:
        place = tail + len(note)
        entries = entry(0x201, 4, 1, place) + entry(0x202, 4, 1, len(thumbnail))
        block += struct.pack(order + "H", 2) + entries + bytes(4)
    return b"Exif\0\0" + block + note + thumbnail


def refusal(content, name: str = "a.png", **options) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(content, name, **options)
    assert str(caught.value).startswith(f"{name}: ")
    return one_line(caught)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA", "JPEG2000", "BMP", "PPM"])
@pytest.mark.parametrize("channels", MODES)
def test_eight_bits_come_back_from_what_is_lossless(kind, channels):
    picture = Picture(noise(channels), "PNG", exif_block(), PROFILES[b"RGB " if channels > 2 else b"GRAY"])
    back = read_picture(encode_picture(picture, kind, quality=100))
    expected = fitted(picture, kind)
    np.testing.assert_array_equal(back.pixels, expected.pixels)
    assert back.pixels.dtype == np.uint8
    assert back.format == kind
    assert back.icc_profile == expected.icc_profile
    if kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(back.pixels, picture.pixels)
        assert back.icc_profile == picture.icc_profile
    if kind in ("PNG", "WEBP"):
        assert back.exif == picture.exif
    elif kind == "TIFF":
        assert Image.open(io.BytesIO(encode_picture(picture, kind))).getexif()[0x10F] == "Cam"
        assert b"maker's note" in back.exif


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", MODES)
def test_sixteen_bits_come_back_with_profile_exif_and_resolution(kind, channels):
    profile = PROFILES[b"RGB " if channels > 2 else b"GRAY"]
    picture = Picture(noise(channels, np.uint16), kind, exif_block(), profile, (300.0, 150.0))
    content = encode_picture(picture, kind)
    back = read_picture(content)
    assert back.pixels.dtype == np.uint16
    if (kind, channels) == ("TIFF", 2):
        picture = fitted(picture, "TIFF")  # Which has a test of its own.
        profile = picture.icc_profile
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    assert back.icc_profile == profile
    assert back.dpi == pytest.approx((300, 150), abs=0.02)
    assert b"maker's note" in back.exif
    if kind == "PNG":
        assert back.exif == picture.exif
    assert back.notes == ()
    # And other readers agree.
    if kind == "TIFF":
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), picture.pixels.squeeze())
    elif channels != 2:
        order = {1: None, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[channels]
        other = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        other = other[..., None] if order is None else cv2.cvtColor(other, order)
        np.testing.assert_array_equal(other, picture.pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bits_of_another_writer_are_read(channels, kind):
    pixels = noise(channels, np.uint16)
    np.testing.assert_array_equal(read_picture(encode_16(pixels, kind)).pixels, pixels)


@pytest.mark.parametrize(
    "options", [{"planarconfig": "separate"}, {"bigtiff": True}, {"tile": (16, 16)}, {"compression": "zlib"}]
)
def test_rarer_sixteen_bit_tiffs_are_read(options):
    pixels = noise(3, np.uint16)
    stored = np.ascontiguousarray(np.moveaxis(pixels, -1, 0)) if "planarconfig" in options else pixels
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", **options)
    picture = read_picture(file.getvalue())
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, pixels)


def test_alpha_of_a_tiff_by_its_kind():
    pixels = noise(4, np.uint16)
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=["assocalpha"])
    picture = read_picture(file.getvalue())
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.alpha, pixels[..., 3])
    divided = 65535.0 * pixels[..., :3] / np.maximum(pixels[..., 3:], 1)
    np.testing.assert_allclose(picture.colour, divided, atol=0.51)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_picture(file.getvalue()).pixels, pixels[..., :3])


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff_is_turned_once(orientation, order):
    upright = noise(3, np.uint16) % 200  # The high bytes alone would not tell the turns apart.
    file = io.BytesIO()
    tags = [(274, 3, 1, orientation, True)]
    stored = np.ascontiguousarray(STORED[orientation](upright))
    tifffile.imwrite(file, stored, photometric="rgb", extratags=tags, byteorder=order, compression="zlib")
    picture = read_picture(file.getvalue())
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, upright)
    assert picture.stored_size == (None if orientation == 1 else stored.shape[1::-1])


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_and_the_tag_reset(orientation, kind):
    upright = noise(3)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read_picture(encode(stored, kind, exif=exif_block(orientation), **options))
    np.testing.assert_array_equal(picture.pixels, upright)
    assert picture.stored_size == (None if orientation == 1 else stored.shape[1::-1])
    for fmt in ("PNG", "JPEG", "TIFF", "WEBP"):
        with Image.open(io.BytesIO(encode_picture(picture, fmt))) as image:
            assert image.getexif()[0x112] == 1
            assert image.size == (11, 7)


@pytest.mark.parametrize("orientation", [None, *STORED])
def test_heic_is_read_upright_with_an_exif_block_and_without(orientation):
    pytest.importorskip("pillow_heif")
    assert rgb_files.heif_formats() == ["HEIF"]
    ramps = np.meshgrid(np.arange(48) * 4, np.arange(64) * 3)
    upright = np.stack([*ramps, np.full((64, 48), 100)], -1).astype(np.uint8)
    stored = np.ascontiguousarray(STORED[orientation or 1](upright))
    picture = read_picture(
        encode(stored, "HEIF", quality=90, exif=exif_block(orientation) if orientation else None)
    )
    np.testing.assert_allclose(picture.pixels.astype(int), upright, atol=12)
    assert (b"maker's note" in picture.exif) == (orientation is not None)
    assert picture.notes == ()


@pytest.mark.parametrize("exif", [b"", exif_block(1)])
def test_heic_is_written_with_an_exif_block_and_without(exif):
    pytest.importorskip("pillow_heif")
    picture = read_picture(encode(np.full((64, 48, 3), 90, np.uint8), "HEIF", quality=90, exif=exif or None))
    again = read_picture(encode_picture(picture, "HEIF"))
    np.testing.assert_allclose(again.pixels.astype(int), 90, atol=4)
    assert bool(again.exif) == bool(exif)


def test_an_exif_block_of_none_is_no_exif_block():
    with Image.open(io.BytesIO(encode(noise(3), "PNG"))) as image:
        image.info["exif"] = None  # So does pillow_heif.
        assert decode(image, b"").exif == b""


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_is_erased_and_all_else_stays(order):
    thumbnail = encode(noise(3), "JPEG")
    block = exif_block(6, thumbnail, order)
    result = cleaned(block, turned=True)
    assert len(result) == len(block)
    assert thumbnail[:40] not in result
    assert thumbnail[-40:] not in result
    assert result.endswith(bytes(len(thumbnail)))
    exif = Image.Exif()
    exif.load(result)
    assert (exif[0x10F], exif[0x112], exif.get_ifd(1)) == ("Cam", 1, {})
    inner = exif.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003]) == (480, 640)
    assert inner[0x927C] == b"maker's note at its own place"


def test_a_preview_in_a_makers_note_is_erased():
    block = exif_block()
    preview = b"\xff\xd8\xff\xe0preview\xff\xd9"
    spoiled = block.replace(b"maker's note at ", preview.ljust(16, b"."))
    assert b"preview" not in cleaned(spoiled, turned=False)
    assert b"its own place" in cleaned(spoiled, turned=False)


def test_a_damaged_exif_block_is_left_out_and_said():
    content = encode(noise(3), "PNG", exif=b"Exif\0\0II*\0\xff\xff\0\0")
    picture = read_picture(content)
    np.testing.assert_array_equal(picture.pixels, noise(3))
    assert picture.exif == b""
    assert "EXIF" in picture.notes[0]
    jpeg = encode(noise(3), "JPEG", exif=exif_block()[:60])
    assert read_picture(jpeg).exif == b""


def test_exif_that_names_another_size_does_not_change_a_tiffs():
    exif = Image.Exif()
    exif[0x100], exif[0x101], exif[0x10F] = 4000, 3000, "Cam"
    for dtype in (np.uint8, np.uint16):
        picture = Picture(noise(3, dtype), "TIFF", exif.tobytes())
        back = read_picture(encode_picture(picture, "TIFF"))
        np.testing.assert_array_equal(back.pixels, picture.pixels)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP", "AVIF", "BMP", "PPM", "GIF"])
def test_pixels_are_those_that_training_reads(kind):
    if kind not in rgb_files.readable_formats() and kind != "MPO":
        pytest.skip(f"this Pillow reads no {kind}")
    content = encode(noise(3, height=24, width=32), kind)
    np.testing.assert_array_equal(read_picture(content).pixels, load_image(content))


def test_of_an_mpo_the_first_picture_is_a_jpeg():
    first, second = Image.fromarray(noise(3)), Image.fromarray(255 - noise(3))
    picture = read_picture(encode(first, "MPO", save_all=True, append_images=[second]))
    assert picture.format == "JPEG"
    np.testing.assert_array_equal(picture.pixels, load_image(encode(first, "JPEG")))
    assert any("2 pictures" in note for note in picture.notes)


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


def test_a_transparent_grey_of_few_bits_is_found():
    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", header),
        (b"tRNS", b"\0\x03"),
        (b"IDAT", zlib.compress(b"\0\x3f")),  # The greys 3 and 15 of 15.
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    np.testing.assert_array_equal(read_picture(png).pixels, [[(51, 0), (255, 255)]])


def test_wide_grey_is_scaled_to_16_bits():
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
        file = io.BytesIO()
        tifffile.imwrite(file, np.array([[(0.0, 0.5, 1.0)]], order + "f4"), photometric="rgb", byteorder=order)
        np.testing.assert_array_equal(read_picture(file.getvalue()).pixels, [[(0, 32768, 65535)]])


def test_what_a_format_cannot_hold_is_left_out_and_said():
    picture = Picture(np.array([[(0, 65535), (65535, 0), (0, 32768)]], np.uint16), "PNG", exif_block(), b"p" * 200)
    notes = " ".join(fitted(picture, "BMP").notes)
    for word in ("16 bits", "white", "profile", "EXIF"):
        assert word in notes
    np.testing.assert_array_equal(fitted(picture, "BMP").pixels[0, :, 0], [0, 255, 127])
    assert read_picture(encode_picture(picture, "BMP")).pixels.shape == (1, 3, 1)
    grey = Picture(noise(2), "PNG", icc_profile=PROFILES[b"GRAY"])
    assert fitted(grey, "WEBP").pixels.shape[-1] == 4
    assert fitted(grey, "WEBP").icc_profile == b""
    assert fitted(grey, "PNG") == dataclasses.replace(grey, format="PNG", pixels=grey.pixels)
    large = Picture(noise(3), "PNG", b"Exif\0\0" + bytes(70_000))
    assert fitted(large, "JPEG").exif == b""
    assert "GIF" in " ".join(fitted(Picture(noise(3), "GIF"), "PNG").notes)


def test_jpeg_keeps_profile_exif_and_resolution():
    picture = Picture(noise(3), "JPEG", exif_block(), PROFILES[b"RGB "], (300.0, 200.0))
    back = read_picture(encode_picture(picture, "JPEG"))
    assert (back.exif, back.icc_profile, back.dpi) == (picture.exif, picture.icc_profile, picture.dpi)
    assert np.abs(back.pixels.astype(int) - picture.pixels).mean() < 5


def test_the_format_follows_the_suffix_then_the_wish_then_the_picture(tmp_path):
    jpeg, gif = Picture(noise(3), "JPEG"), Picture(noise(3), "GIF")
    assert format_for("a.TIF", jpeg, None) == "TIFF"
    assert format_for(None, jpeg, "png") == format_for(tmp_path / "a", jpeg, ".PNG") == "PNG"
    assert format_for(None, jpeg, None) == "JPEG"
    assert format_for(None, gif, None) == "PNG"
    assert format_for("a.jpeg", gif, "jpg") == "JPEG"
    assert suffix_for("JPEG") == ".jpg"
    for path, asked, words in (
        ("a.gif", None, "choose one of"),
        (None, "xyz", "'xyz'"),
        ("a.png", "jpg", "--format says JPEG"),
    ):
        with pytest.raises(DataError, match=words):
            format_for(path, jpeg, asked)


def test_writing_a_file(tmp_path):
    picture = Picture(noise(3), "PNG")
    write_picture(picture, tmp_path / "deep" / "a.png")
    write_picture(picture, tmp_path / "without", "tiff")
    for path in ("deep/a.png", "without"):
        np.testing.assert_array_equal(read_picture(tmp_path / path).pixels, picture.pixels)
    wide = Picture(np.zeros((1, 16384, 3), np.uint8), "PNG")
    with pytest.raises(DataError) as caught:
        write_picture(wide, tmp_path / "a.webp")
    assert one_line(caught).startswith(f"{tmp_path / 'a.webp'}: cannot be written as WEBP")
    assert not (tmp_path / "a.webp").exists()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM"])
def test_a_truncated_file_is_refused(kind):
    content = encode(noise(3, height=60, width=80), kind)
    for share in (0.2, 0.5, 0.9):
        refusal(content[: int(len(content) * share)])


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_truncated_16_bits_are_refused(kind, channels):
    content = encode_picture(Picture(noise(channels, np.uint16, 60, 80), kind), kind)
    for share in (0.02, 0.5, 0.9):
        refusal(content[: int(len(content) * share)])


def test_a_damaged_16_bit_png_is_not_read_as_8_bit():
    content = encode_picture(Picture(noise(3, np.uint16), "PNG"), "PNG")
    end = content.index(b"IEND") - 4
    refusal(
        content[: end - 5] + bytes([content[end - 5] ^ 1]) + content[end - 4 :]
    )  # In the checksum of the pixels.


def test_a_png_that_ends_behind_its_first_pixels_is_refused_whatever_its_exif():
    content = encode_picture(Picture(noise(3, height=60, width=80), "PNG"), "PNG")
    refusal(content[: content.index(b"IEND") - 40])


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"<html></html>", bytes(500), b"II*\0" + bytes(50)])
def test_what_is_no_picture_is_refused(tmp_path, content):
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


def test_heic_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("glcic_jax.pictures.reading.heif_formats", list)
    monkeypatch.setattr("glcic_jax.pictures.rgb_files.heif_formats", list)
    for brand in (b"heic", b"heix", b"mif1"):
        content = b"\0\0\0\x1cftyp" + brand + bytes(100)
        assert "glcic-jax[heic]" in refusal(content, "a.heic")


def test_the_limit_of_pixels_holds_both_ways(monkeypatch):
    content = encode(noise(3), "PNG")
    message = refusal(content, max_pixels=76)
    for word in ("11 x 7", "77", "76", "--max-pixels"):
        assert word in message
    assert read_picture(content, max_pixels=77).size == (11, 7)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)  # Pillow's own does not count.
    for kind in ("PNG", "JPEG", "BMP"):
        assert read_picture(encode(noise(3), kind)).size == (11, 7)
    assert Image.MAX_IMAGE_PIXELS == 3
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert "50000 x 50000" in refusal(bomb)
    rare = encode_picture(Picture(noise(2, np.uint16), "TIFF"), "TIFF")
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


@pytest.mark.parametrize("channels", MODES)
def test_a_picture_worked_in_strips_is_the_same(channels, monkeypatch):
    contents = [encode(noise(channels), "PNG"), encode(Image.fromarray(noise(3)).quantize(9), "PNG")]
    whole = [read_picture(content).pixels for content in contents]
    monkeypatch.setattr("glcic_jax.pictures.rgb_files._PIXELS_OF_A_STRIP", 2 * 11)
    for content, expected in zip(contents, whole, strict=True):
        np.testing.assert_array_equal(read_picture(content).pixels, expected)
