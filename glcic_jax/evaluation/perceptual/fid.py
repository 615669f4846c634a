"""FID: the Frechet distance between the feature distributions of two sets of images.

The features are those of `inception.Inception`; the user supplies its weights. Means and covariances are updated
batch by batch in float64, so that memory does not grow with the number of images.

Reference: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium".
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from glcic_jax.errors import DataError
from glcic_jax.evaluation.perceptual.inception import FEATURES, Inception, Params, inception_params
from glcic_jax.evaluation.perceptual.state_dict import read_feature_file

SIDE = 299
_CHECKSUM = "6726825d"  # First digits of the published file's sha256.
# Bounds the memory and fixes the compiled shapes.
_BATCH_SIZE = 8


class Statistics:
    """The running mean and covariance of features [N, D].

    Attributes:
      count: Number of features.
      mean: [D] float64; empty before the first batch.

    Reference: Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance".
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    def add(self, features: np.ndarray) -> None:
        """Adds a batch of features [N, D] float, any N.

        Raises:
          DataError: They are not finite; the statistics are unchanged.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or (self.count and features.shape[1] != len(self.mean)):
            raise ValueError(f"features of shape {features.shape} are not [N, {len(self.mean) or 'D'}]")
        if not np.isfinite(features).all():
            raise DataError("FID: features that are not finite: the network's weights do not fit or are damaged")
        if not len(features):
            return
        if not self.count:
            dimensions = features.shape[1]
            self.mean, self._scatter = np.zeros(dimensions), np.zeros((dimensions, dimensions), order="F")
        self.__dict__.pop("factor", None)
        count, mean = len(features), features.mean(axis=0)
        difference, total = mean - self.mean, self.count + count
        # The last row adds the outer product of the difference; in place, because [D, D] takes 32 MB.
        rows = np.concatenate([features - mean, [difference * np.sqrt(self.count * count / total)]])
        self._scatter = linalg.blas.dgemm(1.0, rows.T, rows.T, 1.0, self._scatter, trans_b=True, overwrite_c=True)
        self.mean = self.mean + difference * (count / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """[D, D] float64, unbiased.

        Raises:
          DataError: There are fewer than two features.
        """
        if self.count < 2:
            raise DataError(f"FID needs at least two images, not {self.count}")
        return self._scatter / (self.count - 1)

    @functools.cached_property
    def factor(self) -> np.ndarray:
        """X [D, R] with X X^T = covariance; see `frechet_distance`."""
        return _factor(self.covariance)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The squared Frechet distance between two normal distributions, not negative.

    |m - n|^2 + tr C + tr D - 2 tr (C D)^(1/2). With C = X X^T and D = Y Y^T the last trace is the sum of the
    singular values of X^T Y. This avoids the matrix square root, which loses half of the digits for singular
    covariances, as of fewer images than features.

    Raises:
      DataError: One has fewer than two features.
    """
    covariances, factors = (a.covariance, b.covariance), (a.factor, b.factor)
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared")
    overlap = 0.0
    if all(factor.size for factor in factors):
        overlap = linalg.svdvals(factors[0].T @ factors[1]).sum()
    traces = sum(float(np.trace(covariance)) for covariance in covariances)
    difference = a.mean - b.mean
    return max(0.0, float(difference @ difference + traces - 2 * overlap))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """X [D, R] with X X^T = C, without the directions in which C is zero up to rounding error."""
    least = len(covariance) * np.finfo(np.float64).eps * np.diag(covariance).max()
    try:
        # Six times faster than eigenvectors, which only a singular covariance needs.
        lower = linalg.cholesky(covariance, lower=True)
    except linalg.LinAlgError:
        lower = np.zeros((1, 1))
    if np.diag(lower).min() ** 2 > least:
        return lower
    values, vectors = linalg.eigh(covariance)
    kept = values > max(least, len(values) * np.finfo(np.float64).eps * values[-1])
    return vectors[:, kept] * np.sqrt(values[kept])


def bias_note(count: int, dimensions: int = FEATURES) -> str | None:
    """A warning if an FID of so few images is biased; None otherwise.

    Args:
      count: Images in the smaller set.
      dimensions: Of the features.
    """
    if count > dimensions:
        return None
    return (
        f"FID from {count:,} images is biased upwards and its covariances are singular: more than {dimensions:,} "
        "images are needed, tens of thousands are usual, and only FIDs of equally large sets are comparable."
    )


class InceptionFeatures:
    """Computes the features that FID compares.

    Attributes:
      description: Name, weights and settings, for a report.

    Args:
      network: The network, of any width.
      params: Its variables.
      description: As above.
      side: Side of the network's input in pixels.
    """

    def __init__(self, network: Inception, params: Params, description: str, side: int = SIDE):
        self.description = description
        self._params = jax.device_put(params)
        self._side = side
        self._compute = jax.jit(network.apply)

    def features(self, image: np.ndarray) -> np.ndarray:
        """Returns the features [N, 2048] float32 of images [N, H, W, 3] uint8 of any number and size."""
        found = []
        # At least one batch, so that no images give features of the right length.
        for start in range(0, max(1, len(image)), _BATCH_SIZE):
            part = image[start : start + _BATCH_SIZE]
            # Padded, so that the last batch needs no program of its own.
            padded = np.pad(part, [(0, _BATCH_SIZE - len(part)), (0, 0), (0, 0), (0, 0)])
            computed = self._compute(self._params, _network_input(padded, self._side))
            found.append(np.asarray(computed)[: len(part)])
        return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=1)  # On its own: the network compiles once for images of any size.
def _network_input(image: jax.Array, side: int) -> jax.Array:
    """[N, H, W, 3] uint8 to [N, side, side, 3] float32 in [-1, 1], bilinear between pixel centres."""
    shape = (len(image), side, side, 3)
    # Without antialiasing, like all published figures: a large image is sampled, not averaged.
    resized = jax.image.resize(image.astype(jnp.float32) / 255, shape, "linear", antialias=False)
    return 2 * resized - 1


def load(path: Path) -> InceptionFeatures:
    """Loads FID's network.

    Args:
      path: The state dict of TensorFlow's Inception that pytorch-fid and torch-fidelity publish, in PyTorch's
        format or safetensors.

    Raises:
      WeightsError: The file is missing, damaged, or another network's, such as torchvision's Inception v3.
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
