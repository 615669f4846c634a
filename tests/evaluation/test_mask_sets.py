"""Drawn mask sets: golden hashes, the distribution of holes, names and options."""

import itertools
import math
import re
import subprocess
import sys
from fractions import Fraction

import jax
import numpy as np
import pytest
from helpers.common import ROOT, load_config, one_line

from glcic_jax.errors import ConfigError
from glcic_jax.evaluation.mask_sets import drawn
from glcic_jax.evaluation.mask_sets.drawn import TextRandom
from glcic_jax.evaluation.mask_sets.sets import MASK_SETS, MaskDigest, open_mask_set, summarise
from glcic_jax.model import masks

DRAWN = [name for name in MASK_SETS if name != "folder"]
SIZES = [(256, 256), (192, 320)]
MANUAL = (ROOT / "glcic_jax/evaluation/README.md").read_text()
# Of the first 16 masks of each size. Changing one invalidates every published measurement.
GOLDEN = {
    "paper": (
        "9ccc1eda4553bec93a9f0478c33495b1120b3f8fa16483bf16e4d10d7eee7197",
        "35fc79cfcdfc3aaf049aeeb055f4f4d12507ff374e99e37e055fdd48496e9b90",
    ),
    "box": (
        "6e71456d5ff17f19f30ff0d5c9961cf9a8fd62895b62bebf031451d3261f2392",
        "196749fa3f7f4b76e1a269e425bc62b718cf218a32f00f35f6af1ddd7ff7b053",
    ),
    "mmagic": (
        "94592d5df1e9256b1ab5c42618a78717fe56c4ee3a49c39ed8d6dc25a15a637f",
        "152e6ba261c165c9fccaabfd4087983c0cb1771020a081cbee10577547794c28",
    ),
    "centre": (
        "da0855d75c6b7fcb135298026879be115ed97a4c479d475ce45de0272a0d496d",
        "da57b1bb4f91212f4ad1c57319d046c0ff6e7ee5113d9f7996322b1c886d3590",
    ),
    "free_form": (
        "e4b5c8aa120cb0d2a67ae7f5554dc3958981be5af1ba7c310614442fa0a800f5",
        "656b0c08db286599535f7a99d7f8deba90b4c7cb7c5de8bf7668fcbd88037250",
    ),
    "rectangles": (
        "fe9d4463062c54299f695f82e7292a8e9b78f3fe8fb6d6f03ba6752cf2d7fa83",
        "39d66a2fea10a2fbfe363df40495726b3c4d854bd2f1cbec0c41cf95f99a6436",
    ),
}


def digest(spec: str, count: int, size: tuple[int, int]) -> str:
    return summarise(open_mask_set(spec), count, size).record.sha256


def holes(spec: str, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    masks_ = open_mask_set(spec)
    return [masks_.hole(index, size) for index in range(count)]


def bounding_box(hole: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of the box around a hole."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    return int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_golden_hashes():
    assert {name: tuple(digest(name, 16, size) for size in SIZES) for name in DRAWN} == GOLDEN


def test_another_process_draws_the_same_bits():
    code = (
        "from glcic_jax.evaluation.mask_sets.sets import open_mask_set, summarise\n"
        f"for name in {DRAWN}: print(summarise(open_mask_set(name), 16, (192, 320)).record.sha256)"
    )
    environment = {"PYTHONHASHSEED": "4321", "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == [GOLDEN[name][1] for name in DRAWN]


@pytest.mark.parametrize("name", DRAWN)
def test_hashes_of_the_manual(name):
    row = re.search(
        rf"^\| `{name}` \|.*`([0-9a-f]{{64}})` \|$",
        MANUAL,
        re.MULTILINE,
    )
    assert digest(name, 1000, (256, 256)) == row[1]


def test_the_manual_gives_the_options_with_their_defaults():
    for name in set(DRAWN) - {"centre"}:
        options = re.search(rf"^\| `{name}` \|.*?`(seed=[^`]*)`", MANUAL, re.MULTILINE)[1]
        assert open_mask_set(f"{name}:{options}").name == f"{name}:seed=0"
    assert open_mask_set("paper:min=48,max=96,local=96,at=160").name in MANUAL.replace("paper:", "paper:seed=0,")


@pytest.mark.parametrize("name", DRAWN)
def test_masks_do_not_depend_on_the_order_of_drawing(name):
    forwards = holes(name, 8, (64, 96))
    drawn = open_mask_set(name)
    for index in reversed(range(8)):
        assert np.array_equal(drawn.hole(index, (64, 96), (1000, 700), "a.jpg"), forwards[index])


@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"centre"}))
def test_seeds_and_indices_give_different_masks(name):
    drawn = holes(name, 20, (256, 256))
    assert len({hole.tobytes() for hole in drawn}) == 20
    other = holes(f"{name}:seed=1", 20, (256, 256))
    assert not any(np.array_equal(one, two) for one, two in zip(drawn, other, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (33, 47), (64, 64), (300, 130)])
@pytest.mark.parametrize("name", DRAWN)
def test_holes_are_neither_empty_nor_the_whole_image(name, size):
    for hole in holes(name, 60, size):
        assert hole.shape == size
        assert hole.dtype == bool
        assert hole.any()
        assert not hole.all() or min(size) < 4


def test_distribution_of_the_papers_rectangles():
    boxes = np.array([bounding_box(hole) for hole in holes("paper", 3000, (256, 256))])
    ratios = np.array([hole.sum() for hole in holes("paper", 50, (256, 256))])
    assert np.array_equal(ratios, boxes[:50, 2] * boxes[:50, 3])  # Full rectangles.
    for axis in (0, 1):
        start, side = boxes[:, axis], boxes[:, 2 + axis]
        local = start - (128 - side) // 2
        assert (side.min(), side.max()) == (96, 128)
        assert (local.min(), local.max()) == (0, 128)
        assert abs(side.mean() - 112) < 4 * 9.52 / 3000**0.5
        assert abs(local.mean() - 64) < 4 * 37.2 / 3000**0.5
        counts = np.bincount(side - 96, minlength=33)
        assert ((counts - 3000 / 33) ** 2 / (3000 / 33)).sum() < 70  # Chi square, 32 degrees: 1 in 10,000.
    assert abs(np.corrcoef(boxes[:, 2], boxes[:, 3])[0, 1]) < 0.08


def test_distribution_of_square_boxes():
    boxes = np.array([bounding_box(hole) for hole in holes("box", 2000, (192, 320))])
    side = boxes[:, 2]
    assert np.array_equal(side, boxes[:, 3])
    assert (side.min(), side.max()) == (81, 96)  # 108 and 128 at 256.
    for axis, length in ((0, 192), (1, 320)):
        place = boxes[:, axis] / (length - side)
        assert (place.min() < 0.01) & (place.max() > 0.99)
        assert abs(place.mean() - 0.5) < 0.03


def test_distribution_of_mmagics_boxes():
    boxes = np.array([bounding_box(hole) for hole in holes("mmagic", 4000, (256, 256))])
    for axis in (0, 1):
        start, side = boxes[:, axis], boxes[:, 2 + axis]
        assert (side.min(), side.max()) == (108, 128)
        corner = start + side - 128  # Of the box that something was taken from.
        assert (corner.min(), corner.max()) == (20, 107)
        assert abs(corner.mean() - 63.5) < 1.5
    assert abs(np.corrcoef(boxes[:, 2], boxes[:, 3])[0, 1]) < 0.05


def test_centre_squares():
    for size, box in (((256, 256), (64, 64, 128, 128)), ((6, 9), (1, 3, 3, 3)), ((5, 5), (1, 1, 3, 3))):
        assert bounding_box(open_mask_set("centre").hole(7, size)) == box


def test_distribution_of_several_rectangles():
    boxes = np.array([bounding_box(hole) for hole in holes("rectangles:count=1", 2000, (256, 256))])
    for axis in (0, 1):
        start, side = boxes[:, axis], boxes[:, 2 + axis]
        assert (side.min(), side.max()) == (32, 80)
        assert abs(side.mean() - 56) < 4 * 14.14 / 2000**0.5
        assert abs((start / (256 - side)).mean() - 0.5) < 4 * 0.289 / 2000**0.5
    # Of two, three or four of (56 / 256)^2 each, some overlap.
    assert 0.10 < np.mean(holes("rectangles", 300, (256, 256))) < 3 * (56 / 256) ** 2


def test_options_of_rectangles():
    assert {bounding_box(hole)[2:] for hole in holes("rectangles:count=1,min=40,max=40", 5, (256, 256))} == {
        (40, 40)
    }
    assert {bounding_box(hole)[2:] for hole in holes("rectangles:count=1,min=40,max=40", 5, (128, 512))} == {
        (20, 20)
    }
    celeba = np.array(
        [bounding_box(hole) for hole in holes("paper:min=48,max=96,local=96,at=160", 600, (160, 160))]
    )
    assert (celeba[:, 2:].min(), celeba[:, 2:].max()) == (48, 96)
    few, many = (np.mean(holes(f"rectangles:count={count}", 40, (64, 64))) for count in ("1", "8-9"))
    assert many > 3 * few


def test_defaults_are_those_of_training():
    options = load_config("common").mask
    own = {name: open_mask_set(name) for name in ("paper", "rectangles", "free_form")}
    assert (own["paper"].min, own["paper"].max) == (options.rectangle.min_side, options.rectangle.max_side)
    assert own["rectangles"].count == options.rectangles.count
    assert own["rectangles"].min == options.rectangles.min_side
    assert own["rectangles"].max == options.rectangles.max_side
    assert own["free_form"].strokes == options.free_form.strokes
    assert own["free_form"].vertices == options.free_form.vertices
    assert own["free_form"].brush == tuple(round(100 * share) for share in options.free_form.brush)
    assert (options.free_form.max_length, options.free_form.max_turn) == (0.25, 1.5)


def test_strokes_cover_as_much_as_in_training():
    sampler = masks.create_sampler("free_form", {"free_form": dict(load_config("common").mask.free_form)})
    draw = jax.jit(jax.vmap(lambda key: sampler(key, (64, 64), 32)[0].mean()))
    of_training = np.asarray(draw(jax.random.split(jax.random.key(0), 800)))
    own = np.array([hole.mean() for hole in holes("free_form", 800, (64, 64))])
    assert own.mean() == pytest.approx(of_training.mean(), rel=0.1)
    assert own.std() == pytest.approx(of_training.std(), rel=0.1)
    assert np.percentile(own, [10, 50, 90]) == pytest.approx(np.percentile(of_training, [10, 50, 90]), rel=0.15)


def by_fractions(size, points, radius) -> np.ndarray:
    """The pixels whose centres are within the radius of a segment, in exact arithmetic."""
    hole = np.zeros(size, bool)
    for start, end in itertools.pairwise(points):
        along = end[0] - start[0], end[1] - start[1]
        length = along[0] ** 2 + along[1] ** 2
        for place in np.ndindex(*size):
            offset = [16 * place[axis] + 8 - start[axis] for axis in (0, 1)]
            nearest = Fraction(offset[0] * along[0] + offset[1] * along[1], length) if length else Fraction(0)
            nearest = min(max(nearest, Fraction(0)), Fraction(1))
            hole[place] |= sum((offset[axis] - nearest * along[axis]) ** 2 for axis in (0, 1)) <= radius**2
    return hole


@pytest.mark.parametrize("size", [(24, 32), (31, 17), (1, 12)])
def test_strokes_agree_with_exact_distances(size):
    for index in range(6):
        mask = drawn.draw_strokes(TextRandom(f"{index}"), size, (1, 1), (2, 8), (5, 40))
        random = TextRandom(f"{index}")
        assert random.integer(1, 1) == 1
        points, radius = drawn._random_walk(random, size, (2, 8), (5, 40))
        assert np.array_equal(mask, by_fractions(size, points, radius))


def test_no_sine_is_close_to_a_rounding_boundary():
    exact = [math.sin(math.pi / 2 * step / 1024) * 2**14 for step in range(1025)]
    assert min(abs(value % 1 - 0.5) for value in exact) > 1e-6
    for direction in range(-5000, 9000, 7):
        assert drawn.sine(direction) == pytest.approx(2**14 * math.sin(math.tau * direction / 4096), abs=0.51)


def test_random_integers_are_uniform_and_reproducible():
    drawn = TextRandom("a")
    numbers = [drawn.integer(-3, 6) for _ in range(20_000)]
    assert set(numbers) == set(range(-3, 7))
    counts = np.bincount(np.array(numbers) + 3)
    assert ((counts - 2000) ** 2 / 2000).sum() < 34  # Chi square, 9 degrees: 1 in 10,000.
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03
    again, other = TextRandom("a"), TextRandom("b")
    assert [again.integer(-3, 6) for _ in range(20)] == numbers[:20]
    assert [other.integer(-3, 6) for _ in range(20)] != numbers[:20]
    with pytest.raises(ValueError, match="no number"):
        drawn.integer(1, 0)


def test_the_digest_covers_sizes_and_order():
    def of(*shapes_of_holes) -> str:
        digest = MaskDigest()
        for hole in shapes_of_holes:
            digest.add(hole)
        return digest.hexdigest()

    one = np.arange(12).reshape(3, 4) % 5 == 0
    assert of(one) != of(one.reshape(4, 3))
    assert of(one, ~one) != of(~one, one)
    assert of(one) == of(np.asfortranarray(one))
    for wrong in (one.astype(np.uint8), one[None]):
        with pytest.raises(ValueError, match="bool"):
            of(wrong)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("paper", "paper:seed=0"),
        ("box:seed=007", "box:seed=7"),
        ("centre", "centre"),
        ("rectangles:max=80,count=3", "rectangles:seed=0,count=3"),
        ("rectangles:count=2-4", "rectangles:seed=0"),
        ("free_form:brush=2-4,seed=5", "free_form:seed=5,brush=2-4"),
        ("paper:local=100,max=100", "paper:seed=0,max=100,local=100"),
    ],
)
def test_canonical_names(spec, name):
    drawn = open_mask_set(spec)
    assert drawn.name == name
    assert open_mask_set(name).name == name
    assert np.array_equal(drawn.hole(3, (64, 64)), open_mask_set(name).hole(3, (64, 64)))


WRONG_NAMES = {
    "squares": "box, centre, folder, free_form, mmagic, paper, rectangles",
    "": "unknown mask set",
    "centre:seed=1": "no options",
    "paper:": "no option ''",
    "paper:seeds=1": "seed, min, max, local, at",
    "paper:seed=1,seed=1": "twice",
    "paper:seed=-1": "seed=0",
    "paper:seed=1.5": "seed=0",
    "paper:seed=\n": r"seed is '\n'",
    "paper:seed=9999999999999999999": "is not from 0 to",
    "paper:seed": "as in seed=0",
    "paper:max=129": "min <= max <= local <= at",
    "paper:min=0": "min=0 is not from 1",
    "box:min=200,max=100": "min <= max <= at",
    "box:max=300": "has min=108, max=300, at=256",
    "rectangles:count=4-2": "count=4-2",
    "rectangles:count=0": "count=0",
    "rectangles:count=1-2-3": "count=2-4",
    "rectangles:min=90": "min <= max",
    "free_form:strokes=65": "from 1 to 64",
    "free_form:brush=5-60": "from 1 to 50",
    "paper:min=1-2": "min=96",
}


@pytest.mark.parametrize("spec", WRONG_NAMES)
def test_wrong_names_are_one_line(spec):
    with pytest.raises(ConfigError) as caught:
        open_mask_set(spec)
    assert WRONG_NAMES[spec] in one_line(caught)
