import os
import stat
import time

import pytest

from glcic_jax.serving.private_folder import PrivateFolder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return PrivateFolder(max_bytes=100, seconds=60)


def put(folder, name, size, age):
    path = folder.path / name / "file"
    path.parent.mkdir()
    path.write_bytes(b"\0" * size)
    for one in (path, path.parent):
        os.utime(one, (time.time() - age,) * 2)
    return path


def test_only_its_user_can_open_it(folder, tmp_path):
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert folder.path.parent == tmp_path


def test_what_is_old_is_deleted_with_its_folder(folder):
    old, new = put(folder, "old", 1, 100), put(folder, "new", 1, 10)
    os.symlink("/nowhere", new.with_name("dangling"))
    folder.prune()
    assert new.exists()
    assert not old.exists()
    os.utime(old.parent, (time.time() - 100,) * 2)  # Deleting in it was a change of it.
    folder.prune()
    assert not old.parent.exists()
    assert new.exists()


def test_what_is_too_much_is_deleted_the_oldest_first(folder):
    kept = [put(folder, str(age), 40, age) for age in (3, 2, 1)]
    folder.prune()
    assert [path.exists() for path in kept] == [False, True, True]


def test_a_folder_that_was_just_made_stays(folder):
    (folder.path / "new").mkdir()
    folder.prune()
    assert (folder.path / "new").exists()


def test_it_goes_with_all_that_is_in_it(folder):
    put(folder, "a", 1, 0)
    folder.remove()
    assert not folder.path.exists()
