"""TFRecord preparations of TFDS become array_record without TensorFlow, beside them or elsewhere."""

import errno
import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
from helpers import tiny_archives
from helpers.common import load_config, one_line
from helpers.tiny_archives import interrupt, records_in, silent, write_tfrecord

from glcic_jax.data.preparation import shards
from glcic_jax.data.preparation.prepare import prepare
from glcic_jax.data.preparation.tfrecord import masked_crc, read_records
from glcic_jax.data.sources import open_sources
from glcic_jax.errors import ConfigError, DataError

NAME = "places365_small"
TRAIN = f"{NAME}-train.tfrecord-00000-of-00002"


@pytest.fixture(scope="module")
def as_array_record(tmp_path_factory) -> Path:
    """A prepared data set with two shards of the training split."""
    from tensorflow_datasets.core.utils import shard_utils

    root = tmp_path_factory.mktemp("array_record")
    archives = tiny_archives.places(root / "archives")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            shard_utils.ShardConfig, "calculate_number_shards", lambda self, total, count, _: 1 + count // 20
        )
        return prepare(NAME, root, root / "archives", silent, archives)


@pytest.fixture
def tfrecord(as_array_record, tmp_path) -> Path:
    """The same data set as TFDS prepares it by default."""
    directory = tmp_path / "tfds" / NAME / "2.1.0"
    shutil.copytree(as_array_record, directory)
    for path in directory.glob("*array_record*"):
        write_tfrecord(path.with_name(path.name.replace("array_record", "tfrecord")), records_in(path))
        path.unlink()
    info = json.loads((directory / "dataset_info.json").read_text())
    (directory / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    return directory


def examples(directory: Path) -> list[tuple]:
    """Everything that plain TFDS reads, encoded images as they are."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    found = []
    for split in ("train", "test", "validation"):
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        found += [(split, source[place]) for place in range(len(source))]
    return found


def training_images(root: Path) -> list[bytes]:
    data = load_config("quickstart").data
    data.update(source=f"tfds:{NAME}", tfds_dir=str(root))
    source = open_sources(data).train
    return [source.read(index) for index in range(len(source))]


def test_beside_the_source_tfds_reads_either(tfrecord, as_array_record):
    root = tfrecord.parents[1]
    before = {path.name: path.read_bytes() for path in tfrecord.iterdir()}
    with pytest.raises(DataError, match=f"glcic data prepare {NAME} --data-dir={root}"):
        training_images(root)
    assert prepare(NAME, root, None, silent) == tfrecord
    assert examples(tfrecord) == examples(as_array_record)
    assert len(set(training_images(root))) == 20
    info = json.loads((tfrecord / "dataset_info.json").read_text())
    assert info == {**json.loads(before.pop("dataset_info.json")), "alternativeFileFormats": ["array_record"]}
    after = {path.name: path.read_bytes() for path in tfrecord.iterdir()}
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 5
    assert prepare(NAME, root, None, silent) == tfrecord
    elsewhere = prepare(NAME, root / "elsewhere", root, silent)  # As to a faster disk.
    assert sorted(os.listdir(elsewhere)) == sorted(os.listdir(as_array_record))
    assert examples(elsewhere) == examples(as_array_record)


@pytest.mark.parametrize("given", ["version", "data set", "root"])
def test_elsewhere_the_result_is_plain_array_record(tfrecord, as_array_record, tmp_path, given):
    source = {"version": tfrecord, "data set": tfrecord.parent, "root": tfrecord.parents[1]}[given]
    directory = prepare(NAME, tmp_path / "other", source, silent)
    assert directory == tmp_path / "other" / NAME / "2.1.0"
    assert examples(directory) == examples(as_array_record)
    assert sorted(os.listdir(directory)) == sorted(os.listdir(as_array_record))
    for path in as_array_record.iterdir():
        if "array_record" in path.name:
            assert records_in(directory / path.name) == records_in(path)
        elif path.name != "dataset_info.json":
            assert (directory / path.name).read_bytes() == path.read_bytes()
    assert json.loads((directory / "dataset_info.json").read_text())["fileFormat"] == "array_record"
    assert len(training_images(tmp_path / "other")) == 20
    assert os.listdir(directory.parent) == ["2.1.0"]


def test_a_configuration_has_its_place(tfrecord, tmp_path):
    info = json.loads((tfrecord / "dataset_info.json").read_text())
    (tfrecord / "dataset_info.json").write_text(json.dumps({**info, "configName": "small"}))
    directory = prepare(f"{NAME}/small", tmp_path / "other", tfrecord, silent)
    assert directory == tmp_path / "other" / NAME / "small" / "2.1.0"


def test_what_is_there_as_tfrecord_is_converted_where_only_archives_are_given(tfrecord, tmp_path):
    (tmp_path / "archives").mkdir()
    assert prepare(NAME, tfrecord.parents[1], tmp_path / "archives", silent) == tfrecord
    assert len(training_images(tfrecord.parents[1])) == 20


def test_an_older_version_is_converted_beside_a_newer_one(tfrecord, as_array_record):
    newer = tfrecord.with_name("3.0.0")
    shutil.copytree(as_array_record, newer)
    info = json.loads((newer / "dataset_info.json").read_text())
    (newer / "dataset_info.json").write_text(json.dumps({**info, "version": "3.0.0"}))
    root = tfrecord.parents[1]
    data = load_config("quickstart").data
    data.update(source=f"tfds:{NAME}:2.1.0", tfds_dir=str(root))
    with pytest.raises(DataError, match="convert it") as caught:
        open_sources(data)
    assert one_line(caught).endswith(f"glcic data prepare {NAME}:2.1.0 --data-dir={root}")
    assert prepare(NAME, root, None, silent) == newer
    assert prepare(f"{NAME}:2.1.0", root, None, silent) == tfrecord
    assert len(open_sources(data).train) == 20


def test_a_version_that_nobody_can_make_is_refused(tfrecord, tmp_path):
    message = r"9\.9\.9 is not prepared in .*: glcic data prepare \w+:2\.1\.0"
    for source in (None, tmp_path):
        with pytest.raises(ConfigError, match=message) as caught:
            prepare(f"{NAME}:9.9.9", tmp_path / "other", source, silent)
        one_line(caught)
    with pytest.raises(DataError, match=f"holds the data set {NAME}/2.1.0, not {NAME}/9.9.9"):
        prepare(f"{NAME}:9.9.9", tmp_path / "other", tfrecord, silent)


def test_a_read_only_data_set_keeps_its_notes(tfrecord, monkeypatch):
    prepare(NAME, tfrecord.parents[1], None, silent)
    (tfrecord / "glcic.lock").touch()

    def unlink(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", unlink)
    assert prepare(NAME, tfrecord.parents[1], None, silent) == tfrecord


def test_many_small_records_need_their_overhead(tfrecord, monkeypatch):
    monkeypatch.setattr(shards, "_OVERHEAD", 1 << 30)
    usage = shutil.disk_usage(tfrecord)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20 << 30))
    with pytest.raises(DataError, match=r"30\.0 GiB are needed"):
        prepare(NAME, tfrecord.parents[1], None, silent)
    assert not list(tfrecord.glob("*array_record*"))


def test_another_data_set_is_not_taken_for_it(tfrecord, tmp_path):
    with pytest.raises(DataError, match=f"holds the data set {NAME}/2.1.0, not celeb_a"):
        prepare("celeb_a", tmp_path / "other", tfrecord, silent)


def test_an_old_preparation_names_no_format(tfrecord):
    info = json.loads((tfrecord / "dataset_info.json").read_text())
    del info["fileFormat"]
    (tfrecord / "dataset_info.json").write_text(json.dumps(info))
    prepare(NAME, tfrecord.parents[1], None, silent)
    assert len(training_images(tfrecord.parents[1])) == 20


@pytest.mark.parametrize("beside", [True, False])
def test_an_interruption_anywhere_changes_nothing_in_the_result(tfrecord, tmp_path, monkeypatch, beside):
    def run(place: int) -> Path:
        """Beside: in a copy of the source; else the source is the same for all."""
        root = tmp_path / f"{place}"
        if beside and not root.exists():
            shutil.copytree(tfrecord.parents[1], root)
        return prepare(NAME, root, None if beside else tfrecord, silent)

    expected = {path.name: path.read_bytes() for path in run(-1).iterdir()}
    for place in itertools.count():
        with monkeypatch.context() as patch:
            interrupt(patch, place, (os, "fsync"), (shards, "check_readable"), (shards, "clear_notes"))
            try:
                run(place)
            except KeyboardInterrupt:
                interrupted = True
            else:
                break
        assert interrupted
        directory = run(place)
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == expected
        assert os.listdir(directory.parent) == ["2.1.0"]
    assert place > 11  # Four shards and their notes, the information, the check, the flushes and the clearing.


def spoil(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: spoil(path, 500), "the record at byte 0 has a wrong checksum"),
        (lambda path: spoil(path, 3), "the record at byte 0 has a wrong length checksum"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-7]),
            r"truncated: the record at byte \d{5,} is cut off",
        ),
        (lambda path: path.write_bytes(path.read_bytes() + b"12345"), r"the record at byte \d+ has no whole head"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)), "is compressed, or no TFRecord file"),
        (lambda path: path.write_bytes(b""), "has 0 records, 10 in dataset_info.json"),
        (lambda path: write_tfrecord(path, [*read_records(path), b"x"]), "has 11 records, 10 in dataset_info"),
    ],
)
def test_a_damaged_shard_is_named_with_the_place(tfrecord, damage, message):
    damage(tfrecord / TRAIN)
    before = (tfrecord / "dataset_info.json").read_bytes()
    with pytest.raises(DataError, match=message) as caught:
        prepare(NAME, tfrecord.parents[1], None, silent)
    assert one_line(caught).startswith(str(tfrecord / TRAIN))
    assert (tfrecord / "dataset_info.json").read_bytes() == before


def test_missing_shards_are_counted(tfrecord):
    (tfrecord / TRAIN).unlink()
    with pytest.raises(DataError, match=f"lacks 1 of 4 shards, first {TRAIN}"):
        prepare(NAME, tfrecord.parents[1], None, silent)


def test_a_small_disk_is_refused_beforehand(tfrecord, monkeypatch):
    usage = shutil.disk_usage(tfrecord)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="are needed and 1000 B are free") as caught:
        prepare(NAME, tfrecord.parents[1], None, silent)
    one_line(caught)
    assert not list(tfrecord.glob("*array_record*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fileFormat": "riegeli"}, "prepared as riegeli: only TFRecord can be converted"),
        ({"splits": []}, "names no shards"),
        ({"version": []}, "not a readable TFDS data set"),
    ],
)
def test_what_cannot_be_converted_is_refused(tfrecord, changes, message):
    info = json.loads((tfrecord / "dataset_info.json").read_text())
    (tfrecord / "dataset_info.json").write_text(json.dumps({**info, **changes}))
    with pytest.raises(DataError, match=message) as caught:
        prepare(NAME, tfrecord.parents[1], None, silent)
    one_line(caught)


def test_a_preparation_without_features_is_refused(tfrecord):
    (tfrecord / "features.json").unlink()
    with pytest.raises(DataError, match="not a readable TFDS data set"):
        prepare(NAME, tfrecord.parents[1], None, silent)


def test_the_checksum_is_the_one_of_the_format():
    # The check value of CRC-32C for these nine digits is 0xE3069283.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_what_another_writer_of_the_format_wrote(tmp_path):
    from tensorboardX.record_writer import RecordWriter

    writer = RecordWriter(str(tmp_path / "events"))
    contents = [b"", b"one", bytes(5000)]
    for content in contents:
        writer.write(content)
    writer.close()
    assert list(read_records(tmp_path / "events")) == contents
