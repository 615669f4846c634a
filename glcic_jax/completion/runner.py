"""Runs a completion network on images of any size: devices, padding, compiled programs, memory checks."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax.completion.windows import STRIDE
from glcic_jax.errors import ConfigError, MemoryExhaustedError, WeightsError, one_line
from glcic_jax.model import images
from glcic_jax.model.convolutions import convolutions_of
from glcic_jax.model.images import bucket
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.runtime import available_memory, is_out_of_device_memory, start_backend
from glcic_jax.weights import Weights, kind_of

_HEADROOM = 64 << 20  # Bytes reserved for the rest of the process.
# Compiling with less memory kills the process: the allocation fails in C++.
_COMPILE_MEMORY = 256 << 20
_MAX_PROGRAMS = 16  # Each takes 10 to 40 MB.


class Runner:
    """A completion network on a device, with a compiled program for each of the last padded sizes; thread-safe.

    Args:
      weights: Weights of a completion network.
      name: Name of the weights in errors.
      device: Device that runs the network.

    Attributes:
      compilations: Number of programs that were compiled so far.

    Raises:
      WeightsError: The weights belong to another network.
    """

    def __init__(self, weights: Weights, name: str, device: jax.Device):
        network = weights.network
        if not isinstance(network, CompletionNetwork):
            raise WeightsError(
                f"{name}: these are weights of a {kind_of(network).replace('_', ' ')}, not of a completion network"
            )
        input_form = weights.description.input_form

        def run(
            variables: Any, mean_pixel: jax.Array, image: jax.Array, mask: jax.Array, valid_size: jax.Array
        ) -> Any:
            # On a CPU the plain ones compile in half the time, and inference is hardly faster with its own.
            with convolutions_of("plain") if device.platform == "cpu" else contextlib.nullcontext():
                network_input = images.network_input(image, mask, mean_pixel, input_form, valid_size)
                return network.apply(variables, network_input, train=False, valid_size=valid_size)

        self._run = run
        self.compilations = 0
        self.device = device
        self._name = name
        self._variables = jax.device_put(weights.variables, device)
        self._mean_pixel = jax.device_put(np.array(weights.description.mean_pixel, np.float32), device)
        # By (N, H, W), the last used one at the end.
        self._programs: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()  # Guards `_programs`.
        self._compiling = threading.Lock()
        # On a CPU one run uses all cores, and two at once would both rely on the same free memory.
        self._running: Any = threading.Lock() if device.platform == "cpu" else contextlib.nullcontext()

    def output(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Runs the network on one image [H, W, 3] with its mask [H, W, 1]; see `outputs`."""
        return self.outputs(image[None], mask[None])[0]

    def outputs(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Runs the network on equally sized images.

        Args:
          image: [N, H, W, 3] float32 in [0, 1]; values inside the hole are ignored.
          mask: [N, H, W, 1] float32, 1 = hole.

        Returns:
          [N, H, W, 3] float32 in [0, 1], the raw output.

        Raises:
          MemoryExhaustedError: Not enough memory.
          WeightsError: The output is not finite.
          ConfigError: This process was forked from the one that loaded the network.
        """
        start_backend()
        count, height, width = image.shape[:3]
        valid_size = [-(-side // STRIDE) * STRIDE for side in (height, width)]
        size = bucket(height), bucket(width)
        # Replicate the border up to a multiple of the stride; beyond that, valid_size excludes the padding.
        image, mask = (
            np.pad(
                np.pad(
                    array, [(0, 0), (0, valid_size[0] - height), (0, valid_size[1] - width), (0, 0)], mode="edge"
                ),
                [(0, 0), (0, size[0] - valid_size[0]), (0, size[1] - valid_size[1]), (0, 0)],
            )
            for array in (image, mask)
        )
        program = self._program(count, *size)
        with self._running, self._enough_device_memory(size):
            analysis = program.memory_analysis()
            if analysis is not None:
                needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
                self._check_memory(needed + _HEADROOM, size)
            valid_sizes = np.array([valid_size] * count, np.int32)
            output = program(self._variables, self._mean_pixel, image, mask, valid_sizes)
            result = np.asarray(output)[:, :height, :width]
        if not np.isfinite(result).all():
            raise WeightsError(f"{self._name}: the network's output is not finite: the weights are unusable")
        return result

    def warmup(self, height: int, width: int) -> None:
        """Compiles the program for one image of a size, and for all sizes with the same padded size."""
        self._program(1, bucket(height), bucket(width))

    @property
    def compiling(self) -> bool:
        """Whether a program is being compiled."""
        return self._compiling.locked()

    def _program(self, *shape: int) -> Any:
        """Returns the program for (N, H, W), compiled once while it is among the last ones used."""
        program = self._kept_program(shape)
        if program is None:  # Others do not wait while one is compiled.
            with self._compiling:
                program = self._kept_program(shape) or self._compile(shape)
        return program

    def _kept_program(self, shape: tuple[int, ...]) -> Any:
        with self._lock:
            if shape in self._programs:
                self._programs.move_to_end(shape)
            return self._programs.get(shape)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        self._check_memory(_COMPILE_MEMORY, shape[1:])
        arguments = [
            jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
            jax.ShapeDtypeStruct((*shape, 1), jnp.float32),
            jax.ShapeDtypeStruct((shape[0], 2), jnp.int32),
        ]
        # JAX keeps the trace of each size as long as the traced function lives.
        function = jax.jit(lambda *operands: self._run(*operands))  # noqa: PLW0108
        with self._enough_device_memory(shape[1:]):
            program = function.lower(self._variables, self._mean_pixel, *arguments).compile()
        with self._lock:
            self._programs[shape] = program
            if len(self._programs) > _MAX_PROGRAMS:
                self._programs.popitem(last=False)
        self.compilations += 1
        return program

    @contextlib.contextmanager
    def _enough_device_memory(self, size: tuple[int, ...]) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_device_memory(error):
                raise
            raise MemoryExhaustedError(f"{_memory_message(self.device, size)} ({one_line(error)})") from error

    def _check_memory(self, needed: int, size: tuple[int, ...]) -> None:
        """Raises MemoryExhaustedError if `needed` bytes exceed the host's free memory."""
        # Otherwise the operating system would kill the process.
        available = available_memory() if self.device.platform == "cpu" else None
        if available is not None and needed > available:
            sizes = f"{needed / 2**30:.1f} GiB are needed, {available / 2**30:.1f} GiB are free"
            raise MemoryExhaustedError(f"{_memory_message(self.device, size)} ({sizes})")


def find_device(device: str | jax.Device | None) -> jax.Device:
    """Returns a device by its name, such as "cpu", "gpu" or "cuda:1"; JAX's first for None.

    Raises:
      ConfigError: There is no such device.
    """
    start_backend()
    if device is None:
        return jax.local_devices()[0]
    if not isinstance(device, str):
        return device
    platform, _, number = device.partition(":")
    try:
        # JAX treats an empty name as any platform.
        found = jax.local_devices(backend=platform or "none")
        return found[int(number or 0) if not number or number.isdecimal() else len(found)]
    except (RuntimeError, ValueError, IndexError) as error:
        known = ", ".join(f"{local.platform}:{index}" for index, local in enumerate(jax.local_devices()))
        raise ConfigError(f"there is no device {device!r} here: choose one of {known}, or cpu") from error


def _memory_message(device: jax.Device, size: tuple[int, ...]) -> str:
    return f"{device} has too little memory for the network on {size[1]} x {size[0]} px"
