"""Refusals as problem details (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

from glcic_jax.errors import printable

STOPPING = "the service is stopping: try again later"
PROBLEM_TYPE = "application/problem+json"
_RETRY_AFTER = "5"  # Seconds.


class Refusal(Exception):  # noqa: N818 - it is an answer.
    """An error that is answered with problem details.

    Attributes:
      status: The HTTP status of the answer.
      detail: The reason, on one line.
    """

    def __init__(self, status: HTTPStatus, detail: str):
        super().__init__(detail)
        self.status = status
        self.detail = printable(detail)  # It is logged, too.


def problem(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns an answer with problem details."""
    content = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    sent = dict(headers or {})
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        sent["Retry-After"] = _RETRY_AFTER
    return JSONResponse(content, status.value, sent, PROBLEM_TYPE)
