"""The configurations keep the paper's numbers, and main.py explains mistakes."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers.common import COMPLETION_CONFIGS, CONFIGS, GAN_CONFIGS, ROOT, load_config, load_module
from ml_collections import ConfigDict

from glcic_jax.training.tasks.completion import create_spec, state_shapes

PLACES2 = "--config=configs/joint.py"
QUICKSTART = "--config=configs/quickstart.py"


def keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from keys(value, f"{prefix}{key}.")


def leaves(config: ConfigDict) -> dict[str, object]:
    values = {name: at(config, name) for name in keys(config)}
    return {name: value for name, value in values.items() if not isinstance(value, ConfigDict)}


@pytest.mark.parametrize("name", [*CONFIGS, "common"])
def test_configuration_is_locked_and_suggests_keys(name):
    config = load_config(name)
    nodes = [config] + [value for key in keys(config) if isinstance(value := at(config, key), ConfigDict)]
    assert len(nodes) > 7
    for node in nodes:
        assert node.is_locked
        with pytest.raises(AttributeError):
            node.no_such_key = 1
    with pytest.raises(AttributeError, match='Did you mean "batch_size"'):
        config.batch_sise = 3
    with pytest.raises(AttributeError, match='Did you mean "image_size"'):
        config.data.image_sise = 3
    with pytest.raises(TypeError):
        config.batch_size = "many"


def at(config: ConfigDict, name: str) -> object:
    for part in name.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_overrides_keys_and_defines_none(name):
    config, common = load_config(name), load_config("common")
    if name in GAN_CONFIGS:
        common = load_module("common").generation()
    assert set(keys(config)) == set(keys(common))
    values = leaves(common)
    for key, value in leaves(config).items():
        assert type(value) is type(values[key]), key


@pytest.mark.parametrize("name", CONFIGS)
def test_docstring_has_command_hardware_time_and_result(name):
    text = " ".join(ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text())).split())
    assert f"python main.py --config=configs/{name}.py" in text
    assert "Hardware" in text
    assert "time" in text.lower()
    assert "result" in text.lower()


@pytest.mark.parametrize("name", [*COMPLETION_CONFIGS, "common"])
def test_sizes_fit_together(name):
    config = load_config(name)
    size = config.data.image_size
    low, high = config.data.resize_range
    assert size <= low <= high
    assert size % 4 == 0  # The completion network works at a quarter of it.
    for sampler in ("rectangle", "rectangles"):
        limits = config.mask[sampler]
        assert 0 < limits.min_side <= limits.max_side <= size
    # The local patch holds the largest single rectangle.
    assert config.mask.sampler.split("+")[0] == "rectangle"
    assert config.mask.rectangle.max_side <= config.discriminator.local_size <= size
    assert set(config.discriminator.branches) <= {"global", "local"}
    assert config.grid_images <= config.validation_images
    assert sum(config.phases.values()) > 0


@pytest.mark.parametrize("name", ["common", "joint", "folder", "global_only", "local_only", "celeba"])
def test_schedule_is_the_papers(name):
    config = load_config(name)
    assert config.phases.to_dict() == {"completion": 90_000, "discriminator": 10_000, "joint": 400_000}
    assert config.batch_size == 96
    assert config.loss.alpha == 0.0004
    assert config.start_from == ""
    assert config.optimizer.name == "adadelta"


@pytest.mark.parametrize("name", ["common", "joint"])
def test_sizes_on_places2_are_the_papers(name):
    config = load_config(name)
    assert config.data.source == "tfds:places365_small"
    assert config.data.image_size == 256
    assert tuple(config.data.resize_range) == (256, 384)
    assert config.data.mean_pixel == ()  # Computed from the training set.
    assert config.mask.rectangle.to_dict() == {"min_side": 96, "max_side": 128}
    assert config.completion.width == config.discriminator.width == 1.0
    assert tuple(config.discriminator.branches) == ("global", "local")
    assert config.discriminator.local_size == 128
    assert tuple(config.discriminator.global_channels) == (64, 128, 256, 512, 512, 512)
    assert tuple(config.discriminator.local_channels) == (64, 128, 256, 512, 512)
    assert config.loss.reconstruction.to_dict() == {"mse": 1.0, "l1": 0.0}
    assert config.loss.adversarial == "minimax"
    assert config.optimizer.adadelta.to_dict() == {"learning_rate": 1.0, "rho": 0.9, "eps": 1e-6}


def test_sizes_on_celeba_are_the_papers():
    config = load_config("celeba")
    assert config.data.source == "tfds:celeb_a"
    assert config.data.image_size == 160
    assert tuple(config.data.resize_range) == (160, 178)
    assert config.mask.rectangle.to_dict() == {"min_side": 48, "max_side": 96}
    assert config.discriminator.local_size == 96
    assert tuple(config.discriminator.global_channels) == (64, 128, 256, 512, 512)


def test_configurations_of_single_phases_join_end_to_end():
    completion, discriminator, joint = (load_config(name) for name in ("completion", "discriminator", "joint"))
    assert completion.phases.to_dict() == {"completion": 90_000, "discriminator": 0, "joint": 0}
    assert discriminator.phases.to_dict() == {"completion": 90_000, "discriminator": 10_000, "joint": 0}
    assert discriminator.start_from == "runs/completion"
    assert set(changed(completion, joint)) == {"phases.discriminator", "phases.joint"}
    assert set(changed(discriminator, joint)) == {"phases.joint", "start_from"}


def changed(config: ConfigDict, other: ConfigDict) -> dict[str, object]:
    values = leaves(other)
    return {key: value for key, value in leaves(config).items() if value != values[key]}


def test_ablations_change_only_the_discriminator():
    joint = load_config("joint")
    assert changed(load_config("global_only"), joint) == {"discriminator.branches": ("global",)}
    assert changed(load_config("local_only"), joint) == {"discriminator.branches": ("local",)}
    assert changed(load_config("mse_only"), joint) == {
        "discriminator.branches": (),
        "phases.completion": 500_000,
        "phases.discriminator": 0,
        "phases.joint": 0,
    }


@pytest.mark.parametrize("size", [64, 128])
def test_faces_keep_their_proportions(size):
    config = load_config("faces", str(size))
    assert tuple(config.data.resize_range) == (size, 1.25 * size)
    assert config.mask.rectangle.to_dict() == {"min_side": 5 / 16 * size, "max_side": 9 / 16 * size}
    assert config.balance.hold_steps == config.phases.joint
    state = state_shapes(create_spec(config), size)
    for branch, side in (("global", size), ("local", 5 / 8 * size)):
        layers = [name for name in state.discriminator.params[f"{branch}_branch"] if name.startswith("conv")]
        assert 4 <= side / 2 ** len(layers) <= 5


@pytest.mark.parametrize("name", GAN_CONFIGS)
def test_gans_need_no_keys_of_completion(name):
    config = load_config(name)
    assert not {"completion", "discriminator", "mask", "balance", "remat"} & set(config)
    assert "mean_pixel" not in config.data


def test_gans_are_trained_as_in_their_papers():
    vanilla, dcgan = (load_config(name) for name in ("vanilla_gan", "dcgan"))
    assert (vanilla.batch_size, vanilla.data.image_size, vanilla.data.grey) == (100, 28, True)
    assert vanilla.optimizer.name == "sgd"
    assert vanilla.optimizer.sgd.to_dict() == {"learning_rate": 0.1, "momentum": 0.5}
    assert (dcgan.batch_size, dcgan.data.image_size, dcgan.data.grey) == (128, 64, False)
    assert dcgan.optimizer.name == "adam"
    adam = dcgan.optimizer.adam
    assert (adam.learning_rate, adam.b1, adam.b2, adam.decay_steps) == (2e-4, 0.5, 0.999, 0)
    assert vanilla.network.width == dcgan.network.width == 1.0
    assert vanilla.network.latent_size == dcgan.network.latent_size == 100


def test_quickstart_is_small_and_needs_no_data():
    config = load_config("quickstart")
    assert config.data.source == "samples"
    assert config.data.image_size <= 64
    assert all(0 < steps <= 1000 for steps in config.phases.values())


# Wrong arguments, and what the line on stderr contains.
MISTAKES = {
    "no configuration": ([], ["--config", "configs/quickstart.py"]),
    "a configuration that is not there": (["--config=configs/nope.py"], ["configs/nope.py"]),
    "a misspelt key": ([QUICKSTART, "--config.batch_sise=3"], ["no key batch_sise: did you mean batch_size?"]),
    "a misspelt part": (
        [QUICKSTART, "--config.phasse.joint=3"],
        ["error: the configuration has no key phasse.joint: did you mean phases.joint? configs/common.py exp"],
    ),
    "an unknown key": ([QUICKSTART, "--config.typo=3"], ["no key typo; configs/common.py explains all keys"]),
    "a key of earlier versions": (
        [QUICKSTART, "--config.balance.measure_every=3"],
        ["has no key balance.measure_every"],
    ),
    "a key of another system": (
        ["--config=configs/dcgan.py", "--config.completion.width=2"],
        ["has no key completion.width", "configs/common.py explains all keys"],
    ),
    "a folder without the files of MNIST": (
        ["--config=configs/vanilla_gan.py", "--config.data.source=idx:configs", "--workdir={tmp}/run"],
        ["configs: holds no train-images-idx3-ubyte.gz", "four files of MNIST"],
    ),
    "a size that no DCGAN has": (
        ["--config=configs/dcgan.py", "--config.data.image_size=60", "--workdir={tmp}/run"],
        ["data.image_size is 60", "power of 2"],
    ),
    "an unknown variant": (
        ["--config=configs/ablation.py:foo"],
        ["error: configs/ablation.py has no variant 'foo'"],
    ),
    "an unknown optimiser": ([QUICKSTART, "--config.optimizer.name=sgd"], ["choose one of adadelta, adam"]),
    "a value of the wrong type": ([QUICKSTART, "--config.batch_size=abc"], ["batch_size", "abc"]),
    "an address as workdir": (
        [QUICKSTART, "--workdir=gs://bucket/run"],
        ["gs://bucket/run: is an address"],
    ),
    "a workdir that is not UTF-8": ([QUICKSTART, "--workdir={tmp}/\udcff"], ["/\\udcff: is not UTF-8"]),
    "an unknown flag": ([QUICKSTART, "--workdri=x"], ["workdri", "workdir"]),
    "data that is not prepared": (
        [PLACES2, "--config.data.tfds_dir={tmp}/tfds", "--workdir={tmp}/run"],
        ["places365_small", "glcic data prepare", "folder:", "data.source=samples", "--config=quickstart"],
    ),
}


def start(arguments: list[str], *python_flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *python_flags, "main.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_with_a_hint(mistake, tmp_path):
    arguments, hints = MISTAKES[mistake]
    process = start([argument.format(tmp=tmp_path) for argument in arguments])
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    assert process.returncode == 2, errors
    lines = errors.splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    for hint in hints:
        assert hint in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_jax():
    process = start(["--help"], "-X", "importtime")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in errors.splitlines() if line.startswith("import time:")}
    assert "ml_collections" in imported  # The measuring works.
    assert not imported & {"jax", "flax", "tensorflow", "tensorflow_datasets", "grain", "cv2"}
    assert "Traceback" not in errors
    for word in ("--config", "--workdir", "--config.batch_size=32", "configs/joint.py", "configs/quickstart.py"):
        assert word in output


def test_tilde_is_the_home_directory_in_config_and_workdir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(ROOT / "configs" / "quickstart.py", tmp_path)
    (tmp_path / "file").write_text("")
    process = start(["--config=~/quickstart.py", "--workdir=~/file/run"])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith(f"error: the workdir {tmp_path}/file/run cannot be written"), errors
