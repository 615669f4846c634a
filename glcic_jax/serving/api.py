"""The HTTP endpoint of the service; refusals are problem details (RFC 9457)."""

import asyncio
import collections
import contextlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from glcic_jax import __version__
from glcic_jax.errors import MemoryExhaustedError, TooLargeError, UserError, WeightsError
from glcic_jax.serving.forms import (
    completion_form,
    completion_request,
    in_words_of_the_form,
    preview_form,
    preview_request,
    read_form,
)
from glcic_jax.serving.problems import PROBLEM_TYPE, STOPPING, Refusal, problem
from glcic_jax.serving.service import (
    ClientGoneError,
    NotAnImageError,
    NotReadyError,
    QueueFullError,
    RequestProgress,
    Service,
)
from glcic_jax.weights import Description

T = TypeVar("T")
_log = logging.getLogger(__name__)
_REQUEST_NAME = re.compile(r"[A-Za-z0-9-]{8,64}")
_SECONDS_BETWEEN_REFUSALS = 60.0  # In the log.
_CHUNK = 256 << 10  # Bytes of an answer that are sent at a time.


class WeightsInfo(BaseModel):
    """Weights that a client may choose."""

    name: str
    default: bool
    origin: str
    licence: str
    image_size: int = Field(description="Side of the training crops, in pixels.")
    hole_sides: tuple[int, int] = Field(description="Smallest and largest side of the training holes, in pixels.")
    limits: str = Field(description="What the network cannot do.")


class LimitsInfo(BaseModel):
    """What is accepted at most."""

    max_bytes: int = Field(description="Bytes of a file.")
    max_pixels: int = Field(description="Pixels of an image.")


class Problem(BaseModel):
    """The problem details of a refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class Progress(BaseModel):
    """How far a request is."""

    state: Literal["reading", "queued", "working"]
    place: int = Field(description="Place in the queue, 1 for the next; 0 when it is not waiting.")
    windows_done: int = Field(description="Completed windows of the image.")
    windows: int = Field(description="All windows of the image; 0 while their number is unknown.")
    note: str = Field(description="What takes long, or empty.")


def create_app(service: Service) -> FastAPI:
    """Returns the endpoint; the caller closes the service."""
    # FastAPI's documentation pages load scripts from other hosts.
    app = FastAPI(
        title="glcic", version=__version__, docs_url=None, redoc_url=None, lifespan=None, redirect_slashes=False
    )
    app.add_exception_handler(Refusal, _Refusals().answer)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether images are completed.", responses=_problems(503))
    async def readyz() -> dict[str, str]:
        if not service.accepting:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING)
        return {"status": "ready" if service.warm else "warming up"}

    @app.get("/v1/weights", summary="The names that `weights` accepts, the default first.")
    async def weights() -> list[WeightsInfo]:
        return [
            WeightsInfo(
                name=name,
                default=name == service.default,
                origin=completer.description.origin,
                licence=completer.description.licence,
                image_size=completer.description.image_size,
                hole_sides=completer.description.hole_sides,
                limits=_limits_of(completer.description),
            )
            for name, completer in service.completers.items()
        ]

    @app.get("/v1/limits", summary="The largest files and images.")
    async def limits() -> LimitsInfo:
        return LimitsInfo(max_bytes=service.limits.max_bytes, max_pixels=service.limits.max_pixels)

    @app.post(
        "/v1/complete",
        summary="Fill the hole of an image.",
        response_class=Response,
        responses={200: _ANSWER, **_problems(408, 413, 415, 422, 429, 503)},
        openapi_extra={"requestBody": completion_form(), "parameters": [_REQUEST_HEADER]},
    )
    async def complete(request: Request) -> Response:
        return await _complete(service, request)

    @app.post(
        "/v1/preview",
        summary="An image as a browser can show it.",
        response_class=Response,
        responses={200: _PREVIEW, **_problems(408, 413, 415, 422, 429, 503)},
        openapi_extra={"requestBody": preview_form()},
    )
    async def previewed(request: Request) -> Response:
        return await _preview(service, request)

    @app.get("/v1/requests/{name}", summary="How far a request is.", responses=_problems(404))
    async def progress(name: str) -> Progress:
        found = service.progress_of(name)
        if found is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "no request of that name is in progress")
        return _progress(*found, compiling=service.compiling)

    return app


def _limits_of(description: Description) -> str:
    """Describes the limits of a network, for a client."""
    size, hole = description.image_size, description.hole_sides[1]
    return (
        f"Trained on crops of {size} px with holes of up to {hole} px: thicker holes are filled at a reduced "
        "size, and blurry. What the surroundings do not show, such as the other half of a face or a word, is not "
        "restored."
    )


async def _complete(service: Service, request: Request) -> Response:
    begin = time.perf_counter()
    name = request.headers.get("x-glcic-request")
    if name is not None and not _REQUEST_NAME.fullmatch(name):
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "X-Glcic-Request: send 8 to 64 letters, digits and hyphens")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_errors_as_refusals())
        place = stack.enter_context(service.queue_place(name))
        requested = completion_request(await read_form(request, service.limits), service)
        timings = {"upload": time.perf_counter() - begin}
        result = await _result(request, lambda gone: service.submit(requested, gone, place))
        held = stack.pop_all()
    timings |= {"queue": result.waited, "read": result.read, "complete": result.completed}
    size = len(result.content)
    _log.info("complete: %s, %d bytes, %s", result.file_format, size, _in_milliseconds(timings, ": ", " ms"))
    headers = {
        "Server-Timing": _in_milliseconds(timings, ";dur=", ""),
        "X-Glcic-Weights": json.dumps(requested.weights or service.default)[1:-1],
        "X-Glcic-Notes": json.dumps([in_words_of_the_form(note) for note in result.notes]),
        "Cache-Control": "no-store",
    }
    media_type = Image.MIME.get(result.file_format, "application/octet-stream")
    return _QueuedResponse(
        held, service.limits.upload_seconds, result.content, media_type=media_type, headers=headers
    )


async def _preview(service: Service, request: Request) -> Response:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_errors_as_refusals())
        stack.enter_context(service.queue_place())
        image = preview_request(await read_form(request, service.limits), service.limits)
        preview = await _result(request, lambda gone: service.preview(image, gone))
        held = stack.pop_all()
    headers = {
        "X-Glcic-Size": "{}x{}".format(*preview.size),
        "X-Glcic-Notes": json.dumps(preview.notes),
        "Cache-Control": "no-store",
    }
    seconds = service.limits.upload_seconds
    return _QueuedResponse(held, seconds, preview.jpeg, media_type="image/jpeg", headers=headers)


def _progress(progress: RequestProgress, place: int, compiling: bool) -> Progress:
    waiting: Literal["reading", "queued"] = "reading" if progress.submitted is None else "queued"
    return Progress(
        state="working" if progress.working else waiting,
        place=place,
        windows_done=progress.windows_done,
        windows=progress.windows,
        note="compiling for a new size" if compiling and progress.working else "",
    )


class _QueuedResponse(Response):
    """An answer that keeps its place in the queue until it is sent, because until then it takes memory.

    Args:
      place: Closed when the answer is sent.
      seconds: Time for sending it.
      content: The body.
      **options: Passed on to `Response`.
    """

    def __init__(self, place: contextlib.ExitStack, seconds: float, content: bytes, **options: Any):
        super().__init__(content, **options)
        self._place = place
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer in chunks: between them the server waits for slow readers."""
        with self._place, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                for start in range(0, len(self.body), _CHUNK):
                    chunk = bytes(self.body[start : start + _CHUNK])
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def _in_milliseconds(timings: dict[str, float], equals: str, unit: str) -> str:
    return ", ".join(f"{name}{equals}{1000 * seconds:.0f}{unit}" for name, seconds in timings.items())


async def _result(request: Request, begin: Callable[[threading.Event], "Future[T]"]) -> T:
    """Waits for the result of a work, or until the client disconnects.

    Args:
      request: The client's request.
      begin: Begins the work, which ends early when the event is set.
    """
    gone = threading.Event()
    future = asyncio.wrap_future(begin(gone))
    watch = asyncio.ensure_future(_until_disconnected(request))
    try:
        await asyncio.wait((future, watch), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            gone.set()
            # The place in the queue stays taken until the work has ended.
            await asyncio.wait((future,))
            future.exception()  # Retrieved, or asyncio logs it.
            raise Refusal(HTTPStatus.BAD_REQUEST, "the client has disconnected")
        return future.result()
    except (ClientGoneError, asyncio.CancelledError) as error:
        gone.set()
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING) from error
    finally:
        watch.cancel()


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextlib.contextmanager
def _errors_as_refusals() -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise  # Known weights that fail are no fault of the request.
    except UserError as error:
        status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), _OTHER_STATUS)
        # Without the remedy, which the client cannot apply.
        message = error.fact if isinstance(error, TooLargeError) else in_words_of_the_form(str(error))
        raise Refusal(status, message) from error


class _Refusals:
    """Answers refusals, and logs those of images: one a minute, with the number of those in between."""

    def __init__(self) -> None:
        self._logged = -math.inf
        self._unlogged: collections.Counter[int] = collections.Counter()

    async def answer(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        # Probes, and questions about requests that have ended, are no news.
        if request.method == "POST":
            self._log(error)
        return problem(error.status, error.detail)

    def _log(self, refusal: Refusal) -> None:
        if time.monotonic() - self._logged < _SECONDS_BETWEEN_REFUSALS:
            self._unlogged[refusal.status] += 1
            return
        others = ", ".join(f"{count:,} x {status:d}" for status, count in sorted(self._unlogged.items()))
        _log.info("refused: %d, %s%s", refusal.status, refusal.detail, f" (before: {others})" if others else "")
        self._logged = time.monotonic()
        self._unlogged.clear()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    details = {
        HTTPStatus.NOT_FOUND: "no such path: see /openapi.json",
        HTTPStatus.METHOD_NOT_ALLOWED: f"use {(error.headers or {}).get('Allow')}",
    }
    return problem(status, details.get(status, str(error.detail)), error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed: its log says where")


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    schema = {"schema": Problem.model_json_schema()}
    return {code: {"description": HTTPStatus(code).phrase, "content": {PROBLEM_TYPE: schema}} for code in codes}


_STATUSES = {
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    NotReadyError: HTTPStatus.SERVICE_UNAVAILABLE,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MemoryExhaustedError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotAnImageError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}
_OTHER_STATUS = HTTPStatus.UNPROCESSABLE_ENTITY

_ANSWER: dict[str, Any] = {
    "description": "The completed image, in the requested format, by default the original's.",
    "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    "headers": {
        "Server-Timing": {
            "description": "Milliseconds: upload, queue, read, complete.",
            "schema": {"type": "string"},
        },
        "X-Glcic-Weights": {"description": "Name of the weights used.", "schema": {"type": "string"}},
        "X-Glcic-Notes": {
            "description": "Notes on the input and the completion: a JSON list of strings.",
            "schema": {"type": "string"},
        },
    },
}

_PREVIEW: dict[str, Any] = {
    "description": "A JPEG of at most 2,048 px, upright.",
    "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
    "headers": {
        "X-Glcic-Size": {
            "description": "Width and height of the upright image in pixels: 4000x3000.",
            "schema": {"type": "string"},
        },
        "X-Glcic-Notes": _ANSWER["headers"]["X-Glcic-Notes"],
    },
}

_REQUEST_HEADER: dict[str, Any] = {
    "name": "X-Glcic-Request",
    "in": "header",
    "description": "A name for GET /v1/requests/{name}.",
    "schema": {"type": "string", "pattern": f"^{_REQUEST_NAME.pattern}$"},
}
