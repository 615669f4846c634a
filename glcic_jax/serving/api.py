"""The HTTP endpoint of the service: what it takes, what it answers, and as which problem (RFC 9457) it refuses."""

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from glcic_jax import __version__
from glcic_jax.errors import MemoryExhaustedError, TooLargeError, UserError, WeightsError
from glcic_jax.serving.forms import _PROBLEM, Refusal, order_of, problem, read_form, request_body
from glcic_jax.serving.service import (
    STOPPING,
    BusyError,
    GoneError,
    NotAnImageError,
    NotReadyError,
    Order,
    Result,
    Service,
)
from glcic_jax.weights.file import Description

_log = logging.getLogger(__name__)
_METHODS = {"complete": "POST", "weights": "GET"}  # By the paths below /v1.
_PIECE = 256 << 10  # Bytes of an answer that are sent at a time.


class Weights(BaseModel):
    """Weights that may be asked for."""

    name: str
    default: bool
    origin: str
    licence: str
    image_size: int = Field(description="Side of the crops trained on, in pixels.")
    hole_sides: tuple[int, int] = Field(description="Smallest and largest side of the holes trained on.")
    limits: str = Field(description="What they cannot do.")


class Problem(BaseModel):
    """What is wrong, of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def limits_of(description: Description) -> str:
    """What weights cannot do, in a sentence that holds for all."""
    size, hole = description.image_size, description.hole_sides[1]
    return (
        f"Trained on crops of {size} px with holes of up to {hole} px: thicker ones are filled at a reduced size, "
        "and blurry. What the surroundings do not show, as the other half of a face or a word, does not come back."
    )


def create_app(service: Service) -> FastAPI:
    """The endpoint, without the page.

    Args:
      service: What completes; the app closes nothing.
    """
    # Their pages of documentation load scripts from elsewhere.
    app = FastAPI(title="glcic", version=__version__, docs_url=None, redoc_url=None, lifespan=None)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)

    @app.get("/healthz", summary="Whether the process answers.")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether pictures are completed.", responses=_problems(503))
    async def readyz() -> dict[str, str]:
        _require_ready(service)
        return {"status": "ready"}

    @app.get("/v1/weights", summary="What may be named as `weights`, the default first.")
    async def weights() -> list[Weights]:
        return [
            Weights(
                name=name,
                default=name == service.default,
                origin=completer.description.origin,
                licence=completer.description.licence,
                image_size=completer.description.image_size,
                hole_sides=completer.description.hole_sides,
                limits=limits_of(completer.description),
            )
            for name, completer in service.completers.items()
        ]

    async def complete(request: Request) -> Response:
        return await _complete(service, request)

    app.post(
        "/v1/complete",
        summary="Fill the hole of a picture.",
        response_class=Response,
        responses={200: _ANSWER, **_problems(408, 413, 415, 422, 429, 503)},
        openapi_extra={"requestBody": request_body()},
    )(complete)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

    @app.api_route("/v1/{rest:path}", methods=methods, include_in_schema=False)
    async def unknown(rest: str) -> None:
        if rest in _METHODS:
            raise HTTPException(405, f"{_METHODS[rest]} alone", {"Allow": _METHODS[rest]})
        raise HTTPException(404, "there is nothing here: see /openapi.json")

    return app


_ANSWER: dict[str, Any] = {
    "description": "The completed picture, in the image's format or the one that was asked for.",
    "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    "headers": {
        "Server-Timing": {
            "description": "Milliseconds: upload, queue, read, complete.",
            "schema": {"type": "string"},
        },
        "X-Glcic-Weights": {"description": "Their name.", "schema": {"type": "string"}},
        "X-Glcic-Notes": {"description": "What was noticed and done: JSON.", "schema": {"type": "string"}},
    },
}


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    schema = {"schema": Problem.model_json_schema()}
    return {code: {"description": HTTPStatus(code).phrase, "content": {_PROBLEM: schema}} for code in codes}


async def _complete(service: Service, request: Request) -> Response:
    begun = time.perf_counter()
    _require_ready(service)
    with contextlib.ExitStack() as place:
        place.enter_context(_refusals())
        place.enter_context(service.admitted())
        order = order_of(await read_form(request, service.limits), service)
        uploaded = time.perf_counter() - begun
        result = await _result(service, order, request)
        kept = place.pop_all()
    name = order.weights or service.default
    timings = {
        "upload": uploaded,
        "queue": result.waited,
        "read": result.read,
        "complete": result.completed,
    }
    size = len(result.content)
    _log.info("complete: %s, %d bytes, %s", result.file_format, size, _in_milliseconds(timings, ": ", " ms"))
    headers = {
        "Server-Timing": _in_milliseconds(timings, ";dur=", ""),
        "X-Glcic-Weights": json.dumps(name)[1:-1],
        "X-Glcic-Notes": json.dumps(result.notes),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    media_type = _media_type(result.file_format)
    return _Held(kept, service.limits.upload_seconds, result.content, media_type=media_type, headers=headers)


class _Held(Response):
    """An answer that keeps its place in the queue until it is sent: until then it takes memory.

    Args:
      place: What is left then.
      seconds: For sending it.
      content: The body.
      **options: As a Response takes them.
    """

    def __init__(self, place: contextlib.ExitStack, seconds: float, content: bytes, **options: Any):
        super().__init__(content, **options)
        self._place = place
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, piece by piece: the server waits for slow readers between them."""
        with self._place, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                for start in range(0, len(self.body), _PIECE):
                    piece = bytes(self.body[start : start + _PIECE])
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def _in_milliseconds(timings: dict[str, float], equals: str, unit: str) -> str:
    return ", ".join(f"{name}{equals}{1000 * seconds:.0f}{unit}" for name, seconds in timings.items())


def _media_type(file_format: str) -> str:
    return Image.MIME.get(file_format, "application/octet-stream")


async def _result(service: Service, order: Order, request: Request) -> Result:
    """Waits for the result, or until the client is gone."""
    gone = threading.Event()
    future = asyncio.wrap_future(service.submit(order, gone))
    watch = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait((future, watch), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            gone.set()
            # The place in the queue stays taken until the work has really ended.
            await asyncio.wait((future,))
            future.exception()  # Or it is logged as one that nobody looked at.
            raise Refusal(HTTPStatus.BAD_REQUEST, "nobody waits for the answer")
        return future.result()
    except (GoneError, asyncio.CancelledError) as error:
        gone.set()
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING) from error
    finally:
        watch.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _require_ready(service: Service) -> None:
    if not service.ready:
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the service is not ready: try again later")


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns what a person can mend into problems."""
    try:
        yield
    except BusyError as error:
        raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, str(error)) from error
    except NotReadyError as error:
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
    except TooLargeError as error:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error.fact) from error
    except MemoryExhaustedError as error:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
    except NotAnImageError as error:
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error)) from error
    except WeightsError:
        raise  # Those that were named are there: it is no fault of the request.
    except UserError as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    _log.info("refused: %d, %s", error.status, error.detail)
    return problem(error.status, error.detail)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(HTTPStatus(error.status_code), str(error.detail), error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed: its log says where")
