"""Downloads from a server that drops connections, knows no ranges, or has another file."""

import contextlib
import http.server
import random
import threading

import pytest

from glcic_jax.data.preparation import download as download_module
from glcic_jax.data.preparation.download import download
from glcic_jax.errors import DataError

CONTENT = random.Random(0).randbytes(3_000_000)


class Server:
    """Serves one file; `drops` says after how many bytes each answer breaks off, in turn."""

    def __init__(self, content: bytes = CONTENT):
        self.content, self.etag = content, '"one"'
        self.ranges, self.status = True, 200
        self.drops: list[int] = []
        self.tells_length = True
        self.kind = "application/x-tar"
        self.requests: list[str | None] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/file.tar"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler) -> None:
        asked = handler.headers["Range"]
        self.requests.append(asked)
        if self.status != 200:
            handler.send_error(self.status)
            return
        start = int(asked[len("bytes=") : -1]) if asked and self.ranges else 0
        if handler.headers["If-Range"] not in (None, self.etag):
            start = 0
        if start and start >= len(self.content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if self.tells_length:
            handler.send_header("Content-Length", str(len(self.content) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Type", self.kind)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.end_headers()
        end = start + self.drops.pop(0) if self.drops else len(self.content)
        with contextlib.suppress(ConnectionError):  # The reader turned away.
            handler.wfile.write(self.content[start:end])
        handler.close_connection = True

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


def fetch(server: Server, target, size: int = len(CONTENT)) -> None:
    download(server.url, target, size, lambda line: None, pause=0.001)


def test_dropped_connections_are_taken_up_where_they_broke(server, tmp_path):
    server.drops = [1_200_000, 0, 700_000]
    fetch(server, tmp_path / "new" / "file.tar")
    assert (tmp_path / "new" / "file.tar").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1200000-", "bytes=1200000-", "bytes=1900000-"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.tar"]


def test_a_later_run_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_ATTEMPTS", 2)
    server.drops = [1_000_000, *[0] * 2]
    with pytest.raises(DataError, match=r"broke off after 976\.6 KiB of 2\.9 MiB") as caught:
        fetch(server, tmp_path / "file.tar")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "file.tar").exists()
    fetch(server, tmp_path / "file.tar")
    assert server.requests[-1] == "bytes=1000000-"
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.ranges = False
    server.drops = [1_000_000]
    fetch(server, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


def test_a_file_that_changed_is_not_joined_to_the_old_one(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_ATTEMPTS", 1)
    server.drops = [1_000_000, 0]
    with pytest.raises(DataError, match="broke off"):
        fetch(server, tmp_path / "file.tar")
    server.content, server.etag = CONTENT[::-1], '"two"'
    fetch(server, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("length", [len(CONTENT) - 5, len(CONTENT) + 5])
@pytest.mark.parametrize("have", [0, 100])
def test_a_file_of_another_size_is_refused(server, tmp_path, length, have):
    server.content = (CONTENT * 2)[:length]
    (tmp_path / "file.tar.part").write_bytes(CONTENT[:have])
    with pytest.raises(DataError, match=f"has {length} bytes, 3000000 are expected") as caught:
        fetch(server, tmp_path / "file.tar")
    assert len(str(caught.value).splitlines()) == 1


def test_a_server_that_does_not_end_is_left(server, tmp_path):
    server.tells_length = False
    server.content = CONTENT * 20
    with pytest.raises(DataError, match="sends more than the 3000000 bytes"):
        fetch(server, tmp_path / "file.tar")
    assert not (tmp_path / "file.tar.part").exists()


def test_a_login_page_is_no_archive(server, tmp_path):
    server.kind, server.tells_length, server.content = "text/html; charset=utf-8", False, b"<html>please log in"
    with pytest.raises(DataError, match="has a page, not a file") as caught:
        fetch(server, tmp_path / "file.tar")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "file.tar.part").exists()


@pytest.mark.parametrize("validator", [None, "", "[1]", '"one'])
def test_a_part_of_unknown_origin_begins_anew(server, tmp_path, validator):
    (tmp_path / "file.tar.part").write_bytes(b"<html>please log in")
    if validator is not None:
        (tmp_path / "file.tar.part.json").write_text(validator)
    fetch(server, tmp_path / "file.tar")
    assert server.requests == [None]
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


def test_without_a_network_it_gives_up_soon(tmp_path):
    lines = []
    with pytest.raises(DataError, match=r"cannot be reached .*--from DIR takes archives"):
        download("http://127.0.0.1:1/file.tar", tmp_path / "file.tar", 10, lines.append, pause=0.001)
    assert [line.split(", ")[-1] for line in lines[-2:]] == ["2 times at the most", "1 times at the most"]


def test_a_part_that_is_too_long_begins_anew(server, tmp_path):
    (tmp_path / "file.tar.part").write_bytes(CONTENT + b"more")
    fetch(server, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == CONTENT


def test_a_whole_part_needs_no_server(server, tmp_path):
    (tmp_path / "file.tar.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "file.tar")
    assert server.requests == []
    assert (tmp_path / "file.tar").exists()


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_ATTEMPTS", 3)
    server.status = 503
    with pytest.raises(DataError, match="the server answers 503"):
        fetch(server, tmp_path / "file.tar")
    assert len(server.requests) == 3
    server.status = 404
    with pytest.raises(DataError, match="the server answers 404 Not Found"):
        fetch(server, tmp_path / "file.tar")
    assert len(server.requests) == 4


def test_nobody_answers(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_ATTEMPTS", 2)
    server.stop()
    with pytest.raises(DataError, match="refused"):
        fetch(server, tmp_path / "file.tar")


def test_a_disk_that_cannot_be_written_is_not_a_broken_connection(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(server, tmp_path / "file" / "file.tar")
    assert server.requests == []
