"""Reads a request's form into memory, within the limits, and turns it into a `CompletionRequest`."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from glcic_jax.completion import MAX_SIDE, SMALLEST_MAX_SIDE, Settings
from glcic_jax.errors import WeightsError, meant, rename_options
from glcic_jax.pictures import ChooseHole, MaskSettings, hole_at_random, hole_of_alpha, hole_of_file
from glcic_jax.serving.problems import Refusal
from glcic_jax.serving.service import CompletionRequest, Limits, Service

_REST_BYTES = 64 << 10  # Allowed in a request in addition to its two files.
# Of a body above the limit, up to this multiple is received and discarded: a client that is still sending does not
# read the answer.
_DISCARDED = 4


class Options(BaseModel, extra="forbid"):
    """How an image is completed; as the options of `glcic complete`."""

    alpha_mask: bool = Field(False, description="Transparent pixels of the image are the hole, instead of a mask.")
    random_mask: bool = Field(False, description="Draw a random hole, to try the weights, instead of a mask.")
    seed: int = Field(0, ge=0, lt=1 << 63, description="Seed of random_mask.")
    invert_mask: bool = Field(False, description="Black is the hole.")
    fit_mask: bool = Field(False, description="Stretch a mask of another aspect ratio.")
    grow: int = Field(0, ge=0, le=10_000, description="Grow the hole by this number of pixels.")
    weights: str | None = Field(None, description="A name that GET /v1/weights lists; by default its first.")
    strategy: Literal["auto", "original", "resize", "crop"] = "auto"
    max_side: int = Field(
        MAX_SIDE, ge=SMALLEST_MAX_SIDE, le=4096, description="Longest side of the network's input, in pixels."
    )
    blend: Literal["auto", "on", "off"] = Field(
        "auto", description="Blend the fill; auto: where the hole is thick."
    )
    format: str | None = Field(
        None, max_length=16, description="png, jpeg, webp, tiff ...; by default the image's."
    )
    quality: int = Field(95, ge=1, le=100, description="Quality of JPEG, WebP, AVIF and HEIC.")
    keep_exif: bool = Field(False, description="Keep EXIF, XMP, IPTC and texts, which may hold place and time.")


class _InMemory(MultiPartParser):
    """Writes no file to the disk; the size of the request is checked before it is parsed."""

    spool_max_size = 1 << 40


def completion_form() -> dict[str, Any]:
    """Describes the form of a completion for OpenAPI."""
    schema = Options.model_json_schema()
    files = {"image": _file("The image."), "mask": _file("White is the hole.")}
    return _form({**schema, "properties": {**files, **schema["properties"]}, "required": ["image"]})


def preview_form() -> dict[str, Any]:
    """Describes the form of a preview for OpenAPI."""
    return _form({"type": "object", "properties": {"image": _file("The image.")}, "required": ["image"]})


def _file(description: str) -> dict[str, str]:
    return {"type": "string", "format": "binary", "description": description}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


async def read_form(request: Request, limits: Limits) -> dict[str, bytes | str]:
    """Reads a multipart request into memory.

    Raises:
      Refusal: It is too large, too slow, not multipart, has a part twice, or options in its address.
    """
    for name in request.query_params:
        known = name in {"image", "mask", *Options.model_fields}
        where = "is in the address: send it as a part of the form"
        raise _unprocessable(f"{name[:100]}: {where if known else _unknown(name)}")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send multipart/form-data with an image and a mask")
    body = await read_body(request, 2 * limits.max_bytes + _REST_BYTES, limits.upload_seconds)
    if body is None:
        raise _too_large("the request", limits.max_bytes)
    try:
        parser = _InMemory(request.headers, _stream(body), max_files=2, max_fields=len(Options.model_fields))
        parts = (await parser.parse()).multi_items()
    except (MultiPartException, ValueError, KeyError) as error:
        fields = len(Options.model_fields)
        raise _unprocessable(
            f"the multipart/form-data body is malformed, or has more than 2 files or {fields} other parts"
        ) from error
    form: dict[str, bytes | str] = {}
    for name, part in parts:
        if name in form:
            raise _unprocessable(f"{name[:100]} appears twice")
        # A browser sends an empty part for a file or a text that was not given.
        if part == "" or (isinstance(part, UploadFile) and not part.filename and not part.size):
            continue
        form[name] = await part.read() if isinstance(part, UploadFile) else part
    return form


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes | None:
    """Reads the body of a request.

    Args:
      request: The request.
      max_bytes: Largest body that is kept.
      seconds: Time for the whole body to arrive.

    Returns:
      The body, or None if it is larger.

    Raises:
      Refusal: It took too long, or the client disconnected.
    """
    body, received = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received += len(chunk)
                if received <= max_bytes:
                    body += chunk
                else:
                    body.clear()
                if received > _DISCARDED * max_bytes:
                    break
    except TimeoutError as error:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, f"the request took longer than {seconds:g} s") from error
    except ClientDisconnect as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the client disconnected before it had sent everything") from error
    return bytes(body) if received <= max_bytes else None


def completion_request(form: Mapping[str, bytes | str], service: Service) -> CompletionRequest:
    """Turns a form into a request to the service.

    Raises:
      Refusal: A part is missing, unknown, wrong or too large.
    """
    form = dict(form)
    image, mask = form.pop("image", None), form.pop("mask", None)
    try:
        options = Options.model_validate(form)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise _unprocessable(f"{name[:100]}: {_expected(name)}") from error
    image = _checked_image(image, service.limits)
    if mask is not None:
        mask = _checked_file("mask", mask, service.limits)
    try:
        service.completer(options.weights)  # Refuses an unknown name before the work.
    except WeightsError as error:
        raise _unprocessable(str(error)) from error
    settings = Settings(
        strategy=options.strategy,
        max_side=options.max_side,
        blend=options.blend,
        file_format=options.format,
        quality=options.quality,
        drop_exif=not options.keep_exif,
    )
    return CompletionRequest(image, _choose_hole(service, options, mask), settings, options.weights)


def in_words_of_the_form(message: str) -> str:
    """Names the parts of the form in a message that names the options of `glcic complete`."""

    def part_of(name: str, value: str) -> str:
        if (name, value) == ("mask", "alpha"):
            name, value = "alpha_mask", ""
        field = Options.model_fields.get(name)
        value = value or ("true" if field is not None and field.annotation is bool else "")
        return f"{name}={value}" if value else name

    return rename_options(message, part_of)


def _expected(name: str) -> str:
    """Says which values an option takes."""
    field = Options.model_json_schema()["properties"].get(name)
    if field is None:
        return _unknown(name)
    if "enum" in field:
        return f"send one of {', '.join(field['enum'])}"
    if field.get("type") == "integer":
        largest = field["maximum"] if "maximum" in field else field["exclusiveMaximum"] - 1
        return f"send a whole number from {field['minimum']} to {largest}"
    return "send true or false" if field.get("type") == "boolean" else "send a short text"


def _unknown(name: str) -> str:
    return f"there is no such option: {meant(name, ('image', 'mask', *Options.model_fields))}"


def preview_request(form: Mapping[str, bytes | str], limits: Limits) -> bytes:
    """Returns the image of a form that has nothing else.

    Raises:
      Refusal: It is missing or too large, or there is something else.
    """
    for name in form:
        if name != "image":
            raise _unprocessable(f"{name[:100]}: send an image alone")
    return _checked_image(form.get("image"), limits)


def _checked_image(image: bytes | str | None, limits: Limits) -> bytes:
    if image is None:
        raise _unprocessable("image: is missing: send a file of that name")
    return _checked_file("image", image, limits)


def _checked_file(name: str, part: bytes | str, limits: Limits) -> bytes:
    if isinstance(part, str):
        raise _unprocessable(f"{name}: is text: send a file, with a file name")
    if len(part) > limits.max_bytes:
        raise _too_large(name, limits.max_bytes)
    return part


def _choose_hole(service: Service, options: Options, mask: bytes | None) -> ChooseHole:
    if sum([mask is not None, options.alpha_mask, options.random_mask]) != 1:
        raise _unprocessable("send one of a mask file, alpha_mask=true and random_mask=true")
    settings = MaskSettings(options.invert_mask, options.fit_mask, options.grow, service.limits.max_pixels)
    if mask is not None:
        return hole_of_file(mask, "mask", settings)
    return hole_of_alpha(settings) if options.alpha_mask else hole_at_random(options.seed, settings)


async def _stream(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _too_large(what: str, max_bytes: int) -> Refusal:
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what}: a file may have at most {max_bytes:,} bytes")


def _unprocessable(detail: str) -> Refusal:
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
