"""`glcic data prepare`: the door to TFDS, and the conversion of TFRecord preparations."""

import hashlib
import importlib.util
import io
import os
import shlex
import shutil
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from helpers.common import command_runner, one_line
from helpers.images import contents, open_with, png

from glcic_jax.commands import main
from glcic_jax.data import prepare as prepare_module
from glcic_jax.data.prepare import prepare, training_command
from glcic_jax.errors import DataError

IMAGES = {"train": range(6), "validation": range(6, 9)}
URL = "http://127.0.0.1:9/tiny.zip"  # Nothing listens there.


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for split, tags in IMAGES.items():
            for tag in tags:
                zipped.writestr(zipfile.ZipInfo(f"{split}/{tag}.png"), png(tag))
    return file.getvalue()


@pytest.fixture(scope="module")
def builder_cls():
    """A registered TFDS builder, whose archives have registered checksums."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo

    class TinyArchive(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("plain", "extracted")]  # noqa: RUF012
        url_infos = {  # noqa: RUF012
            URL: UrlInfo(len(archive()), hashlib.sha256(archive()).hexdigest(), "tiny.zip"),
            "http://127.0.0.1:9/huge.zip": UrlInfo(10**15, "0" * 64, "of_another_configuration.zip"),
        }

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            if self.builder_config.name == "extracted":
                folder = Path(dl_manager.download_and_extract(URL))
                files = {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*.png")}
            else:
                with zipfile.ZipFile(dl_manager.download({"images": [URL]})["images"][0]) as zipped:
                    files = {Path(name): zipped.read(name) for name in zipped.namelist()}
            return {split: self._generate_examples(files, split) for split in IMAGES}

        def _generate_examples(self, files, split):
            for path, content in files.items():
                if path.parent.name == split:
                    yield path.name, {"image": io.BytesIO(content)}

    return TinyArchive


@pytest.fixture
def tensorflow(monkeypatch, builder_cls):
    """Lets the door open without TensorFlow: this builder and array_record need none of it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorflow" or find_spec(name))


@pytest.fixture
def archives(tmp_path) -> Path:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "tiny.zip").write_bytes(archive())
    return tmp_path / "archives"


def assert_complete(data_dir: Path, name: str) -> None:
    sources = open_with(f"tfds:{name}", tfds_dir=str(data_dir))
    assert contents(sources.train) == sorted(map(png, IMAGES["train"]))
    assert contents(sources.validation) == sorted(map(png, IMAGES["validation"]))


def test_prepare_from_downloaded_archives(tensorflow, archives, tmp_path):
    data_dir = tmp_path / "tfds"
    arguments = ["data", "prepare", "tiny_archive/plain", "--from", str(archives), "--data-dir", str(data_dir)]
    done = command_runner().invoke(main.cli, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    lines = done.stdout.splitlines()
    assert lines[0] == f"tiny.zip  1.7 KiB  found in {archives}"
    assert lines[1].startswith("disk space  about 1.7 KiB needed, ")
    assert lines[-2] == f"{data_dir}/tiny_archive/plain/1.0.0 is ready. To train on it:"
    assert shlex.split(lines[-1])[:2] == ["glcic", "train"]
    assert_complete(data_dir, "tiny_archive/plain")
    again = command_runner().invoke(main.cli, arguments)
    assert again.stdout.splitlines()[0] == f"{data_dir}/tiny_archive/plain/1.0.0 is already prepared"


def test_missing_archives_are_named_before_anything_is_downloaded(tensorflow, builder_cls, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        builder_cls, "download_and_prepare", lambda self, **options: started.append((self, options))
    )
    log: list[str] = []
    prepare("tiny_archive/extracted:1.0.0", str(tmp_path), tmp_path, log.append)
    assert log[0] == f"tiny.zip  1.7 KiB  not in {tmp_path}, to be downloaded from {URL}"
    assert log[1].startswith("disk space  about 5.1 KiB needed, ")  # The archive, its contents, the result.
    [(builder, options)] = started
    assert builder.info.file_format.value == "array_record"
    assert options["download_config"].manual_dir == tmp_path
    log.clear()
    prepare("tiny_archive/plain", str(tmp_path), None, log.append)
    assert log[0] == f"tiny.zip  1.7 KiB  to be downloaded from {URL}"


def test_too_little_disk_space_is_an_error_before_the_download(tensorflow, archives, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 1000, 1000))
    with pytest.raises(DataError, match=r"too little disk space: about 1\.7 KiB needed, 1000 B free") as caught:
        prepare("tiny_archive/plain", str(tmp_path / "tfds"), archives, str)
    one_line(caught)
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tiny_archive/plain", b"another file", "NonMatchingChecksumError"),
        ("tiny_archive/plain:7.0.0", archive(), "7.0.0"),
        ("tiny_archive/missing", archive(), "missing"),
        ("no_such_data_set", archive(), "DatasetNotFoundError"),
    ],
)
def test_errors_of_tfds_are_one_line(tensorflow, archives, tmp_path, name, content, words):
    (archives / "tiny.zip").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        prepare(name, str(tmp_path / "tfds"), archives, str)
    assert one_line(caught).startswith(f"TFDS cannot prepare {name.partition(':')[0]} (")
    assert not list(tmp_path.rglob("dataset_info.json"))


def test_a_missing_tensorflow_or_folder_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )
    for options, words in (
        ((), "needs TensorFlow, training does not: pip install 'glcic-jax[prepare]'"),
        (("--from", str(tmp_path / "nowhere")), "nowhere: no such folder"),
    ):
        arguments = ["glcic", "data", "prepare", "mnist", "--data-dir", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as caught:
            main.main()
        error = capsys.readouterr().err
        assert caught.value.code == 2
        assert words in error
        assert error.count("\n") == 1


def test_ctrl_c_exits_with_130_without_waiting_for_downloads(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "prepare", interrupt)
    monkeypatch.setattr(os, "_exit", sys.exit)
    done = command_runner().invoke(main.cli, ["data", "prepare", "mnist"])
    assert done.exit_code == 130
    assert "the same command continues" in done.stderr


@pytest.mark.parametrize(
    ("name", "splits", "data_dir", "expected"),
    [
        ("places365_small", ["train", "validation"], "", "joint --config.data.source=tfds:places365_small"),
        ("celeb_a:2.1.0", ["train", "validation"], "", "celeba --config.data.source=tfds:celeb_a:2.1.0"),
        (
            "cycle_gan/facades",
            ["trainA", "testA"],
            "/my data",
            "joint --config.data.source=tfds:cycle_gan/facades --config.data.train_split=trainA "
            "--config.data.validation_split=testA '--config.data.tfds_dir=/my data'",
        ),
    ],
)
def test_the_training_command_fits_the_data_set(tmp_path, name, splits, data_dir, expected):
    entries = ", ".join(f'{{"name": "{split}"}}' for split in splits)
    (tmp_path / "dataset_info.json").write_text(f'{{"splits": [{entries}]}}')
    assert training_command(name, tmp_path, data_dir) == f"glcic train --config={expected}"


@pytest.fixture(scope="module")
def tfrecord(builder_cls, tmp_path_factory) -> Path:
    """A TFDS data directory with a data set prepared as TFRecord, in two shards of each split."""
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfrecord")
    (root / "tiny.zip").write_bytes(archive())
    config = tfds.download.DownloadConfig(manual_dir=root, num_shards=2)
    builder_cls(data_dir=root, config="extracted", file_format="tfrecord").download_and_prepare(
        download_config=config
    )
    return root


@pytest.mark.parametrize("place", ["version", "data_dir", "in place"])
def test_a_tfrecord_preparation_is_converted(tfrecord, tmp_path, place):
    name = "tiny_archive/extracted"
    origin = tmp_path / "old"
    shutil.copytree(tfrecord, origin)
    before = sorted(path.name for path in (origin / name / "1.0.0").iterdir())
    data_dir = origin if place == "in place" else tmp_path / "new"
    source = {"version": origin / name / "1.0.0", "data_dir": origin, "in place": None}[place]
    log: list[str] = []
    with pytest.MonkeyPatch.context() as patch:  # An interruption after the first shard.
        write, written = prepare_module.Path.rename, []

        def rename_once(self, target):
            if written:
                raise KeyboardInterrupt
            written.append(target)
            return write(self, target)

        patch.setattr(prepare_module.Path, "rename", rename_once)
        with pytest.raises(KeyboardInterrupt):
            prepare(name, str(data_dir), source, log.append)
    first = written[0].stat().st_mtime_ns
    directory = prepare(name, str(data_dir), source, log.append)
    assert "is prepared as TFRecord: converting it to array_record" in log[0]
    assert directory == data_dir / name / "1.0.0"
    assert written[0].stat().st_mtime_ns == first
    assert_complete(data_dir, name)
    assert set(before) <= {path.name for path in (origin / name / "1.0.0").iterdir()}
    assert not list(tmp_path.rglob("*.incomplete"))
    if source is not None:
        with pytest.raises(DataError, match="is already prepared as array_record"):
            prepare(name, str(tmp_path / "other"), directory, log.append)


def test_an_incomplete_tfrecord_preparation_is_an_error(tfrecord, tmp_path):
    shutil.copytree(tfrecord, tmp_path / "old")
    next(tmp_path.rglob("*.tfrecord-*")).unlink()
    with pytest.raises(DataError, match="3 of 4 TFRecord files found"):
        prepare("tiny_archive/extracted", str(tmp_path / "old"), None, str)


def test_tensorflow_extracts_archives(builder_cls, archives, tmp_path):
    pytest.importorskip("tensorflow")
    prepare("tiny_archive/extracted", str(tmp_path / "tfds"), archives, str)
    assert_complete(tmp_path / "tfds", "tiny_archive/extracted")
