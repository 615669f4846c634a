"""The result of an evaluation: each method's metrics on each image, and how numbers are written."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

BLENDED = ", blended"  # Suffix of the name of a method whose completions are blended.
_MINUS = "\u2212"  # As wide as a plus sign, unlike the hyphen.


class Metric(NamedTuple):
    """How a metric is presented.

    Attributes:
      label: Name and unit.
      digits: Number of digits after the decimal point.
      higher_is_better: Whether a higher value is better; with a target, False.
      meaning: Definition and settings, for a reader who computes the metric elsewhere.
      target: The best value, if neither the highest nor the lowest is: methods are compared by the distances of
        their images from it, of which the lower is better.
    """

    label: str
    digits: int
    higher_is_better: bool
    meaning: str
    target: float | None = None

    @property
    def name(self) -> str:
        """The label without its unit."""
        return self.label.partition(", ")[0]

    def with_unit(self, text: str) -> str:
        """Appends the unit to a number."""
        return f"{text} {self.label.partition(', ')[2]}".rstrip()

    @property
    def arrow(self) -> str:
        """Where the better values are: "↑", "↓" or such as "→ 1"."""
        if self.target is not None:
            return f"→ {self.target:g}"
        return "↑" if self.higher_is_better else "↓"

    def compared(self, values: np.ndarray) -> np.ndarray:
        """The numbers by which methods are compared: the values, or their distances from the target."""
        return values if self.target is None else np.abs(values - self.target)


# Keys: the fields of `model.metrics.ImageMetrics`, "lpips" and "judge", in the order of a table's columns.
METRICS: dict[str, Metric] = {
    "hole_l1": Metric("hole L1", 4, False, "mean absolute difference over the hole's pixels and channels"),
    "hole_psnr": Metric("hole PSNR, dB", 2, True, "10 log10(1 / hole L2) of each image"),
    "hole_ssim": Metric("hole SSIM", 4, True, "mean of the SSIM map over the hole's pixels"),
    "hole_sharpness": Metric(
        "hole sharpness",
        3,
        False,
        "mean length of the gradient (forward differences, each channel by itself) divided by the photograph's, "
        "over the hole without its 2 px border; 1 is as sharp as the photograph, more may be noise",
        target=1.0,
    ),
    "l1": Metric("L1", 4, False, "mean absolute difference over the whole image"),
    "l2": Metric("L2", 5, False, "mean squared difference over the whole image"),
    "psnr": Metric("PSNR, dB", 2, True, "10 log10(1 / L2) of each image"),
    "ssim": Metric(
        "SSIM",
        4,
        True,
        "Wang et al. 2004: Gaussian window of 11 taps and sigma 1.5, K1 0.01, K2 0.03, population covariance, "
        "each channel by itself, without the 5 px border",
    ),
    "hole_l2": Metric("hole L2", 5, False, "mean squared difference over the hole's pixels and channels"),
    "lpips": Metric("LPIPS", 4, False, "Zhang et al. 2018, with the networks named in the protocol"),
    "judge": Metric(
        "judge",
        3,
        False,
        "Lopez-Paz and Oquab 2017: accuracy of a network, trained to tell completed from original patches, on "
        "other images, where both patches of an image count half; 0.5: it cannot tell",
    ),
}
FID = Metric("FID", 2, False, "Heusel et al. 2017, between all completed images and all originals")


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """One method's metrics.

    Attributes:
      name: The method, such as "runs/joint, step 500000", "Telea" or "Telea, blended".
      values: By key of `METRICS`, the same keys for every method: [N] float64, one number per image; NaN where
        undefined (a hole metric without a hole, the judge on its training images), infinite for the PSNR of equal
        images.
      images_per_second: Speed of completion; None if it was not timed.
      fid: FID over all images; None if it was not computed.
    """

    name: str
    values: Mapping[str, np.ndarray]
    images_per_second: float | None = None
    fid: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """All methods on the same images with the same holes.

    Attributes:
      title: Heading of the report.
      protocol: Images, size, masks and their hash, versions and so on, by heading.
      images: [N] names.
      hole_ratio: [N] float64, the fraction of each image that is hole.
      scores: One per method; the first is the subject of the evaluation.
      not_computed: By label of a missing metric: the reason.
      notes: Sentences on limitations, for a reader.
      indices: [N] each image's place among the selected images, which selects its mask; None: 0 to N - 1.
    """

    title: str
    protocol: Mapping[str, str]
    images: Sequence[str]
    hole_ratio: np.ndarray
    scores: Sequence[Scores]
    not_computed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    indices: Sequence[int] | None = None

    @property
    def metrics(self) -> list[str]:
        """The keys of the metrics that were computed, in the order of a table."""
        return [key for key in METRICS if key in self.scores[0].values]

    @property
    def has_fid(self) -> bool:
        """Whether FID was computed for any method."""
        return any(scores.fid is not None for scores in self.scores)


def count_of(number: int, noun: str) -> str:
    """A count with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_number(value: float | None, digits: int) -> str:
    """A number with its digits after the point; "-" for none or NaN, "∞" for infinity."""
    if value is None or np.isnan(value):
        return "-"
    if np.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", _MINUS)  # + 0.0: no "-0.00".


def format_difference(value: float, digits: int) -> str:
    """As `format_number`, with a plus sign before positive numbers."""
    text = format_number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def format_speed(images_per_second: float | None) -> str:
    """Images per second with about three significant digits."""
    if images_per_second is None or not 0 < images_per_second < 1000:
        return format_number(images_per_second, 0)
    digits = next(digits for digits in range(9) if images_per_second * 10**digits >= 100)
    return format_number(images_per_second, digits)
