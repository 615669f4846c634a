"""Pairs of images and masks in folders, and the files without a counterpart."""

import unicodedata
from pathlib import Path

import pytest
from helpers.common import one_line

from glcic_jax.completion.pairing import Pair, pair_files
from glcic_jax.errors import DataError


def fill(root: Path, *names: str) -> Path:
    """Empty files: pairing only reads names."""
    root.mkdir(exist_ok=True, parents=True)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def summary(pairs, images: Path, masks: Path) -> list[tuple[str, str, str]]:
    return [
        (job.image.relative_to(images).as_posix(), job.mask.relative_to(masks).as_posix(), job.stem)
        for job in pairs.pairs
    ]


def lines(pairs) -> list[str]:
    return [f"{failure.file}: {failure.reason}" for failure in pairs.failures]


def test_images_without_mask_files(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "deep/a_mask.png")
    assert pair_files(images, None).pairs == [
        Pair(images / "a.jpg", None, "a"),
        Pair(images / "deep/a_mask.png", None, "deep/a_mask"),
    ]


def test_pairs_by_name_in_nested_folders(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "b.heic", "deep/a.PNG", "deep/er/c.d.avif")
    masks = fill(tmp_path / "masks", "a.png", "b_mask.png", "deep/a_mask001.png", "deep/er/c.d.jp2")
    pairs = pair_files(images, masks)
    assert summary(pairs, images, masks) == [
        ("a.jpg", "a.png", "a"),
        ("b.heic", "b_mask.png", "b"),
        ("deep/a.PNG", "deep/a_mask001.png", "deep/a"),
        ("deep/er/c.d.avif", "deep/er/c.d.jp2", "deep/er/c.d"),
    ]
    assert pairs.failures == []
    assert pairs.pairs[0] == Pair(images / "a.jpg", masks / "a.png", "a")


def test_several_masks_of_an_image_name_the_results(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "b.jpg")
    masks = fill(tmp_path / "masks", "a_mask1.png", "a_mask02.png", "a.png", "b_mask.png")
    assert summary(pair_files(images, masks), images, masks) == [
        ("a.jpg", "a.png", "a"),
        ("a.jpg", "a_mask02.png", "a_mask02"),
        ("a.jpg", "a_mask1.png", "a_mask1"),
        ("b.jpg", "b_mask.png", "b"),
    ]


def test_one_mask_for_all_is_not_an_image(tmp_path):
    images = fill(tmp_path, "a.jpg", "sub/b.jpg", "m.png")
    pairs = pair_files(images, images / "m.png")
    assert summary(pairs, images, images) == [("a.jpg", "m.png", "a"), ("sub/b.jpg", "m.png", "sub/b")]
    elsewhere = fill(tmp_path / "other", "m.png") / "m.png"
    assert {job.mask for job in pair_files(images / "sub", elsewhere).pairs} == {elsewhere}


def test_masks_in_the_folder_of_images(tmp_path):
    images = fill(
        tmp_path / "in", "a.jpg", "a_mask.png", "b.jpg", "b_mask1.png", "b_mask2.png", "c_mask.png", "d.jpg"
    )
    pairs = pair_files(images, Path(f"{images}/../in"))
    assert [(job.image.name, job.mask.name, job.stem) for job in pairs.pairs] == [
        ("a.jpg", "a_mask.png", "a"),
        ("b.jpg", "b_mask1.png", "b_mask1"),
        ("b.jpg", "b_mask2.png", "b_mask2"),
    ]
    assert len(pairs.failures) == 2
    assert any("c_mask.png: no picture" in line for line in lines(pairs))
    assert any("d.jpg: has no mask" in line for line in lines(pairs))


def test_files_without_a_counterpart_are_listed(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "b.jpg")
    masks = fill(tmp_path / "masks", "a.png", "x.png", "sub/b.png")
    pairs = pair_files(images, masks)
    assert [job.stem for job in pairs.pairs] == ["a"]
    assert sorted(line.split(": ")[0] for line in lines(pairs)) == sorted(
        [str(images / "b.jpg"), str(masks / "x.png"), str(masks / "sub/b.png")]
    )


def test_images_whose_results_would_clash_are_refused(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "a.png", "b.jpg")
    masks = fill(tmp_path / "masks", "a.png", "b.png")
    for mask in (masks, masks / "b.png"):
        pairs = pair_files(images, mask)
        assert [job.stem for job in pairs.pairs] == ["b"]
        assert len(pairs.failures) == 2
        assert lines(pairs)[0].startswith(f"{images / 'a.jpg'}: ")
        assert "a.png" in lines(pairs)[0]
        assert lines(pairs)[1].startswith(f"{images / 'a.png'}: ")


def test_masks_whose_results_would_clash_are_refused(tmp_path):
    images = fill(tmp_path / "in", "a.jpg")
    masks = fill(tmp_path / "masks", "a.png", "a.jpg", "a_mask.png")
    pairs = pair_files(images, masks)
    assert [job.mask.name for job in pairs.pairs] == ["a_mask.png"]
    assert [line.split(": ")[0] for line in lines(pairs)] == [str(masks / "a.jpg"), str(masks / "a.png")]
    assert "rename one" in lines(pairs)[0]


def test_an_image_called_like_a_mask_keeps_its_own_mask(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "a_mask.jpg")
    masks = fill(tmp_path / "masks", "a.png", "a_mask.png", "a_mask_mask2.png")
    pairs = pair_files(images, masks)
    assert [(job.image.name, job.stem) for job in pairs.pairs] == [
        ("a.jpg", "a"),
        ("a_mask.jpg", "a_mask"),
        ("a_mask.jpg", "a_mask_mask2"),
    ]


def test_mask_suffixes_are_case_insensitive(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "b.jpg")
    masks = fill(tmp_path / "masks", "a_MASK.PNG", "b_Mask2.png")
    assert summary(pair_files(images, masks), images, masks) == [
        ("a.jpg", "a_MASK.PNG", "a"),
        ("b.jpg", "b_Mask2.png", "b"),
    ]


@pytest.mark.parametrize(("of_pictures", "of_masks"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_accents_match_in_either_unicode_form(tmp_path, of_pictures, of_masks):
    picture, mask = unicodedata.normalize(of_pictures, "caf\xe9"), unicodedata.normalize(of_masks, "caf\xe9")
    images = fill(tmp_path / "in", f"{picture}.jpg", f"{picture}/{picture}2.jpg")
    masks = fill(tmp_path / "masks", f"{mask}.png", f"{mask}/{mask}2_mask.png")
    pairs = pair_files(images, masks)
    assert summary(pairs, images, masks) == [
        (f"{picture}.jpg", f"{mask}.png", picture),
        (f"{picture}/{picture}2.jpg", f"{mask}/{mask}2_mask.png", f"{picture}/{picture}2"),
    ]
    assert pairs.failures == []


def test_names_that_differ_only_in_unicode_form_keep_their_own_masks(tmp_path):
    names = [f"{unicodedata.normalize(form, chr(0xE9))}" for form in ("NFC", "NFD")]
    images = fill(tmp_path / "in", *(f"{name}.jpg" for name in names))
    if len(list(images.iterdir())) < 2:
        pytest.skip("this file system takes both for one name")
    masks = fill(tmp_path / "masks", *(f"{name}.png" for name in names))
    assert {(job.image.stem, job.mask.stem) for job in pair_files(images, masks).pairs} == {(n, n) for n in names}


def test_masks_and_results_inside_the_folder_are_not_images(tmp_path):
    images = fill(tmp_path, "a.jpg", "masks/a.png", "out/a.jpg")
    pairs = pair_files(images, tmp_path / "masks", tmp_path / "out")
    assert [job.image for job in pairs.pairs] == [images / "a.jpg"]
    assert pairs.failures == []
    pairs = pair_files(images, tmp_path / "masks", tmp_path / "not there yet")
    assert [line.split(": ")[0] for line in lines(pairs)] == [str(images / "out/a.jpg")]


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("missing", "in", "missing: no such folder"),
        ("in", "missing", "missing: no such file or folder"),
        ("empty", "in", "empty: holds no image files"),
        ("in", "empty", "empty: holds no image files"),
        ("in", "in", "in: holds no masks"),
        ("masks", "masks", "masks: holds no pictures"),
    ],
)
def test_folders_without_images_or_masks_are_errors(tmp_path, images, masks, words):
    fill(tmp_path / "in", "a.jpg")
    fill(tmp_path / "empty", "notes.txt")
    fill(tmp_path / "masks", "a_mask.png")
    with pytest.raises(DataError, match=words) as caught:
        pair_files(tmp_path / images, tmp_path / masks)
    one_line(caught)
