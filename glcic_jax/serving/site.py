"""The page's files, and the endpoint as soon as it is loaded; what both answer to foreign pages."""

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glcic_jax.serving.problems import problem

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
_RESPONSE_HEADERS = ("Server-Timing", "X-Glcic-Notes", "X-Glcic-Size", "X-Glcic-Weights")
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
        """Answers all requests with `app`; None refuses them."""
        self._app = app
        self._loaded.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Waits for the application and calls it."""
        await self._loaded.wait()
        if self._app is None:
            await problem(HTTPStatus.SERVICE_UNAVAILABLE, "the service is stopping")(scope, receive, send)
        else:
            # Routes of the endpoint are whole paths.
            await self._app({**scope, "root_path": scope.get("app_root_path", "")}, receive, send)


def create_site(endpoint: ASGIApp, page: bool = True, allowed_origins: Sequence[str] = ()) -> ASGIApp:
    """Returns the whole service.

    Args:
      endpoint: What answers all paths that are not the page's.
      page: Whether to serve the page.
      allowed_origins: Origins whose pages may use the endpoint and show the page in a frame; "*" allows all.
    """
    routes: list[Route | Mount] = [Route("/healthz", _healthz)]
    if page:
        policy = " ".join((_POLICY, *allowed_origins))
        routes += [
            Route("/", _file_response(_STATIC / "index.html", policy)),
            *(Route(f"/static/{path.name}", _file_response(path, policy)) for path in sorted(_STATIC.iterdir())),
            *(Route(f"/examples/{name}", _file_response(_example(name), policy)) for name in _EXAMPLES),
        ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(allowed_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["X-Request-ID"],
        expose_headers=_RESPONSE_HEADERS,
    )
    guard = Middleware(_CrossOriginGuard, allowed_origins=tuple(allowed_origins))
    site = Starlette(
        routes=[*routes, Mount("/", endpoint)], middleware=[guard, cors] if allowed_origins else [guard]
    )
    site.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, _wrong_method)
    return site


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
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if (
            scope["type"] == "http"
            and scope["method"] not in ("GET", "HEAD")
            and self._is_foreign(Headers(scope=scope))
        ):
            detail = "other origins are not allowed: start the service with --allow-origin"
            await problem(HTTPStatus.FORBIDDEN, detail)(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_with_policy)

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or "*" in self._allowed_origins or origin in self._allowed_origins:
            return False
        # Proxies may change the host, so believe the browser first.
        if "sec-fetch-site" in headers:
            return headers["sec-fetch-site"] not in ("same-origin", "none")
        return origin.partition("://")[2] != headers.get("host")


def _file_response(path: Path, policy: str) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()
    media_type = _MEDIA_TYPES[path.suffix]
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}

    async def respond(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return respond


def _example(name: str) -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / name


async def _healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _wrong_method(request: Request, error: Exception) -> Response:
    return problem(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", {"Allow": "GET"})
