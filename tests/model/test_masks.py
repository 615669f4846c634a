"""The mask samplers: their common contract, and the distribution of each."""

import functools

import jax
import numpy as np
import pytest
from scipy import ndimage, stats

from glcic_jax.errors import ConfigError
from glcic_jax.model.masks import SAMPLERS, create_sampler, random_local_box

IMAGE_SIZE = (40, 56)
LOCAL_SIZE = 24
DRAWS = 400

# A new sampler must be added here.
OPTIONS = {
    "rectangle": {"min_side": 5, "max_side": 24},
    "rectangles": {"count": (1, 3), "min_side": 3, "max_side": 12},
    "free_form": {
        "strokes": (1, 3),
        "vertices": (1, 4),
        "max_length": 0.4,
        "max_turn": 1.5,
        # Almost zero: even such a hole must not be empty.
        "brush": (0.0001, 0.2),
    },
}
MIXTURE = "rectangle+rectangles"


def draw(sampler, image_size=IMAGE_SIZE, local_size=LOCAL_SIZE, draws=DRAWS, seed=0):
    """NumPy masks [N, H, W] and boxes [N, 2]."""
    keys = jax.random.split(jax.random.key(seed), draws)
    masks, boxes = jax.jit(jax.vmap(lambda key: sampler(key, image_size, local_size)))(keys)
    return np.asarray(masks)[..., 0], np.asarray(boxes)


@functools.cache
def drawn(name):
    """`draw` of a sampler with the options above, run once."""
    return draw(create_sampler(name, OPTIONS))


def bounds(mask):
    """(top, left, height, width) of the smallest rectangle around a hole."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def is_rectangle(mask):
    _, _, height, width = bounds(mask)
    return mask.sum() == height * width


def assert_uniform(values, low, high):
    """Integers are uniform in [low, high] (a chi-square test with a fixed seed)."""
    assert values.min() == low
    assert values.max() == high
    counts = np.bincount(values - low, minlength=high - low + 1)
    assert stats.chisquare(counts).pvalue > 1e-4, counts


def test_every_sampler_has_options_above():
    assert set(OPTIONS) == set(SAMPLERS)


@pytest.mark.parametrize("name", [*SAMPLERS, MIXTURE])
def test_masks_are_0_or_1_and_never_empty(name):
    masks, _ = drawn(name)
    assert masks.shape == (DRAWS, *IMAGE_SIZE)
    assert masks.dtype == np.float32
    assert np.isin(masks, (0, 1)).all()
    assert (masks.sum(axis=(1, 2)) > 0).all()
    assert (masks.sum(axis=(1, 2)) < masks[0].size).all()


@pytest.mark.parametrize("name", [*SAMPLERS, MIXTURE])
def test_local_box_lies_inside_the_image(name):
    _, boxes = drawn(name)
    assert boxes.shape == (DRAWS, 2)
    assert boxes.dtype == np.int32
    assert (boxes >= 0).all()
    assert (boxes + LOCAL_SIZE <= IMAGE_SIZE).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_key_gives_the_same_hole_alone_and_in_a_batch(name):
    masks, boxes = drawn(name)
    key = jax.random.split(jax.random.key(0), DRAWS)[7]
    sampler = create_sampler(name, OPTIONS)
    mask, box = jax.jit(lambda key: sampler(key, IMAGE_SIZE, LOCAL_SIZE))(key)
    assert mask.shape == (*IMAGE_SIZE, 1)
    np.testing.assert_array_equal(mask[..., 0], masks[7])
    np.testing.assert_array_equal(box, boxes[7])


@pytest.mark.parametrize("name", [*SAMPLERS, MIXTURE])
def test_different_keys_give_different_holes(name):
    masks, _ = drawn(name)
    assert len({mask.tobytes() for mask in masks}) > 0.95 * DRAWS


@pytest.fixture(scope="module")
def small_rectangles():
    """Few sides and positions, so that each combination is drawn often."""
    sampler = create_sampler("rectangle", {"rectangle": {"min_side": 4, "max_side": 8}})
    masks, boxes = draw(sampler, (20, 22), 16, draws=1000)
    return np.array([bounds(mask) for mask in masks]), masks, boxes


def test_rectangle_is_one_filled_rectangle(small_rectangles):
    _, masks, _ = small_rectangles
    assert all(is_rectangle(mask) for mask in masks)


def test_rectangle_draws_both_sides_uniformly_and_independently(small_rectangles):
    found, _, _ = small_rectangles
    heights, widths = found[:, 2], found[:, 3]
    assert_uniform(heights, 4, 8)
    assert_uniform(widths, 4, 8)
    together = np.zeros((5, 5), int)
    np.add.at(together, (heights - 4, widths - 4), 1)
    assert stats.chi2_contingency(together).pvalue > 1e-4
    assert (together > 0).all()


def test_rectangle_lies_at_the_centre_of_its_local_box(small_rectangles):
    found, _, boxes = small_rectangles
    offset = (found[:, :2] + found[:, 2:] / 2) - (boxes + 8)
    # An odd side in an even box: half a pixel above or left of the centre, as documented.
    np.testing.assert_array_equal(offset, np.where(found[:, 2:] % 2 == 1, -0.5, 0.0))


def test_rectangle_local_box_is_uniform_over_the_image(small_rectangles):
    _, _, boxes = small_rectangles
    assert_uniform(boxes[:, 0] * 7 + boxes[:, 1], 0, 5 * 7 - 1)
    places = set(map(tuple, boxes.tolist()))
    assert {(0, 0), (0, 6), (4, 0), (4, 6)} <= places


def test_rectangle_may_be_as_large_as_the_local_box():
    sampler = create_sampler("rectangle", {"rectangle": {"min_side": 16, "max_side": 16}})
    for mask, box in zip(*draw(sampler, (20, 22), 16, draws=20), strict=True):
        assert bounds(mask) == (*box, 16, 16)
        assert is_rectangle(mask)


def test_rectangle_larger_than_the_local_box_is_refused():
    sampler = create_sampler("rectangle", {"rectangle": {"min_side": 4, "max_side": 17}})
    with pytest.raises(ConfigError, match="max_side is 17 px, larger than the local patch of 16 px"):
        sampler(jax.random.key(0), (32, 32), 16)


@pytest.mark.parametrize("name", ["rectangles", "free_form"])
def test_local_box_is_centred_on_a_pixel_of_the_hole(name):
    masks, boxes = drawn(name)
    highest = np.array(IMAGE_SIZE) - LOCAL_SIZE
    free = ((boxes > 0) & (boxes < highest)).all(axis=1)
    centres = boxes + LOCAL_SIZE // 2
    assert free.sum() > 10
    assert (masks[np.arange(len(masks)), centres[:, 0], centres[:, 1]][free] == 1).all()
    # The draws hold boxes at every side of the image.
    assert (boxes == 0).any(axis=0).all()
    assert (boxes == highest).any(axis=0).all()


def test_every_pixel_of_the_hole_is_equally_likely_to_be_the_centre():
    # One rectangle of 3 x 3 px anywhere in the image: where in it is the centre of the box?
    options = {"rectangles": {"count": (1, 1), "min_side": 3, "max_side": 3}}
    masks, boxes = draw(create_sampler("rectangles", options), (20, 20), 4)
    corners = np.array([bounds(mask)[:2] for mask in masks])
    free = ((boxes > 0) & (boxes < 16)).all(axis=1)
    offsets = (boxes + 2 - corners)[free]
    assert_uniform(offsets @ [3, 1], 0, 8)


def test_rectangles_with_a_count_of_1_are_uniform_over_the_image():
    options = {"rectangles": {"count": (1, 1), "min_side": 3, "max_side": 6}}
    masks, _ = draw(create_sampler("rectangles", options), (9, 11), 8, draws=1000)
    found = np.array([bounds(mask) for mask in masks])
    assert all(is_rectangle(mask) for mask in masks)
    assert_uniform(found[:, 2], 3, 6)
    assert_uniform(found[:, 3], 3, 6)
    smallest = (found[:, 2:] == 3).all(axis=1)
    assert_uniform(found[smallest, 0], 0, 9 - 3)
    assert_uniform(found[smallest, 1], 0, 11 - 3)
    # Every corner of the image is inside some hole, and the largest side fits exactly too.
    assert masks.any(axis=0).all()
    assert (found[found[:, 2] == 6, 0].min(), found[found[:, 2] == 6, 0].max()) == (0, 3)


def test_rectangles_draw_every_count():
    options = {"rectangles": {"count": (2, 4), "min_side": 2, "max_side": 2}}
    masks, _ = draw(create_sampler("rectangles", options), (64, 64), 16, draws=300)
    # Rectangles of 2 px in 64 px seldom touch: components are rectangles.
    components = np.array([ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks])
    assert masks.sum(axis=(1, 2)).max() == 4 * 4
    assert components.max() == 4
    counts = np.bincount(components, minlength=5)
    assert (counts[2:] > 70).all(), counts  # About 100 each.
    assert counts[:2].sum() < 15, counts


def test_free_form_draws_every_number_of_strokes():
    options = {"strokes": (1, 3), "vertices": (1, 2), "max_length": 0.05, "max_turn": 1.5, "brush": (0.02, 0.03)}
    masks, _ = draw(create_sampler("free_form", {"free_form": options}), (64, 64), 24, draws=300)
    # Strokes of a few px in 64 px seldom touch: components are strokes.
    components = np.array([ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks])
    counts = np.bincount(components)
    assert len(counts) == 4
    assert (counts[1:] > 70).all(), counts  # About 100 each.


def test_free_form_stroke_keeps_its_length_and_its_brush():
    options = {"strokes": (1, 1), "vertices": (2, 2), "max_length": 0.25, "max_turn": 1e-4, "brush": (0.1, 0.2)}
    masks, _ = draw(create_sampler("free_form", {"free_form": options}), (40, 56), 24)
    lengths, thicknesses = [], []
    for mask in masks:
        points = np.argwhere(mask)
        lengths.append(np.linalg.norm(points[:, None] - points[None], axis=-1).max())
        thicknesses.append(mask.sum() / (lengths[-1] + 1))
    # Two pieces of up to 0.25 * 40 px, straight on, and half a brush of up to 0.2 * 40 px beyond each end.
    assert max(lengths) <= 2 * 0.25 * 40 + 0.2 * 40 + 1.5
    assert max(lengths) > 0.25 * 40 + 0.2 * 40 + 1.5  # More than one piece could be.
    assert max(thicknesses) <= 0.2 * 40 + 1.5
    assert np.median(thicknesses) > 0.1 * 40 * 0.75
    # A stroke is one piece.
    assert all(ndimage.label(mask, np.ones((3, 3)))[1] == 1 for mask in masks)


def test_free_form_reaches_every_pixel_and_every_direction():
    masks, _ = drawn("free_form")
    assert masks.any(axis=0).all()
    shapes = np.array([bounds(mask)[2:] for mask in masks])
    assert (shapes[:, 0] > 2 * shapes[:, 1]).any()
    assert (shapes[:, 1] > 2 * shapes[:, 0]).any()


def test_mixture_draws_its_samplers_with_equal_probability():
    # Two samplers that are distinguished by the area of the hole.
    options = {
        "rectangle": {"min_side": 8, "max_side": 8},
        "rectangles": {"count": (1, 1), "min_side": 5, "max_side": 5},
    }
    masks, boxes = draw(create_sampler("rectangle+rectangles", options), (20, 24), 12)
    areas = masks.sum(axis=(1, 2))
    assert set(areas) == {64, 25}
    assert 0.4 < (areas == 64).mean() < 0.6
    for area, mask, box in zip(areas, masks, boxes, strict=True):
        top, left, height, width = bounds(mask)
        centred = np.array([top + height / 2, left + width / 2]) - 6
        # The centre of the box is that of the one, and a pixel of the other.
        allowed = centred if area == 64 else np.clip(centred, 0, (8, 12))
        assert np.abs(box - allowed).max() <= (0.5 if area == 64 else 2.5)


@pytest.mark.parametrize("name", ["circle", "rectangle+circle", ""])
def test_unknown_sampler_is_refused_with_a_list_of_valid_names(name):
    with pytest.raises(ConfigError, match="unknown mask sampler.*" + ", ".join(sorted(SAMPLERS))):
        create_sampler(name, OPTIONS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_missing_and_unknown_options_are_refused(name):
    for key in OPTIONS[name]:
        fewer = {other: value for other, value in OPTIONS[name].items() if other != key}
        with pytest.raises(ConfigError, match=f"mask.{name} must have exactly the keys .*{key}"):
            create_sampler(name, {name: fewer})
    with pytest.raises(ConfigError, match=f"mask.{name} must have exactly the keys .*colour"):
        create_sampler(name, {name: {**OPTIONS[name], "colour": 1}})
    with pytest.raises(ConfigError, match=f"mask.{name} must have exactly the keys"):
        create_sampler(name, {})


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("rectangle", {"min_side": 9, "max_side": 8}, r"min_side, max_side is \(9, 8\)"),
        ("rectangle", {"min_side": 0}, r"min_side, max_side is \(0, 24\)"),
        ("rectangles", {"min_side": 13}, r"min_side, max_side is \(13, 12\)"),
        ("rectangles", {"count": (3, 2)}, r"count is \(3, 2\)"),
        ("rectangles", {"count": (0, 2)}, r"count is \(0, 2\)"),
        ("free_form", {"strokes": (0, 2)}, r"strokes is \(0, 2\)"),
        ("free_form", {"vertices": (5, 4)}, r"vertices is \(5, 4\)"),
        ("free_form", {"brush": (0.3, 0.2)}, r"brush is \(0.3, 0.2\)"),
    ],
)
def test_empty_ranges_are_refused(name, changes, words):
    with pytest.raises(ConfigError, match=rf"mask.{name}.{words}: needs 0 < lowest <= highest"):
        create_sampler(name, {name: OPTIONS[name] | changes})


def test_random_local_box_is_uniform_over_all_positions():
    keys = jax.random.split(jax.random.key(3), 1000)
    boxes = np.asarray(jax.vmap(lambda key: random_local_box(key, (10, 13), 8))(keys))
    assert boxes.dtype == np.int32
    assert boxes[:, 0].max() == 2
    assert boxes[:, 1].max() == 5
    assert_uniform(boxes[:, 0] * 6 + boxes[:, 1], 0, 3 * 6 - 1)


def test_random_local_box_as_large_as_the_image_has_one_position():
    assert random_local_box(jax.random.key(0), (16, 16), 16).tolist() == [0, 0]
    assert random_local_box(jax.random.key(0), (16, 17), 16).tolist()[0] == 0
