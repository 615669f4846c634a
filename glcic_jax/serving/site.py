"""The page's files in front of the endpoint, which may still be loading; what foreign pages may do."""

import asyncio
import hashlib
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glcic_jax.files import example_photographs
from glcic_jax.serving.problems import STOPPING, problem

_STATIC = Path(__file__).parent / "static"
_EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png")  # Of scikit-image: CC0 or public domain.
# Told here, because what `mimetypes` knows depends on the system, and browsers refuse a script of another type.
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_READABLE_HEADERS = ("Retry-After", "Server-Timing", "X-Glcic-Notes", "X-Glcic-Size", "X-Glcic-Weights")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class Endpoint:
    """An ASGI application that is still being loaded: requests wait for it."""

    def __init__(self) -> None:
        self._loaded = asyncio.Event()
        self._app: ASGIApp | None = None

    def set(self, app: ASGIApp | None) -> None:
        """Answers all requests with `app`; None refuses them. Call it in the event loop's thread."""
        self._app = app
        self._loaded.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Waits for the application and calls it."""
        await self._loaded.wait()
        refusal = problem(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING)
        await (self._app or refusal)(scope, receive, send)


def create_site(endpoint: ASGIApp, page: bool = True, allowed_origins: Sequence[str] = ()) -> ASGIApp:
    """Returns the whole service.

    Args:
      endpoint: What answers all paths that are not the page's.
      page: Whether to serve the page.
      allowed_origins: Origins whose pages may use the endpoint and show the page in a frame; "*" allows all.
    """
    site: ASGIApp = _Site(endpoint, _page_files() if page else {}, " ".join((_POLICY, *allowed_origins)))
    if allowed_origins:
        site = CORSMiddleware(
            site,
            allow_origins=list(allowed_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["X-Glcic-Request"],
            expose_headers=_READABLE_HEADERS,
        )
    return _CrossOriginGuard(site, tuple(allowed_origins))


class _Site:
    """Answers the page's paths itself, at once.

    Args:
      endpoint: Answers all other paths.
      files: The page's files, by their paths.
      policy: The content security policy of the page.
    """

    def __init__(self, endpoint: ASGIApp, files: dict[str, Path], policy: str):
        self._endpoint = endpoint
        self._answers: dict[str, Response] = {"/healthz": JSONResponse({"status": "ok"})}
        for path, file in files.items():
            content = file.read_bytes()
            headers = {
                "Content-Security-Policy": policy,
                "Cache-Control": "no-cache",
                "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            }
            self._answers[path] = Response(content, headers=headers, media_type=_MEDIA_TYPES[file.suffix])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands on."""
        # uvicorn puts the path of a proxy in front.
        answer = self._answers.get(scope.get("path", "").removeprefix(scope.get("root_path", "")))
        if answer is None:
            await self._endpoint(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await problem(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", {"Allow": "GET, HEAD"})(scope, receive, send)
        elif Headers(scope=scope).get("if-none-match", "") == answer.headers.get("etag"):
            await Response(status_code=HTTPStatus.NOT_MODIFIED, headers=answer.headers)(scope, receive, send)
        else:
            await answer(scope, receive, send)


class _CrossOriginGuard:
    """Refuses requests that other origins' pages send through a visitor's browser.

    Args:
      app: The application.
      allowed_origins: As in `create_site`.
    """

    def __init__(self, app: ASGIApp, allowed_origins: tuple[str, ...]):
        self._app = app
        self._allowed_origins = allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        app = self._app
        if scope["method"] not in ("GET", "HEAD") and self._is_foreign(Headers(scope=scope)):
            app = problem(
                HTTPStatus.FORBIDDEN, "other origins are not allowed: start the service with --allow-origin"
            )
        await app(scope, receive, send_with_headers)

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or "*" in self._allowed_origins or origin in self._allowed_origins:
            return False
        # Proxies may change the host, so believe the browser first.
        if "sec-fetch-site" in headers:
            return headers["sec-fetch-site"] not in ("same-origin", "none")
        return origin.partition("://")[2] != headers.get("host")


def _page_files() -> dict[str, Path]:
    static = {f"/static/{file.name}": file for file in _STATIC.iterdir() if file.suffix in _MEDIA_TYPES}
    examples = {f"/examples/{name}": example_photographs() / name for name in _EXAMPLES}
    return static | {"/": _STATIC / "index.html"} | examples
