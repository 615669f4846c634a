"""Every kind of mask becomes the pixels of a hole, of the picture's size."""

import cv2
import numpy as np
import pytest
from helpers.common import one_line
from helpers.picture_files import encode, encode_tiff, noise
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.pictures import Picture, encode_picture, read_picture, to_colour
from glcic_jax.pictures.mask_files import (
    MaskSettings,
    alpha_hole,
    coverage_note,
    hole_from_pixels,
    hole_of_alpha,
    random_hole,
    read_mask,
)

BOX = np.zeros((20, 30), bool)
BOX[4:12, 6:21] = True
SIZE = (30, 20)
WHITE = BOX * np.uint8(255)


def palette_mask() -> Image.Image:
    image = Image.fromarray(BOX.astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    return image


MASKS = {
    "grey": encode(WHITE, "PNG"),
    "one bit": encode(Image.fromarray(BOX), "PNG"),
    "palette": encode(palette_mask(), "PNG"),
    "RGB": encode(np.dstack([WHITE] * 3), "PNG"),
    "RGBA over black": encode(np.dstack([np.full((20, 30, 3), 255, np.uint8), WHITE]), "PNG"),
    "grey and alpha": encode(np.dstack([WHITE, np.full_like(WHITE, 255)]), "PNG"),
    "16 bits": encode(BOX * np.uint16(65535), "PNG"),
    "16 bits that hold 8": encode(BOX * np.uint16(255), "PNG"),
    "0 and 1": encode(BOX.astype(np.uint8), "PNG"),
    "0 and 1 in RGB": encode(np.dstack([BOX.astype(np.uint8)] * 3), "PNG"),
    "JPEG": encode(WHITE, "JPEG", quality=60),
    "float TIFF": encode(BOX.astype(np.float32), "TIFF"),
    "16-bit TIFF with alpha": encode_picture(
        Picture(np.dstack([BOX * np.uint16(65535), np.full((20, 30), 65535, np.uint16)]), "TIFF"), "TIFF"
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_every_kind_of_mask_is_read(kind):
    hole = read_mask(MASKS[kind], SIZE)
    assert hole.hole.dtype == bool
    np.testing.assert_array_equal(hole.hole, BOX)
    np.testing.assert_array_equal(read_mask(MASKS[kind], SIZE, invert=True).hole, ~BOX)
    if kind.startswith("0 and 1"):
        assert any("largest value is 1" in note for note in hole.notes)


def test_masks_from_paths_and_pictures(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(MASKS["grey"])
    picture = Picture(np.zeros((20, 30, 3), np.uint8), "PNG")
    for source in (path, str(path), Picture(WHITE[..., None], "PNG")):
        np.testing.assert_array_equal(read_mask(source, picture).hole, BOX)
    path.write_bytes(MASKS["grey"][:50])
    with pytest.raises(DataError) as caught:
        read_mask(path, picture)
    assert one_line(caught).startswith(f"{path}: ")
    with pytest.raises(DataError, match="--max-pixels"):
        read_mask(MASKS["grey"], picture, max_pixels=599)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_arrays_of_0_and_1(dtype):
    mask = BOX.astype(dtype)
    for array in (mask, mask[..., None], np.stack([mask] * 3, axis=-1)):
        np.testing.assert_array_equal(hole_from_pixels(array).hole, BOX)


def test_the_threshold_is_128_of_255():
    steps = np.array([[0, 127, 128, 255]])
    expected = [[False, False, True, True]]
    for mask in (
        steps.astype(np.uint8),
        steps,
        (steps * 257).astype(np.uint16),
        np.array([[0.0, 0.49, 0.5, 1.0]]),
    ):
        np.testing.assert_array_equal(hole_from_pixels(mask).hole, expected)
        np.testing.assert_array_equal(hole_from_pixels(np.stack([mask] * 3, axis=-1)).hole, expected)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((2, 3, 4), np.uint8), "shape"),
        (np.zeros((0, 3), np.uint8), "shape"),
        (np.full((2, 3), 200.0), "float mask"),
        (np.full((2, 3), np.nan), "float mask"),
        (np.full((2, 3), -1), "-1"),
        (np.full((2, 3), 256), "256"),
        (np.full((2, 3), 1j), "complex"),
        (np.zeros((2, 3), "U1"), "not <U1"),
        (np.zeros((2, 3), object), "not object"),
    ],
)
def test_arrays_that_are_no_masks_are_refused(mask, words):
    with pytest.raises(DataError, match=words) as caught:
        hole_from_pixels(mask, name="m.png")
    assert one_line(caught).startswith("m.png: ")


@pytest.mark.parametrize(
    ("mask_size", "size"),
    [((500, 333), (1000, 667)), ((1000, 667), (500, 333)), ((7, 5), (700, 500)), ((256, 171), (1024, 683))],
)
def test_a_mask_of_the_same_shape_is_resized_with_a_note(mask_size, size):
    mask = np.zeros(mask_size[::-1], bool)
    mask[: mask_size[1] // 2, : mask_size[0] // 3] = True
    hole = hole_from_pixels(mask, size)
    assert hole.hole.shape == size[::-1]
    assert hole.hole.mean() == pytest.approx(mask.mean(), abs=0.01)
    assert hole.hole[0, 0]
    assert not hole.hole[-1].any()
    assert "resized" in hole.notes[0]


def test_resizing_takes_the_nearest_pixel():
    mask = np.array([[1, 0], [0, 1]], bool)
    np.testing.assert_array_equal(hole_from_pixels(mask, (4, 4)).hole, np.kron(mask, np.ones((2, 2))).astype(bool))
    # Smaller too: the pixels in the middle, and not those at the left.
    mask = np.zeros((9, 9), bool)
    mask[1::3, 1::3] = True
    assert hole_from_pixels(mask, (3, 3)).hole.all()


def test_sides_may_differ_by_rounding():
    # By a pixel of the larger one, not by two.
    mask = np.ones((667, 1000), bool)
    assert hole_from_pixels(mask, (3000, 2001)).hole.shape == (2001, 3000)
    for size in ((3000, 2005), (3000, 1997), (1000, 665), (1000, 669)):
        with pytest.raises(DataError, match="aspect ratio"):
            hole_from_pixels(mask, size)


def test_a_mask_of_another_shape_is_refused_unless_it_may_be_stretched():
    for size in ((512, 500), (20, 30), (31, 30)):
        with pytest.raises(DataError) as caught:
            hole_from_pixels(BOX, size, name="m.png", fit=False)
        for word in ("m.png", "30 x 20", f"{size[0]} x {size[1]}", "--fit-mask"):
            assert word in one_line(caught)
        with pytest.raises(DataError, match=r"make a mask of the image's aspect ratio$"):
            hole_from_pixels(BOX, size)  # Its caller does not stretch masks.
        hole = hole_from_pixels(BOX, size, fit=True)
        assert hole.hole.shape == size[::-1]
        assert "stretched" in hole.notes[0]


def test_a_mask_of_the_photo_as_stored_names_exif():
    exif = Image.Exif()
    exif[0x112] = 6
    photo = np.zeros((20, 30, 3), np.uint8)
    picture = read_picture(encode(photo, "JPEG", exif=exif))
    assert picture.size == (20, 30)
    with pytest.raises(DataError, match="EXIF") as caught:
        read_mask(MASKS["grey"], picture)
    assert "30 x 20" in one_line(caught)
    assert read_mask(encode(WHITE.T, "PNG"), picture).hole.shape == (30, 20)


@pytest.mark.parametrize("pixels", [1, 2, 3, 7])
def test_growing_is_round(pixels):
    mask = np.zeros((31, 29), bool)
    mask[15, 14] = mask[0, 28] = True
    rows, columns = np.mgrid[0:31, 0:29]
    near = [(rows - r) ** 2 + (columns - c) ** 2 <= pixels**2 for r, c in ((15, 14), (0, 28))]
    np.testing.assert_array_equal(hole_from_pixels(mask, grow=pixels).hole, near[0] | near[1])


def test_the_order_is_invert_then_resize_then_grow():
    mask = np.ones((10, 10), bool)
    mask[5, 5] = False
    hole = hole_from_pixels(mask, (20, 20), invert=True, grow=1).hole
    assert hole.sum() == 4 + 8  # Two by two pixels, and two more on each side.
    assert not hole_from_pixels(np.zeros((5, 5), bool), grow=3).hole.any()
    assert hole_from_pixels(np.ones((5, 5), bool), grow=3).hole.all()
    with pytest.raises(DataError, match="grow by -1 pixels"):
        hole_from_pixels(mask, grow=-1)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (128, 0, 0), (255, 255, 0)])
def test_a_mask_may_be_painted_in_any_colour(colour):
    hole = read_mask(encode(BOX[..., None] * np.array(colour, np.uint8), "PNG"), SIZE)
    np.testing.assert_array_equal(hole.hole, BOX)
    assert "has colours" in hole.notes[0]


@pytest.mark.parametrize("value", [2, 100, 127])
def test_the_only_value_beside_0_is_white(value):
    for mask in (BOX * np.uint8(value), BOX * np.uint16(value * 257)):
        hole = hole_from_pixels(mask)
        np.testing.assert_array_equal(hole.hole, BOX)
        assert "one value beside 0" in hole.warnings[0]
    several = BOX * np.uint8(value)
    several[0, 0] = 1
    assert not hole_from_pixels(several).hole.any()
    assert "nothing in the mask is white" in hole_from_pixels(several).warnings[0]


def test_a_clear_hole_in_black_is_the_hole_and_other_transparency_is_black_with_a_note():
    clear = np.where(BOX, 0, 255).astype(np.uint8)
    black = np.dstack([np.zeros((20, 30, 3), np.uint8), clear])
    hole = read_mask(encode(black, "PNG"), SIZE)
    np.testing.assert_array_equal(hole.hole, BOX)
    assert "taken for white" in hole.notes[0]
    white = np.dstack([np.full((20, 30, 3), 255, np.uint8), clear])
    hole = read_mask(encode(white, "PNG"), SIZE)
    np.testing.assert_array_equal(hole.hole, ~BOX)
    assert "20 % of the mask is transparent and was taken for black" in hole.notes[0]


@pytest.mark.parametrize("compression", ["raw", "group4", "tiff_lzw"])
def test_one_bit_tiffs_are_white_where_they_are_shown_white(compression):
    for photometric in (0, 1):  # 0 is white, or black.
        content = encode(Image.fromarray(BOX), "TIFF", tiffinfo={262: photometric}, compression=compression)
        np.testing.assert_array_equal(read_mask(content, SIZE).hole, BOX)
    content = encode_tiff(~BOX, photometric="miniswhite")
    np.testing.assert_array_equal(read_mask(content, SIZE).hole, BOX)


def test_the_hole_of_alpha_is_all_that_is_not_opaque():
    for dtype, values in ((np.uint8, [0, 249, 250, 255]), (np.uint16, [0, 249 * 257, 250 * 257, 65535])):
        pixels = np.zeros((1, 4, 4), dtype)
        pixels[0, :, 3] = values
        np.testing.assert_array_equal(alpha_hole(Picture(pixels, "PNG")).hole, [[True, True, False, False]])
    with pytest.raises(DataError, match="no transparency"):
        alpha_hole(Picture(np.zeros((1, 4, 3), np.uint8), "PNG"))


@pytest.mark.parametrize("settings", [MaskSettings(), MaskSettings(grow=3)])
def test_a_softly_erased_picture_becomes_opaque_and_its_known_pixels_keep_their_colours(settings):
    rows, columns = np.mgrid[:60, :80]
    alpha = np.clip(10 * (np.hypot(rows - 30, columns - 40) - 9), 0, 255).astype(np.uint8)  # A soft brush.
    erased = np.dstack([np.full((60, 80, 3), 50, np.uint8), alpha])
    picture, (hole, *_) = hole_of_alpha(settings)(Picture(erased, "PNG"))
    assert hole[alpha < 250].all()
    assert (picture.pixels[..., 3] == 255).all()
    np.testing.assert_array_equal(picture.pixels[..., :3], erased[..., :3])
    np.testing.assert_array_equal(to_colour(picture.pixels)[~hole], np.float32(50 / 255))


def test_what_is_left_transparent_by_an_inverted_hole_stays_so():
    pixels = noise(4)
    picture, (hole, *_) = hole_of_alpha(MaskSettings(invert=True))(Picture(pixels, "PNG"))
    np.testing.assert_array_equal(hole, pixels[..., 3] >= 250)
    np.testing.assert_array_equal(picture.pixels[~hole], pixels[~hole])


def test_coverage():
    hole = np.zeros((100, 100), bool)
    assert "empty" in coverage_note(hole)
    hole[0, :3] = True
    assert "less than 0.1 %" in coverage_note(hole)
    hole[:12] = True
    hole[12, :40] = True
    assert coverage_note(hole) == "the hole covers 12.4 % of the image"
    assert "87.6 %" in coverage_note(~hole)
    assert "--invert-mask" in coverage_note(~hole)
    assert "whole image" in coverage_note(~np.zeros_like(hole))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 500), (17, 9), (300, 200)])
def test_random_holes(size):
    shares = []
    for seed in range(30):
        hole = random_hole(seed, *size).hole
        assert hole.shape == size
        assert hole.dtype == bool
        assert hole.any()
        np.testing.assert_array_equal(hole, random_hole(seed, *size).hole)
        shares.append(hole.mean())
    if size != (1, 1):
        assert max(shares) <= 0.5
    if size == (300, 200):
        assert 0.02 < np.mean(shares) < 0.2
        parts = [cv2.connectedComponents(random_hole(s, *size).hole.astype(np.uint8))[0] - 1 for s in range(30)]
        assert max(parts) <= 4
        assert np.mean(parts) > 1.5


@pytest.mark.parametrize(
    ("colour", "words"), [((120, 0, 0), "120 of 255"), ((100, 100, 100), "100 of 255"), ((0, 0, 0), "")]
)
def test_a_mask_without_white_says_how_bright_it_is(colour, words):
    mask = np.zeros((4, 5, 3), np.uint8)
    mask[1] = colour
    mask[2] = np.array(colour) // 2
    hole = hole_from_pixels(mask)
    assert not hole.hole.any()
    assert hole.notes == ()
    assert all("nothing in the mask is white" in warning and words in warning for warning in hole.warnings)
    assert bool(hole.warnings) == bool(words)


def test_a_photograph_as_mask_is_seen_and_soft_or_damaged_edges_are_not():
    photograph = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8) // 2 + 40
    for scaled in (photograph, photograph[..., 0], photograph.astype(np.uint16) * 257, photograph / 255):
        (warning,) = hole_from_pixels(scaled).warnings
        assert "of the mask is neither black nor white, as in a photograph: what is at least " in warning
        assert not hole_from_pixels(scaled).notes
    assert "at least 128 of 255 was taken for white" in hole_from_pixels(photograph).warnings[0]
    mask = np.zeros((300, 400), np.uint8)
    mask[100:200, 100:250] = 255
    for clean in (cv2.GaussianBlur(mask, (0, 0), 3), mask, mask > 0, mask / 255.0, np.where(mask, 200, 50)):
        assert not [warning for warning in hole_from_pixels(clean).warnings if "photograph" in warning]
    jpeg = read_mask(encode(mask, "JPEG"), (400, 300))
    assert jpeg.warnings == ()


@pytest.mark.parametrize("value", [128, 150, 220])
def test_a_grey_mask_is_white_with_a_warning(value):
    hole = hole_from_pixels(BOX * np.uint8(value))
    np.testing.assert_array_equal(hole.hole, BOX)
    assert hole.warnings == (f"the mask is grey, at most {value} of 255: 128 or more was taken for white",)


def test_notes_about_a_mask_name_the_mask(tmp_path):
    mask = Image.fromarray(np.eye(4, dtype=bool)).convert("P")
    mask.save(tmp_path / "mask.png")
    notes = read_mask(tmp_path / "mask.png", (4, 4)).notes
    assert any("palette" in note for note in notes)
    assert all("mask" in note for note in notes)
