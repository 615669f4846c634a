"""Where in a picture the completion network looks, and at what size: the strategies.

The network sees at most 307 x 307 px around a pixel (Iizuka et al. 2017, Section 3.2), so a window with that much
around its part of the hole gives what the whole picture would give, however large that is; nearly, where the hole
begins as a smooth fill, which sees farther. Windows begin on multiples of 4, as the network's strides do.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from glcic_jax.completion.holes import CONTEXT, STRIDE, Box, Group, Holes, bounds, grown, moved
from glcic_jax.errors import ConfigError, lookup

# The authors' release reduces pictures to this long side.
MAX_SIDE = 600
SMALLEST_MAX_SIDE = 64
_SMALLEST_CELL = 72
# A hole may be so much thicker than those trained on before it is reduced; ours.
_TOLERATED = 1.25


class Window(NamedTuple):
    """What the network looks at in one run.

    Attributes:
      box: The part of the picture.
      part: [box.height, box.width] bool, the pixels of the hole that this run fills. Others may be hole too.
      scale: The picture's part is reduced by it before the network sees it; in (0, 1].
    """

    box: Box
    part: np.ndarray
    scale: float

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width that the network sees."""
        return max(1, round(self.box.height * self.scale)), max(1, round(self.box.width * self.scale))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a hole will be filled.

    Attributes:
      strategy: The name in `STRATEGIES` of what is done, never "auto".
      windows: Together their parts are the hole, each of its pixels once.
      reason: What is done and why, in one line.
    """

    strategy: str
    windows: tuple[Window, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the network is to be used on.

    Attributes:
      largest_hole: Largest side of the holes trained on, in pixels.
      max_side: Longest side that the network is run on at once, in pixels; `original` knows none.

    Raises:
      ConfigError: max_side is too small to leave anything to see around a hole.
    """

    largest_hole: int
    max_side: int = MAX_SIDE

    def __post_init__(self) -> None:
        if isinstance(self.max_side, bool) or not isinstance(self.max_side, int):
            raise ConfigError(f"the longest side is a whole number of pixels, and not {self.max_side!r}")
        if self.max_side < SMALLEST_MAX_SIDE:
            raise ConfigError(
                f"a longest side of {self.max_side} px is too small: give {SMALLEST_MAX_SIDE} or more"
            )

    def scale_for(self, thickness: np.ndarray | float) -> np.ndarray:
        """What holes are reduced by, at most 1; a little thicker than those trained on is not worth the blur."""
        thickness = np.asarray(thickness, np.float64)
        return np.where(thickness <= _TOLERATED * self.largest_hole, 1.0, self.largest_hole / thickness)


def plan(hole: np.ndarray, strategy: str, limits: Limits) -> Plan:
    """Decides what the network looks at.

    Args:
      hole: [H, W] bool.
      strategy: A name in `STRATEGIES`: "original" (the whole picture at its size), "resize" (the whole picture,
        reduced to max_side and until its holes are no thicker than those trained on), "crop" (windows around the
        holes, reduced only where a hole is thicker than those trained on) or "auto" (one of them).
      limits: What the weights were trained on, and what the memory allows.

    Raises:
      ConfigError: The strategy is unknown.
    """
    chosen = lookup(STRATEGIES, strategy, "strategy")
    if not hole.any():
        return Plan("original", (), "nothing to fill: the hole is empty")
    return chosen(hole, limits)


def _whole(hole: np.ndarray, scale: float) -> tuple[Window, ...]:
    return (Window(Box(0, 0, *hole.shape), hole, scale),)


def _original(hole: np.ndarray, limits: Limits) -> Plan:
    del limits
    height, width = hole.shape
    return Plan("original", _whole(hole, 1.0), f"the whole picture at its size, {width} x {height} px")


def _resize(hole: np.ndarray, limits: Limits) -> Plan:
    fitting = min(1.0, limits.max_side / max(hole.shape))
    thickness = Holes(hole).thickness.max()
    scale = min(fitting, float(limits.scale_for(thickness)))
    windows = _whole(hole, scale)
    height, width = windows[0].network_size
    reason = f"the whole picture at {width} x {height} px"
    if scale < fitting:
        reason += (
            f", where its hole of {thickness:.0f} px is as thick as those trained on, {limits.largest_hole} px"
        )
    return Plan("resize", windows, reason)


def _crop(hole: np.ndarray, limits: Limits) -> Plan:
    holes = Holes(hole)
    windows = tuple(
        window for group in holes.groups(limits.scale_for) for window in _cells(group, hole.shape, limits.max_side)
    )
    height, width = np.max([window.network_size for window in windows], axis=0)
    reason = (
        f"{_counted(len(windows), 'window')} around {_counted(holes.count, 'hole')}, up to {width} x {height} px"
    )
    if any(window.scale < 1 for window in windows):
        smallest, thickest = min(window.scale for window in windows), holes.thickness.max()
        reason += (
            f", reduced to {100 * smallest:.0f} % where a hole ({thickest:.0f} px) is thicker than those "
            f"trained on ({limits.largest_hole} px)"
        )
    return Plan("crop", windows, reason)


def _auto(hole: np.ndarray, limits: Limits) -> Plan:
    longest = max(hole.shape)
    scales = limits.scale_for(Holes(hole).thickness)
    if scales.min() == 1 and longest <= limits.max_side:
        chosen, why = _original, f"its long side is at most {limits.max_side} px"
    elif scales.max() < 1 and scales.max() <= 2 * scales.min() and longest * scales.max() <= limits.max_side:
        chosen, why = _resize, "all holes are thicker than those trained on"
    elif longest <= limits.max_side:
        chosen, why = _crop, "some holes are thicker than those trained on, and others are not so thick"
    else:
        chosen, why = _crop, f"the picture's long side is {longest} px, above {limits.max_side}"
    decided = chosen(hole, limits)
    return dataclasses.replace(decided, reason=f"{decided.reason} (chosen because {why})")


def _cells(group: Group, shape: tuple[int, int], max_side: int) -> Iterator[Window]:
    """One window, or where that would be longer than `max_side` a grid of overlapping ones."""
    # Where max_side leaves no room for all that matters, cells see less around them.
    context = min(CONTEXT, max(max_side // 3, (max_side - _SMALLEST_CELL) // 2) // STRIDE * STRIDE)
    whole = grown(group.box, CONTEXT / group.scale, shape)
    if max(whole.height, whole.width) * group.scale <= max_side:
        yield _window(whole, group, group.box)
        return
    side = int((max_side - 2 * context - 2 * STRIDE) / group.scale)
    for top, bottom in _pieces(group.box.top, group.box.bottom, side):
        for left, right in _pieces(group.box.left, group.box.right, side):
            cell = Box(top, left, bottom, right)
            inside = group.part[moved(cell, group.box).slices]
            if inside.any():
                tight = moved(bounds(inside), Box(-top, -left, 0, 0))
                yield _window(grown(tight, context / group.scale, shape), group, tight)


def _window(box: Box, group: Group, region: Box) -> Window:
    """A window that fills what lies of a group inside a region."""
    part = np.zeros((box.height, box.width), bool)
    part[moved(region, box).slices] = group.part[moved(region, group.box).slices]
    return Window(box, part, group.scale)


def _pieces(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """Cuts a stretch into pieces as equal as can be."""
    count = math.ceil((stop - start) / longest)
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


STRATEGIES: dict[str, Callable[[np.ndarray, Limits], Plan]] = {
    "auto": _auto,
    "original": _original,
    "resize": _resize,
    "crop": _crop,
}
