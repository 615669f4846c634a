"""`glcic serve`: what its options mean. JAX and gradio are imported when the service is started."""

import contextlib
import logging
import math
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from glcic_jax.errors import ConfigError, UserError, one_line, printable

if TYPE_CHECKING:
    from glcic_jax.completion.completer import Completer
    from glcic_jax.serving.private_folder import PrivateFolder
    from glcic_jax.serving.service import Service

# Windows around holes of up to some 200 px, and photographs of 640 px: what the network is run on most.
_WARMUP = "384x384,384x448,448x384,448x448,448x512,512x448,512x512,640x448,640x512,448x640,512x640"
_LONGEST_SIZE = len("4096x4096")
_SECONDS_KEPT = 3600.0
_SECONDS_BETWEEN_TENDINGS = 15.0
# How long pages that only listen may hold up the end.
_SECONDS_FOR_LISTENERS = 3
_log = logging.getLogger("glcic_jax.serve")


class _Sizes(click.ParamType):
    """Sizes as 512x384,640x480; width first."""

    name = "WxH,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[int, int], ...]:
        """What click calls with the option's text."""
        sizes = []
        for part in filter(None, (text.strip() for text in str(value).split(","))):
            width, _, height = part.partition("x")
            known = len(part) <= _LONGEST_SIZE and width.isdecimal() and height.isdecimal()
            if not known or not (1 <= int(width) <= 4096 and 1 <= int(height) <= 4096):
                self.fail(f"{part[:20]!r} is no size in pixels up to 4096x4096, as 512x384", param, ctx)
            sizes.append((int(height), int(width)))
        return tuple(sizes)


class _Number(click.FloatRange):
    """A number in a range, of which "nan" is none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """What click calls with the option's text."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value!r} is no number", param, ctx)


@click.command()
@click.option(
    "--weights",
    multiple=True,
    help="What visitors may choose, the default first: as of 'glcic complete'; may be given again.  "
    "[default: $GLCIC_WEIGHTS, else photos; and all that are stored]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: for other machines too.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0: any free one.")
@click.option("--device", help="cpu, gpu, gpu:1 ...  [default: JAX's first]")
@click.option(
    "--warmup",
    type=_Sizes(),
    default=_WARMUP,
    help="Sizes that the network is compiled for at the start; '' for none.  [default: eleven common ones]",
)
@click.option(
    "--max-megabytes", type=_Number(0.1, 1000), default=32, show_default=True, help="Of a file, at most."
)
@click.option("--max-megapixels", type=_Number(0.01, 500), default=40, show_default=True, help="Of a picture.")
@click.option("--queue", type=click.IntRange(1, 1000), default=16, show_default=True, help="Requests at a time.")
@click.option("--upload-seconds", type=_Number(1), default=60, show_default=True, help="To send, and to read.")
@click.option(
    "--stop-seconds",
    type=_Number(0),
    default=60,
    show_default=True,
    help="For what is begun, at the end.",
)
@click.option("--root-path", default="", help="Where a proxy in front has it, as /fill.")
@click.option("--page/--no-page", default=True, help="The page, or the endpoint alone.")
def serve(**options: Any) -> None:
    """Serve a page to paint on, and POST /v1/complete.

    \b
    glcic serve                             then open http://127.0.0.1:7860
    curl -F image=@photo.jpg -F mask=@mask.png http://127.0.0.1:7860/v1/complete -o out.jpg

    Needs: pip install 'glcic-jax[serve]'. One picture is completed at a time; others wait. Nothing that visitors
    send is kept: the endpoint holds it in memory, and the page in a folder of its own under $TMPDIR for at most
    an hour. Ctrl-C or SIGTERM stops it when what was begun is done. Exits with 2 for bad input, 3 where --weights
    cannot be used.
    """  # noqa: D301 - click reads the \\b.
    _require_extra()
    most = int(8 * options["max_megabytes"] * options["queue"] * 1e6)
    with (
        _ended_by_signals(),
        _log_to_stderr(),
        _listen(options["host"], options["port"]) as listening,
        _folder(most) as folder,
    ):
        _run(_service(options), folder, listening, options)


def _require_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import gradio_client  # noqa: F401 - gradio itself takes seconds.
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"the service needs more packages ({one_line(error)}): pip install 'glcic-jax[serve]'"
        ) from error


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Has SIGTERM and Ctrl-C end the block as they end the server in it, which has its own handlers meanwhile."""

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
    # It tells of every odd request, and what was in it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _listen(host: str, port: int) -> socket.socket:
    """Opens the port first: that it is taken is told before anything is loaded."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{printable(host)} port {port}: cannot be listened on ({one_line(error)}): choose another --port"
        ) from error


@contextlib.contextmanager
def _folder(max_bytes: int) -> "Iterator[PrivateFolder]":
    """The folder that gradio keeps its files in; it learns of it by the environment, before it is imported."""
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


def _service(options: dict[str, Any]) -> "Service":
    from glcic_jax.serving.service import Limits, Service

    limits = Limits(
        max_bytes=round(options["max_megabytes"] * 1e6),
        max_pixels=round(options["max_megapixels"] * 1e6),
        queue=options["queue"],
        upload_seconds=options["upload_seconds"],
    )
    return Service(_completers(options["weights"], options["device"]), limits)


def _completers(references: tuple[str, ...], device: str | None) -> "dict[str, Completer]":
    """By names that tell nothing of this machine: a file's and a run's are the last parts of their paths."""
    from glcic_jax.completion.completer import Completer

    completers: dict[str, Completer] = {}
    for reference in references or (_default(), *_stored()):
        name = os.path.basename(reference.rstrip("/")) or reference
        if name not in completers:
            completers[name] = Completer.load(reference, device)
            completers[name].name = name  # It is told to visitors, whom this machine's paths do not concern.
        elif references:
            raise ConfigError(f"--weights: two are called {printable(name)}: rename one")
    return completers


def _default() -> str:
    from glcic_jax.weights.store import DEFAULT_NAME

    return os.environ.get("GLCIC_WEIGHTS") or DEFAULT_NAME


def _stored() -> list[str]:
    """The completion networks in the store; what is damaged is told and left out."""
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

    app = _application(service, folder, options)

    class Server(uvicorn.Server):
        """Finishes what is begun before it closes the connections of pages that only listen."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            click.echo("stopping: what was begun is done first", err=True)
            for server in self.servers:
                server.close()
            service.refuse()
            deadline = time.monotonic() + options["stop_seconds"]
            # A second Ctrl-C ends it at once.
            while not (service.idle or self.force_exit or time.monotonic() > deadline):
                await asyncio.sleep(0.1)
            if not service.close():
                _log.warning("stopped before all was done")
            await super().shutdown(sockets)

    host, port = listening.getsockname()[:2]
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_SECONDS_FOR_LISTENERS,
        server_header=False,
    )
    _warm_up(service, options["warmup"])
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"serving {', '.join(service.completers)} on http://{shown}:{port}", err=True)
    try:
        Server(config).run([listening])
    finally:
        service.close()


def _application(service: "Service", folder: "PrivateFolder", options: dict[str, Any]) -> Any:
    from glcic_jax.serving.api import create_app

    app = create_app(service)
    if not options["page"]:
        return app
    from glcic_jax.serving.site import with_page

    return with_page(app, service, folder, _SECONDS_BETWEEN_TENDINGS, options["root_path"])


def _warm_up(service: "Service", sizes: tuple[tuple[int, int], ...]) -> None:
    """Compiles in the background: pages are there at once, /readyz says when it is done."""

    def compile_all() -> None:
        try:
            service.warm_up(sizes, lambda line: _log.info("%s", line))
        except UserError as error:  # Too little memory for a size: it is told, and others may do.
            _log.error("warm-up: %s", error)
            service.warm_up((), _log.info)
        except Exception:
            _log.exception("warm-up: nothing is completed")

    # Waited for at the end: Python cannot go while a compiler runs in one of its threads.
    threading.Thread(target=compile_all, name="warm-up").start()
