"""The built-in weights, their model card, and the list of their training photographs."""

import csv
import hashlib
import itertools
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import skimage
from helpers.common import ROOT, load_config

from glcic_jax.completion.completer import Completer
from glcic_jax.evaluation.cropping import centre_square
from glcic_jax.evaluation.mask_sets.sets import open_mask_set
from glcic_jax.model.smooth_fill import smooth_fill
from glcic_jax.pictures import fills
from glcic_jax.pictures.rgb_files import load_image
from glcic_jax.training.tasks.completion import create_spec
from glcic_jax.weights import load_weights, store

FOLDER = ROOT / "glcic_jax" / "pretrained"
CARD = (FOLDER / "MODEL_CARD.md").read_text()
SIDE = 128
# Outside the training set, in scikit-image's wheel.
UNSEEN = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


def listing() -> list[dict[str, str]]:
    with open(FOLDER / "photos.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def completer() -> Completer:
    return Completer.load(store.DEFAULT_NAME, device="cpu")


@pytest.mark.parametrize("name", store.built_in_names())
def test_the_card_states_the_checksum_of_each_file(name):
    content = store.built_in_path(name).read_bytes()
    assert len(content) < 16 * 2**20
    assert f"{name}.safetensors" in CARD
    assert hashlib.sha256(content).hexdigest() in CARD


def test_the_default_exists():
    assert store.DEFAULT_NAME in store.built_in_names()


def test_the_file_states_its_origin(completer):
    description = completer.description
    assert description.licence.startswith("CC BY-SA 4.0")
    assert "photos.csv" in description.origin
    assert description.image_size == SIDE
    assert not re.search(r"(^|\s)/\w", description.origin)  # No path of anybody's machine.


def test_both_runs_of_the_configuration_train_the_published_network():
    network, _, description = load_weights(store.built_in_path(store.DEFAULT_NAME))
    for run in ("first", "second"):
        config = load_config("photos", run)
        spec = create_spec(config)
        assert spec.completion_network.width == network.width
        assert spec.completion_network.output_activation == network.output_activation
        assert spec.input_form == description.input_form
        assert config.data.image_size == description.image_size
    assert config.completion.initial_weights == "runs/photos/checkpoints/2000"
    # The end of the second run is what is published.
    assert f"runs/photos_second/checkpoints/{sum(config.phases.values())} " in CARD
    with pytest.raises(ValueError, match="no run 'third'"):
        load_config("photos", "third")


def test_the_list_attributes_every_photograph_and_splits_no_group():
    rows = listing()
    parts: dict[str, set[str]] = {}
    for row in rows:
        assert all(row[key] for key in ("file", "sha256", "licence", "source")), row
        assert "unsplash licen" not in row["licence"].lower() or row["part"] == "test"
        parts.setdefault(row["group"], set()).add(row["part"])
    assert all(len(found) == 1 for found in parts.values())
    counted = {part: sum(row["part"] == part for row in rows) for part in ("train", "validation", "test")}
    for part, count in counted.items():
        assert f"{count:,}" in CARD, part


def test_completions_of_other_photographs_beat_fills_without_a_network(completer):
    """On photographs of scikit-image; an untrained network returns the smooth fill that it reads."""
    folder = Path(skimage.__file__).parent / "data"
    images = [centre_square(load_image((folder / name).read_bytes()), SIDE) for name in UNSEEN]
    masks = open_mask_set("paper:seed=0")
    mean_pixel = np.array(completer.description.mean_pixel, np.float32)
    compiled_smooth_fill = jax.jit(smooth_fill)
    squared: dict[str, list[float]] = {"completed": [], "mean": [], "telea": [], "smooth": []}
    absolute: dict[str, list[float]] = {name: [] for name in squared}
    for index, image in enumerate(images):
        hole = masks.hole(index, (SIDE, SIDE))
        where = hole[None, ..., None]
        filled = {
            "smooth": np.asarray(compiled_smooth_fill(image[None] / np.float32(255), where, ~where, mean_pixel))[0]
            * 255,
            "completed": completer.fill(image, hole).pixels,
            "mean": fills.mean_fill(image, hole),
            "telea": fills.telea(image, hole),
        }
        for name, pixels in filled.items():
            error = (pixels - image.astype(np.float64))[hole] / 255
            squared[name].append(float(np.square(error).mean()))
            absolute[name].append(float(np.abs(error).mean()))
    mean = {name: np.mean(values) for name, values in squared.items()}
    assert mean["completed"] < mean["telea"]
    assert mean["completed"] < 0.8 * mean["mean"]
    assert np.mean(absolute["completed"]) < np.mean(absolute["telea"])
    assert np.mean(absolute["completed"]) < 0.97 * np.mean(absolute["smooth"])


@pytest.mark.parametrize("colour", list(itertools.product((0, 255), repeat=3)))
def test_saturated_flat_colours_stay_flat(completer, colour):
    """Saturated colours are rare among photographs; the smooth fill that the network reads is exact there."""
    image = np.full((SIDE, SIDE, 3), colour, np.uint8)
    hole = np.zeros((SIDE, SIDE), bool)
    hole[36:96, 30:90] = True
    error = np.abs(completer.fill(image, hole, blend="off").pixels.astype(int) - image)
    assert error.max() <= 4
    assert error[hole].mean() < 0.6
