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


def names(pairing) -> list[str]:
    """Image, mask and result of each pair."""
    return [f"{pair.image.name} {pair.mask.name} {pair.stem}" for pair in pairing.pairs]


def lines(pairing) -> list[str]:
    return [f"{failure.file}: {failure.reason}" for failure in pairing.failures]


def test_images_without_mask_files(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "deep/a_mask.png")
    assert pair_files(images, None).pairs == [
        Pair(images / "a.jpg", None, "a"),
        Pair(images / "deep/a_mask.png", None, "deep/a_mask"),
    ]


@pytest.mark.parametrize(
    ("images", "masks", "pairs"),
    [
        ("a.jpg b.heic", "a.png b_mask.png", ["a.jpg a.png a", "b.heic b_mask.png b"]),
        ("deep/a.PNG", "deep/a_mask001.png", ["a.PNG a_mask001.png deep/a"]),
        ("deep/er/c.d.avif", "deep/er/c.d.jp2", ["c.d.avif c.d.jp2 deep/er/c.d"]),
        ("a.jpg b.jpg", "a_MASK.PNG b_Mask2.png", ["a.jpg a_MASK.PNG a", "b.jpg b_Mask2.png b"]),
        # Results are named after the masks if there are several.
        (
            "a.jpg b.jpg",
            "a_mask1.png a_mask02.png a.png b_mask.png",
            ["a.jpg a.png a", "a.jpg a_mask02.png a_mask02", "a.jpg a_mask1.png a_mask1", "b.jpg b_mask.png b"],
        ),
        # An image called like a mask keeps its own mask.
        (
            "a.jpg a_mask.jpg",
            "a.png a_mask.png a_mask_mask2.png",
            ["a.jpg a.png a", "a_mask.jpg a_mask.png a_mask", "a_mask.jpg a_mask_mask2.png a_mask_mask2"],
        ),
    ],
)
def test_masks_belong_to_images_by_name(tmp_path, images, masks, pairs):
    images, masks = fill(tmp_path / "in", *images.split()), fill(tmp_path / "masks", *masks.split())
    pairing = pair_files(images, masks)
    assert names(pairing) == pairs
    assert pairing.failures == []
    assert all(pair.image.is_file() and pair.mask.is_file() for pair in pairing.pairs)


def test_one_mask_for_all_is_not_an_image(tmp_path):
    images = fill(tmp_path, "a.jpg", "sub/b.jpg", "m.png")
    assert names(pair_files(images, images / "m.png")) == ["a.jpg m.png a", "b.jpg m.png sub/b"]
    elsewhere = fill(tmp_path / "other", "m.png") / "m.png"
    assert {pair.mask for pair in pair_files(images / "sub", elsewhere).pairs} == {elsewhere}


def test_masks_in_the_folder_of_images(tmp_path):
    files = "a.jpg a_mask.png b.jpg b_mask1.png b_mask2.png c_mask.png d.jpg"
    images = fill(tmp_path / "in", *files.split())
    pairing = pair_files(images, Path(f"{images}/../in"))
    assert names(pairing) == ["a.jpg a_mask.png a", "b.jpg b_mask1.png b_mask1", "b.jpg b_mask2.png b_mask2"]
    assert len(pairing.failures) == 2
    assert any("c_mask.png: no image" in line for line in lines(pairing))
    assert any("d.jpg: has no mask" in line for line in lines(pairing))


def test_files_without_a_counterpart_are_listed(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "b.jpg")
    masks = fill(tmp_path / "masks", "a.png", "x.png", "sub/b.png")
    pairing = pair_files(images, masks)
    assert [pair.stem for pair in pairing.pairs] == ["a"]
    files = {failure.file for failure in pairing.failures}
    assert files == {str(images / "b.jpg"), str(masks / "x.png"), str(masks / "sub/b.png")}


def test_results_that_would_clash_are_refused(tmp_path):
    images = fill(tmp_path / "in", "a.jpg", "a.png", "b.jpg")
    masks = fill(tmp_path / "masks", "a.png", "b.png")
    for mask in (masks, masks / "b.png"):
        pairing = pair_files(images, mask)
        assert [pair.stem for pair in pairing.pairs] == ["b"]
        first, second = lines(pairing)
        assert first.startswith(f"{images / 'a.jpg'}: ")
        assert "a.png" in first
        assert second.startswith(f"{images / 'a.png'}: ")
    images = fill(tmp_path / "one", "a.jpg")
    masks = fill(tmp_path / "several", "a.png", "a.jpg", "a_mask.png")
    pairing = pair_files(images, masks)
    assert [pair.mask.name for pair in pairing.pairs] == ["a_mask.png"]
    assert [line.split(": ")[0] for line in lines(pairing)] == [str(masks / "a.jpg"), str(masks / "a.png")]
    assert "rename one" in lines(pairing)[0]


@pytest.mark.parametrize(("image_form", "mask_form"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_accents_match_in_either_unicode_form(tmp_path, image_form, mask_form):
    image, mask = unicodedata.normalize(image_form, "caf\xe9"), unicodedata.normalize(mask_form, "caf\xe9")
    images = fill(tmp_path / "in", f"{image}.jpg", f"{image}/{image}2.jpg")
    masks = fill(tmp_path / "masks", f"{mask}.png", f"{mask}/{mask}2_mask.png")
    pairing = pair_files(images, masks)
    nested = f"{image}2.jpg {mask}2_mask.png {image}/{image}2"
    assert names(pairing) == [f"{image}.jpg {mask}.png {image}", nested]
    assert pairing.failures == []


def test_names_that_differ_only_in_unicode_form_keep_their_own_masks(tmp_path):
    forms = [unicodedata.normalize(form, "\xe9") for form in ("NFC", "NFD")]
    images = fill(tmp_path / "in", *(f"{name}.jpg" for name in forms))
    if len(list(images.iterdir())) < 2:
        pytest.skip("this file system takes both for one name")
    masks = fill(tmp_path / "masks", *(f"{name}.png" for name in forms))
    assert {(pair.image.stem, pair.mask.stem) for pair in pair_files(images, masks).pairs} == {
        (name, name) for name in forms
    }


def test_masks_and_results_inside_the_folder_are_not_images(tmp_path):
    images = fill(tmp_path, "a.jpg", "masks/a.png", "out/a.jpg")
    pairing = pair_files(images, tmp_path / "masks", tmp_path / "out")
    assert [pair.image for pair in pairing.pairs] == [images / "a.jpg"]
    assert pairing.failures == []
    pairing = pair_files(images, tmp_path / "masks", tmp_path / "not there yet")
    assert [failure.file for failure in pairing.failures] == [str(images / "out/a.jpg")]


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("missing", "in", "missing: no such folder"),
        ("in", "missing", "missing: no such file or folder"),
        ("empty", "in", "empty: holds no image files"),
        ("in", "empty", "empty: holds no image files"),
        ("in", "in", "in: holds no masks"),
        ("masks", "masks", "masks: holds no images"),
    ],
)
def test_folders_without_images_or_masks_are_errors(tmp_path, images, masks, words):
    fill(tmp_path / "in", "a.jpg")
    fill(tmp_path / "empty", "notes.txt")
    fill(tmp_path / "masks", "a_mask.png")
    with pytest.raises(DataError, match=words) as caught:
        pair_files(tmp_path / images, tmp_path / masks)
    one_line(caught)
