"""FID: how far apart two sets of pictures are, as a network's features of them are distributed.

The features are those of `inception.Inception`, whose weights are the user's. Their means and covariances are
gathered as the pictures come by, in float64, so that memory does not grow with the pictures.

Reference: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium".
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from glcic_jax.errors import DataError
from glcic_jax.evaluation.perceptual.inception import FEATURES, Inception, Params, inception_params
from glcic_jax.evaluation.perceptual.state_dict import read_feature_file

SIDE = 299
# How the sha256 of the published file begins.
_CHECKSUM = "6726825d"
# Bounds the memory, and fixes the shapes that are compiled.
_AT_A_TIME = 8


class Statistics:
    """The mean and the covariance of features that come a batch at a time.

    Attributes:
      count: Of the features so far.
      mean: [D] float64.

    Args:
      dimensions: D.

    Reference: Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance".
    """

    def __init__(self, dimensions: int = FEATURES):
        self.count = 0
        self.mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions))

    def add(self, features: np.ndarray) -> None:
        """Takes a batch.

        Args:
          features: [N, D] float, any N.

        Raises:
          ValueError: They are not [N, D].
          DataError: They are not finite; nothing was taken.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features of the shape {features.shape} are not [N, {len(self.mean)}]")
        if not np.isfinite(features).all():
            raise DataError("FID: features that are not finite: the network's weights do not fit or are damaged")
        if len(features):
            mean = features.mean(axis=0)
            centred = features - mean
            self._join(len(features), mean, centred.T @ centred)

    def merge(self, other: "Statistics") -> None:
        """Takes all that another has seen.

        Raises:
          ValueError: Its features have another length.
        """
        if len(other.mean) != len(self.mean):
            raise ValueError(f"features of {len(other.mean)} numbers are not of {len(self.mean)}")
        if other.count:
            self._join(other.count, other.mean, other._scatter)

    @property
    def covariance(self) -> np.ndarray:
        """[D, D] float64, unbiased: divided by the count less 1.

        Raises:
          DataError: There are fewer than two features.
        """
        if self.count < 2:
            raise DataError(f"FID needs two images at least, not {self.count}")
        return self._scatter / (self.count - 1)

    @functools.cached_property
    def factor(self) -> np.ndarray:
        """X [D, R] with X X^T = the covariance; see `frechet_distance`."""
        return _factor(self.covariance)

    def state(self) -> dict[str, np.ndarray]:
        """All that it knows, for `from_state`: `count` [] int64, `mean` [D] and `scatter` [D, D] float64."""
        return {"count": np.array(self.count), "mean": self.mean.copy(), "scatter": self._scatter.copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> "Statistics":
        """Goes on where `state` was called, bit for bit.

        Raises:
          DataError: It is no such state.
        """
        try:
            count = int(state["count"])
            mean, scatter = (np.array(state[name], np.float64) for name in ("mean", "scatter"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"FID: no statistics to go on with ({error}): begin anew") from error
        sound = np.isfinite(mean).all() and np.isfinite(scatter).all()
        if count < 0 or mean.ndim != 1 or scatter.shape != 2 * mean.shape or not sound:
            raise DataError("FID: damaged statistics: begin anew")
        statistics = cls(len(mean))
        statistics.count, statistics.mean, statistics._scatter = count, mean, scatter
        return statistics

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        self.__dict__.pop("factor", None)
        total = self.count + count
        difference = mean - self.mean
        self._scatter += scatter
        self._scatter += np.outer(difference, difference * (self.count * count / total))
        self.mean = self.mean + difference * (count / total)
        self.count = total


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The squared Frechet distance of the normal distributions with these means and covariances.

    |m - n|^2 + tr C + tr D - 2 tr (C D)^(1/2). With C = X X^T and D = Y Y^T the last trace is the sum of the
    singular values of X^T Y. So no root of a matrix is needed, which loses half of the digits where a covariance
    is singular, as it is of fewer images than features.

    Returns:
      Not below 0; 0 up to rounding where the two are the same.

    Raises:
      DataError: One has fewer than two features.
      ValueError: Their features have different lengths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared")
    covariances, factors = (a.covariance, b.covariance), (a.factor, b.factor)
    overlap = 0.0
    if all(factor.size for factor in factors):
        overlap = linalg.svdvals(factors[0].T @ factors[1]).sum()
    traces = sum(float(np.trace(covariance)) for covariance in covariances)
    difference = a.mean - b.mean
    return max(0.0, float(difference @ difference + traces - 2 * overlap))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """X [D, R] with X X^T = C, without the directions in which C is zero up to rounding."""
    least = len(covariance) * np.finfo(np.float64).eps * np.diag(covariance).max()
    try:
        # Six times faster than the eigenvectors, which a singular covariance needs.
        lower = linalg.cholesky(covariance, lower=True)
    except linalg.LinAlgError:
        lower = np.zeros((1, 1))
    if np.diag(lower).min() ** 2 > least:
        return lower
    values, vectors = linalg.eigh(covariance)
    kept = values > max(least, len(values) * np.finfo(np.float64).eps * values[-1])
    return vectors[:, kept] * np.sqrt(values[kept])


def bias_note(count: int, dimensions: int = FEATURES) -> str | None:
    """What a reader of an FID has to know of the number of images; None where there are enough.

    Args:
      count: Of the images, in the smaller of the two sets.
      dimensions: Of the features.
    """
    if count > dimensions:
        return None
    return (
        f"FID from {count:,} images is biased upwards and its covariances are singular: more than {dimensions:,} "
        "images are needed, tens of thousands are usual, and only FIDs from equally many compare."
    )


class InceptionFeatures:
    """Computes what FID compares.

    Attributes:
      description: What is measured, with which file.

    Args:
      network: Of any width.
      params: Its variables.
      description: As above.
      side: To which the network's input is resized.
    """

    def __init__(self, network: Inception, params: Params, description: str, side: int = SIDE):
        self.description = description
        self._params = jax.device_put(params)
        self._side = side
        self._compute = jax.jit(network.apply)

    def features(self, image: np.ndarray) -> np.ndarray:
        """The features of each picture.

        Args:
          image: [N, H, W, 3] uint8, any N and size.

        Returns:
          [N, 2048] float32.
        """
        found = []
        # At least once, so that no pictures give features of the right length, too.
        for start in range(0, max(1, len(image)), _AT_A_TIME):
            part = image[start : start + _AT_A_TIME]
            # Filled up, so that the last pictures need no program of their own.
            padded = np.pad(part, [(0, _AT_A_TIME - len(part)), (0, 0), (0, 0), (0, 0)])
            computed = self._compute(self._params, _network_input(padded, self._side))
            found.append(np.asarray(computed)[: len(part)])
        return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=1)  # By itself: the network is compiled once for pictures of any size.
def _network_input(image: jax.Array, side: int) -> jax.Array:
    """[N, H, W, 3] uint8 to [N, side, side, 3] float32 in [-1, 1], bilinear between the pixels' centres."""
    shape = (len(image), side, side, 3)
    # Without antialiasing, as all published figures: a large picture is sampled, not averaged.
    resized = jax.image.resize(image.astype(jnp.float32) / 255, shape, "linear", antialias=False)
    return 2 * resized - 1


def load(path: Path) -> InceptionFeatures:
    """Reads FID's network.

    Args:
      path: The state dict of TensorFlow's Inception as pytorch-fid and torch-fidelity publish it, in PyTorch's
        format or safetensors.

    Raises:
      WeightsError: It is not there, damaged, or another network's, as torchvision's Inception v3.
    """
    file = read_feature_file(path)
    network = Inception()
    params = inception_params(network, file)
    doubt = "" if file.sha256.startswith(_CHECKSUM) else "; not verified to be the published weights"
    return InceptionFeatures(
        network,
        params,
        f"FID on the 2,048 pooled features of TensorFlow's Inception of 2015-12-05 ({file.label}{doubt}), "
        f"pictures resized to {SIDE} px bilinearly without antialiasing, as pytorch-fid does",
    )
