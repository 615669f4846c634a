"""Completing pictures of any size with trained weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from glcic_jax import blending
from glcic_jax.compile_cache import enable_compile_cache
from glcic_jax.errors import MemoryExhaustedError
from glcic_jax.holes import bounds
from glcic_jax.picture_kinds import take_hole, take_picture
from glcic_jax.pixels import colour_channels, from_colour, to_colour
from glcic_jax.runner import Runner, find_device
from glcic_jax.weight_store import find_weights, home
from glcic_jax.weights import Weights
from glcic_jax.windows import MAX_SIDE, SMALLEST_MAX_SIDE, Limits, Plan, Window, plan


class Filling(NamedTuple):
    """What came out.

    Attributes:
      pixels: The completed picture, of the shape and type of the one given; outside the hole the same bits.
      outputs: The network's raw output for each window of the plan, [h, w, 3] float32 at the network's size.
      plan: How the hole was filled, and why so.
    """

    pixels: np.ndarray
    outputs: tuple[np.ndarray, ...]
    plan: Plan


class Completer:
    """A trained completion network, ready to fill holes of any shape in pictures of any size.

    It may be used by several threads at once.

    Args:
      weights: Of a completion network.
      name: What they are called in messages.
      device: Where to compute: "cpu", "gpu", "gpu:1", a `jax.Device`, or None for JAX's first device.

    Raises:
      WeightsError: They are of another network.
      ConfigError: There is no such device.
    """

    def __init__(self, weights: Weights, name: str = "the weights", device: str | jax.Device | None = None):
        self.name = name
        self.description = weights.description
        self._runner = Runner(weights, name, find_device(device))

    @classmethod
    def load(cls, reference: str | Path | None = None, device: str | jax.Device | None = None) -> "Completer":
        """Loads weights, and keeps compiled programs for the next process.

        Args:
          reference: A file of weights, a run's workdir, or a name in the store; None: the only one there is (see
            `weight_store.find_weights`).
          device: As above.

        Raises:
          WeightsError: There are none, or they cannot be used.
          ConfigError: There is no such device.
        """
        enable_compile_cache(home() / "xla")
        found = find_weights(reference)
        return cls(found.weights, found.name, device)

    def complete(
        self, image: Any, mask: Any, *, strategy: str = "auto", max_side: int = MAX_SIDE, blend: bool = False
    ) -> Any:
        """Completes one picture of any kind; see `picture_kinds.take_picture` and `take_hole` for what it takes.

        Args:
          image: A PIL image, an array or a path.
          mask: The same; white, True or 1 is the hole.
          strategy, max_side, blend: As in `fill`.

        Returns:
          A picture of the same kind and size (of a path, a PIL image); outside the hole the same bits.

        Raises:
          DataError: A file cannot be read, or the arrays are no picture or mask.
          ConfigError, MemoryExhaustedError: As in `fill`.
        """
        taken = take_picture(image)
        height, width = taken.pixels.shape[:2]
        hole = take_hole(mask, (width, height))
        return taken.give_back(
            self.fill(taken.pixels, hole, strategy=strategy, max_side=max_side, blend=blend).pixels
        )

    @property
    def device(self) -> jax.Device:
        """Where it computes."""
        return self._runner.device

    def fill(
        self,
        pixels: np.ndarray,
        hole: np.ndarray,
        *,
        strategy: str = "auto",
        max_side: int = MAX_SIDE,
        blend: bool = False,
    ) -> Filling:
        """Fills the hole of a picture.

        Args:
          pixels: [H, W, C] uint8, uint16 or float in [0, 1]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. Alpha is
            kept; to the network, what is transparent is white.
          hole: [H, W] bool, True = hole.
          strategy: As in `windows.plan`.
          max_side: Longest side that the network is run on at once, in pixels; no limit to "original".
          blend: Whether the fill is blended with its surroundings (`blending.blend`).

        Raises:
          ConfigError: The strategy is unknown, or max_side too small.
          MemoryExhaustedError: The memory is too small for the strategy.
        """
        decided = plan(hole, strategy, Limits(self.description.hole_sides[1], max_side))
        completed = pixels.copy()
        if not decided.windows:
            return Filling(completed, (), decided)
        region = bounds(hole)
        fill = np.zeros((region.height, region.width, 3), np.float32)
        outputs = []
        for window in decided.windows:
            output = self._output(pixels, hole, window, decided)
            outputs.append(output)
            rows, columns = np.nonzero(window.part)
            filled = _resized(output, window.box.height, window.box.width)[rows, columns]
            fill[rows + window.box.top - region.top, columns + window.box.left - region.left] = filled
        if blend:
            fill = _blended(pixels, hole, fill)
        inside = hole[region.slices]
        completed[region.slices][inside, : colour_channels(pixels)] = from_colour(fill[inside], pixels)
        return Filling(completed, tuple(outputs), decided)

    def warmup(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Compiles ahead, so that the first picture waits no longer than others.

        Args:
          sizes: (height, width) of what the network will be run on, in pixels. Each serves all sizes that are
            padded to the same one.
        """
        for height, width in sizes:
            self._runner.warmup(height, width)

    def _output(self, pixels: np.ndarray, hole: np.ndarray, window: Window, decided: Plan) -> np.ndarray:
        """Returns [h, w, 3] float32: the raw output of one window at the network's size."""
        rows, columns = window.box.slices
        height, width = window.network_size
        mask = hole[rows, columns].astype(np.float32)
        image = to_colour(pixels[rows, columns])
        if window.scale < 1:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, 3)
            # What has any of the hole in it is hole: nothing of what is to vanish may shine through.
            mask = (cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 0).astype(np.float32)
        try:
            return self._runner.output(image, mask.reshape(height, width, 1))
        except MemoryExhaustedError as error:
            raise MemoryExhaustedError(f"{error}: {_smaller(decided, max(height, width))}") from error


def raw_picture(pixels: np.ndarray, filling: Filling) -> np.ndarray:
    """The network's raw output where it looked, the picture elsewhere.

    Args:
      pixels: The picture that was filled, [H, W, C].
      filling: What came out.

    Returns:
      [H, W, C], of the type of `pixels`.
    """
    raw = pixels.copy()
    for window, output in zip(filling.plan.windows, filling.outputs, strict=True):
        resized = _resized(output, window.box.height, window.box.width)
        raw[window.box.slices][..., : colour_channels(pixels)] = from_colour(resized, pixels)
    return raw


def _smaller(decided: Plan, longest: int) -> str:
    """What to ask for where the memory does not suffice."""
    side = max(SMALLEST_MAX_SIDE, longest // 2)
    if decided.strategy == "crop":
        return f"use a smaller --max-side, as {side} (max_side={side})"
    return f"use --strategy crop --max-side {side} (strategy='crop', max_side={side})"


def _resized(output: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarges [h, w, 3] float32 to a window's size."""
    if output.shape[:2] == (height, width):
        return output
    return cv2.resize(output, (width, height), interpolation=cv2.INTER_CUBIC)


def _blended(pixels: np.ndarray, hole: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Blends a fill [h, w, 3], which covers the bounds of the hole, with what lies around them."""
    region = bounds(hole)
    # Enough around it for the gradients at the hole's edge.
    margin = 8
    top, left = max(0, region.top - margin), max(0, region.left - margin)
    around = slice(top, region.bottom + margin), slice(left, region.right + margin)
    inside = slice(region.top - top, region.bottom - top), slice(region.left - left, region.right - left)
    image = to_colour(pixels[around])
    completed = image.copy()
    completed[inside] = np.where(hole[region.slices][..., None], fill, completed[inside])
    return blending.blend(image, completed, hole[around])[inside]
