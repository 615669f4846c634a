"""The endpoint with the page mounted on it, behind its guard."""

import asyncio
import contextlib
import json
import logging
import os
import posixpath
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glcic_jax.serving.forms import Refusal, problem, read_body
from glcic_jax.serving.page import build_page
from glcic_jax.serving.private_folder import PrivateFolder
from glcic_jax.serving.service import Limits, Service

_TEMPLATES = Path(__file__).parent / "static"


def with_page(
    app: FastAPI, service: Service, folder: PrivateFolder, seconds: float, root_path: str = ""
) -> ASGIApp:
    """Mounts the page.

    Args:
      app: The endpoint.
      service: What completes.
      folder: Where gradio keeps its files, as $GRADIO_TEMP_DIR says since before it was imported.
      seconds: Between two times that the folder is tended.
      root_path: Where a proxy in front has it.
    """
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with inner(application), tended(folder, seconds):
            yield

    app.router.lifespan_context = lifespan
    page = build_page(service, folder).queue(max_size=8 * service.limits.queue)
    # What is mounted is never launched, and what was not launched takes every path for its own.
    page.has_launched = True
    # System fonts: gradio's own come from elsewhere.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        root_path=root_path or None,
        show_error=False,
        max_file_size=service.limits.max_bytes,
        ssr_mode=False,
        mcp_server=False,
        theme=theme,
        css=(_TEMPLATES / "painter.css").read_text(),
        head=f"<script>{(_TEMPLATES / 'painter.js').read_text()}</script>",
    )
    return Guard(mounted, folder, service.limits)


_log = logging.getLogger(__name__)
# The endpoint looks after itself.
_ENDPOINT = "/v1/"
_ASKED = ("/healthz", "/readyz", "/openapi.json")
_API = "/gradio_api/"
_UPLOAD, _CANCEL = f"{_API}upload", f"{_API}cancel"
_PAGE = {"/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", _UPLOAD, _CANCEL, f"{_API}upload_progress"}
_PAGE |= {f"{_API}{name}" for name in ("queue/join", "queue/data", "startup-events", "app_id", "reset")}
_PAGE_FOLDERS = ("/assets/", "/static/", "/svelte/", f"{_API}heartbeat/")
# What was painted, with the mask of a picture as large as may be; other requests are far smaller.
_MOST_PAINTED = 16 << 20
# Pages send several small ones for each that waits in the queue.
_EVENTS_FOR_A_PLACE = 4
# Of lists and objects in an event; strokes are text in it, and have a pair for each point.
_MOST_BRACKETS = 250_000
_LONGEST_PATH = 1000
_SECONDS_OF_AN_EVENT = 15.0  # They are small.
_REST_BYTES = 64 << 10  # Of an upload, beside its file.
# The page loads nothing from elsewhere; gradio's own script and style are in it.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Guard:
    """An ASGI application around the service's.

    Gradio's server can do more than the page needs: forward requests, tell its files and keep histories. None of
    that is let through.

    Args:
      app: The endpoint with the page mounted on it.
      folder: The only place files are served from.
      limits: What is taken at most.
    """

    def __init__(self, app: ASGIApp, folder: PrivateFolder, limits: Limits):
        self._app = app
        self._folder = folder
        self._limits = limits
        self._uploads = asyncio.Semaphore(limits.queue)
        self._events = asyncio.Semaphore(_EVENTS_FOR_A_PLACE * limits.queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"].startswith(_ENDPOINT) or (scope["path"] in _ASKED and scope["method"] == "GET"):
            await self._app(scope, receive, send)
        elif scope["path"] in _ASKED:
            await problem(HTTPStatus.METHOD_NOT_ALLOWED, "GET alone", {"Allow": "GET"})(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await problem(HTTPStatus.METHOD_NOT_ALLOWED, "not here", {"Allow": "GET, POST"})(scope, receive, send)
        elif not self._is_of_the_page(scope["path"]):
            await problem(HTTPStatus.NOT_FOUND, "there is nothing here")(scope, receive, send)
        else:
            await self._page(scope, receive, _with_headers(send))

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            await self._app(scope, receive, send)
            return
        places = self._uploads if scope["path"] == _UPLOAD else self._events
        status = 0  # Until it has answered.

        async def noticed(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if status < HTTPStatus.INTERNAL_SERVER_ERROR:
                await send(message)

        try:
            if places.locked():
                raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many send at once: try again later")
            async with places:
                body = await self._body(scope, receive)
                with _logged():
                    await self._app(scope, _replayed(body, receive), noticed)
            if scope["path"] == _CANCEL and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                # Gradio raises KeyError if the event ended meanwhile, or if the page cancels it twice at once.
                await JSONResponse({"success": True})(scope, receive, send)
            elif status == 0 or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise Refusal(HTTPStatus.BAD_REQUEST, "this is no event of the page")
        except Refusal as refusal:
            await problem(refusal.status, refusal.detail)(scope, receive, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Reads all that is sent before anybody else does: gradio limits neither the time nor most bodies."""
        upload = scope["path"] == _UPLOAD
        most = self._limits.max_bytes + _REST_BYTES if upload else _MOST_PAINTED
        seconds = self._limits.upload_seconds
        if not upload:
            seconds = min(seconds, _SECONDS_OF_AN_EVENT)
        body = await read_body(Request(scope, receive), most, seconds)
        if body is None:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {most:,} bytes are taken")
        if upload:
            await asyncio.to_thread(self._folder.prune)
        elif not names_own_files_alone(body, self._folder.path):
            raise Refusal(HTTPStatus.BAD_REQUEST, "files are named that were not sent")
        return body

    def _is_of_the_page(self, path: str) -> bool:
        if path != "/" and posixpath.normpath(path) != path:
            return False
        files = f"{_API}file={self._folder.path}/"
        return path in _PAGE or path.startswith((*_PAGE_FOLDERS, files))


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Gradio raises nearly every type for what no page sends, after it has answered."""
    try:
        yield
    except Exception as error:
        _log.warning("the page: an event that cannot be read (%s)", type(error).__name__)


def names_own_files_alone(body: bytes, folder: Path) -> bool:
    """Whether a page's event names no file but those in a folder.

    Gradio describes files by objects with a `path`, copies what lies there, or at that address, to where it can be
    fetched, and does not look where that is when it is mounted on another application.

    Args:
      body: JSON.
      folder: Where the visitors' files are.
    """
    if body.count(b"[") + body.count(b"{") > _MOST_BRACKETS:  # To read them would stop all others for seconds.
        return False
    try:
        left = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return False
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
            path = value.get("path")
            if path is not None and not _lies_in(path, folder):
                return False
        elif isinstance(value, list):
            left += value
    return True


def _lies_in(path: Any, folder: Path) -> bool:
    if not isinstance(path, str) or len(path) > _LONGEST_PATH or not path.startswith(f"{folder}/"):
        return False
    try:
        return os.path.realpath(path) == path
    except (OSError, ValueError):  # A null byte or half a character is in it.
        return False


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            names = {name for name, _ in _HEADERS}
            # Other sites have no business here. Gradio would let in any, where the host's name is a public one.
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if name.lower() not in names and not name.lower().startswith(b"access-control-")
            ]
            message["headers"] = [*kept, *_HEADERS]
        await send(message)

    return sent


@contextlib.asynccontextmanager
async def tended(folder: PrivateFolder, seconds: float) -> Any:
    """Empties a folder now and then, until the block is left."""

    async def tend() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(folder.prune)
            except OSError as error:  # The next time, perhaps.
                _log.warning("visitors' files: %s", error)

    task = asyncio.create_task(tend())
    try:
        yield
    finally:
        task.cancel()
