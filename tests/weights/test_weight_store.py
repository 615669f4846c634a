"""The store of weights: names, checksums, damage, two writers; and finding weights wherever they are."""

import dataclasses
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers.common import one_line
from weights.test_weights import DESCRIPTION, NETWORK, assert_same, changed, random_variables

from glcic_jax.errors import DataError, WeightsError
from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator
from glcic_jax.weights import checked_files, store
from glcic_jax.weights.file import Weights, save_weights
from glcic_jax.weights.store import add, find_network, find_weights, load, path_of, replace, stored

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


def make_run(finished_run, workdir, *steps):
    """Copies a run, with these of its checkpoints."""
    for step in steps:
        shutil.copytree(finished_run / "checkpoints" / str(step), Path(workdir) / "checkpoints" / str(step))


def other(weights: Weights) -> Weights:
    return changed(weights, lambda variables: variables["params"]["conv1"]["bias"].fill(0.5))


def test_the_home_is_the_variable_or_the_cache(monkeypatch, home):
    assert store.home() == home
    monkeypatch.setenv("GLCIC_HOME", "~/elsewhere")
    monkeypatch.setenv("HOME", "/somebody")
    assert str(store.home()) == "/somebody/elsewhere"
    monkeypatch.setenv("GLCIC_HOME", "")
    assert str(store.home()) == "/somebody/.cache/glcic_jax"


def test_what_is_added_comes_back_with_a_checksum_that_sha256sum_reads(weights, home):
    path = add(weights, "a.b-c_1")
    assert path == path_of("a.b-c_1") == home / "weights" / "a.b-c_1.safetensors"
    assert_same(load("a.b-c_1"), weights)
    beside = path.with_name("a.b-c_1.safetensors.sha256").read_text()
    assert beside == f"{checked_files.file_sha256(path)}  a.b-c_1.safetensors\n"
    subprocess.run(["sha256sum", "-c", "--quiet", "a.b-c_1.safetensors.sha256"], cwd=path.parent, check=True)
    assert {name for name in os.listdir(path.parent) if not name.startswith(".lock")} == {
        "a.b-c_1.safetensors",
        "a.b-c_1.safetensors.sha256",
    }


def test_a_name_that_is_taken_is_refused_and_replaced_only_by_replace(weights):
    add(weights, "a")
    with pytest.raises(DataError, match="is there already") as caught:
        add(other(weights), "a")
    assert "--replace" in one_line(caught)
    assert_same(load("a"), weights)
    replace(other(weights), "a")
    assert_same(load("a"), other(weights))
    replace(weights, "fresh")
    assert_same(load("fresh"), weights)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/x",
        "a\\b",
        ".hidden",
        "-rf",
        "Aa",
        "a b",
        "a\nb",
        "a.",
        "ä",
        "a\0b",
        "a:b",
    ]
    + ["a.safetensors", "a" * 101],
)
def test_names_with_surprises_are_refused(name, weights, home):
    for write in (add, replace):
        with pytest.raises(DataError, match="cannot name weights") as caught:
            write(weights, name)
        one_line(caught)
    with pytest.raises(WeightsError) as caught:
        path_of(name)
    one_line(caught)
    assert not home.exists()


def test_names_are_made_from_those_of_files(tmp_path):
    made = {
        "completionnet_places2.t7": "completionnet_places2",
        "GLCIC (Final)!.pth": "glcic-final",
        ".t7": "t7",
        "ä.pth": "",
        "-_x..pth": "x",
    }
    assert {name: store.name_for(tmp_path / name) for name in made} == made


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a changed byte": flip_a_byte,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "no checksum": lambda path: path.with_name(f"{path.name}.sha256").unlink(),
    "an empty checksum": lambda path: path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\n"),
    "another checksum": lambda path: path.with_name(f"{path.name}.sha256").write_text(f"{'0' * 64}  x\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_that_says_how_to_mend_and_hides_nothing_else(damage, weights):
    for name in ("a", "b", "c"):
        add(weights, name)
    DAMAGE[damage](path_of("b"))
    with pytest.raises(WeightsError) as caught:
        find_weights("b")
    if damage != "a directory":
        assert "damaged" in one_line(caught)
        assert "glcic weights import FILE --name b --replace" in one_line(caught)
    entries = {entry.name: entry for entry in stored()}
    assert list(entries) == ["a", "b", "c"]
    assert entries["b"].error
    assert entries["b"].description is None
    assert entries["a"].error == entries["c"].error == ""
    assert entries["a"].description == UNLICENSED
    assert entries["a"].size == path_of("a").stat().st_size
    if damage != "a directory":
        replace(weights, "b")
        assert_same(load("b"), weights)


def test_a_checksum_is_verified_even_where_the_file_is_sound(weights, tmp_path):
    add(weights, "a")
    save_weights(other(weights), tmp_path / "other.safetensors")
    os.replace(tmp_path / "other.safetensors", path_of("a"))
    for reference in ("a", path_of("a")):
        with pytest.raises(WeightsError, match="its sha256 is wrong"):
            find_weights(reference)


@pytest.mark.parametrize("last", ["_write_checksums", "replace", "nothing"])
def test_a_replacement_that_is_killed_anywhere_leaves_sound_weights(last, weights, monkeypatch):
    add(weights, "a")

    class KilledError(BaseException):
        pass

    def kill(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        if last == "_write_checksums":  # The second of the two.
            calls = []
            write = checked_files._write_checksums

            def once(*arguments):
                kill() if calls else write(*arguments)
                calls.append(1)

            patch.setattr(checked_files, "_write_checksums", once)
        elif last == "replace":
            write = checked_files._write_checksums
            patch.setattr(
                checked_files, "_write_checksums", lambda *a: (write(*a), patch.setattr(os, "replace", kill))
            )
        else:
            patch.setattr(checked_files, "_write_checksums", kill)
        with pytest.raises(KilledError):
            replace(other(weights), "a")
    assert_same(load("a"), other(weights) if last == "_write_checksums" else weights)
    replace(weights, "a")
    assert len(path_of("a").with_name("a.safetensors.sha256").read_text().splitlines()) == 1


def test_of_two_that_add_one_name_at_once_one_is_refused(weights):
    pair, told = (weights, other(weights)), {}
    gate = threading.Barrier(2)

    def run(index):
        gate.wait()
        try:
            told[index] = add(pair[index], "same").name
        except DataError as error:
            told[index] = str(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [index for index, said in told.items() if said == "same.safetensors"]
    assert "is there already" in told[1 - winner]
    assert_same(load("same"), pair[winner])


def test_who_reads_while_another_replaces_gets_one_or_the_other(weights):
    add(weights, "a")
    pair = (weights, other(weights))
    failures, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                assert load("a").variables["params"]["conv1"]["bias"][0] in {
                    one.variables["params"]["conv1"]["bias"][0] for one in pair
                }
            except Exception as error:
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(5):
        replace(pair[turn % 2], "a")
    done.set()
    reader.join()
    assert failures == []


def test_a_store_that_cannot_be_written_is_one_line(weights, home, tmp_path, monkeypatch):
    home.write_text("a file")
    with pytest.raises(DataError, match="cannot be written") as caught:
        add(weights, "a")
    assert str(home) in one_line(caught)
    with pytest.raises(WeightsError, match="cannot be listed"):
        stored()
    monkeypatch.setattr(os, "open", no_space)
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "full"))
    with pytest.raises(DataError, match=r"cannot be written .*No space") as caught:
        add(weights, "a")
    one_line(caught)


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_a_store_that_may_only_be_read_is_read(weights, home, monkeypatch):
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


def test_what_is_built_in_is_taken_unless_something_is_named(weights, finished_run):
    add(weights._replace(description=LICENSED), "a")
    make_run(finished_run, "runs/small", 40)
    found = find_weights(None)
    assert found.name.startswith("photos, built in (CC BY-SA 4.0")
    assert found.path == path_of("photos") == store.built_in_path("photos")
    assert find_weights("photos").name == found.name
    assert find_weights("a").name == "a (CC BY 4.0)"


def test_built_in_names_cannot_be_stored(weights):
    for put in (add, replace):
        with pytest.raises(DataError, match="photos names the weights that are built in: give another --name"):
            put(weights, "photos")
    assert stored() == []


def test_weights_stored_under_a_name_that_is_built_in_now_stay_in_reach(weights, home):
    add(weights, "mine")
    for suffix in (".safetensors", ".safetensors.sha256"):
        path = home / "weights" / f"mine{suffix}"
        shutil.copy(path, path.with_name(f"photos{suffix}"))
    beside = home / "weights" / "photos.safetensors.sha256"
    beside.write_text(beside.read_text().replace("mine.", "photos."))
    assert_same(load("photos"), weights)
    assert [(entry.name, entry.error) for entry in stored()] == [
        ("mine", ""),
        (str(home / "weights" / "photos.safetensors"), ""),
    ]
    assert_same(find_weights(home / "weights" / "photos.safetensors").weights, weights)
    assert find_weights("photos").path == store.built_in_path("photos")
    beside.unlink()
    with pytest.raises(WeightsError, match="import FILE --name ANOTHER', or remove it"):
        load("photos")


def test_an_installation_without_what_is_built_in_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "_FOLDER", tmp_path)
    for find, reference in ((find_weights, None), (find_network, None), (find_weights, "photos")):
        with pytest.raises(WeightsError, match=r"photos\.safetensors: no such file.*install glcic-jax") as caught:
            find(reference)
        one_line(caught)
    with pytest.raises(WeightsError, match="there are none here: name one, or a file, with --weights"):
        find_weights("a")
    assert caught.value.exit_code == 3


def test_the_variable_names_weights(weights, monkeypatch, tmp_path):
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


def test_a_run_is_found_by_each_of_its_directories(finished_run, monkeypatch):
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


def test_what_there_is_is_listed_where_a_name_is_unknown(finished_run, weights):
    make_run(finished_run, "runs/a", 3)
    make_run(finished_run, "runs/deep/b", 40)
    Path("runs/empty/checkpoints").mkdir(parents=True)
    add(weights, "mine")
    told = r"built in: photos; stored: mine; runs: runs/a \(step 3\), runs/deep/b \(step 40\): name one"
    with pytest.raises(WeightsError, match=told) as caught:
        find_weights("yours")
    assert "empty" not in one_line(caught)
    with pytest.raises(WeightsError, match="no finished checkpoint"):
        find_weights("runs/empty")


def test_a_directory_that_is_no_run_does_not_hide_a_stored_name(weights, tmp_path):
    add(weights, "places2")
    os.mkdir("places2")
    assert_same(find_weights("places2").weights, weights)


def test_a_damaged_file_of_ours_is_not_taken_for_another_program_s(weights, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(weights, path)
    assert find_weights(str(path)).name == str(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match=r"a\.safetensors: ") as caught:
        find_weights(path)
    one_line(caught)
