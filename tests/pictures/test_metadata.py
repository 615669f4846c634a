"""EXIF, XMP, colour profile, resolution, gamma: kept where the format holds them, reported where it does not."""

import dataclasses
import io
import struct
import time

import numpy as np
import pytest
import tifffile
from helpers.picture_files import encode, encode_16, encode_tiff, exif_block, noise, with_chunk
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from glcic_jax.pictures import Picture, encode_picture, fitted, opening, read_picture, without_metadata
from glcic_jax.pictures.metadata import parse_exif, upright_exif

PROFILES = {space: bytes(16) + space + bytes(200) for space in (b"RGB ", b"GRAY", b"CMYK")}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:li>caf\xc3\xa9</rdf:li></x:xmpmeta>'


def upright(block: bytes, *, turned: bool = False) -> bytes:
    return upright_exif(parse_exif(block), turned=turned)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_keeps_its_tags_without_thumbnail_and_orientation(order):
    thumbnail = encode(noise(3), "JPEG")
    result = upright(exif_block(6, thumbnail, order), turned=True)
    assert thumbnail[:40] not in result
    assert thumbnail[-40:] not in result
    exif = parse_exif(result)
    assert (exif[0x10F], exif[0x112], exif.get_ifd(1)) == ("Cam", 1, {})
    inner = exif.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003]) == (480, 640)
    assert inner[0x927C] == b"maker's note at its own place"


def test_exif_gains_no_tags():
    exif = Image.Exif()
    exif[0x10F] = "Cam"
    assert dict(parse_exif(upright(exif.tobytes()))) == {0x10F: "Cam"}


def test_strips_of_a_thumbnail_are_left_out():
    head = b"II*\0" + struct.pack("<IHHHIIIH", 8, 1, 0x112, 3, 1, 6, 26, 2)
    strips = struct.pack("<HHIIHHII", 0x111, 4, 1, 56, 0x117, 4, 1, 30) + bytes(4)
    block = head + strips + b"\xaa" * 30
    assert parse_exif(upright(block))[0x112] == 1
    assert b"\xaa" not in upright(block)


def test_a_preview_in_a_makers_note_is_erased():
    preview = b"\xff\xd8\xff\xe0preview\xff\xd9"
    spoiled = exif_block().replace(b"maker's note at ", preview.ljust(16, b"."))
    assert b"preview" not in upright(spoiled)
    assert b"its own place" in upright(spoiled)


def test_text_outside_ascii_is_kept():
    exif = Image.Exif()
    exif[0x13B] = author = "Jürgen, 東京".encode()
    picture = read_picture(encode(noise(3), "JPEG", exif=exif))
    for dtype in (np.uint8, np.uint16):
        for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
            deep = Picture(noise(3, dtype), "PNG", picture.exif)
            assert author in read_picture(encode_picture(deep, kind)).exif


def test_damaged_exif_is_left_out_and_reported():
    for kind in ("PNG", "WEBP"):
        picture = read_picture(encode(noise(3), kind, exif=b"Exif\0\0II*\0\xff\xff\0\0", lossless=True))
        assert picture.exif == b""
        assert "EXIF" in picture.notes[0]
        np.testing.assert_array_equal(picture.pixels, noise(3))
    too_long = exif_block().replace(struct.pack("<HHL", 0x927C, 7, 29), struct.pack("<HHL", 0x927C, 7, 290))
    for block in (exif_block()[:60], too_long):
        picture = read_picture(encode(noise(3), "JPEG", exif=block))
        assert parse_exif(picture.exif)[0x10F] == "Cam"
        assert "in part" in picture.notes[0]


def test_an_exif_block_of_overlapping_values_costs_little():
    number = 50_000
    entries = b"".join(struct.pack("<HHII", 1000 + index, 7, 2_000_000, 8) for index in range(number))
    block = b"II*\0" + struct.pack("<IH", 8, number) + entries + bytes(2_000_000)
    content = with_chunk(encode(noise(3), "PNG"), b"eXIf", block)
    start = time.process_time()
    picture = read_picture(content)
    assert time.process_time() - start < 3
    assert (picture.exif, len(picture.notes)) == (b"", 1)


def test_exif_sizes_do_not_overrule_those_of_a_tiff():
    exif = Image.Exif()
    exif[0x100], exif[0x101], exif[0x10F] = 4000, 3000, "Cam"
    for dtype in (np.uint8, np.uint16):
        picture = Picture(noise(3, dtype), "TIFF", exif.tobytes())
        np.testing.assert_array_equal(read_picture(encode_picture(picture, "TIFF")).pixels, picture.pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_xmp_is_kept(kind, dtype):
    if kind not in (*opening.readable_formats(), *opening.heif_formats()):
        pytest.skip(f"this Pillow has no {kind}")
    picture = Picture(noise(3, dtype, 64, 64), "PNG", exif_block(), xmp=XMP)
    assert read_picture(encode_picture(picture, kind)).xmp == XMP
    if dtype == np.uint8 and kind != "PNG":  # As other programs write it.
        options = {"tiffinfo": {700: XMP}} if kind == "TIFF" else {"xmp": XMP}
        assert read_picture(encode(noise(3, np.uint8, 64, 64), kind, **options)).xmp == XMP


def test_xmp_that_a_format_cannot_hold_is_reported():
    assert "XMP packet was left out: BMP" in fitted(Picture(noise(3), "PNG", xmp=XMP), "BMP").notes[0]
    large = Picture(noise(3), "PNG", xmp=bytes(65505))
    assert "larger than a JPEG can hold" in fitted(large, "JPEG").notes[0]
    assert encode_picture(large, "JPEG")
    assert fitted(Picture(noise(3), "PNG", xmp=bytes(65504)), "JPEG").notes == ()


def test_xmp_loses_orientation_and_embedded_images():
    packet = (
        b'<r tiff:Orientation="6" xmpGImg:image="/9j/4AAQ" a="b"><tiff:Orientation>6</tiff:Orientation>'
        b"<xmpGImg:image>/9j/4AAQ</xmpGImg:image><xmpGImg:width>9</xmpGImg:width></r>"
    )
    picture = read_picture(encode(noise(3), "JPEG", xmp=packet, exif=exif_block(6)))
    assert picture.size == (7, 11)
    expected = b'<r  xmpGImg:image="" a="b"><xmpGImg:image></xmpGImg:image><xmpGImg:width>9</xmpGImg:width></r>'
    assert picture.xmp == expected
    assert read_picture(encode_picture(picture, "JPEG")).size == (7, 11)


def test_jpeg_keeps_profile_exif_and_resolution():
    picture = Picture(noise(3), "JPEG", upright(exif_block()), PROFILES[b"RGB "], (300.0, 200.0))
    back = read_picture(encode_picture(picture, "JPEG"))
    assert (back.exif, back.icc_profile, back.dpi) == (picture.exif, picture.icc_profile, picture.dpi)
    assert np.abs(back.pixels.astype(int) - picture.pixels).mean() < 5


@pytest.mark.parametrize(("unit", "dpi"), [(2, (100, 50)), (3, (254, 127)), (1, None)])
def test_resolution_of_a_rare_tiff_has_a_unit(unit, dpi):
    content = encode_tiff(
        np.zeros((7, 11, 3), np.float32), photometric="rgb", resolution=(100, 50), resolutionunit=unit
    )
    assert read_picture(content).dpi == (dpi if dpi is None else pytest.approx(dpi))


def test_resolution_turns_with_the_picture_and_is_not_invented():
    for orientation, dpi in ((1, (300, 150)), (6, (150, 300))):
        content = encode(noise(3), "JPEG", exif=exif_block(orientation), dpi=(300, 150))
        assert read_picture(content).dpi == dpi
    exif = Image.Exif()
    exif[0x10F] = "Cam"  # Pillow gives 72 dpi to a JPEG whose EXIF has no resolution, and 1 to a TIFF without one.
    for content in (encode(noise(3), "TIFF"), encode(noise(3), "JPEG"), encode(noise(3), "JPEG", exif=exif)):
        picture = read_picture(content)
        assert picture.dpi is None
        for dtype in (np.uint8, np.uint16):
            tiff = encode_picture(dataclasses.replace(picture, pixels=noise(3, dtype)), "TIFF")
            with Image.open(io.BytesIO(tiff)) as image:
                assert 282 not in image.tag_v2
        assert encode_picture(picture, "JPEG")[13:18] == b"\0\0\x01\0\x01"  # The unit: an aspect ratio.
        assert b"pHYs" not in encode_picture(picture, "PNG")
    exif[0x11A], exif[0x11B], exif[0x128] = 120.0, 60.0, 3
    assert read_picture(encode(noise(3), "JPEG", exif=exif)).dpi == pytest.approx((304.8, 152.4))


IPTC = b"\x1c\x02t\x00\x05(c) I"  # A copyright notice.
SEGMENT = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0" + bytes([len(IPTC)]) + IPTC


def jpeg_with(segment: bytes, marker: int = 0xED, **options) -> bytes:
    head = bytes([0xFF, marker]) + (2 + len(segment)).to_bytes(2, "big") + segment
    content = encode(noise(3), "JPEG", **options)
    return content[:2] + head + content[2:]


def test_a_large_text_of_a_png_is_no_reason_to_refuse_it():
    info = PngInfo()
    info.add_text("Comment", "a" * (3 << 20), zip=True)
    picture = read_picture(encode(noise(3), "PNG", pnginfo=info))
    np.testing.assert_array_equal(picture.pixels, noise(3))
    assert [len(text) for _, text in picture.texts] == [3 << 20]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_texts_of_a_png_are_kept(dtype):
    info = PngInfo()
    info.add_text("parameters", "a cat, seed 5")
    info.add_itxt("Title", "猫", "ja", "題")
    info.add_text("Comment", "hello", zip=True)
    picture = read_picture(encode(noise(3), "PNG", pnginfo=info))
    assert picture.texts == (("parameters", "a cat, seed 5"), ("Title", "猫"), ("Comment", "hello"))
    deep = dataclasses.replace(picture, pixels=noise(3, dtype), xmp=XMP)
    back = read_picture(encode_picture(deep, "PNG"))
    assert (back.texts, back.xmp, back.notes) == (picture.texts, XMP, ())
    np.testing.assert_array_equal(back.pixels, deep.pixels)
    assert fitted(picture, "JPEG").notes[0].startswith("texts were left out (parameters, Title): JPEG")
    assert read_picture(encode_picture(picture, "JPEG")).texts == (("Comment", "hello"),)


@pytest.mark.parametrize(("stored", "text"), [("grüße".encode(), "grüße"), (b"gr\xfc\xdfe", "grüße")])
def test_the_comment_of_a_jpeg_is_kept(stored, text):
    picture = read_picture(encode(noise(3), "JPEG", comment=stored))
    for kind in ("JPEG", "PNG"):
        assert read_picture(encode_picture(picture, kind)).texts == (("Comment", text),)
    assert "texts were left out (Comment): TIFF" in fitted(picture, "TIFF").notes[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_iptc_is_kept_where_the_format_holds_it(dtype):
    preview = b"8BIM\x04\x0c\0\0\0\0\0\x04\xff\xd8\xff\xd9"
    picture = read_picture(jpeg_with(SEGMENT + preview))
    assert picture.iptc == IPTC
    jpeg = encode_picture(picture, "JPEG")
    assert read_picture(jpeg).iptc == IPTC
    assert preview not in jpeg
    tiff = encode_picture(dataclasses.replace(picture, pixels=noise(3, dtype)), "TIFF")
    assert read_picture(tiff).iptc == IPTC
    assert "IPTC block was left out: PNG" in fitted(picture, "PNG").notes[0]


def test_metadata_that_no_format_keeps_is_reported():
    extension = jpeg_with(b"http://ns.adobe.com/xmp/extension/\0" + bytes(99), 0xE1)
    assert "XMP that the JPEG holds in further segments" in read_picture(extension).notes[0]
    info = PngInfo()
    info.add_text("Raw profile type iptc", "\niptc\n 2\n1c02")
    assert "'Raw profile type iptc' was left out" in read_picture(encode(noise(3), "PNG", pnginfo=info)).notes[0]


def test_all_that_may_tell_a_place_is_left_out_on_demand():
    picture = read_picture(jpeg_with(SEGMENT, exif=exif_block(), xmp=XMP, comment=b"at home"))
    clean = without_metadata(picture)
    assert clean.notes[-1] == "metadata was left out: EXIF, XMP, IPTC, texts"
    content = encode_picture(clean, "JPEG")
    for trace in (b"Cam", b"xmpmeta", b"(c)", b"at home"):
        assert trace in jpeg_with(SEGMENT, exif=exif_block(), xmp=XMP, comment=b"at home")
        assert trace not in content
    assert without_metadata(read_picture(encode(noise(3), "JPEG"))).notes == ()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gamma_and_primaries_of_a_png_are_kept_or_their_loss_is_reported(dtype):
    png = encode(noise(3), "PNG") if dtype == np.uint8 else encode_16(noise(3, np.uint16))
    primaries = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    chromaticity = with_chunk(png, b"cHRM", struct.pack(">8L", *(round(x * 100_000) for x in primaries)))
    linear = with_chunk(chromaticity, b"gAMA", struct.pack(">L", 100_000))
    picture = read_picture(linear)
    with Image.open(io.BytesIO(encode_picture(picture, "PNG"))) as image:
        image.load()  # Which verifies the checksums.
        assert image.info["gamma"] == 1.0
        assert image.info["chromaticity"] == primaries
    assert fitted(picture, "PNG").notes == ()
    assert any("gamma" in note for note in fitted(picture, "TIFF").notes)
    assert fitted(read_picture(with_chunk(linear, b"sRGB", b"\0")), "JPEG").notes[dtype == np.uint16 :] == ()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_tiff_keeps_its_compression_and_all_else(compression, dtype, channels):
    smooth = np.cumsum(np.ones((300, 200, channels), dtype), axis=0, dtype=dtype)  # More than one strip.
    profile = PROFILES[b"GRAY" if channels < 3 else b"RGB "]
    picture = Picture(smooth, "TIFF", upright(exif_block()), profile, (300.0, 200.0), xmp=XMP, iptc=IPTC)
    if (dtype, channels) == (np.uint16, 2):
        picture = dataclasses.replace(picture, icc_profile=b"")
    content = encode_picture(dataclasses.replace(picture, compression=compression), "TIFF")
    back = read_picture(content)
    np.testing.assert_array_equal(back.pixels, fitted(picture, "TIFF").pixels)
    assert back.compression == compression
    for name in ("exif", "icc_profile", "dpi", "xmp", "iptc", "notes"):
        assert getattr(back, name) == getattr(picture, name), name
    assert (len(content) < picture.pixels.nbytes / 3) == (compression != "raw")
    uncompressed = tifffile.imread(io.BytesIO(encode_picture(picture, "TIFF")))
    np.testing.assert_array_equal(uncompressed, back.pixels.squeeze())


@pytest.mark.parametrize("compression", ["packbits", "jpeg"])
def test_other_compressions_of_a_tiff_become_deflate(compression):
    picture = read_picture(encode(noise(3), "TIFF", compression=compression))
    assert f"{compression} was replaced by Deflate" in fitted(picture, "TIFF").notes[0]
    back = read_picture(encode_picture(picture, "TIFF"))
    assert back.compression == "tiff_adobe_deflate"
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    assert fitted(picture, "PNG").notes == ()
