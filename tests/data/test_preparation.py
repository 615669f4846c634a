"""Preparing TFDS data sets from their archives: the result is TFDS's own, whatever happens on the way."""

import contextlib
import errno
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from data.test_downloads import Server
from helpers import tiny_archives
from helpers.common import ROOT, load_config, one_line
from helpers.tiny_archives import records_in, silent

from glcic_jax.commands.main import cli
from glcic_jax.data.preparation import archives as archives_module
from glcic_jax.data.preparation import prepare as prepare_module
from glcic_jax.data.preparation import shards
from glcic_jax.data.preparation.archives import Archive, open_members
from glcic_jax.data.preparation.prepare import prepare
from glcic_jax.data.preparation.recipes import RECIPES
from glcic_jax.data.sources import open_sources
from glcic_jax.data.tfds import tfds_directory
from glcic_jax.errors import ConfigError, DataError

MAKERS = {
    "places365_small": tiny_archives.places,
    "celeb_a": tiny_archives.celeb_a,
    "cycle_gan/facades": tiny_archives.facades,
}


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def prepared_by_tfds(name: str, source: Path, archives: dict[str, Archive], root: Path, monkeypatch) -> Path:
    """TFDS's own preparation of the same archives."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils
    from tensorflow_datasets.image_classification import cycle_gan

    class ListingOnly:
        class io:
            class gfile:
                listdir = staticmethod(os.listdir)

    monkeypatch.setattr(gcs_utils, "_is_gcs_disabled", True)  # It would ask the network for known data sets.
    monkeypatch.setattr(cycle_gan, "tf", ListingOnly)
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    manager = tiny_archives.LocalFiles(source, archives, root / "unpacked")
    builder._download_and_prepare = _with_manager(builder._download_and_prepare, manager)
    builder.download_and_prepare(download_dir=root / "downloads")
    return Path(builder.data_dir)


def _with_manager(download_and_prepare, manager):
    return lambda *, dl_manager, download_config: download_and_prepare(
        dl_manager=manager, download_config=download_config
    )


@pytest.mark.parametrize("name", MAKERS)
def test_the_result_is_what_tfds_itself_writes(name, tmp_path, monkeypatch):
    archives = MAKERS[name](tmp_path / "archives")
    reference = prepared_by_tfds(name, tmp_path / "archives", archives, tmp_path / "tfds", monkeypatch)
    directory = prepare(name, tmp_path / "ours", tmp_path / "archives", silent, archives)
    assert directory.relative_to(tmp_path / "ours") == reference.relative_to(tmp_path / "tfds")
    ours, theirs = files_of(directory), files_of(reference)
    assert sorted(ours) == sorted(theirs)
    infos = [json.loads(files.pop("dataset_info.json")) for files in (ours, theirs)]
    for info in infos:
        info["splits"].sort(key=lambda split: split["name"])
        info.pop("downloadSize", None)
    assert infos[0] == infos[1]
    assert ours.keys() == theirs.keys()
    for file, content in ours.items():
        if ".array_record" in file:
            assert examples_in(directory / file) == examples_in(reference / file), file
        else:
            assert content == theirs[file], file


def examples_in(path: Path) -> list:
    """Parsed: TFDS writes an example's features in another order in each process."""
    from tensorflow_datasets.proto import tf_example_pb2

    return [tf_example_pb2.Example.FromString(record) for record in records_in(path)]


@pytest.fixture
def faces(tmp_path) -> tuple[Path, dict[str, Archive]]:
    """The archives of cycle_gan/facades: the smallest."""
    return tmp_path / "archives", tiny_archives.facades(tmp_path / "archives")


FACADES = "cycle_gan/facades"


def test_training_reads_the_result(tmp_path):
    archives = tiny_archives.places(tmp_path / "archives")
    prepare("places365_small", tmp_path, tmp_path / "archives", silent, archives)
    data = load_config("quickstart").data
    data.update(source="tfds:places365_small", tfds_dir=str(tmp_path))
    sources = open_sources(data)
    assert (len(sources.train), len(sources.validation)) == (20, 5)
    held = {sources.train.read(index) for index in range(20)}
    assert held == {tiny_archives.jpeg(seed, 256, 256) for seed in range(20)}


def test_an_image_that_cannot_be_decoded_is_kept_as_it_is(tmp_path):
    folders = ("trainA", "trainB", "testA", "testB")
    path = tiny_archives.write_zip(
        tmp_path / "facades.zip", {f"facades/{name}/1.jpg": b"no picture" for name in folders}
    )
    directory = prepare(FACADES, tmp_path, tmp_path, silent, tiny_archives.described(FACADES, {"images": path}))
    (record,) = records_in(directory / "cycle_gan-testB.array_record-00000-of-00001")
    assert b"no picture" in record


def test_a_finished_data_set_is_left_as_it_is(faces, tmp_path):
    source, archives = faces
    directory = prepare(FACADES, tmp_path, source, silent, archives)
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    lines = []
    assert prepare(FACADES, tmp_path, source, lines.append, archives) == directory
    assert lines == [f"{directory} is prepared already"]
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "cut short", "empty"])
def test_a_prepared_data_set_that_lacks_a_shard_is_not_called_ready(faces, tmp_path, damage):
    source, archives = faces
    directory = prepare(FACADES, tmp_path, source, silent, archives)
    shard = directory / "cycle_gan-trainB.array_record-00000-of-00001"
    content = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(content[:100] if damage == "cut short" else b"")
    with pytest.raises(
        DataError, match=f"{shard.name} is missing or damaged .* the same command prepares it anew"
    ):
        prepare(FACADES, tmp_path, source, silent, archives)


@pytest.mark.parametrize("cached", ["checksum", "address"])
def test_archives_are_found_in_the_download_cache_of_tfds(faces, tmp_path, cached):
    from tensorflow_datasets.core.download import resource

    source, archives = faces
    archive = archives["images"]
    name = resource.get_dl_fname(archive.url, archive.sha256 if cached == "checksum" else None)
    downloads = tmp_path / "data" / "downloads"
    downloads.mkdir(parents=True)
    shutil.move(source / archive.name, downloads / name)
    (downloads / f"{name}.INFO").write_text(json.dumps({"urls": [archive.url], "original_fname": archive.name}))
    for number, place in enumerate((None, downloads, tmp_path / "data")):
        root = tmp_path / "data" if place is None else tmp_path / str(number)
        directory = prepare(FACADES, root, place, silent, archives)
        shutil.rmtree(directory)  # It would be found in place of the archives.


def test_many_shards_hold_the_same_examples(faces, tmp_path, monkeypatch):
    from tensorflow_datasets.core.utils import shard_utils

    source, archives = faces
    one = prepare(FACADES, tmp_path / "one", source, silent, archives)
    monkeypatch.setattr(shard_utils.ShardConfig, "calculate_number_shards", lambda *_: 3)
    with pytest.raises(
        AssertionError, match="number_of_shards"
    ):  # TFDS has no empty shards either: testA has two.
        prepare(FACADES, tmp_path / "none", source, silent, archives)
    monkeypatch.setattr(shard_utils.ShardConfig, "calculate_number_shards", lambda *_: 2)
    two = prepare(FACADES, tmp_path / "two", source, silent, archives)
    whole = records_in(one / "cycle_gan-trainA.array_record-00000-of-00001")
    parts = [records_in(two / f"cycle_gan-trainA.array_record-0000{index}-of-00002") for index in range(2)]
    assert [len(part) for part in parts] == [2, 3]
    assert parts[0] + parts[1] == whole


def test_tfds_registers_what_the_recipes_name():
    for name, recipe in RECIPES.items():
        archives = prepare_module._registered(recipe, prepare_module._builder(name, Path("nowhere")))
        assert all(archive.size > 1_000_000 and len(archive.sha256) == 64 for archive in archives.values())
        assert len({archive.name for archive in archives.values()}) == len(archives)
        assert set(recipe.images) <= set(recipe.urls)


def test_a_missing_archive_is_named_with_its_address(tmp_path):
    with pytest.raises(DataError) as caught:
        prepare("places365_small", tmp_path, tmp_path, silent)
    message = one_line(caught)
    assert f"{tmp_path} lacks 4 archives: train_256_places365standard.tar (24.3 GiB, http://data.csail" in message
    assert os.listdir(tmp_path) == []


def test_what_is_missing_is_downloaded(faces, tmp_path):
    source, archives = faces
    server = Server((source / "facades.zip").read_bytes())
    server.drops = [2000]
    archives = {"images": archives["images"]._replace(url=server.url)}
    directory = prepare(FACADES, tmp_path / "root", None, silent, archives)
    server.stop()
    assert server.requests == [None, "bytes=2000-"]
    assert files_of(directory).keys() == files_of(prepare(FACADES, tmp_path, source, silent, archives)).keys()
    assert (tmp_path / "root" / "downloads" / "facades.zip").exists()


def test_what_google_drive_keeps_is_to_be_downloaded_by_hand(tmp_path):
    with pytest.raises(DataError, match="with a browser") as caught:
        prepare("celeb_a", tmp_path, None, silent)
    message = one_line(caught)
    assert "img_align_celeba.zip (1.3 GiB, https://drive.google.com/uc?" in message
    assert "--from" in message


def test_an_unknown_data_set_lists_the_known(tmp_path):
    with pytest.raises(ConfigError, match="unknown data set 'mnist': choose one of celeb_a, cycle_gan/") as caught:
        prepare("mnist", tmp_path, None, silent)
    one_line(caught)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such directory; --from takes"):
        prepare(FACADES, tmp_path, tmp_path / "nowhere", silent)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_archive_is_refused_before_anything_is_written(faces, tmp_path, damage):
    source, archives = faces
    path = source / archives["images"].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if damage == "altered" else content[:-10])
    expected = "SHA-256 is [0-9a-f]{64}" if damage == "altered" else f"has {len(content) - 10} bytes"
    with pytest.raises(DataError, match=expected) as caught:
        prepare(FACADES, tmp_path, source, silent, archives)
    assert one_line(caught).startswith(f"{path} ")
    assert f"download {archives['images'].url} again" in str(caught.value)
    assert not list(tmp_path.rglob("*.array_record*"))


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_that_ends_too_early_is_a_data_error(name, tmp_path):
    # As if its checksum had been made from the damaged file.
    source = tmp_path / "archives"
    archives = MAKERS[name](source)
    role = RECIPES[name].images[0]
    path = source / archives[role].name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    archives = tiny_archives.described(name, {key: source / value.name for key, value in archives.items()})
    with pytest.raises(DataError) as caught:
        prepare(name, tmp_path, source, silent, archives)
    assert str(path) in one_line(caught)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.jpg", "d/" * 60 + "deep.jpg", "l" * 150 + ".jpg", "ü/é.jpg"])
def test_a_tar_of_any_form_is_listed(tmp_path, form, name):
    if form == tarfile.USTAR_FORMAT and name.startswith("l"):
        return  # It has no place for so long a name.
    path = tmp_path / "some.tar"
    contents = {"data/first.jpg": b"1" * 512, name: b"second", "data/empty.jpg": b"", "data/last.jpg": b"4" * 700}
    tiny_archives.write_tar(path, contents, format=form)
    members = open_members(path)
    assert {name: members.read(row) for row, name in enumerate(members.names)} == contents
    assert list(members.sizes) == [len(content) for content in contents.values()]
    assert list(members.offsets) == sorted(members.offsets)


@pytest.mark.parametrize("length", [100, 700, 1300])
def test_a_tar_that_is_cut_off(tmp_path, length):
    path = tiny_archives.write_tar(tmp_path / "some.tar", {"a.jpg": b"1" * 300, "b.jpg": b"2" * 300})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match="truncated, damaged") as caught:
        open_members(path)
    one_line(caught)


def test_a_damaged_file_in_a_zip_is_named(faces, tmp_path):
    source, archives = faces
    path = source / archives["images"].name
    content = bytearray(path.read_bytes())
    place = content.index(tiny_archives.jpeg(2, 8, 12)) + 50
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"facades/trainA/2_A\.jpg is damaged"):
        prepare(FACADES, tmp_path, source, silent, tiny_archives.described(FACADES, {"images": path}))


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("list_attr_celeba.txt", "", "000005.jpg, listed in .*list_eval_partition.txt, is missing"),
        ("identity_CelebA.txt", "000005.jpg many", "not one of CelebA's tables"),
        ("list_landmarks_align_celeba.txt", "000005.jpg 1 2", "not one of CelebA's tables"),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path, table, line, message):
    source = tmp_path / "archives"
    archives = tiny_archives.celeb_a(source)
    lines = (source / table).read_text().splitlines()
    lines = [line if text.startswith("000005.jpg") else text for text in lines]
    (source / table).write_text("\n".join(lines) + "\n")
    archives = tiny_archives.described("celeb_a", {key: source / value.name for key, value in archives.items()})
    with pytest.raises(DataError, match=message) as caught:
        prepare("celeb_a", tmp_path, source, silent, archives)
    assert one_line(caught).startswith(str(source / table))


def test_an_image_that_no_list_names(tmp_path):
    source = tmp_path / "archives"
    tiny_archives.places(source)
    tiny_archives.write_tar(source / "val_256.tar", {"val_256/stranger.jpg": tiny_archives.jpeg(0)})
    archives = tiny_archives.places(source, write=False)
    with pytest.raises(DataError, match=r"val_256/stranger\.jpg is not in places365_val\.txt"):
        prepare("places365_small", tmp_path, source, silent, archives)


def test_a_small_disk_is_refused_before_anything_is_read(faces, tmp_path, monkeypatch):
    source, archives = faces
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    monkeypatch.setattr(archives_module, "_sha256", None)
    lines = []
    with pytest.raises(DataError, match=r"64\.0 MiB are needed and 1\.0 MiB are free") as caught:
        prepare(FACADES, tmp_path, source, lines.append, archives)
    assert "--data-dir" in one_line(caught)
    assert any(line.startswith("the result") for line in lines)


def test_a_disk_that_fills_up_keeps_the_finished_shards(faces, tmp_path, monkeypatch):
    source, archives = faces
    plain = shutil.disk_usage

    def filling(path):
        full = list(Path(path).glob("*trainB*"))
        return plain(path)._replace(free=100) if full else plain(path)

    monkeypatch.setattr(shutil, "disk_usage", filling)
    with pytest.raises(DataError, match="are needed and 100 B are free"):
        prepare(FACADES, tmp_path, source, silent, archives)
    work = tmp_path / "cycle_gan" / "facades" / "3.0.0.incomplete-glcic"
    kept = {path: path.stat().st_mtime_ns for path in work.glob("*train*")}
    assert len(kept) == 2
    monkeypatch.setattr(shutil, "disk_usage", plain)
    directory = prepare(FACADES, tmp_path, source, silent, archives)
    assert {work / path.name: path.stat().st_mtime_ns for path in directory.glob("*train*.array*")} == kept


WRITES_ONTO_A_FULL_DISK = """
import random, resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
from glcic_jax.errors import DataError
from glcic_jax.data.preparation.shards import Workspace
workspace = Workspace(Path(sys.argv[1]), {})
workspace.write("small", [bytes(10)], 10, 1)
try:
    workspace.write("large", [random.randbytes(20_000) for _ in range(200)], 0, 200)
except DataError as error:
    print(error)
"""


def test_a_full_disk_is_one_line(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", WRITES_ONTO_A_FULL_DISK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "large" in process.stdout
    assert "cannot be written" in process.stdout
    assert len(process.stdout.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glcic-progress.json", "small"]


def test_a_second_process_is_kept_out(faces, tmp_path):
    source, archives = faces
    work = tmp_path / "cycle_gan" / "facades" / "3.0.0.incomplete-glcic"
    with shards.locked(work), pytest.raises(DataError, match="another glcic data prepare is at work"):
        prepare(FACADES, tmp_path, source, silent, archives)
    assert prepare(FACADES, tmp_path, source, silent, archives).is_dir()


def test_an_interruption_anywhere_changes_nothing_in_the_result(faces, tmp_path, monkeypatch):
    source, archives = faces
    reference = files_of(prepare(FACADES, tmp_path / "whole", source, silent, archives))
    for place in itertools.count():
        root = tmp_path / f"broken_{place}"
        with monkeypatch.context() as patch:
            tiny_archives.interrupt(
                patch, place, (os, "fsync"), (shards, "check_readable"), (shards, "clear_notes")
            )
            try:
                prepare(FACADES, root, source, silent, archives)
            except KeyboardInterrupt:
                finished = tfds_directory(FACADES, str(root))
            else:
                break
        assert finished is None or files_of(finished).keys() > reference.keys()
        directory = prepare(FACADES, root, source, silent, archives)
        assert files_of(directory) == reference
        assert os.listdir(directory.parent) == ["3.0.0"]
    assert place > 10  # Four shards and their notes, the check, the flushes and the clearing.


def test_a_verified_archive_is_not_read_again(faces, tmp_path, monkeypatch):
    source, archives = faces
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_split", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(FACADES, tmp_path, source, silent, archives)
    with monkeypatch.context() as patch:
        patch.setattr(archives_module, "_sha256", lambda *_: 1 / 0)
        with monkeypatch.context() as deeper:
            deeper.setattr(prepare_module, "write_split", lambda *_: {}["got this far"])
            with pytest.raises(KeyError, match="got this far"):
                prepare(FACADES, tmp_path, source, silent, archives)
        os.utime(source / archives["images"].name, (1, 1))  # Changed, for all that is known.
        with pytest.raises(ZeroDivisionError):
            prepare(FACADES, tmp_path, source, silent, archives)


def test_other_archives_begin_anew(faces, tmp_path, monkeypatch):
    source, archives = faces
    with monkeypatch.context() as patch:
        patch.setattr(shards, "check_readable", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(FACADES, tmp_path, source, silent, archives)
    files = {
        f"facades/{folder}/1_A.jpg": tiny_archives.jpeg(7) for folder in ("trainA", "trainB", "testA", "testB")
    }
    path = tiny_archives.write_zip(source / "facades.zip", files)
    directory = prepare(FACADES, tmp_path, source, silent, tiny_archives.described(FACADES, {"images": path}))
    assert len(records_in(directory / "cycle_gan-trainA.array_record-00000-of-00001")) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from helpers import tiny_archives
from glcic_jax import preparation, shards
from tensorflow_datasets.core.utils import shard_utils
shard_utils.ShardConfig.calculate_number_shards = lambda *_: 4
plain, left = shards._flush, iter(range(int(sys.argv[3])))
def flush(path):
    if next(left, None) is None:
        assert "tensorflow" not in sys.modules
        print(path.name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    plain(path)
shards._flush = flush
root, source = map(Path, sys.argv[1:3])
preparation.prepare("places365_small", root, source, str, tiny_archives.places(source, write=False))
"""


def test_a_killed_process_is_resumed(tmp_path, monkeypatch):
    from tensorflow_datasets.core.utils import shard_utils

    source = tmp_path / "archives"
    archives = tiny_archives.places(source)
    monkeypatch.setattr(shard_utils.ShardConfig, "calculate_number_shards", lambda *_: 4)
    reference = files_of(prepare("places365_small", tmp_path / "whole", source, silent, archives))
    for flushes, at in (
        (3, "glcic-progress.json.glcic-part"),
        (2, "train.array_record-00002-of-00004.glcic-part"),
    ):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(source), str(flushes)]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert process.stdout.strip().endswith(at)
    directory = prepare("places365_small", tmp_path / "killed", source, silent, archives)
    assert files_of(directory) == reference
    assert os.listdir(directory.parent) == ["2.1.0"]


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", "from glcic_jax.commands.main import main; main()", "data", "prepare", "celeb_a"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "TFDS_DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr.startswith("error: 5 archives have to be downloaded with a browser")
    assert len(process.stderr.splitlines()) == 1


def ask(archives: dict[str, Archive], monkeypatch, *arguments: str):
    """Runs the command with archives that stand for the published ones."""
    monkeypatch.setattr(prepare_module, "_registered", lambda *_: archives)
    return CliRunner().invoke(cli, ["data", "prepare", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("name", MAKERS)
def test_the_command_ends_with_how_to_train(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    archives = MAKERS[name](tmp_path / "archives")
    result = ask(archives, monkeypatch, name, "--from", "~/archives", "--data-dir", str(tmp_path))
    assert result.exit_code == 0
    python, main, config, *flags = shlex.split(result.output.splitlines()[-1])
    assert (python, main) == ("python", "main.py")
    assert Path(config).stem == ("celeba" if name == "celeb_a" else "joint")
    given = dict(flag.removeprefix("--config.data.").split("=", 1) for flag in flags)
    assert given.pop("source") == f"tfds:{name}"
    assert given.pop("tfds_dir") == str(tmp_path)
    cycle_gan = {"train_split": "trainA", "validation_split": "testA"}
    assert given == (cycle_gan if name == FACADES else {})
    data = load_config(Path(config).stem).data
    data.update(source=f"tfds:{name}", tfds_dir=str(tmp_path), **given)
    assert len(open_sources(data).train) > 0
    assert "reading the archive's table of contents" in result.output


def test_ctrl_c_says_how_to_go_on(faces, tmp_path, monkeypatch):
    source, archives = faces
    monkeypatch.setattr(prepare_module, "write_split", tiny_archives.raise_keyboard_interrupt)
    result = ask(archives, monkeypatch, FACADES, "--from", str(source), "--data-dir", str(tmp_path))
    assert result.exit_code == 130
    assert result.output.splitlines()[-1] == "stopped; the same command goes on"


def test_what_another_process_has_finished_meanwhile_is_taken(faces, tmp_path, monkeypatch):
    source, archives = faces
    plain = shards.locked

    @contextlib.contextmanager
    def late(directory: Path):
        monkeypatch.setattr(shards, "locked", plain)
        prepare(FACADES, tmp_path, source, silent, archives)
        with plain(directory):
            yield

    monkeypatch.setattr(shards, "locked", late)
    directory = prepare(FACADES, tmp_path, source, silent, archives)
    assert os.listdir(directory.parent) == ["3.0.0"]
    assert len(list(directory.glob("*array_record*"))) == 4


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.EWOULDBLOCK, "another glcic data prepare"), (errno.EIO, "cannot be locked"), (errno.ENOLCK, None)],
)
def test_only_a_lock_that_is_held_means_another_process(tmp_path, monkeypatch, caplog, code, message):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shards.fcntl, "flock", flock)
    if message is None:
        with shards.locked(tmp_path):
            assert "without locks" in caplog.text
        return
    with pytest.raises(DataError, match=message) as caught, shards.locked(tmp_path):
        pass
    one_line(caught)


def test_a_root_that_is_read_only_asks_for_another(tmp_path, monkeypatch):
    def mkdir(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(DataError, match="choose another directory with --data-dir"), shards.locked(tmp_path / "a"):
        pass


def test_downloads_may_lie_on_another_disk(faces, tmp_path, monkeypatch):
    source, archives = faces
    server = Server((source / "facades.zip").read_bytes())
    archives = {"images": archives["images"]._replace(url=server.url)}
    root = tmp_path / "root"
    (root / "downloads").mkdir(parents=True)
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shards, "on_one_disk", lambda *_: False)
    full = root / "downloads"
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=0 if Path(path) == full else usage.free)
    )
    with pytest.raises(DataError, match=f"{full}: .* are needed and 0 B are free"):
        prepare(FACADES, root, None, silent, archives)
    full = None
    lines = []
    prepare(FACADES, root, None, lines.append, archives)
    server.stop()
    assert lines[-1].startswith(f"what was downloaded to {root / 'downloads'} is not needed any more and takes ")
    lines.clear()
    prepare(FACADES, tmp_path / "again", source, lines.append, archives)
    assert not [line for line in lines if line.startswith(("to download", "what was downloaded"))]


def test_a_wrong_number_of_records_leaves_nothing(tmp_path):
    workspace = shards.Workspace(tmp_path, {})
    with pytest.raises(DataError, match="2 examples were read, 3 are expected"):
        workspace.write("shard", [b"1", b"2"], 2, 3)
    assert os.listdir(tmp_path) == []


def test_a_tar_with_a_checksum_that_is_no_number(tmp_path):
    path = tiny_archives.write_tar(tmp_path / "some.tar", {"a.jpg": b"1" * 300})
    content = bytearray(path.read_bytes())
    content[148:154] = b"999999"
    path.write_bytes(content)
    with pytest.raises(DataError, match="truncated, damaged") as caught:
        open_members(path)
    one_line(caught)


def test_the_tables_of_celeb_a_are_read_once(tmp_path, monkeypatch):
    archives = tiny_archives.celeb_a(tmp_path / "archives")
    read = []
    plain = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: read.append(self.name) or plain(self, *a, **k))
    prepare("celeb_a", tmp_path, tmp_path / "archives", silent, archives)
    assert read.count("list_attr_celeba.txt") == 1
