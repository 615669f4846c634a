"""Every kind of picture is read as upright RGB, and every bad file is one clear line."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.picture_files import STORED, encode, encode_16, encode_tiff, png_header, smooth_picture
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from glcic_jax.errors import DataError
from glcic_jax.pictures import read_picture
from glcic_jax.pictures.rgb_files import Header, load_image, load_with_header, save_image

EXIF_ORIENTATION = 0x0112


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


def one_line_error(source: bytes | str | Path, name: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_image(source, name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("PPM", {}, 0),
        ("JPEG", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
        ("GIF", {}, 12),  # 256 colours.
    ],
)
def test_rgb_files_are_read_from_bytes_and_paths(tmp_path, kind, options, tolerance):
    picture = smooth_picture()
    content = encode(picture, kind, **options)
    path = tmp_path / "without a suffix"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        image = load_image(source)
        assert image.dtype == np.uint8
        assert image.shape == picture.shape
        assert np.abs(image.astype(float) - picture).mean() <= tolerance


@pytest.mark.parametrize(
    ("kind", "orientation"),
    [*(("JPEG", orientation) for orientation in STORED), ("PNG", 6), ("TIFF", 6), ("WEBP", 6)],
)
def test_exif_orientation_is_applied(kind, orientation):
    upright = smooth_picture(32, 48)
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    image = load_image(encode(STORED[orientation](upright), kind, exif=exif_of(orientation), **options))
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 3


def test_orientation_holds_for_16_bit_grey_and_reduced_jpeg(tmp_path):
    grey = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        (tmp_path / "a").write_bytes(encode(STORED[6](grey), kind, exif=exif_of(6)))
        # From a path, too: Pillow maps an uncompressed TIFF into memory then.
        for source in (tmp_path / "a", (tmp_path / "a").read_bytes()):
            np.testing.assert_array_equal(load_image(source)[..., 0], np.round(grey / 257.0))
    picture = smooth_picture(240, 400)
    content = encode(STORED[6](picture), "JPEG", quality=95, exif=exif_of(6))
    image = load_image(content, at_least=60)
    assert image.shape == (60, 100, 3)
    assert np.abs(image.astype(float) - cv2.resize(picture, (100, 60), interpolation=cv2.INTER_AREA)).mean() < 4


def test_grey_becomes_three_equal_channels():
    grey = smooth_picture()[..., 0]
    for kind in ("PNG", "TIFF", "PGM"):
        image = load_image(encode(grey, "PPM" if kind == "PGM" else kind))
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))
    assert np.abs(load_image(encode(grey, "JPEG", quality=95)).astype(float) - grey[..., None]).mean() < 2


def test_transparency_is_laid_over_white():
    opaque, half, clear = 255, 128, 0
    rgba = np.array([[(200, 100, 0, opaque), (200, 100, 0, half), (200, 100, 0, clear)]], np.uint8)
    expected = np.array([[(200, 100, 0), (227, 177, 127), (255, 255, 255)]])
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        image = load_image(encode(rgba, kind, **options))
        np.testing.assert_allclose(image, expected, atol=1)
    grey_alpha = Image.merge("LA", [Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])])
    image = load_image(encode(grey_alpha, "PNG"))
    np.testing.assert_allclose(image, np.repeat(np.array([[200, 227, 255]])[..., None], 3, axis=-1), atol=1)


def test_palettes_keep_their_colours_and_transparent_ones_are_white():
    indices = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("L")
    indices.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
    expected = [[(10, 20, 30), (200, 0, 0), (0, 200, 0)]]
    np.testing.assert_array_equal(load_image(encode(indices, "PNG")), expected)
    for kind in ("PNG", "GIF"):
        image = load_image(encode(indices, kind, transparency=1))
        np.testing.assert_array_equal(image, [[(10, 20, 30), (255, 255, 255), (0, 200, 0)]])
    colours = np.array([[(10, 20, 30), (40, 50, 60)]], np.uint8)
    image = load_image(encode(colours, "PNG", transparency=(40, 50, 60)))
    np.testing.assert_array_equal(image, [[(10, 20, 30), (255, 255, 255)]])


def test_one_bit_is_black_and_white():
    bits = np.array([[True, False, True]])
    for kind in ("PNG", "TIFF", "BMP"):
        image = load_image(encode(Image.fromarray(bits), kind))
        np.testing.assert_array_equal(image, np.repeat(bits[..., None] * np.uint8(255), 3, axis=-1))


@pytest.mark.parametrize(("kind", "tolerance"), [("TIFF", 1), ("JPEG", 6)])
def test_cmyk_becomes_rgb(kind, tolerance):
    ink = np.zeros((16, 48, 4), np.uint8)
    ink[:, :16, 0] = 255  # Cyan.
    ink[:, 32:, 3] = 255  # Black; the paper's white between them.
    image = load_image(encode(Image.frombytes("CMYK", (48, 16), ink.tobytes()), kind))
    for column, colour in ((8, (0, 255, 255)), (24, (255, 255, 255)), (40, (0, 0, 0))):
        np.testing.assert_allclose(image[8, column], colour, atol=tolerance)


def test_16_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 300, 32768, 65535]], np.uint16)
    # The range is the format's, not the picture's: a dark picture stays dark.
    dark = np.array([[0, 1, 200, 300]], np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(load_image(encode(grey, kind))[0, :, 0], [0, 1, 128, 255])
        for count in (2, 3, 4):
            np.testing.assert_array_equal(load_image(encode(dark[:, :count], kind))[0, :, 1], [0, 0, 1, 1][:count])
    swapped = Image.frombytes("I;16B", (4, 1), grey.astype(">u2").tobytes())
    np.testing.assert_array_equal(load_image(encode(swapped, "TIFF"))[0, :, 2], [0, 1, 128, 255])
    np.testing.assert_array_equal(load_image(encode(grey.astype(np.int32), "TIFF"))[0, :, 0], [0, 1, 128, 255])


def test_16_bit_colour_is_rounded_to_8():
    rgb = np.full((4, 5, 3), (65535, 33023, 300), np.uint16)
    np.testing.assert_array_equal(load_image(encode_16(rgb))[0, 0], (255, 128, 1))


@pytest.mark.parametrize("layout", ["interleaved", "planar"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_tiff_is_read_as_by_completion(channels, layout, tmp_path):
    pixels = np.dstack([smooth_picture(), smooth_picture()[..., 0]])[..., -channels:].astype(np.uint16) * 257
    options = {"photometric": "rgb" if channels > 2 else "minisblack"}
    if channels in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    if layout == "planar" and channels > 1:
        stored, options["planarconfig"] = pixels.transpose(2, 0, 1), "separate"
    else:
        stored = pixels.squeeze()
    (tmp_path / "a.tif").write_bytes(encode_tiff(stored, **options))
    alpha = (pixels[..., -1:] / 65535) if channels in (2, 4) else 1.0
    colours = pixels[..., : 3 if channels > 2 else 1] / 257
    for source in (tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes()):
        np.testing.assert_array_equal(read_picture(source).pixels, pixels)
        np.testing.assert_allclose(load_image(source), colours * alpha + 255 * (1 - alpha) + np.zeros(3), atol=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, *[0.5] * 10, 1.0], [0, *[128] * 10, 255]),
        ([float("nan"), *[0.5] * 10, 1.0], [0, *[128] * 10, 255]),
        ([float("inf"), *[0.25] * 10, 1.0], [0, *[64] * 10, 255]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
        ([0.0, 0.5, *[0.25] * 8, 1.001, 1.2], [0, 128, *[64] * 8, 255, 255]),  # A highlight is no other range,
        ([0.5] * 9 + [40.0], [128] * 9 + [255]),
        ([0.5] * 8 + [40.0, 50.0], [0] * 8 + [40, 50]),  # but many are,
        ([*[100.0] * 9, 255.4], [*[100] * 9, 255]),  # and neither is what resampling overshoots.
        ([0.0] * 50 + [255.0], [0] * 50 + [255]),  # Zeros are in every range.
    ],
)
def test_float_tiff_is_scaled(values, expected):
    image = load_image(encode(np.array([values], np.float32), "TIFF"))
    np.testing.assert_array_equal(image, np.repeat(np.array([expected])[..., None], 3, axis=-1))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(kind):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime", "blue")]
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    image = load_image(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    np.testing.assert_array_equal(image, np.full((12, 16, 3), (255, 0, 0)))


def test_a_jpeg_is_reduced_to_no_less_than_at_least():
    content = encode(smooth_picture(300, 410), "JPEG", quality=90)
    full = load_image(content)
    assert full.shape == (300, 410, 3)
    sides = {900: 300, 300: 300, 151: 300, 150: 150, 76: 150, 75: 75, 20: 38, 1: 38}
    for at_least, height in sides.items():
        image = load_image(content, at_least=at_least)
        assert image.shape[0] == height, at_least
        reduced = cv2.resize(full, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(float) - reduced).mean() < 4


def test_other_formats_are_not_reduced():
    for kind in ("PNG", "WEBP"):
        assert load_image(encode(smooth_picture(90, 120), kind), at_least=10).shape == (90, 120, 3)


def test_a_reduced_square_jpeg_is_never_below_at_least():
    for side in (94, 95, 96, 110, 116, 188):
        content = encode(np.zeros((side, side, 3), np.uint8), "JPEG")
        for at_least in range(4, side + 1):
            assert min(load_image(content, at_least=at_least).shape[:2]) >= at_least, (side, at_least)


def test_a_jpeg_that_cannot_be_reduced_is_read_at_its_own_size(monkeypatch):
    # Like a lossless JPEG, which libjpeg decodes only at its own size.
    plain_load = JpegImageFile.load

    def load_whole(self):
        if self.format == "JPEG" and self.size != (400, 300):
            raise OSError("broken data stream when reading image file")
        return plain_load(self)

    content = encode(smooth_picture(300, 400), "JPEG")
    monkeypatch.setattr(JpegImageFile, "load", load_whole)
    assert load_image(content, at_least=20).shape == (300, 400, 3)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "I;16", "F"])
def test_an_image_converted_in_strips_is_the_same(kind, monkeypatch):
    picture = smooth_picture(50, 30)
    image = {
        "RGB": Image.fromarray(picture),
        "RGBA": Image.fromarray(np.dstack([picture, picture[..., 0]])),
        "P": Image.fromarray(picture).quantize(17),
        "I;16": Image.fromarray(picture[..., 1].astype(np.uint16) * 200),
        "F": Image.fromarray(picture[..., 1] / np.float32(300)),
    }[kind]
    options = {"transparency": 3} if kind == "P" else {}
    content = encode(image, "TIFF" if kind == "F" else "PNG", **options)
    whole = load_image(content)
    monkeypatch.setattr("glcic_jax.pictures.colours._STRIP_PIXELS", 7 * 30)
    np.testing.assert_array_equal(load_image(content), whole)


def test_an_image_above_the_limit_is_not_decoded():
    content = encode(smooth_picture(300, 400), "JPEG")
    header, image = load_with_header(content, limit=1000)
    assert image is None
    assert header == Header("JPEG", "RGB", 400, 300, 120_000)
    assert load_with_header(content, at_least=70)[0].decoded_pixels == 100 * 75
    progressive = encode(smooth_picture(300, 400), "JPEG", progressive=True)
    assert load_with_header(progressive, at_least=70)[0].decoded_pixels == 120_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_a_truncated_file_is_an_error(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    content = encode(noise, kind)
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content[: len(content) // 2])
    assert one_line_error(path).startswith(f"{path}: cannot be read as an image")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"<html>\n<body>not found\n</body>", bytes(1000)])
def test_a_file_that_is_no_picture_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert one_line_error(path).startswith(f"{path}: cannot be read as an image")
    assert one_line_error(str(path)).startswith(f"{path}: cannot be read as an image")
    assert one_line_error(content, "upload").startswith("upload: cannot be read as an image")
    assert one_line_error(content).startswith("image: cannot be read as an image")
    assert " at 0x" not in one_line_error(content, "upload")  # The address of a buffer.


@pytest.mark.parametrize("kind", ["EPS", "SGI"])
def test_formats_outside_the_list_are_not_decoded(kind):
    assert "no known format" in one_line_error(encode(smooth_picture(), kind))


@pytest.mark.parametrize("kind", ["MPO", "JPEG2000", "TGA", "PCX", "ICO", "DIB"])
def test_rarer_formats_are_read(kind):
    assert load_image(encode(smooth_picture(32, 32), kind)).shape == (32, 32, 3)


def test_missing_files_and_folders_are_errors(tmp_path):
    missing = tmp_path / "missing.png"
    assert one_line_error(missing) == f"{missing}: no such file"
    assert one_line_error(tmp_path).startswith(f"{tmp_path}: cannot be read")


def test_a_header_that_claims_too_much_is_refused_before_decoding():
    for width, height in ((50_000, 50_000), (300_000_000, 1), (16_000, 16_000)):
        message = one_line_error(png_header(width, height), "bomb.png")
        assert message.startswith("bomb.png: ")
        assert str(width) in message or str(width * height) in message


def test_a_170_megapixel_photograph_is_no_bomb():
    # The file ends after its header, so only its pixels are wrong.
    message = one_line_error(png_header(15_000, 11_400), "large.png")
    assert "truncated" in message


def test_save_image_writes_what_load_image_reads(tmp_path):
    picture = smooth_picture()
    for name in ("a.png", "deep/er/b.PNG", "c.bmp", "d.tiff"):
        save_image(picture, tmp_path / name)
        np.testing.assert_array_equal(load_image(tmp_path / name), picture)
    save_image(picture[..., 0], str(tmp_path / "grey.png"))
    np.testing.assert_array_equal(load_image(tmp_path / "grey.png")[..., 1], picture[..., 0])
    save_image(picture, tmp_path / "e.jpg")
    assert (tmp_path / "e.jpg").read_bytes().startswith(b"\xff\xd8")
    assert (tmp_path / "e.jpg").stat().st_mode & 0o444 == 0o444
    assert sorted(os.listdir(tmp_path)) == ["a.png", "c.bmp", "d.tiff", "deep", "e.jpg", "grey.png"]


@pytest.mark.parametrize("name", ["picture.xyz", "picture", "picture.jpg.part"])
def test_an_unknown_suffix_is_an_error_and_leaves_nothing(tmp_path, name):
    with pytest.raises(DataError) as caught:
        save_image(smooth_picture(), tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot be written")
    assert os.listdir(tmp_path) == []


def test_an_array_that_is_no_picture_writes_no_file(tmp_path):
    with pytest.raises((DataError, TypeError)):
        save_image(np.zeros((4, 4, 3), np.float64), tmp_path / "a.png")
    assert os.listdir(tmp_path) == []
