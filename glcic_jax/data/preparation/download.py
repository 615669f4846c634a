"""Downloads a file of known size, and goes on where an earlier attempt stopped."""

import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from glcic_jax.errors import DataError, one_line
from glcic_jax.progress import Log as Tell
from glcic_jax.progress import Progress
from glcic_jax.progress import format_bytes as in_words

_BLOCK = 1 << 20
_TIMEOUT = 60.0  # Seconds without a byte.
_ATTEMPTS = 8  # In a row that bring nothing new.
_FIRST_ATTEMPTS = 3  # That bring nothing at all.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class _DroppedError(Exception):
    """The connection ended early, or the server is busy: worth another attempt."""


class _UnreachableError(_DroppedError):
    """There was no connection."""


def download(url: str, target: Path, size: int, tell: Tell, pause: float = 1.0) -> None:
    """Downloads `url` to `target` by way of `target`.part.

    A dropped connection is taken up again at the byte where it broke, in this run or in a later one; a server that
    cannot do this sends the file from its beginning.

    Args:
      url: An address that needs neither a form nor a login.
      target: Where the file comes to lie.
      size: The size in bytes that it has to have.
      tell: Takes lines for the person who waits.
      pause: Seconds before the second attempt; they double with each that brings nothing.

    Raises:
      DataError: The server refuses, has a file of another size or stays silent, or the disk does.
    """
    part = target.with_name(target.name + ".part")
    failures, best = 0, 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Progress(target.name, size, tell, _length(part)) as progress:
            while (have := _length(part)) != size:
                try:
                    _fetch(url, part, size, progress)
                except _DroppedError as error:
                    failures = 0 if (have := _length(part)) > best else failures + 1
                    best = max(best, have)
                    # Without a network there is nothing to wait for; a download that has begun is worth patience.
                    left = (_ATTEMPTS if best else _FIRST_ATTEMPTS) - failures
                    if left <= 0:
                        raise DataError(_broken_off(url, have, size, error)) from error
                    seconds = min(60.0, pause * 2**failures)
                    tell(f"{target.name}: {error}; trying again in {seconds:.0f} s, {left} times at the most")
                    time.sleep(seconds)
        part.replace(target)
        _validator_path(part).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{part}: cannot be written ({one_line(error)}); what came so far is kept") from error


def _broken_off(url: str, have: int, size: int, error: _DroppedError) -> str:
    if isinstance(error, _UnreachableError):
        return (
            f"{url}: the server cannot be reached ({error}): is there a network? --from DIR takes archives "
            "that were downloaded elsewhere"
        )
    return (
        f"{url}: the download broke off after {in_words(have)} of {in_words(size)} ({error}); the same command "
        "goes on from there"
    )


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _fetch(url: str, part: Path, size: int, progress: Progress) -> None:
    """One request for what is missing, appended to the part."""
    have = _length(part)
    if have > size:
        part.unlink()
        progress.advance(-have)
        have = 0
    validator = _validator(part)
    if have and validator is None:
        # Whatever it is that lies there, nobody can say that the rest of the file belongs to it.
        progress.advance(-have)
        have = 0
    response = _request(url, part, have, validator)
    with response:
        if have and not _continues(response, have):
            progress.advance(-have)
            have = 0
        _check_size(url, response, have, size)
        if not have:
            # Before the new file's validator: a kill in between must not leave it beside the old file's bytes.
            part.unlink(missing_ok=True)
        _note_validator(response, part)
        with part.open("ab" if have else "wb") as file:
            while block := _read(response):
                have += len(block)
                if have > size:  # A server that does not say how much it sends could fill the disk.
                    part.unlink()
                    raise DataError(f"{url}: the server sends more than the {size} bytes that are expected")
                file.write(block)
                progress.advance(len(block))
    if have < size:
        raise _DroppedError("the connection was closed early")


def _request(url: str, part: Path, have: int, validator: str | None) -> Any:
    headers = {"User-Agent": "glcic"}
    if have and validator is not None:
        # A file that has changed since comes as a whole, not as the end of another one.
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise _DroppedError("the server's file has changed, it is downloaded anew") from error
        if error.code in _TRANSIENT:
            raise _DroppedError(f"the server answers {error.code}") from error
        raise DataError(f"{url}: the server answers {error.code} {' '.join(str(error.reason).split())}") from error
    except urllib.error.URLError as error:
        raise _UnreachableError(" ".join(str(error.reason).split())) from error
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(one_line(error)) from error


def _continues(response: Any, have: int) -> bool:
    """Whether the answer begins at byte `have`; an answer to the whole request begins at 0."""
    return response.status == http.client.PARTIAL_CONTENT and str(response.headers["Content-Range"]).startswith(
        f"bytes {have}-"
    )


def _check_size(url: str, response: Any, have: int, size: int) -> None:
    length = response.headers["Content-Length"] or ""
    wrong = ""
    if length.isdecimal() and have + int(length) != size:
        wrong = f"{have + int(length)} bytes, {size} are expected"
    elif response.headers.get_content_type() == "text/html":
        wrong = "a page, not a file"
    if wrong:
        raise DataError(
            f"{url}: the server has {wrong}: its file has changed, or a login or a proxy stands before it; "
            "download the file by hand and give its directory with --from"
        )


def _note_validator(response: Any, part: Path) -> None:
    etag = response.headers["ETag"] or ""
    validator = response.headers["Last-Modified"] if not etag or etag.startswith("W/") else etag
    path = _validator_path(part)
    if validator:
        aside = path.with_name(f"{path.name}.new")
        aside.write_text(json.dumps(validator))
        aside.replace(path)
    else:
        path.unlink(missing_ok=True)


def _validator(part: Path) -> str | None:
    """What told the server's file from another when the part was begun; None where nothing did."""
    try:
        found = json.loads(_validator_path(part).read_text())
    except (FileNotFoundError, ValueError):  # Not there, or cut short by a crash.
        return None
    return found if isinstance(found, str) else None


def _read(response: Any) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(one_line(error)) from error
