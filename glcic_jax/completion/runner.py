"""Running a completion network on pictures of any size: devices, padding, compiled programs, memory."""

import contextlib
import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax.errors import ConfigError, MemoryExhaustedError, WeightsError, one_line
from glcic_jax.model import images
from glcic_jax.model.images import STRIDE, bucket
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.runtime import available_memory, is_out_of_device_memory
from glcic_jax.weights.file import Weights

_HEADROOM = 64 << 20  # Bytes left to everything else.
# Compiling with less ends the process without a word: what fails there is not Python.
_TO_COMPILE = 256 << 20


class Runner:
    """A completion network on a device, with a compiled program for each padded size.

    Several threads may use it at once.

    Args:
      weights: Of a completion network.
      name: What errors call them.
      device: Where to compute.

    Raises:
      WeightsError: They are of another network.
    """

    def __init__(self, weights: Weights, name: str, device: jax.Device):
        network = weights.network
        if not isinstance(network, CompletionNetwork):
            raise WeightsError(f"{name}: these are a context discriminator's weights, not a completion network's")
        self.device = device
        self._name = name
        self._variables = jax.device_put(weights.variables, device)
        self._mean_pixel = jax.device_put(np.array(weights.description.mean_pixel, np.float32), device)
        self._run = jax.jit(functools.partial(_run, network, weights.description.input_form))
        self._programs: dict[tuple[int, ...], Any] = {}  # By (N, H, W).
        self._compiling = threading.Lock()
        # On a CPU one run takes all cores, and two at once would both count on the same free memory.
        self._running: Any = threading.Lock() if device.platform == "cpu" else contextlib.nullcontext()

    def output(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Runs the network on one picture [H, W, 3] with its mask [H, W, 1]; see `outputs`."""
        return self.outputs(image[None], mask[None])[0]

    def outputs(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Runs the network on pictures of one size, any size.

        Args:
          image: [N, H, W, 3] float32 in [0, 1]; what lies inside the hole is not looked at.
          mask: [N, H, W, 1] float32, 1 = hole.

        Returns:
          [N, H, W, 3] float32 in [0, 1], the raw output.

        Raises:
          MemoryExhaustedError: The memory is too small.
          WeightsError: The output is not finite.
        """
        count, height, width = image.shape[:3]
        valid_size = [-(-side // STRIDE) * STRIDE for side in (height, width)]
        size = bucket(height), bucket(width)
        # Up to the stride the border is repeated, hole or not; beyond, the network is told that nothing is.
        image, mask = (
            np.pad(
                np.pad(
                    array, [(0, 0), (0, valid_size[0] - height), (0, valid_size[1] - width), (0, 0)], mode="edge"
                ),
                [(0, 0), (0, size[0] - valid_size[0]), (0, size[1] - valid_size[1]), (0, 0)],
            )
            for array in (image, mask)
        )
        try:
            program = self._program(count, *size)
            with self._running:
                analysis = program.memory_analysis()
                if analysis is not None:
                    self._require(analysis.temp_size_in_bytes + analysis.output_size_in_bytes + _HEADROOM, size)
                valid_sizes = np.array([valid_size] * count, np.int32)
                output = program(self._variables, self._mean_pixel, image, mask, valid_sizes)
                result = np.asarray(output)[:, :height, :width]
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_device_memory(error):
                raise
            raise MemoryExhaustedError(f"{_too_little(self.device, size)} ({one_line(error)})") from error
        if not np.isfinite(result).all():
            raise WeightsError(f"{self._name}: the network's output is not finite: the weights are of no use")
        return result

    def warmup(self, height: int, width: int) -> None:
        """Compiles what pictures of a size, and all that are padded to the same, will need."""
        self._program(1, bucket(height), bucket(width))

    @property
    def programs(self) -> int:
        """How many programs were compiled, one for each padded size and number of pictures."""
        return len(self._programs)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The padded sizes, (height, width), that programs have been compiled for."""
        return tuple(dict.fromkeys(shape[1:] for shape in self._programs))

    def _program(self, *shape: int) -> Any:
        """The compiled program for (N, H, W)."""
        if shape in self._programs:  # Without waiting for others that compile.
            return self._programs[shape]
        with self._compiling:
            if shape not in self._programs:
                self._require(_TO_COMPILE, shape[1:])
                arguments = [
                    jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
                    jax.ShapeDtypeStruct((*shape, 1), jnp.float32),
                    jax.ShapeDtypeStruct((shape[0], 2), jnp.int32),
                ]
                lowered = self._run.lower(self._variables, self._mean_pixel, *arguments)
                self._programs[shape] = lowered.compile()
            return self._programs[shape]

    def _require(self, needed: int, size: tuple[int, ...]) -> None:
        """The system ends a process that takes too much of a CPU's memory without a word, so ask before."""
        available = available_memory() if self.device.platform == "cpu" else None
        if available is not None and needed > available:
            sizes = f"{needed / 2**30:.1f} GiB are needed, {available / 2**30:.1f} GiB are free"
            raise MemoryExhaustedError(f"{_too_little(self.device, size)} ({sizes})")


def find_device(device: str | jax.Device | None) -> jax.Device:
    """The device of a name: "cpu", "gpu", "cuda:1" ...; None: JAX's first.

    Raises:
      ConfigError: There is none.
    """
    if device is None:
        return jax.local_devices()[0]
    if not isinstance(device, str):
        return device
    platform, _, number = device.partition(":")
    try:
        # JAX takes an empty name for any platform.
        found = jax.local_devices(backend=platform or "none")
        return found[int(number or 0) if not number or number.isdecimal() else len(found)]
    except (RuntimeError, ValueError, IndexError) as error:
        there = ", ".join(f"{one.platform}:{index}" for index, one in enumerate(jax.local_devices()))
        raise ConfigError(f"there is no device {device!r} here: choose one of {there}, or cpu") from error


def _run(
    network: CompletionNetwork,
    input_form: str,
    variables: Any,
    mean_pixel: jax.Array,
    image: jax.Array,
    mask: jax.Array,
    valid_size: jax.Array,
) -> Any:
    network_input = images.network_input(image, mask, mean_pixel, input_form, valid_size)
    return network.apply(variables, network_input, train=False, valid_size=valid_size)


def _too_little(device: jax.Device, size: tuple[int, ...]) -> str:
    return f"{device} has too little memory for the network on {size[1]} x {size[0]} px"
