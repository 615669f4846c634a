"""`glcic serve`: its options, start and stop. JAX and gradio are imported when the service starts."""

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from glcic_jax.command_line import FiniteFloat
from glcic_jax.errors import ConfigError, UserError, one_line, printable

if TYPE_CHECKING:
    from glcic_jax.completion import Completer
    from glcic_jax.serving.private_folder import PrivateFolder
    from glcic_jax.serving.service import Service

# Windows around holes of up to about 200 px, and photographs of 640 px: the most common inputs of the network.
_WARMUP = "384x384,384x448,448x384,448x448,448x512,512x448,512x512,640x448,640x512,448x640,512x640"
_LONGEST_SIZE = len("4096x4096")
_SECONDS_KEPT = 3600.0
_SECONDS_BETWEEN_PRUNINGS = 15.0
_SECONDS_FOR_LISTENERS = 3  # For connections of open pages, at the end.
_log = logging.getLogger("glcic_jax.serve")


class _Sizes(click.ParamType):
    """Sizes such as 512x384,640x480, width first; converts to (height, width) pairs."""

    name = "WxH,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[int, int], ...]:
        sizes = []
        for part in filter(None, (text.strip() for text in str(value).split(","))):
            width, _, height = part.partition("x")
            numeric = len(part) <= _LONGEST_SIZE and width.isdecimal() and height.isdecimal()
            if not numeric or not (1 <= int(width) <= 4096 and 1 <= int(height) <= 4096):
                self.fail(f"{part[:20]!r} is not a size in pixels up to 4096x4096, such as 512x384", param, ctx)
            sizes.append((int(height), int(width)))
        return tuple(sizes)


@click.command(context_settings={"show_default": True})
@click.option(
    "--weights",
    multiple=True,
    help="Weights that visitors may choose, as in 'glcic complete'; repeatable, the default first.  "
    "[default: $GLCIC_WEIGHTS, else photos; and all stored ones]",
)
@click.option("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines, too.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, help="0 chooses a free one.")
@click.option("--device", help="cpu, gpu, gpu:1 ...  [default: JAX's first]")
@click.option(
    "--warmup",
    type=_Sizes(),
    default=_WARMUP,
    show_default="eleven common sizes",
    help="Sizes to compile for at the start; '' for none.",
)
@click.option("--max-megabytes", type=FiniteFloat(0.1, 1000), default=32, help="Largest file.")
@click.option("--max-megapixels", type=FiniteFloat(0.01, 500), default=40, help="Largest image.")
@click.option("--queue", type=click.IntRange(1, 1000), default=16, help="Requests at a time.")
@click.option("--upload-seconds", type=FiniteFloat(1), default=60, help="To send a request or read an answer.")
@click.option("--stop-seconds", type=FiniteFloat(0), default=60, help="Time for requests in progress at the end.")
@click.option("--root-path", default="", help="Path under which a proxy serves it, such as /fill.")
@click.option("--page/--no-page", default=True, help="Serve the page, or the endpoint alone.")
def serve(**options: Any) -> None:
    """Serve a page to paint on, and POST /v1/complete.

    \b
    glcic serve                             then open http://127.0.0.1:7860
    curl -F image=@photo.jpg -F mask=@mask.png http://127.0.0.1:7860/v1/complete -o out.jpg

    Needs: pip install 'glcic-jax[serve]'. One image is completed at a time; other requests wait. Nothing that
    visitors send is kept: the endpoint holds it in memory, and the page in a folder of its own under $TMPDIR for
    at most an hour. Ctrl-C or SIGTERM stops the service after the requests in progress. Exits with 2 for bad
    input, 3 if --weights cannot be used.
    """  # noqa: D301 - click reads the \\b.
    try:
        import fastapi  # noqa: F401
        import gradio_client  # noqa: F401 - gradio itself takes seconds.
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the service needs more packages ({one_line(error)}): pip install 'glcic-jax[serve]'"
        ) from error
    max_bytes = int(8 * options["max_megabytes"] * options["queue"] * 1e6)
    with (
        _ended_by_signals(),
        _log_to_stderr(),
        _listen(options["host"], options["port"]) as listening,
        _folder(max_bytes) as folder,
    ):
        _run(_create_service(options), folder, listening, options)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ends the block at SIGTERM and Ctrl-C; the server inside installs its own handlers while it runs."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(0)

    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        click.echo("stopped", err=True)
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("glcic_jax")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # It logs every malformed request with its content.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _listen(host: str, port: int) -> socket.socket:
    """Opens the port, before anything is loaded: a port in use is reported at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{printable(host)} port {port}: cannot listen ({one_line(error)}): choose another --port"
        ) from error


@contextlib.contextmanager
def _folder(max_bytes: int) -> "Iterator[PrivateFolder]":
    """Makes the folder for gradio's files; gradio reads its place from the environment when it is imported."""
    from glcic_jax.serving.private_folder import PrivateFolder

    folder = PrivateFolder(max_bytes, _SECONDS_KEPT)
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder.path),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    tempfile.tempdir = str(folder.path)
    try:
        yield folder
    finally:
        tempfile.tempdir = None
        folder.remove()


def _create_service(options: dict[str, Any]) -> "Service":
    from glcic_jax.serving.service import Limits, Service

    limits = Limits(
        max_bytes=round(options["max_megabytes"] * 1e6),
        max_pixels=round(options["max_megapixels"] * 1e6),
        queue=options["queue"],
        upload_seconds=options["upload_seconds"],
    )
    return Service(_completers(options["weights"], options["device"]), limits)


def _completers(references: tuple[str, ...], device: str | None) -> "dict[str, Completer]":
    """Loads weights, by default the default and all stored ones.

    Their names are the last parts of their paths: visitors see them, and must not learn this machine's paths.
    """
    from glcic_jax.completion import Completer
    from glcic_jax.weights import DEFAULT_NAME

    completers: dict[str, Completer] = {}
    for reference in references or (os.environ.get("GLCIC_WEIGHTS") or DEFAULT_NAME, *_stored_names()):
        name = os.path.basename(reference.rstrip("/")) or reference
        if name not in completers:
            completers[name] = Completer.load(reference, device)
            completers[name].name = name
        elif references:
            raise ConfigError(f"--weights: two are called {printable(name)}: rename one")
    return completers


def _stored_names() -> list[str]:
    """Returns the names of the stored completion networks; logs damaged ones and leaves them out."""
    from glcic_jax.model.networks import CompletionNetwork
    from glcic_jax.weights.store import stored

    entries = stored()
    for entry in entries:
        if entry.error:
            _log.warning("left out: %s", entry.error)
    return [entry.name for entry in entries if isinstance(entry.network, CompletionNetwork)]


def _run(service: "Service", folder: "PrivateFolder", listening: socket.socket, options: dict[str, Any]) -> None:
    import asyncio

    import uvicorn

    from glcic_jax.serving.api import create_app

    app: Any = create_app(service)
    if options["page"]:
        from glcic_jax.serving.site import with_page

        app = with_page(app, service, folder, _SECONDS_BETWEEN_PRUNINGS, options["root_path"])

    class Server(uvicorn.Server):
        """Finishes requests in progress before it closes the connections of open pages."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            click.echo("stopping after the requests in progress", err=True)
            for server in self.servers:
                server.close()
            service.stop_accepting()
            deadline = time.monotonic() + options["stop_seconds"]
            # A second Ctrl-C sets force_exit.
            while not (service.idle or self.force_exit or time.monotonic() > deadline):
                await asyncio.sleep(0.1)
            if not service.close():
                _log.warning("stopped with requests in progress")
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_SECONDS_FOR_LISTENERS,
        server_header=False,
    )
    # Joined at exit: Python cannot end while a compiler runs in a thread.
    threading.Thread(target=_warm_up, args=(service, options["warmup"]), name="warm-up").start()
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"serving {', '.join(service.completers)} on http://{shown}:{port}", err=True)
    try:
        Server(config).run([listening])
    finally:
        service.close()


def _warm_up(service: "Service", sizes: tuple[tuple[int, int], ...]) -> None:
    """Compiles in the background: the page is available at once, and /readyz reports the end."""
    try:
        service.warm_up(sizes, _log.info)
    except UserError as error:  # Too little memory for one size; others may fit.
        _log.error("warm-up: %s", error)
        service.warm_up((), _log.info)
    except Exception:
        _log.exception("warm-up failed: nothing is completed")
