"""What an evaluation found: the numbers of every method on every image, and what each metric is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

BLENDED = ", blended"  # Behind the name of a method whose completions are.


class Metric(NamedTuple):
    """How a metric is shown.

    Attributes:
      label: Its name and unit, short.
      digits: After the decimal point.
      higher_is_better: Whether more is better.
      meaning: What it is, with its settings, for a reader who wants to compute it elsewhere.
    """

    label: str
    digits: int
    higher_is_better: bool
    meaning: str


# By the names of `metrics.ImageMetrics`, in the order of a table.
METRICS: dict[str, Metric] = {
    "hole_l1": Metric("hole L1", 4, False, "mean absolute difference of the hole's pixels and channels"),
    "hole_psnr": Metric("hole PSNR, dB", 2, True, "10 log10(1 / hole L2), of each image by itself"),
    "hole_ssim": Metric("hole SSIM", 4, True, "mean of the SSIM map over the hole's pixels"),
    "l1": Metric("L1", 4, False, "mean absolute difference over the whole image"),
    "l2": Metric("L2", 5, False, "mean squared difference over the whole image"),
    "psnr": Metric("PSNR, dB", 2, True, "10 log10(1 / L2), of each image by itself"),
    "ssim": Metric(
        "SSIM",
        4,
        True,
        "Wang et al. 2004: Gaussian window of 11 taps and sigma 1.5, K1 0.01, K2 0.03, population covariance, "
        "each channel by itself, without the 5 px border",
    ),
    "hole_l2": Metric("hole L2", 5, False, "mean squared difference of the hole's pixels and channels"),
    "lpips": Metric("LPIPS", 4, False, "Zhang et al. 2018, with the networks named in the protocol"),
}
FID = Metric("FID", 2, False, "Heusel et al. 2017, between all completed images and all originals")


@dataclasses.dataclass(frozen=True)
class Scores:
    """One method's numbers.

    Attributes:
      name: Of the method, as "runs/joint, step 500000", "Telea" or "Telea, blended".
      values: By metric (`METRICS`), each [N] float64, one number an image; NaN where an image has none, as a
        hole metric without a hole; infinite where PSNR is of equal images.
      images_per_second: How fast it completes; None where it was not timed.
      fid: Of all its images; None where it was not computed.
    """

    name: str
    values: Mapping[str, np.ndarray]
    images_per_second: float | None = None
    fid: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """All methods on the same images with the same holes; equal to itself alone.

    Attributes:
      title: What was measured.
      protocol: What was done and how, by headings: data, size, masks with their hash, versions ...
      images: [N] names.
      hole_ratio: [N] float64, the fraction of each image that is hole.
      scores: One for each method; the first is what the evaluation is about.
      not_computed: Why a metric is missing, by its label.
      notes: What a reader has to know, a sentence each.
      places: [N], each image's place in the data set, which its mask goes by; empty: they are in one row from 0.
    """

    title: str
    protocol: Mapping[str, str]
    images: Sequence[str]
    hole_ratio: np.ndarray
    scores: Sequence[Scores]
    not_computed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    places: Sequence[int] = ()

    def place(self, index: int) -> int:
        """The place in the data set of the image with this index among those that were measured."""
        return self.places[index] if self.places else index

    @property
    def metrics(self) -> list[str]:
        """The metrics that were computed, in the order of a table."""
        return [name for name in METRICS if name in self.scores[0].values]
