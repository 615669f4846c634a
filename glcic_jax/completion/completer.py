"""Completing pictures of any size with trained weights."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from glcic_jax.completion import blending
from glcic_jax.completion.inputs import check_range, take_hole, take_picture
from glcic_jax.completion.runner import Runner, find_device
from glcic_jax.completion.windows import MAX_SIDE, SMALLEST_MAX_SIDE, Limits, Plan, Window, bounds, plan
from glcic_jax.errors import MemoryExhaustedError
from glcic_jax.pictures.colours import colour_channels, from_colour, to_colour
from glcic_jax.runtime import enable_compile_cache, enough_memory_for
from glcic_jax.weights.file import Weights
from glcic_jax.weights.store import find_weights, home

OnPlan = Callable[[Plan], None]
OnOutput = Callable[[Window, np.ndarray], None]


class Filling(NamedTuple):
    """What came out.

    Attributes:
      pixels: The completed picture, of the shape and type of the one given; outside the hole the same bits.
      plan: How the hole was filled, and why so.
    """

    pixels: np.ndarray
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
          reference: A file of weights, a run's workdir, or a name, built in or stored; None: what $GLCIC_WEIGHTS
            names, else what is built in (see `weight_store.find_weights`).
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
        check_range(taken.pixels, hole)
        filling = self.fill(taken.pixels, hole, strategy=strategy, max_side=max_side, blend=blend)
        return taken.give_back(filling.pixels)

    @property
    def device(self) -> jax.Device:
        """Where it computes."""
        return self._runner.device

    @property
    def programs(self) -> int:
        """How many programs were compiled."""
        return self._runner.programs

    def plan(self, hole: np.ndarray, strategy: str = "auto", max_side: int = MAX_SIDE) -> Plan:
        """Decides how a hole [H, W] bool is to be filled; see `windows.plan`."""
        return plan(hole, strategy, Limits(self.description.hole_sides[1], max_side))

    def fill(
        self,
        pixels: np.ndarray,
        hole: np.ndarray,
        *,
        strategy: str = "auto",
        max_side: int = MAX_SIDE,
        blend: bool = False,
        on_plan: OnPlan | None = None,
        on_output: OnOutput | None = None,
    ) -> Filling:
        """Fills the hole of a picture.

        Args:
          pixels: [H, W, C] uint8, uint16 or float in [0, 1]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. What lies
            in the hole is not looked at. Alpha is kept; to the network, what is transparent is white.
          hole: [H, W] bool, True = hole.
          strategy: As in `windows.plan`.
          max_side: Longest side that the network is run on at once, in pixels; no limit to "original".
          blend: Whether the fill is blended with its surroundings (`blending.blend`).
          on_plan: Called before the network is run, with what will be done.
          on_output: Called after each run with its window and the raw output, [h, w, 3] float32.

        Raises:
          ConfigError: The strategy is unknown, or max_side too small.
          MemoryExhaustedError: The memory is too small for the strategy.
          WeightsError: The network's output is not finite.
          ValueError: The shapes do not fit together.
        """
        if pixels.ndim != 3 or pixels.shape[:2] != hole.shape or hole.dtype != bool:
            raise ValueError(f"pixels {pixels.shape} and a hole {hole.dtype}{hole.shape} do not fit")
        decided = self.plan(hole, strategy, max_side)
        if on_plan is not None:
            on_plan(decided)
        with enough_memory_for(f"a picture of {hole.shape[1]} x {hole.shape[0]} px"):
            return Filling(self._filled(pixels, hole, decided, blend, on_output), decided)

    def fill_together(self, colour: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Fills the holes of pictures of one size in one run of the network, as the strategy "original" does.

        Args:
          colour: [N, H, W, 3] float32 in [0, 1]; what lies in the holes is not looked at.
          hole: [N, H, W] bool, True = hole.

        Returns:
          [N, H, W, 3] float32 in [0, 1]; outside the holes the same bits.

        Raises:
          MemoryExhaustedError: The memory is too small for so many at once.
          WeightsError: The network's output is not finite.
        """
        inside = hole[..., None]
        output = self._runner.outputs(np.where(inside, np.float32(0), colour), inside.astype(np.float32))
        return np.where(inside, output, colour)

    def warmup(
        self, sizes: Iterable[tuple[int, int]], *, strategy: str = "auto", max_side: int = MAX_SIDE
    ) -> None:
        """Compiles ahead, so that the first picture waits no longer than others.

        Compiled is what a hole of the largest side trained on needs in the middle of each picture. A program
        serves all windows that are padded to the same size, so that others are often served, too.

        Args:
          sizes: (height, width) of pictures, in pixels, each at least 1.
          strategy, max_side: As in `fill`.
        """
        for height, width in sizes:
            side = self.description.hole_sides[1]
            rows, columns = (slice(max(0, (n - side) // 2), (n + side + 1) // 2) for n in (height, width))
            hole = np.zeros((height, width), bool)
            hole[rows, columns] = True
            for window in self.plan(hole, strategy, max_side).windows:
                self._runner.warmup(*window.network_size)

    def _filled(
        self, pixels: np.ndarray, hole: np.ndarray, decided: Plan, blend: bool, on_output: OnOutput | None
    ) -> np.ndarray:
        completed = pixels.copy()
        if not decided.windows:
            return completed
        region = bounds(hole)
        fill = np.zeros((region.height, region.width, 3), np.float32)
        for window in decided.windows:
            view = _view(pixels, hole, window)
            try:
                output = self._runner.output(*view)
            except MemoryExhaustedError as error:
                raise MemoryExhaustedError(f"{error}: {_smaller(decided, max(view[1].shape))}") from error
            if on_output is not None:
                on_output(window, output)
            rows, columns = np.nonzero(window.part)
            filled = _enlarged(output, *view, window)[rows, columns]
            fill[rows + window.box.top - region.top, columns + window.box.left - region.left] = filled
        if blend:
            fill = _blended(pixels, hole, fill)
        inside = hole[region.slices]
        pasted = completed[region.slices][inside]
        completed[region.slices][inside, : colour_channels(pixels)] = from_colour(fill[inside], pasted)
        return completed


class RawPicture:
    """Gathers the network's raw output where it looked, from `Completer.fill`, as its `on_output`.

    Args:
      pixels: The picture, [H, W, C].

    Attributes:
      pixels: [H, W, C] of the same type: the raw output, and the picture elsewhere.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels.copy()

    def __call__(self, window: Window, output: np.ndarray) -> None:
        part = self.pixels[window.box.slices]
        resized = cv2.resize(output, (window.box.width, window.box.height), interpolation=cv2.INTER_LINEAR)
        part[..., : colour_channels(part)] = from_colour(resized, part)


def _view(pixels: np.ndarray, hole: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of a picture: image [h, w, 3] and mask [h, w, 1], float32, at the network's size."""
    rows, columns = window.box.slices
    height, width = window.network_size
    mask = hole[rows, columns].astype(np.float32)
    # Set to 0: what lies in the hole may be anything, and is averaged with what lies beside it.
    image = np.where(mask[..., None] > 0, np.float32(0), to_colour(pixels[rows, columns]))
    if window.scale < 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, 3)
        # What has any of the hole in it is hole: nothing of what is to vanish may shine through.
        mask = (cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 0).astype(np.float32)
    return image, mask.reshape(height, width, 1)


def _enlarged(output: np.ndarray, image: np.ndarray, mask: np.ndarray, window: Window) -> np.ndarray:
    """The completed window [h, w, 3] float32 at the picture's size."""
    # Completed first: outside the hole the output is not trained on anything, and would be drawn into its edge.
    completed = np.where(mask > 0, output, image)
    if window.scale == 1:
        return completed
    size = window.box.width, window.box.height
    return np.clip(cv2.resize(completed, size, interpolation=cv2.INTER_CUBIC), 0.0, 1.0)


def _smaller(decided: Plan, longest: int) -> str:
    """What to ask for where the memory does not suffice."""
    side = min(MAX_SIDE, longest // 2)
    if side < SMALLEST_MAX_SIDE:
        return "give the process more memory"
    if decided.strategy == "crop":
        return f"use a smaller --max-side, as {side} (max_side={side})"
    return f"use --strategy crop --max-side {side} (strategy='crop', max_side={side})"


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
