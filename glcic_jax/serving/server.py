"""Starts the service: listens at once, loads the networks, warms up, and stops after the requests in progress."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from glcic_jax.errors import ConfigError, WeightsError, one_line, printable
from glcic_jax.progress import Log
from glcic_jax.serving.site import Endpoint, create_site

if TYPE_CHECKING:
    from glcic_jax.completion import Completer
    from glcic_jax.serving.service import Service

_SECONDS_FOR_OPEN_CONNECTIONS = 3  # At the end.
_log = logging.getLogger("glcic_jax.serve")


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """The options of `glcic serve`; see its help.

    Attributes:
      warmup: (height, width) of windows, in pixels.
    """

    weights: tuple[str, ...]
    host: str
    port: int
    device: str | None
    warmup: tuple[tuple[int, int], ...]
    max_megabytes: float
    max_megapixels: float
    queue: int
    upload_seconds: float
    stop_seconds: float
    root_path: str
    page: bool
    allow_origin: tuple[str, ...]


def run_server(options: ServerOptions, log: Log) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
      options: What to serve, and where.
      log: Receives lines for the person who started it.

    Raises:
      ConfigError: The port cannot be used, or two weights have the same name.
      WeightsError: Weights cannot be used.
    """
    with _ended_by_signals(log), _log_to_stderr(), _listen(options.host, options.port) as listening:
        _Server(options, log).serve_on(listening)


class _Server(uvicorn.Server):
    """Loads the service in a thread; at the end it finishes the requests in progress.

    Args:
      options: What to serve.
      log: As in `run_server`.
    """

    def __init__(self, options: ServerOptions, log: Log):
        self._endpoint = Endpoint()
        site = create_site(self._endpoint, options.page, options.allow_origin)
        config = uvicorn.Config(
            site,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_SECONDS_FOR_OPEN_CONNECTIONS,
            server_header=False,
            lifespan="off",
            root_path=options.root_path,
        )
        super().__init__(config)
        self._options = options
        self._write = log
        self._loading = threading.Thread()
        self._failure: Exception | None = None
        self._lock = threading.Lock()  # Guards the next two.
        self._service: Service | None = None
        self._stopped = False

    def serve_on(self, listening: socket.socket) -> None:
        """Serves on a listening socket; raises what made loading fail."""
        host, port = listening.getsockname()[:2]
        self._write(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            self.run([listening])
        finally:
            self._wait_for_loading()
        if self._failure is not None:
            raise self._failure

    def _wait_for_loading(self) -> None:
        """Python cannot end while a compiler runs in a thread."""
        if not self._loading.is_alive():
            return
        try:
            self._write("waiting for the compiler: press Ctrl-C to end at once")
            self._loading.join()
        except (SystemExit, KeyboardInterrupt):
            os._exit(0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts connections, and begins to load."""
        await super().startup(sockets)
        self._loading = threading.Thread(target=self._load, args=(asyncio.get_running_loop(),), name="loading")
        self._loading.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for the requests in progress, up to `stop_seconds`."""
        for server in self.servers:
            server.close()
        with self._lock:
            self._stopped, service = True, self._service
        if service is None:
            self._endpoint.set(None)
        else:
            self._write("stopping after the requests in progress")
            await self._finish(service)
        await super().shutdown(sockets)

    async def _finish(self, service: "Service") -> None:
        service.stop_accepting()
        deadline = time.monotonic() + self._options.stop_seconds
        # A second Ctrl-C sets force_exit.
        while not (service.idle or self.force_exit or time.monotonic() > deadline):
            await asyncio.sleep(0.1)
        if not service.close():
            _log.warning("stopped with requests in progress")

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        """Imports JAX, loads the weights, and compiles for common sizes while requests are answered."""
        try:
            from glcic_jax.serving.api import create_app

            service = create_service(self._options)
            app = create_app(service)
        except Exception as error:
            self._failure = error
            self.should_exit = True
            return
        with self._lock:
            if self._stopped:
                service.close()
                return
            self._service = service
            loop.call_soon_threadsafe(self._endpoint.set, app)
        self._write(f"weights: {', '.join(service.completers)}")
        service.warm_up(self._options.warmup, _log.info)


def create_service(options: ServerOptions) -> "Service":
    """Loads the networks.

    Raises:
      ConfigError: Two weights have the same name, or there is no such device.
      WeightsError: Weights cannot be used.
    """
    from glcic_jax.serving.service import Limits, Service

    limits = Limits(
        max_bytes=round(options.max_megabytes * 1e6),
        max_pixels=round(options.max_megapixels * 1e6),
        queue=options.queue,
        upload_seconds=options.upload_seconds,
    )
    return Service(load_completers(options.weights, options.device), limits)


def load_completers(references: tuple[str, ...], device: str | None) -> "dict[str, Completer]":
    """Loads weights, by default the default, the other built-in ones and all stored ones.

    Their names are the last parts of their paths: visitors see them, and must not learn this machine's paths.
    """
    from glcic_jax.completion import Completer
    from glcic_jax.weights import DEFAULT_NAME

    completers: dict[str, Completer] = {}
    for reference in references or (os.environ.get("GLCIC_WEIGHTS") or DEFAULT_NAME, *_other_names()):
        name = os.path.basename(reference.rstrip("/")) or reference
        if name not in completers:
            completers[name] = Completer.load(reference, device)
            completers[name].name = name
        elif references:
            raise ConfigError(f"--weights: two are called {printable(name)}: rename one")
    return completers


def _other_names() -> list[str]:
    """Returns the names of the built-in and stored completion networks; logs damaged ones and leaves them out."""
    from glcic_jax.weights import find_network, kind_of
    from glcic_jax.weights.store import built_in_entries, stored

    names = []
    for entry in (*built_in_entries(), *stored()):
        try:
            if kind_of(find_network(entry.name).weights.network) == "completion":
                names.append(entry.name)
        except WeightsError as error:
            _log.warning("left out: %s", error)
    return names


@contextlib.contextmanager
def _ended_by_signals(log: Log) -> Iterator[None]:
    """Ends the block at SIGTERM and Ctrl-C; the server inside installs its own handlers while it runs."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(0)

    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:
        log("stopped")
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
