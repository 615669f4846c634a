"""The store of weights: names, damage, concurrent writers; and finding weights by reference."""

import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers.common import ROOT, one_line
from weights.test_weights import DESCRIPTION, NETWORK, assert_same, changed, random_variables

from glcic_jax.errors import DataError, WeightsError
from glcic_jax.files import sha256_of
from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator
from glcic_jax.weights import store
from glcic_jax.weights.file import Weights, save_weights
from glcic_jax.weights.store import add, find_network, find_weights, load, path_of, stored

LICENSED = dataclasses.replace(DESCRIPTION, licence="CC BY 4.0")
UNLICENSED = dataclasses.replace(DESCRIPTION, licence="not stated")


@pytest.fixture(autouse=True)
def home(store_home) -> Path:
    return store_home


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(NETWORK, random_variables(NETWORK, np.zeros((1, 8, 8, 4), np.float32)), UNLICENSED)


@pytest.fixture(scope="module")
def discriminator() -> Weights:
    network = ContextDiscriminator(("local",), 16, ((4, 4),), 1 / 16)
    inputs = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 2), np.int32)
    return Weights(network, random_variables(network, *inputs), UNLICENSED)


def refusal(function, *arguments, error=WeightsError) -> str:
    """The one line of error that a call must end with."""
    with pytest.raises(error) as caught:
        function(*arguments)
    return one_line(caught)


def make_run(finished_run, workdir, *steps):
    """Copies a run, with these of its checkpoints."""
    for step in steps:
        shutil.copytree(finished_run / "checkpoints" / str(step), Path(workdir) / "checkpoints" / str(step))


def other(weights: Weights) -> Weights:
    return changed(weights, lambda variables: variables["params"]["conv1"]["bias"].fill(0.5))


def test_home_is_the_variable_or_the_cache(monkeypatch, home):
    assert store.home() == home
    monkeypatch.setenv("GLCIC_HOME", "~/elsewhere")
    monkeypatch.setenv("HOME", "/somebody")
    assert str(store.home()) == "/somebody/elsewhere"
    monkeypatch.setenv("GLCIC_HOME", "")
    assert str(store.home()) == "/somebody/.cache/glcic_jax"


def test_added_weights_come_back_in_one_file(weights, home):
    path = add(weights, "a.b-c_1")
    assert path == path_of("a.b-c_1") == home / "weights" / "a.b-c_1.safetensors"
    assert_same(load("a.b-c_1"), weights)
    assert set(os.listdir(path.parent)) == {".lock", "a.b-c_1.safetensors"}


def test_a_taken_name_is_refused_without_replace(weights):
    add(weights, "a")
    assert re.search("exists.*--replace", refusal(add, other(weights), "a", error=DataError))
    assert_same(load("a"), weights)
    add(other(weights), "a", replace=True)
    assert_same(load("a"), other(weights))
    add(weights, "fresh", replace=True)
    assert_same(load("fresh"), weights)


def test_files_of_early_versions_are_read_and_replaced(weights, home):
    """They have their checksum in NAME.safetensors.sha256, and none of their metadata."""
    path = add(weights, "old")
    with safetensors.safe_open(path, "np") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "metadata_sha256"}
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load_file(path), metadata))
    beside = path.with_name(f"{path.name}.sha256")
    beside.write_text(f"{sha256_of(path)}  {path.name}\n")
    assert_same(find_weights("old").weights, weights)
    assert [(entry.name, entry.error) for entry in stored()] == [("old", "")]
    add(other(weights), "old", replace=True)
    assert_same(load("old"), other(weights))
    assert not beside.exists()


def test_names_that_file_systems_treat_differently_are_refused(weights, home):
    separators = ["../x", "a/b", "/etc/x", "a\\b", "a b", "a\nb", "a\0b", "a:b"]
    for name in ["", ".", "..", ".hidden", "-rf", "Aa", "a.", "ä", "a.safetensors", "a" * 101, *separators]:
        assert "cannot name weights" in refusal(add, weights, name, error=DataError)
        refusal(path_of, name)
    assert not home.exists()


def test_names_made_from_file_names(tmp_path):
    made = {
        "completionnet_places2.t7": "completionnet_places2",
        "GLCIC (Final)!.pth": "glcic-final",
        ".t7": "t7",
        "ä.pth": "",
        "-_x..pth": "x",
    }
    assert {name: store.name_for(tmp_path / name) for name in made} == made


def change_description(path):
    content = path.read_bytes()
    assert content.count(b"a test") == 1
    path.write_bytes(content.replace(b"a test", b"A test"))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a changed byte": flip_a_byte,
    "a changed description": change_description,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_with_a_remedy_and_hides_no_other_entry(damage, weights):
    for name in ("a", "b", "c"):
        add(weights, name)
    DAMAGE[damage](path_of("b"))
    message = refusal(find_weights, "b")
    assert damage == "a directory" or "glcic weights import FILE --name b --replace" in message
    entries = {entry.name: entry for entry in stored()}
    assert list(entries) == ["a", "b", "c"]
    assert entries["b"].error
    assert entries["b"].summary is None
    assert entries["a"].error == entries["c"].error == ""
    assert entries["a"].summary == ("completion", UNLICENSED.image_size, "not stated")
    if damage != "a directory":
        add(weights, "b", replace=True)
        assert_same(load("b"), weights)


def test_a_killed_replacement_leaves_the_old_weights(weights, monkeypatch):
    path = add(weights, "a")

    def kill(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(SystemExit):
            add(other(weights), "a", replace=True)
    assert_same(load("a"), weights)
    assert set(os.listdir(path.parent)) == {".lock", "a.safetensors"}


def test_of_two_simultaneous_additions_one_is_refused(weights):
    pair = (weights, other(weights))
    gate = threading.Barrier(2)

    def run(one):
        gate.wait()
        try:
            return add(one, "same").name
        except DataError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, pair))
    winner = results.index("same.safetensors")
    assert "exists" in results[1 - winner]
    assert_same(load("same"), pair[winner])


def test_a_reader_during_replacements_gets_one_or_the_other(weights):
    add(weights, "a")
    pair = (weights, other(weights))
    biases = {one.variables["params"]["conv1"]["bias"][0] for one in pair}
    done = threading.Event()

    def read():
        while not done.is_set():
            assert load("a").variables["params"]["conv1"]["bias"][0] in biases

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            for turn in range(5):
                add(pair[turn % 2], "a", replace=True)
        finally:
            done.set()
        reader.result()


def test_an_unwritable_store_is_one_line(weights, home, tmp_path, monkeypatch):
    home.write_text("a file")
    message = refusal(add, weights, "a", error=DataError)
    assert "cannot be written" in message
    assert str(home) in message
    assert "cannot be listed" in refusal(stored)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", no_space)
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "full"))
    assert re.search("cannot be written .*No space", refusal(add, weights, "a", error=DataError))


def test_a_read_only_store_is_read(weights, home, monkeypatch):
    add(weights, "a")
    (home / "weights" / ".lock").unlink()
    really_open = os.open

    def read_only(path, flags, *arguments, **keywords):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(30, "Read-only file system")
        return really_open(path, flags, *arguments, **keywords)

    monkeypatch.setattr(os, "open", read_only)
    assert_same(find_weights("a").weights, weights)
    assert [entry.error for entry in stored()] == [""]
    with pytest.raises(DataError, match="Read-only"):
        add(weights, "b")


def test_the_default_is_built_in(weights, finished_run):
    add(weights._replace(description=LICENSED), "a")
    make_run(finished_run, "runs/small", 40)
    found = find_weights(None)
    assert found.name.startswith("photos, built in (CC BY-SA 4.0")
    assert found.path == path_of("photos") == store.built_in_path("photos")
    assert find_weights("photos").name == found.name
    assert find_weights("a").name == "a (CC BY 4.0)"


def test_built_in_names_cannot_be_stored(weights):
    with pytest.raises(DataError, match="photos names built-in weights: give another --name"):
        add(weights, "photos", replace=True)
    assert stored() == []


def test_stored_weights_whose_name_is_built_in_now_remain_accessible(weights, home):
    path = home / "weights" / "photos.safetensors"
    add(weights, "mine").rename(path)
    assert_same(load("photos"), weights)
    assert [(entry.name, entry.error) for entry in stored()] == [(str(path), "")]
    assert_same(find_weights(path).weights, weights)
    assert find_weights("photos").path == store.built_in_path("photos")
    flip_a_byte(path)
    with pytest.raises(WeightsError, match="import FILE --name ANOTHER', or remove it"):
        load("photos")


def test_an_incomplete_installation_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "_PRETRAINED", tmp_path)
    for find, reference in ((find_weights, None), (find_network, None), (find_weights, "photos")):
        with pytest.raises(WeightsError, match=r"photos\.safetensors: no such file.*install glcic-jax") as caught:
            find(reference)
        one_line(caught)
    with pytest.raises(WeightsError, match=r"no such file, run or name; name a file of weights$"):
        find_weights("a")
    assert caught.value.exit_code == 3


def test_environment_variable_names_weights(weights, monkeypatch, tmp_path):
    add(weights, "a")
    save_weights(other(weights), tmp_path / "file.safetensors")
    monkeypatch.setenv("GLCIC_WEIGHTS", str(tmp_path / "file.safetensors"))
    assert_same(find_weights(None).weights, other(weights))
    assert_same(find_weights("a").weights, weights)
    monkeypatch.setenv("GLCIC_WEIGHTS", "nothing")
    with pytest.raises(WeightsError, match=r"\$GLCIC_WEIGHTS: nothing: no such file.* stored: a") as caught:
        find_weights(None)
    one_line(caught)
    monkeypatch.setenv("GLCIC_WEIGHTS", "")
    assert find_weights(None).path == path_of("photos")


def test_a_discriminator_completes_nothing(weights, discriminator):
    add(discriminator, "d")
    with pytest.raises(WeightsError, match="d is a context discriminator") as caught:
        find_weights("d")
    one_line(caught)
    assert_same(find_network("d").weights, discriminator)


def test_a_run_is_found_by_any_of_its_directories(finished_run, monkeypatch):
    make_run(finished_run, "runs/small", 3, 40)
    for reference, name in {
        "runs/small/": "runs/small, step 40",
        Path("runs/small/checkpoints"): "runs/small, step 40",
        "runs/small/checkpoints/3": "runs/small, step 3",
    }.items():
        found = find_weights(reference)
        assert (found.name, found.path) == (name, Path("runs/small"))
        assert found.weights.network == CompletionNetwork(1 / 16)
    absolute = Path("runs/small").absolute()
    for reference in ("runs/nothing", "runs", "small"):
        with pytest.raises(WeightsError, match=r"runs: runs/small \(step 40\)") as caught:
            find_weights(reference)
        assert reference in one_line(caught)
    with pytest.raises(WeightsError, match="700"):
        find_weights("runs/small/checkpoints/700")
    monkeypatch.chdir("runs/small/checkpoints")
    assert find_weights("3").name == f"{absolute}, step 3"


def test_an_unknown_name_lists_what_there_is(finished_run, weights):
    make_run(finished_run, "runs/a", 3)
    make_run(finished_run, "runs/deep/b", 40)
    Path("runs/empty/checkpoints").mkdir(parents=True)
    add(weights, "mine")
    listed = r"built in: faces, photos; stored: mine; runs: runs/a \(step 3\), runs/deep/b \(step 40\)$"
    with pytest.raises(WeightsError, match=listed) as caught:
        find_weights("yours")
    assert "empty" not in one_line(caught)
    with pytest.raises(WeightsError, match="no finished checkpoint"):
        find_weights("runs/empty")


def test_a_directory_does_not_hide_a_stored_name(weights, tmp_path):
    add(weights, "places2")
    os.mkdir("places2")
    assert_same(find_weights("places2").weights, weights)


def test_a_damaged_safetensors_file_is_ours(weights, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(weights, path)
    assert find_weights(str(path)).name == str(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match=r"a\.safetensors: ") as caught:
        find_weights(path)
    one_line(caught)


def test_completing_from_a_file_imports_neither_orbax_nor_optax(weights, tmp_path):
    save_weights(weights, tmp_path / "a.safetensors")
    code = (
        "import sys; from glcic_jax.completion.completer import Completer; Completer.load(sys.argv[1]);"
        "assert not {'orbax', 'optax', 'tensorstore'} & set(sys.modules), 'imported'"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.safetensors"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert process.returncode == 0, process.stderr
