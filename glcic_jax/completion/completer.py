"""Fills holes of any shape in images of any size with a trained completion network."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from glcic_jax.completion import blending
from glcic_jax.completion.inputs import check_range, in_words_of_python, open_hole, open_image
from glcic_jax.completion.runner import Runner, find_device
from glcic_jax.completion.windows import (
    MAX_SIDE,
    SMALLEST_MAX_SIDE,
    Box,
    CompletionPlan,
    Window,
    WindowLimits,
    bounds,
    plan_completion,
)
from glcic_jax.errors import MemoryExhaustedError, lookup
from glcic_jax.pictures import colour_channels, from_colour, to_colour
from glcic_jax.runtime import enable_compile_cache, enough_memory_for
from glcic_jax.weights import Description, Weights, compile_cache, find_weights

# Rows or columns of a photograph that are resized at a time.
_BAND = 512

# Called after each window with the number of finished windows and of all windows; an exception stops the work.
OnWindow = Callable[[int, int], None]


class CompletedImage(NamedTuple):
    """Result of `Completer.fill`.

    Attributes:
      pixels: [H, W, C], same shape and dtype as the input; bit-identical outside the hole.
      plan: The windows that were used, and why.
      raw: [H, W, C], the network's raw output inside the windows and the input elsewhere; None unless requested.
    """

    pixels: np.ndarray
    plan: CompletionPlan
    raw: np.ndarray | None


class Completer:
    """A trained completion network for images of any size; thread-safe, and pickled with its weights.

    A forked process cannot use it: start processes by `multiprocessing.get_context("spawn")`.

    Args:
      weights: Weights of a completion network.
      name: Name of the weights in messages.
      device: "cpu", "gpu", "gpu:1", a `jax.Device`, or None for JAX's first device.

    Raises:
      WeightsError: The weights belong to another network.
      ConfigError: The device does not exist.
    """

    def __init__(self, weights: Weights, name: str = "the weights", device: str | jax.Device | None = None):
        self.name = name
        self.description: Description = weights.description
        self._weights = weights
        self._runner = Runner(weights, name, find_device(device))

    def __reduce__(self) -> tuple[type["Completer"], tuple[Weights, str, str]]:
        """Pickles the weights and the device's name; the other process compiles its own programs."""
        platform = self.device.platform
        index = jax.local_devices(backend=platform).index(self.device)
        return Completer, (self._weights, self.name, f"{platform}:{index}")

    @classmethod
    def load(cls, reference: str | Path | None = None, device: str | jax.Device | None = None) -> "Completer":
        """Loads weights and enables the persistent compile cache.

        Args:
          reference: A weights file, a training workdir, or the name of stored or built-in weights; None:
            $GLCIC_WEIGHTS, or else the built-in weights.
          device: As in the constructor.

        Raises:
          WeightsError: The weights do not exist or are unusable.
          ConfigError: The device does not exist.
        """
        enable_compile_cache(compile_cache())
        found = find_weights(reference)
        return cls(found.weights, found.name, device)

    def complete(
        self, image: Any, mask: Any, *, strategy: str = "auto", max_side: int = MAX_SIDE, blend: str = "auto"
    ) -> Any:
        """Completes one image of any supported type; see `inputs.open_image` and `inputs.open_hole`.

        Args:
          image: A PIL image, an array, a path, encoded bytes or an open file.
          mask: The same; white, True or 1 marks the hole.
          strategy, max_side, blend: As in `fill`.

        Returns:
          An image of the same type and size (a PIL image for files); bit-identical outside the hole.

        Raises:
          DataError: A file cannot be read, or an array is not a valid image or mask.
          ConfigError, MemoryExhaustedError: As in `fill`.
        """
        with in_words_of_python():
            opened = open_image(image)
            height, width = opened.pixels.shape[:2]
            hole = open_hole(mask, (width, height))
            check_range(opened.pixels, hole)
            completed = self.fill(opened.pixels, hole, strategy=strategy, max_side=max_side, blend=blend)
        return opened.restore(completed.pixels)

    @property
    def device(self) -> jax.Device:
        """Device that runs the network."""
        return self._runner.device

    @property
    def compilations(self) -> int:
        """Number of programs that were compiled so far, one for each padded size and batch size."""
        return self._runner.compilations

    @property
    def compiling(self) -> bool:
        """Whether a program is being compiled."""
        return self._runner.compiling

    def plan(self, hole: np.ndarray, strategy: str = "auto", max_side: int = MAX_SIDE) -> CompletionPlan:
        """Plans how to fill a hole [H, W] bool; see `windows.plan_completion`."""
        return plan_completion(hole, strategy, WindowLimits(self.description.hole_sides[1], max_side))

    def fill(
        self,
        pixels: np.ndarray,
        hole: np.ndarray,
        *,
        strategy: str = "auto",
        max_side: int = MAX_SIDE,
        blend: str = "auto",
        plan: CompletionPlan | None = None,
        keep_raw: bool = False,
        on_window: OnWindow | None = None,
    ) -> CompletedImage:
        """Fills the hole of an image.

        Args:
          pixels: [H, W, C] uint8, uint16 or float in [0, 1]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. Values
            inside the hole are ignored. Alpha is kept; the network sees transparent pixels as white.
          hole: [H, W] bool, True = hole.
          strategy: As in `windows.plan_completion`.
          max_side: Longest side of the network's input, in pixels; ignored by "original".
          blend: How the fill is blended into its surroundings: "on" (`blending.blend`), "off", or "auto": only
            where the hole is thick.
          plan: A plan of this hole by `Completer.plan`, used instead of `strategy` and `max_side`.
          keep_raw: Whether to return the raw output too.
          on_window: Progress callback; an exception from it cancels the work.

        Raises:
          ConfigError: The strategy or the blending is unknown, or max_side is too small.
          MemoryExhaustedError: Not enough memory for the strategy.
          WeightsError: The network's output is not finite.
          ValueError: The shapes do not match.
        """
        if pixels.ndim != 3 or pixels.shape[:2] != hole.shape or hole.dtype != bool:
            raise ValueError(f"pixels {pixels.shape} and hole {hole.dtype}{hole.shape} do not fit")
        lookup(blending.BLENDS, blend, "blend")
        if plan is None:
            plan = self.plan(hole, strategy, max_side)
        with enough_memory_for(f"an image of {hole.shape[1]} x {hole.shape[0]} px"):
            completed = pixels.copy()
            raw = pixels.copy() if keep_raw else None
            if plan.windows:
                fill = self._run_windows(pixels, hole, plan, raw, on_window)
                fill = _blend(pixels, hole, fill, blend)
                region = bounds(hole)
                for top in range(0, region.height, _BAND):
                    band = slice(top, top + _BAND)
                    inside, part = hole[region.slices][band], completed[region.slices][band]
                    part[inside, : colour_channels(pixels)] = from_colour(fill[band][inside], part[inside])
            return CompletedImage(completed, plan, raw)

    def fill_batch(self, images: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """Fills the holes of equally sized images in one run, as the strategy "original" does.

        Args:
          images: [N, H, W, 3] float32 in [0, 1]; values inside the holes are ignored.
          holes: [N, H, W] bool, True = hole.

        Returns:
          [N, H, W, 3] float32 in [0, 1]; bit-identical outside the holes.

        Raises:
          MemoryExhaustedError: Not enough memory for a batch of this size.
          WeightsError: The network's output is not finite.
        """
        inside = holes[..., None]
        output = self._runner.outputs(np.where(inside, np.float32(0), images), inside.astype(np.float32))
        return np.where(inside, output, images)

    def warmup(
        self, sizes: Iterable[tuple[int, int]], *, strategy: str = "auto", max_side: int = MAX_SIDE
    ) -> None:
        """Compiles the programs for a centred hole of the largest training side in images of given sizes.

        Args:
          sizes: (height, width) of the images, in pixels.
          strategy, max_side: As in `fill`.
        """
        for height, width in sizes:
            side = self.description.hole_sides[1]
            rows, columns = (slice(max(0, (n - side) // 2), (n + side + 1) // 2) for n in (height, width))
            hole = np.zeros((height, width), bool)
            hole[rows, columns] = True
            for window in self.plan(hole, strategy, max_side).windows:
                self._runner.warmup(*window.network_size)

    def _run_windows(
        self,
        pixels: np.ndarray,
        hole: np.ndarray,
        plan: CompletionPlan,
        raw: np.ndarray | None,
        on_window: OnWindow | None,
    ) -> np.ndarray:
        """Returns the fill [h, w, 3] float32 within the bounds of the hole; writes the raw output to `raw`."""
        region = bounds(hole)
        fill = np.zeros((region.height, region.width, 3), np.float32)
        for done, window in enumerate(plan.windows, 1):
            image, mask = _network_view(pixels, hole, window)
            try:
                output = self._runner.output(image, mask)
            except MemoryExhaustedError as error:
                raise MemoryExhaustedError(f"{error}: {_memory_remedy(plan, max(mask.shape))}") from error
            if raw is not None:
                part = raw[window.box.slices]
                size = window.box.width, window.box.height
                resized = cv2.resize(output, size, interpolation=cv2.INTER_LINEAR)
                part[..., : colour_channels(part)] = from_colour(resized, part)
            inner = bounds(window.fill_mask)
            top, left = inner.top + window.box.top - region.top, inner.left + window.box.left - region.left
            chosen = window.fill_mask[inner.slices]
            target = fill[top : top + inner.height, left : left + inner.width]
            target[chosen] = _composite(output, image, mask, window, inner)[chosen]
            if on_window is not None:
                on_window(done, len(plan.windows))
        return fill


def _network_view(pixels: np.ndarray, hole: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image [h, w, 3] and the mask [h, w, 1], float32, of a window at the network's size."""
    pixels, hole = pixels[window.box.slices], hole[window.box.slices]
    height, width = window.network_size
    if window.scale == 1:
        image, mask = _hidden(pixels, hole)
        return image, mask.reshape(height, width, 1)
    # Band by band, and first the columns, then the rows: a large photograph as float32 takes gigabytes.
    narrow = [np.empty((len(hole), width, *rest), np.float32) for rest in ((3,), ())]
    for top in range(0, len(hole), _BAND):
        band = slice(top, top + _BAND)
        for whole, part in zip(narrow, _hidden(pixels[band], hole[band]), strict=True):
            resized = cv2.resize(part, (width, len(part)), interpolation=cv2.INTER_AREA)
            whole[band] = resized.reshape(whole[band].shape)
    image, mask = (cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) for part in narrow)
    # A pixel that contains any of the hole is hole, so that no content of the hole remains.
    return image.reshape(height, width, 3), (mask > 0).astype(np.float32).reshape(height, width, 1)


def _hidden(pixels: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image [h, w, 3] and the mask [h, w], float32.

    Hole pixels may hold anything, and resizing averages them with their neighbours, so they are 0.
    """
    return np.where(hole[..., None], np.float32(0), to_colour(pixels)), hole.astype(np.float32)


def _composite(output: np.ndarray, image: np.ndarray, mask: np.ndarray, window: Window, inner: Box) -> np.ndarray:
    """Returns the part `inner` of the completed window at full size, [inner.height, inner.width, 3] float32."""
    # Composite before resizing: the untrained output outside the hole would bleed into the hole's edge.
    completed = np.where(mask > 0, output, image)
    if window.scale == 1:
        return completed[inner.slices]
    size = window.box.width, len(completed)
    wide = cv2.resize(completed, size, interpolation=cv2.INTER_CUBIC).reshape(*size[::-1], 3)[:, inner.slices[1]]
    part = np.empty((inner.height, inner.width, 3), np.float32)
    for left in range(0, inner.width, _BAND):
        band = np.ascontiguousarray(wide[:, left : left + _BAND])
        high = cv2.resize(band, (band.shape[1], window.box.height), interpolation=cv2.INTER_CUBIC)
        part[:, left : left + _BAND] = high.reshape(window.box.height, -1, 3)[inner.slices[0]]
    return np.clip(part, 0.0, 1.0, out=part)


def _memory_remedy(plan: CompletionPlan, longest: int) -> str:
    side = min(MAX_SIDE, longest // 2)
    if side < SMALLEST_MAX_SIDE:
        return "give the process more memory"
    if plan.strategy == "crop":
        return f"use a smaller side, such as --max-side={side}"
    return f"use --strategy=crop and --max-side={side}"


def _blend(pixels: np.ndarray, hole: np.ndarray, fill: np.ndarray, how: str) -> np.ndarray:
    """Blends a fill [h, w, 3], which covers the bounds of the hole, into its surroundings."""
    region = bounds(hole)
    margin = 8  # Enough for the gradients at the hole's edge.
    top, left = max(0, region.top - margin), max(0, region.left - margin)
    around = slice(top, region.bottom + margin), slice(left, region.right + margin)
    chosen = blending.BLENDS[how](hole[around])
    if not chosen.any():
        return fill
    inside = slice(region.top - top, region.bottom - top), slice(region.left - left, region.right - left)
    completed = to_colour(pixels[around]).copy()
    completed[inside] = np.where(hole[region.slices][..., None], fill, completed[inside])
    # What is not chosen counts as known.
    return blending.blend(completed, completed, chosen)[inside]
