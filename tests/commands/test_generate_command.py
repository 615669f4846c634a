"""`glcic generate`, and weights of generators: export, inspect, errors."""

import jax
import numpy as np
import pytest
from commands.test_weights_commands import glcic
from helpers.common import load_config, shrink_gan
from helpers.tiny import tiny_weights
from PIL import Image

from glcic_jax.evaluation.perceptual import fid
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.tasks.generation import GenerationTask
from glcic_jax.weights import find_generator, load_weights, save_weights


@pytest.fixture(scope="module", params=["vanilla_gan", "dcgan"])
def run(request, tmp_path_factory):
    """The workdir of a run with one checkpoint, and its number of channels."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    config = shrink_gan(load_config(request.param))
    checkpoints = Checkpoints(workdir)
    state = GenerationTask(config).create_state(jax.random.key(0))
    # Initial weights are so small that all images look the same.
    params = jax.tree.map(
        lambda leaf: 0.5 * jax.random.normal(jax.random.key(1), leaf.shape), state.generator.params
    )
    state = state.replace(generator=state.generator.replace(params=params))
    checkpoints.save(state.replace(step=np.int32(7)), {}, config.to_dict(), {})
    checkpoints.close()
    return workdir, 1 if config.data.grey else 3


@pytest.fixture(autouse=True)
def home(store_home):
    return store_home


def test_arrays_and_grids_show_the_same_images(run, tmp_path):
    workdir, channels = run
    done = glcic("generate", workdir, "--count", 6, "--format", "npy", "-o", tmp_path / "six.npy")
    assert (done.code, done.stdout) == (0, f"written {tmp_path / 'six.npy'}: 6 x 16 x 16 x {channels}\n")
    six = np.load(tmp_path / "six.npy")
    assert glcic("generate", workdir, "--count", 6, "-o", tmp_path / "six.png").code == 0
    grid = np.asarray(Image.open(tmp_path / "six.png"))
    assert grid.shape == (2 * 18 - 2, 3 * 18 - 2, 3)
    np.testing.assert_array_equal(grid[18:34, 18:34], np.broadcast_to(six[4], (16, 16, 3)))
    assert (grid[16:18] == 255).all()
    # Fewer images of the same seed are the first ones.
    assert glcic("generate", workdir, "--count", 2, "--format", "npy", "-o", tmp_path / "two.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "two.npy"), six[:2])
    assert glcic("generate", workdir, "--seed", 1, "--format", "npy", "-o", tmp_path / "other.npy").code == 0
    assert (np.load(tmp_path / "other.npy")[:6] != six).any()


def test_a_walk_begins_and_ends_at_images(run, tmp_path):
    workdir, channels = run
    for arguments in (("--walk", 4, "-o", tmp_path / "walk.npy"), ("-o", tmp_path / "ends.npy")):
        assert glcic("generate", workdir, "--count", 3, "--format", "npy", *arguments).code == 0
    walks, ends = np.load(tmp_path / "walk.npy"), np.load(tmp_path / "ends.npy")
    assert walks.shape == (2, 4, 16, 16, channels)
    np.testing.assert_array_equal(walks[:, 0], ends[:2])
    np.testing.assert_array_equal(walks[:, 3], ends[1:])
    assert glcic("generate", workdir, "--count", 3, "--walk", 4, "-o", tmp_path / "walk.png").code == 0
    assert Image.open(tmp_path / "walk.png").size == (4 * 18 - 2, 2 * 18 - 2)


class FirstColumns:
    """In place of Inception: the means of the first columns, which are few enough for a sound covariance."""

    def features(self, image):
        return image[:, :, :3].mean(axis=1).reshape(len(image), -1) / 255


def test_fid_is_that_of_generated_and_real_images(run, tmp_path, monkeypatch):
    workdir, _ = run
    monkeypatch.setattr(fid, "load", lambda path: FirstColumns())
    real = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
    (tmp_path / "real").mkdir()
    for index, image in enumerate(real):
        Image.fromarray(image).save(tmp_path / "real" / f"{index:02}.png")
    options = ("--fid", "x.pth", "--data", f"folder:{tmp_path / 'real'}")
    done = glcic("generate", workdir, "--count", 70, "--format", "npy", "-o", tmp_path / "a.npy", *options)
    generated = np.broadcast_to(np.load(tmp_path / "a.npy"), (70, 16, 16, 3))
    statistics = []
    for images in (generated, real):
        statistics.append(fid.Statistics())
        statistics[-1].add(FirstColumns().features(images))
    expected = fid.frechet_distance(*statistics)
    assert f"FID from 60 images of folder:{tmp_path / 'real'}: {expected:.2f} (" in done.stdout
    assert "biased" in done.stdout
    refused = glcic("generate", workdir, "--fid", "x.pth", "-o", tmp_path / "b.png")
    assert refused.code == 2
    assert "FID needs --fid and --data" in refused.error


def test_exported_weights_generate_the_same_images(run, tmp_path):
    workdir, channels = run
    file = tmp_path / "g.safetensors"
    done = glcic("weights", "export", workdir, file, "--licence", "CC0")
    assert done.code == 0, done.error
    assert "16 px, 8 latents" in done.rows["network"]
    assert done.rows["licence"] == "CC0"
    exported, trained = load_weights(file), find_generator(workdir).weights
    assert exported.network == trained.network
    assert exported.network.channels == channels
    jax.tree.map(np.testing.assert_array_equal, exported.variables, trained.variables)
    shown = glcic("weights", "inspect", file)
    assert shown.rows["network"] == done.rows["network"]
    for source, name in ((workdir, "a.npy"), (file, "b.npy")):
        assert glcic("generate", source, "--count", 3, "--format", "npy", "-o", tmp_path / name).code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_inspect_shows_a_run(run):
    done = glcic("inspect", run[0])
    assert done.code == 0
    assert "step        7" in done.stdout


def test_networks_of_other_kinds_are_refused(run, tmp_path):
    workdir, _ = run
    save_weights(tiny_weights(), tmp_path / "c.safetensors")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    refused = glcic("generate", tmp_path / "c.safetensors", "-o", tmp_path / "out.png")
    assert refused.code == 3
    assert "is a completion network: a generator is needed" in refused.error
    refused = glcic("complete", tmp_path / "a.png", tmp_path / "b.png", "--random-mask", "--weights", workdir)
    assert refused.code == 3
    assert "generator: a completion network is needed" in refused.error
    assert not {"out.png", "b.png"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", "-o", "grid.png"), "no such file, run or name; name the workdir of a GAN's run"),
        (("{run}", "-o", "grid.xyz"), "use a suffix like .png"),
        (("{run}", "-o", "{run}"), "is a folder: name a file in it"),
        (("{run}", "-o", "grid.png", "--walk", "3", "--count", "1"), "at least two images"),
    ],
)
def test_mistakes_are_one_clear_line(run, arguments, message):
    done = glcic("generate", *(argument.format(run=run[0]) for argument in arguments))
    assert done.code in (2, 3)
    assert message in done.error


def test_an_existing_file_is_kept_unless_told(run, tmp_path):
    out = tmp_path / "grid.png"
    out.write_text("mine")
    assert "give --overwrite" in glcic("generate", run[0], "-o", out).error
    assert out.read_text() == "mine"
    assert glcic("generate", run[0], "-o", out, "--overwrite").code == 0
    assert Image.open(out).size == (8 * 18 - 2, 8 * 18 - 2)
