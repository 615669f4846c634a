"""What a brush did on a page, drawn in the picture's pixels."""

import itertools
import json

import numpy as np
import pytest
from helpers.common import one_line
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.serving.painted_holes import mask_operation, mask_png, painted_hole

SIZE = (90, 60)


def stroke(size, *points, erase=False) -> dict:
    return {"kind": "stroke", "size": size, "erase": erase, "points": [list(point) for point in points]}


def drawn(*operations, size=SIZE) -> np.ndarray:
    return painted_hole(json.dumps(operations), size)


def distances(points, size=SIZE) -> np.ndarray:
    """Of all pixels' middles to a line, sampled closely: [H, W]."""
    ends = np.array(points, float)
    if len(ends) == 1:
        ends = np.concatenate([ends, ends])
    steps = np.linspace(0, 1, 400)[:, None]
    line = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(ends)])
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    return np.sqrt(((x[..., None] - line[:, 0]) ** 2 + (y[..., None] - line[:, 1]) ** 2).min(axis=-1))


@pytest.mark.parametrize("width", [1, 3, 8, 21])
@pytest.mark.parametrize("points", [[(40.3, 30.2)], [(10, 10), (70.6, 15.4), (30, 50)], [(5, 55), (5, 5)]])
def test_a_stroke_covers_what_is_near_its_line(width, points):
    hole, away = drawn(stroke(width, *points)), distances(points)
    assert hole[away < width / 2 - 0.6].all()
    assert not hole[away > width / 2 + 1.3].any()
    assert hole.any()


def test_what_was_painted_can_be_erased_and_painted_again():
    painted, erased = stroke(20, (10, 30), (80, 30)), stroke(30, (45, 30), erase=True)
    hole = drawn(painted, erased)
    assert hole[30, 15]
    assert not hole[30, 45]
    assert drawn(painted, erased, stroke(4, (45, 30)))[30, 45]


def test_strokes_beyond_the_border_are_cut():
    hole = drawn(stroke(10, (-500, 30), (500, 30)))
    assert hole[30].all()
    assert not hole[[0, -1]].any()


def test_a_rectangle_has_whole_pixels_and_is_cut():
    hole = drawn({"kind": "rectangle", "left": -5, "top": 10, "width": 25, "height": 500})
    expected = np.zeros((60, 90), bool)
    expected[10:, :20] = True
    np.testing.assert_array_equal(hole, expected)


@pytest.mark.parametrize("size", [(90, 60), (1, 1), (7, 300)])
def test_a_mask_comes_back_bit_for_bit(size):
    hole = np.random.default_rng(0).random((size[1], size[0])) < 0.4
    np.testing.assert_array_equal(drawn(mask_operation(hole), size=size), hole)


def test_a_mask_can_be_painted_on():
    mask = mask_operation(np.eye(60, 90, dtype=bool))
    assert drawn(mask, stroke(6, (80, 10)))[10, 80]
    assert not drawn(mask, stroke(6, (30, 30), erase=True))[30, 30]


def test_the_mask_file_is_black_and_white(tmp_path):
    hole = drawn(stroke(9, (40, 30)))
    (tmp_path / "mask.png").write_bytes(mask_png(hole))
    image = Image.open(tmp_path / "mask.png")
    assert image.mode == "1"
    np.testing.assert_array_equal(np.asarray(image), hole)


def test_nothing_painted_is_no_hole():
    assert not drawn().any()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        "[" * 100_000,
        json.dumps([{"kind": "ellipse"}]),
        json.dumps([{}]),
        json.dumps([stroke(4)]),
        json.dumps([stroke("wide", (1, 1))]),
        json.dumps([stroke(True, (1, 1))]),
        json.dumps([stroke(float("nan"), (1, 1))]),
        json.dumps([stroke(1e300, (1, 1))]),
        json.dumps([stroke(4, (1, 1), (float("inf"), 2))]),
        json.dumps([stroke(4, (1, 1), (1e9, 2))]),
        json.dumps([{"kind": "stroke", "size": 4, "points": [[1, 2, 3], [4]]}]),
        json.dumps([{"kind": "stroke", "size": 4, "points": {"a": 1}}]),
        json.dumps([{"kind": "rectangle", "left": 1, "top": 2, "width": 3}]),
        json.dumps([{"kind": "mask", "png": "https://example.org/mask.png"}]),
        json.dumps([{"kind": "mask", "png": "data:image/png;base64,%%%"}]),
        json.dumps([{"kind": "mask", "png": "data:image/png;base64,aGFsbG8="}]),
        json.dumps([stroke(1, (1, 1))] * 10_001),
        json.dumps([stroke(1, (1, 1)), mask_operation(np.ones((60, 90), bool))]),
        json.dumps([stroke(4000, *([(1, 1), (80, 50)] * 500))]),
    ],
)
def test_what_nobody_paints_is_refused_in_a_line(text):
    with pytest.raises(DataError) as caught:
        painted_hole(text, SIZE)
    assert one_line(caught)


def test_more_than_anybody_paints_is_refused_whatever_its_shape():
    rectangle = {"kind": "rectangle", "left": 0, "top": 0, "width": 5, "height": 5}
    with pytest.raises(DataError, match="more often"):
        drawn(*[rectangle] * 300, size=(2000, 2000))


def test_a_mask_of_another_shape_or_too_many_pixels_is_refused():
    for shape in [(60, 60), (6000, 9000)]:
        with pytest.raises(DataError, match="painted mask"):
            drawn(mask_operation(np.ones(shape, bool)))
