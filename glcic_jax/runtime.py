"""Memory of the host and the device, and JAX's compilation cache."""

import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from glcic_jax.errors import ConfigError, MemoryExhaustedError, one_line, printable

# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # The first bytes of a frame.

_log = logging.getLogger(__name__)


def keep_freed_memory() -> bool:
    """Stops glibc from returning freed memory to the operating system.

    XLA allocates the buffers of every step anew; mapping their pages costs up to a fifth of a CPU step's time.
    The process never shrinks. Call it before starting threads.

    Returns:
      Whether it worked; other C libraries cannot.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # Another C library, or none that Python can open.
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_ARENA_MAX: 1}
    return sum(mallopt(name, value) for name, value in settings.items()) == len(settings)


def runs_on_cpu() -> bool:
    """Returns whether JAX can only run on a CPU here; unlike `jax.default_backend()`, it starts nothing."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def nvidia_gpu() -> str | None:
    """Returns the NVIDIA GPU that the driver shows, which JAX may be unable to use; None if there is none."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # There is no driver, or it hangs.
        listed = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, text=True, timeout=20)
        if listed.returncode == 0 and listed.stdout.strip():  # GPU 0: NVIDIA H100 (UUID: ...)
            return listed.stdout.splitlines()[0].partition(" (UUID")[0]
    return next((path for path in ("/dev/nvidia0", "/proc/driver/nvidia") if os.path.exists(path)), None)


def start_backend() -> None:
    """Starts JAX's devices, before work whose errors would hide that there are none.

    Raises:
      ConfigError: There is no device of $JAX_PLATFORMS, or this process was forked from one that uses JAX.
    """
    import jax

    if _process_of_backend() != os.getpid():
        # XLA's threads do not exist in the child, which would wait for them for ever.
        raise ConfigError(
            "this process was forked from one that uses JAX, and JAX cannot run in it: start processes by "
            "multiprocessing.get_context('spawn'), and load the network in each of them"
        )
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # An AssertionError without text: no plugin for the platform.
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({one_line(error)})" if str(error) else ""
        if not platforms:
            raise ConfigError(
                f"JAX cannot start its devices{reason}: set JAX_PLATFORMS=cpu to go on without them"
            ) from error
        raise ConfigError(
            f"JAX finds no device of JAX_PLATFORMS={printable(platforms)} here{reason}: unset it, set "
            "JAX_PLATFORMS=cpu, or install JAX for that device (pip install 'glcic-jax[cuda13]')"
        ) from error


@functools.cache
def _process_of_backend() -> int:
    """Returns the process that first started JAX's devices; a forked child inherits the answer."""
    return os.getpid()


def core_count() -> int:
    """Returns the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only.
        return os.cpu_count() or 1


def is_out_of_device_memory(error: Exception) -> bool:
    """Returns whether a JAX runtime error means that a device has too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


@contextlib.contextmanager
def enough_memory_for(what: str) -> Iterator[None]:
    """Turns a MemoryError of Python or NumPy into an error that names the work.

    Raises:
      MemoryExhaustedError: In place of a MemoryError inside the block.
    """
    try:
        yield
    except MemoryError as error:
        raise MemoryExhaustedError(
            f"too little memory for {what} ({one_line(error)}): give the process more, or use a smaller image"
        ) from error


def available_memory() -> int | None:
    """Returns the bytes of host memory that this process may still allocate; None if they are unknown.

    They are the smallest of three remainders: of the system, of the control group (a container's limit) and of
    `ulimit -v`.
    """
    known = [left for left in (_system(), _control_group(), _address_space()) if left is not None]
    return max(0, min(known)) if known else None


def _system() -> int | None:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    # The page cache counts as used, but is reclaimed first.
    statistics = dict(line.split() for line in _text("/sys/fs/cgroup/memory.stat").splitlines())
    return int(limit) - int(used) + int(statistics.get("inactive_file", 0))


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # Windows.
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _text("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return limit - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def enable_compile_cache(directory: Path) -> None:
    """Caches compiled programs in a directory, unless JAX has one already.

    A directory that cannot be written is reported, and the program goes on without it.

    Args:
      directory: May begin with ~.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    try:
        directory = directory.expanduser()
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home directory.
        reason = getattr(error, "strerror", None) or one_line(error)
        _log.warning("compiled programs cannot be kept in %s: %s", directory, reason)
        return
    if not os.access(directory, os.W_OK):
        _log.warning("compiled programs cannot be kept in %s: it cannot be written", directory)
        return
    try:
        _remove_torn_entries(directory)
    except OSError as error:
        _log.warning("damaged programs in %s were not looked for: %s", directory, one_line(error))
    jax.config.update("jax_compilation_cache_dir", str(directory))


def _remove_torn_entries(cache: Path) -> None:
    """Removes what a full disk or a kill left: JAX never replaces an entry, and warns of it at every start.

    Entries in Zstandard format, which JAX writes where that package is installed, are not checked.
    """
    checked = cache / ".checked"
    since = checked.stat().st_mtime if checked.exists() else 0.0
    started = time.time()
    for entry in cache.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # Another process removed it.
            # JAX does not change finished entries.
            if entry.stat().st_mtime >= since and not _decompresses(entry.read_bytes()):
                entry.unlink()
    checked.touch()
    os.utime(checked, (started, started))  # Another process may have written entries since.


def _decompresses(entry: bytes) -> bool:
    if entry.startswith(_ZSTANDARD):  # JAX's choice where the package zstandard is installed, else zlib.
        return True
    try:
        zlib.decompress(entry)
    except zlib.error:
        return False
    return True
