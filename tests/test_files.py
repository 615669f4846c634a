"""Atomic writes, locks and checksums."""

import hashlib
import os
import pickle
import resource

import pytest

from glcic_jax.errors import DataError, TooLargeError
from glcic_jax.files import lock, sha256_of, write_atomically


def test_text_and_bytes_are_written_and_replaced(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    write_atomically(path, "grün")
    assert path.read_bytes() == "grün".encode()
    path.chmod(0o640)
    write_atomically(str(path), b"\xff")
    assert path.read_bytes() == b"\xff"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_the_old_file_intact(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"the old content")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DataError, match=r"a: cannot be written \(.*File too large"):
            write_atomically(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"the old content"
    assert os.listdir(tmp_path) == ["a"]


def test_a_directory_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="a: is a directory"):
        write_atomically(tmp_path / "a", b"")
    assert os.listdir(tmp_path) == ["a"]


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is a device, a pipe or the like"):
        write_atomically(tmp_path / "pipe", b"")
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/a", "file/a/b"])
def test_impossible_names_are_one_line(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        write_atomically(f"{tmp_path}/{name}", b"")
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_excludes_others_and_shared_ones_exclude_writers(tmp_path):
    path = tmp_path / "lock"
    for held in (False, True):
        with lock(path, shared=held), pytest.raises(BlockingIOError), lock(path, wait=False):
            pass
    with lock(path, shared=True), lock(path, shared=True, wait=False):
        pass
    with lock(path, wait=False):
        pass


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(DataError, match="missing: cannot be read"):
        sha256_of(tmp_path / "missing")


def test_an_error_can_be_sent_to_another_process():
    error = pickle.loads(pickle.dumps(TooLargeError("too large", "take another")))
    assert (str(error), error.fact, error.remedy) == ("too large: take another", "too large", "take another")
