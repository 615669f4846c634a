"""Crops, batches and their exact resume, unreadable images, the validation batch, the mean pixel."""

import io
import itertools
import json
import threading
import types

import cv2
import numpy as np
import pytest
from helpers.common import one_line
from PIL import Image

from glcic_jax.data.input_pipeline import (
    kept_mean_pixel,
    mean_pixel,
    next_index,
    random_crop,
    train_batches,
    validation_batch,
)
from glcic_jax.data.skipped_files import SkippedFiles
from glcic_jax.errors import DataError

SIZE = 32


class TaggedPictures:
    """Pictures whose red is their index, and whose green and blue say where a crop was cut."""

    def __init__(self, count: int, unreadable: tuple[int, ...] = ()):
        rows, columns = np.mgrid[0:60, 0:80]
        self._contents = []
        for tag in range(count):
            picture = np.stack([np.full_like(rows, tag), rows * 4, columns * 3], axis=-1).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG", compress_level=1)
            self._contents.append(b"no picture" if tag in unreadable else file.getvalue())
        self.reads: list[int] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._contents)

    def read(self, index: int) -> bytes:
        with self._lock:
            self.reads.append(index)
        return self._contents[index]

    def name(self, index: int) -> str:
        return f"picture {index}"

    short_name = name

    def size(self, index: int) -> int:
        return len(self._contents[index])


class GivenPictures(TaggedPictures):
    """Pictures from arrays."""

    def __init__(self, pictures: list[np.ndarray]):
        super().__init__(0)
        for picture in pictures:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            self._contents.append(file.getvalue())


def data_config(**overrides) -> types.SimpleNamespace:
    values = {
        "image_size": SIZE, "resize_range": (SIZE, 48), "cache_images": 0, "threads": 2, "prefetch": 4,
        "mean_pixel_images": 10_000, "tfds_dir": "", "train_split": "train", "flip": False, "listing": "",
        "grey": False, "centre_crop": 0,
    }  # fmt: skip
    return types.SimpleNamespace(**{**values, **overrides})


def batches_of(source, batch_size: int = 4, seed: int = 0, skipped=None, process=(0, 1), **overrides):
    skipped = SkippedFiles(None, len(source), 1.0) if skipped is None else skipped
    return train_batches(source, data_config(**overrides), batch_size, seed, skipped, *process)


def take(batches, count: int) -> np.ndarray:
    """The images of the next `count` batches."""
    return np.concatenate([next(batches)["image"] for _ in range(count)])


def tags(images: np.ndarray) -> list[int]:
    reds = images[..., 0].reshape(len(images), -1)
    assert (reds == reds[:, :1]).all()
    return [int(red) for red in reds[:, 0]]


def fixed_crops(source, data, count, seed):
    return validation_batch(source, data, count, seed, SkippedFiles(None, 100, 1.0))


def test_crops_of_any_size_are_squares_of_uint8():
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 2), (1, 20_000), (20_000, 1), (20, 20_000), (SIZE, SIZE), (SIZE, 500), (SIZE - 1, SIZE)]
    shapes += [(48, 48), (49, 48), (3000, 2)]
    shapes += [tuple(int(side) for side in np.exp(rng.uniform(0, 6.5, 2))) for _ in range(200)]
    for shape in shapes:
        image = np.full((*shape, 3), 200, np.uint8)
        for resize_range in ((SIZE, SIZE), (SIZE, 48), (200, 200)):
            crop = random_crop(image, rng, SIZE, resize_range)
            assert crop.shape == (SIZE, SIZE, 3), shape
            assert crop.dtype == np.uint8
            assert crop.flags.c_contiguous
            assert (crop == 200).all(), shape


def test_an_image_of_the_exact_size_is_unchanged():
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(random_crop(image, np.random.default_rng(0), SIZE, (SIZE, SIZE)), image)


def test_an_image_whose_shorter_side_is_exact_is_only_cut():
    image = np.random.default_rng(1).integers(0, 256, (SIZE, 100, 3), np.uint8)
    lefts = set()
    for seed in range(40):
        crop = random_crop(image, np.random.default_rng(seed), SIZE, (SIZE, SIZE))
        matches = [left for left in range(101 - SIZE) if np.array_equal(image[:, left : left + SIZE], crop)]
        assert len(matches) == 1
        lefts.update(matches)
    assert len(lefts) > 15
    assert min(lefts) < 10
    assert max(lefts) > 58


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (64, 64), (20, 35), (33, 200), (700, 90)])
def test_the_crop_is_that_of_the_whole_resized_image(shape):
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    down, across = rows / (shape[0] - 1), columns / (shape[1] - 1)
    ramps = [255 * down, 255 * across, 127 + 127 * np.sin(5 * down + 7 * across)]
    image = np.stack(ramps, axis=-1).astype(np.uint8)
    for seed in range(40):
        crop = random_crop(image, np.random.default_rng(seed), SIZE, (SIZE, 96))
        # The same draws, then the plain way that the paper describes.
        rng = np.random.default_rng(seed)
        shorter = int(rng.integers(SIZE, 97))
        sides = np.round(np.array(shape) * (shorter / min(shape))).astype(int)
        top, left = rng.integers(0, sides - SIZE + 1)
        method = cv2.INTER_AREA if shorter < min(shape) else cv2.INTER_CUBIC
        whole = cv2.resize(image, (int(sides[1]), int(sides[0])), interpolation=method)
        expected = whole[top : top + SIZE, left : left + SIZE].astype(float)
        # A pixel of the resized image is this much of each ramp; the cut may be less than one and a half off.
        one_pixel = np.array([255 / sides[0], 255 / sides[1], 127 * (5 / sides[0] + 7 / sides[1])])
        assert (np.abs(crop - expected).mean(axis=(0, 1)) <= one_pixel + 1).all()
        assert (np.abs(crop - expected).max(axis=(0, 1)) <= 1.5 * one_pixel + 3).all()


@pytest.mark.parametrize("shape", [(256, 256), (256, 600), (600, 256)])
def test_the_shorter_side_stays_in_the_resize_range(shape):
    low, high = 64, 96
    ramp = np.arange(256, dtype=np.uint8)
    shorter_axis = int(np.argmin(shape))
    image = np.broadcast_to(ramp[:, None] if shorter_axis == 0 else ramp[None, :], shape)
    image = np.repeat(image[..., None], 3, axis=-1)
    sides = []
    for seed in range(300):
        crop = random_crop(image, np.random.default_rng(seed), 64, (low, high))[..., 0].astype(float)
        line = crop.mean(axis=1 - shorter_axis)
        sides.append(256 / ((line[-3] - line[2]) / 59))  # How steep the ramp has become, off the edges.
    assert low - 1.5 < min(sides) < low + 2.5
    assert high - 2.5 < max(sides) < high + 2
    assert 78 < np.mean(sides) < 82


@pytest.mark.parametrize("options", [{}, {"threads": 5, "prefetch": 1}])
def test_seed_determines_order_and_crops(options):
    first = take(batches_of(TaggedPictures(12)), 7)
    assert first.shape == (28, SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(take(batches_of(TaggedPictures(12), **options), 7), first)
    other = take(batches_of(TaggedPictures(12), seed=1, **options), 7)
    assert tags(other) != tags(first)
    by_tag = [dict(zip(tags(images[:12]), images, strict=False)) for images in (first, other)]
    assert sum(not np.array_equal(by_tag[0][tag], by_tag[1][tag]) for tag in range(12)) > 8


def test_each_epoch_shows_each_image_once_in_a_new_order_with_new_crops():
    images = take(batches_of(TaggedPictures(12)), 9)
    epochs = [images[start : start + 12] for start in (0, 12, 24)]
    orders = [tags(epoch) for epoch in epochs]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders[0] != list(range(12))
    for one, other in itertools.combinations(range(3), 2):
        assert orders[one] != orders[other]
        crops = [dict(zip(orders[epoch], epochs[epoch], strict=True)) for epoch in (one, other)]
        assert sum(not np.array_equal(crops[0][tag], crops[1][tag]) for tag in range(12)) > 8


@pytest.mark.parametrize(("images", "batch_size"), [(6, 4), (3, 8)])
def test_batches_run_over_the_end_of_an_epoch(images, batch_size):
    order = tags(take(batches_of(TaggedPictures(images), batch_size), 3))
    assert all(
        sorted(order[start : start + images]) == list(range(images)) for start in range(0, len(order), images)
    )


@pytest.mark.parametrize("images", [2, 12, 13])
@pytest.mark.parametrize("processes", [2, 3])
def test_the_stream_does_not_depend_on_the_number_of_processes(images, processes):
    """Over the ends of epochs too, with unequal shares, and with fewer images than processes."""
    alone = take(batches_of(TaggedPictures(images), 6), 6)
    parts = [
        take(batches_of(TaggedPictures(images), 6 // processes, process=(index, processes)), 6)
        for index in range(processes)
    ]
    np.testing.assert_array_equal(np.stack(parts, axis=1).reshape(alone.shape), alone)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_another_number_of_processes_resumes_with_the_next_image(after):
    source = TaggedPictures(13)
    alone = tags(take(batches_of(source, 6), 8))
    before = [batches_of(source, 3, process=(index, 2)) for index in range(2)]
    seen = [tags(take(part, 3)) for part in before]
    indices = next_index([part.get_state()["next_index"] for part in before], after)
    parts = []
    for index in range(after):
        part = batches_of(source, 6 // after, process=(index, after))
        part.set_state({"next_index": indices[index]})
        parts.append(tags(take(part, 5)))
    resumed = [part[turn] for turn in range(30 // after) for part in parts]
    assert [tag for pair in zip(*seen, strict=True) for tag in pair] + resumed == alone


def test_processes_out_of_step_leave_no_image_out():
    assert next_index([14, 12], 2) == [14, 12]
    assert next_index([14, 12], 1) == [24]


@pytest.mark.parametrize("unreadable", [(), (0, 3, 7)])
@pytest.mark.parametrize("process", [(0, 1), (1, 2)])
def test_resume_equals_unbroken_stream(process, unreadable):
    source = TaggedPictures(12, unreadable)
    batches = batches_of(source, process=process)
    states, expected = [], []
    for _ in range(15):  # Over several epochs of 12 or 9 images, alone or shared, in fours.
        states.append(json.loads(json.dumps(batches.get_state())))
        expected.append(take(batches, 1))
    for step in (0, 1, 3, 8):
        restored = batches_of(source, process=process, threads=1, prefetch=2)
        restored.set_state(states[step])
        np.testing.assert_array_equal(take(restored, 6), np.concatenate(expected[step : step + 6]))
        assert restored.get_state() == states[step + 6]
    batches.set_state(states[3])  # An iterator can also be set back.
    np.testing.assert_array_equal(take(batches, 4), np.concatenate(expected[3:7]))


def test_cached_images_give_the_same_crops():
    plain, cached = TaggedPictures(8), TaggedPictures(8)
    expected = take(batches_of(plain), 8)
    np.testing.assert_array_equal(take(batches_of(cached, cache_images=8, threads=1), 8), expected)
    assert len(plain.reads) >= 32
    assert sorted(cached.reads) == list(range(8))


def test_flip_mirrors_half_of_the_crops():
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[:, : SIZE // 2] = 255
    options = {"resize_range": (SIZE, SIZE)}
    source = GivenPictures([picture] * 16)
    crops = take(batches_of(source, 16, flip=True, **options), 4)
    mirrored = [np.array_equal(crop, picture[:, ::-1]) for crop in crops]
    assert all(same or np.array_equal(crop, picture) for same, crop in zip(mirrored, crops, strict=True))
    assert 16 < sum(mirrored) < 48
    assert (take(batches_of(source, 16, **options), 1) == picture).all()


def test_the_next_image_replaces_an_unreadable_one(tmp_path):
    source = TaggedPictures(12, unreadable=(2, 5, 11))
    skipped = SkippedFiles(tmp_path / "skipped.txt", len(source), 0.5)
    images = take(batches_of(source, 3, skipped=skipped), 6)
    good = [tag for tag in range(12) if tag not in (2, 5, 11)]
    order = tags(images)
    assert sorted(order[:9]) == sorted(order[9:]) == good
    assert len(skipped) == 3
    lines = (tmp_path / "skipped.txt").read_text().splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == ["picture 11", "picture 2", "picture 5"]
    # What the others show does not depend on the bad ones.
    whole = take(batches_of(TaggedPictures(12)), 3)
    crops = dict(zip(tags(whole), whole, strict=True))
    for tag, crop in zip(order[:9], images[:9], strict=True):
        np.testing.assert_array_equal(crop, crops[tag])
    assert order[:9] == [tag for tag in tags(whole) if tag in good]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file or directory"), DataError("bad")])
def test_an_image_that_cannot_be_read_any_more_is_skipped(tmp_path, monkeypatch, error):
    source = TaggedPictures(8)
    read = source.read

    def read_even(index: int) -> bytes:
        if index % 2:
            raise error
        return read(index)

    monkeypatch.setattr(source, "read", read_even)
    skipped = SkippedFiles(tmp_path / "skipped.txt", len(source), 0.5)
    assert sorted(tags(take(batches_of(source, 4, skipped=skipped), 2))) == [0, 0, 2, 2, 4, 4, 6, 6]
    lines = (tmp_path / "skipped.txt").read_text().splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [f"picture {tag}" for tag in (1, 3, 5, 7)]


def test_exactly_the_allowed_fraction_may_be_unreadable():
    source = TaggedPictures(10, unreadable=(0, 1, 2, 3, 4))
    images = take(batches_of(source, 5, skipped=SkippedFiles(None, 10, 0.5)), 2)
    assert sorted(tags(images)) == [5, 5, 6, 6, 7, 7, 8, 8, 9, 9]


def test_too_many_unreadable_images_stop_the_training_each_time(tmp_path):
    for _ in range(2):
        skipped = SkippedFiles(tmp_path / "skipped.txt", 10, 0.5)
        with pytest.raises(DataError) as caught:
            take(batches_of(TaggedPictures(10, unreadable=(0, 1, 2, 3, 4, 5)), 4, skipped=skipped), 5)
        assert one_line(caught).startswith(
            "6 of 10 images cannot be read, more than data.max_skipped_fraction = 0.5 allows"
        )
        assert len((tmp_path / "skipped.txt").read_text().splitlines()) == 6
    # Images that are repaired since count no more.
    SkippedFiles(tmp_path / "skipped.txt", 10, 0.1).add("another", DataError("bad"))


def test_validation_batch_is_the_same_at_every_call():
    source = TaggedPictures(9)
    batch = fixed_crops(source, data_config(), 6, seed=3)
    assert batch.shape == (6, SIZE, SIZE, 3)
    assert batch.dtype == np.uint8
    assert len(set(tags(batch))) == 6
    np.testing.assert_array_equal(fixed_crops(source, data_config(), 6, seed=3), batch)
    np.testing.assert_array_equal(
        fixed_crops(source, data_config(threads=1), 9, seed=3)[:6],
        batch,
    )
    assert tags(fixed_crops(source, data_config(), 9, seed=4)) != tags(
        fixed_crops(source, data_config(), 9, seed=3)
    )


def test_few_validation_images_give_several_crops_of_each():
    batch = fixed_crops(TaggedPictures(2), data_config(), 10, seed=1)
    order = tags(batch)
    assert sorted(order) == [0] * 5 + [1] * 5
    for tag in (0, 1):
        crops = [crop.tobytes() for crop, other in zip(batch, order, strict=True) if other == tag]
        assert len(set(crops)) == 5


def test_unreadable_validation_images_are_skipped():
    batch = fixed_crops(TaggedPictures(5, unreadable=(0, 3)), data_config(), 6, seed=0)
    assert sorted(tags(batch)) == [1, 1, 2, 2, 4, 4]


def test_unreadable_validation_images_alone_are_an_error():
    with pytest.raises(DataError, match="none of the 4 validation images can be read: picture"):
        fixed_crops(TaggedPictures(4, unreadable=(0, 1, 2, 3)), data_config(), 2, seed=0)
    with pytest.raises(DataError, match="none of the 1 validation images"):
        fixed_crops(TaggedPictures(1, unreadable=(0,)), data_config(), 2, seed=0)


def test_mean_pixel_is_the_mean_over_images_of_their_means():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*rng.integers(1, 90, 2), 3), np.uint8) for _ in range(20)]
    pictures.append(np.full((200, 300, 3), (255, 0, 0), np.uint8))  # One large picture weighs no more.
    source = GivenPictures(pictures)
    mean = mean_pixel(source, data_config(), SkippedFiles(None, len(source), 0.0))
    expected = np.mean([picture.reshape(-1, 3).mean(axis=0) / 255 for picture in pictures], axis=0)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_mean_pixel_reads_a_bounded_sample_spread_over_the_source():
    source = TaggedPictures(50)
    mean = mean_pixel(source, data_config(mean_pixel_images=8), SkippedFiles(None, 50, 0.0))
    looked_at = sorted(source.reads)
    assert len(looked_at) == len(set(looked_at)) == 8
    assert (looked_at[0], looked_at[-1]) == (0, 49)
    assert max(np.diff(looked_at)) <= 8
    assert mean[0] == pytest.approx(np.mean(looked_at) / 255)


def test_mean_pixel_leaves_unreadable_images_out(tmp_path):
    source = TaggedPictures(10, unreadable=(9,))
    skipped = SkippedFiles(tmp_path / "skipped.txt", 10, 0.5)
    mean = mean_pixel(source, data_config(), skipped)
    assert mean[0] == pytest.approx(4 / 255)  # Of 0 to 8.
    assert len(skipped) == 1
    # Training meets the same image and does not name it again.
    take(batches_of(source, 5, skipped=skipped), 4)
    assert (tmp_path / "skipped.txt").read_text().count("picture 9") == 1


def test_mean_pixel_of_unreadable_images_is_an_error():
    source = TaggedPictures(3, unreadable=(0, 1, 2))
    with pytest.raises(DataError, match="none of the 3 sampled training images can be read"):
        mean_pixel(source, data_config(), SkippedFiles(None, 3, 1.0))
    with pytest.raises(DataError, match="2 of 3 images cannot be read"):
        mean_pixel(source, data_config(threads=1), SkippedFiles(None, 3, 0.5))


def test_mean_pixel_is_computed_once_for_a_source(tmp_path):
    path = tmp_path / "mean_pixel.json"
    log: list[str] = []

    def kept(pictures: TaggedPictures, **overrides) -> np.ndarray:
        data = data_config(**{"mean_pixel": (), "source": "folder:a", **overrides})
        return kept_mean_pixel(path, pictures, data, SkippedFiles(None, len(pictures), 0.0), log.append)

    first = TaggedPictures(10)
    mean = kept(first)
    assert mean[0] == pytest.approx(4.5 / 255)
    assert len(first.reads) == 10
    assert len(log) == 1
    again = TaggedPictures(10)
    np.testing.assert_array_equal(kept(again), mean)
    assert again.reads == []
    assert len(log) == 1
    # Other images or another sample: computed anew.
    for pictures, overrides in (
        (TaggedPictures(12), {}),
        (TaggedPictures(12), {"mean_pixel_images": 3}),
    ):
        kept(pictures, **overrides)
        assert pictures.reads
    assert len(log) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["mean_pixel.json"]


def test_a_given_mean_pixel_is_used_as_it_is(tmp_path):
    source = TaggedPictures(3)
    data = data_config(mean_pixel=(0.5, 0.25, 1.0), source="samples")
    mean = kept_mean_pixel(tmp_path / "mean_pixel.json", source, data, SkippedFiles(None, 3, 0.0), print)
    np.testing.assert_array_equal(mean, np.array([0.5, 0.25, 1.0], np.float32))
    assert mean.dtype == np.float32
    assert source.reads == []
    assert list(tmp_path.iterdir()) == []
