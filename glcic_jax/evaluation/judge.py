"""The judge: a small network learns to tell completed patches from real ones, and is tested on other images.

Reference: Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests", Section 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from glcic_jax.errors import ConfigError
from glcic_jax.evaluation.images import MaskedImages, Unreadable
from glcic_jax.model.networks import Convolution, Layer, Variables

FEWEST_IMAGES = 20
MOST_IMAGES = 4_000  # Bounds the memory for their patches: at 256 px 0.2 GB, and as much for each row.
STEPS = 500
PAIRS = 32  # Of a real and a completed patch in each step.
_FEATURES = (32, 64, 128, 128)
_SLOPE = 0.2
_DROPOUT = 0.5
_LEARNING_RATE = 1e-3  # At the first step; decays to 0 by a cosine.
_WEIGHT_DECAY = 0.01
_SEED = 0


class Judge(nn.Module):
    """Four convolutions of stride 2, then the mean and the maximum over the pixels: a patch to a logit."""

    @nn.compact
    def __call__(self, patches: jax.Array, training: bool = False) -> jax.Array:
        """Judges patches.

        Args:
          patches: [N, P, P, 4] uint8, an image and its mask, 255 = hole.
          training: Whether features are dropped; needs the random key "dropout".

        Returns:
          [N] float32, above 0 for "completed".
        """
        features = patches.astype(jnp.float32) / 127.5 - 1
        for place, channels in enumerate(_FEATURES):
            layer = Layer(f"conv{place + 1}", channels, stride=2)
            features = nn.leaky_relu(Convolution(layer, channels, name=layer.name)(features), _SLOPE)
        pooled = jnp.concatenate([features.mean(axis=(1, 2)), features.max(axis=(1, 2))], axis=-1)
        pooled = nn.Dropout(_DROPOUT, deterministic=not training)(pooled)
        return nn.Dense(1, name="linear")(pooled)[:, 0]


def patch_box(hole: np.ndarray) -> tuple[slice, slice]:
    """The square of half the image's shorter side at the hole's centre of mass, shifted into the image.

    Args:
      hole: [H, W] bool, not empty.

    Returns:
      Its rows and columns.
    """
    side = min(hole.shape) // 2
    starts = [
        int(np.clip(round(places.mean() + 0.5 - side / 2), 0, length - side))
        for places, length in zip(np.nonzero(hole), hole.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def judged_right(real: np.ndarray, completed: np.ndarray) -> np.ndarray:
    """Trains a judge on every second pair of patches and tests it on the others.

    Args:
      real: [N, P, P, 4] uint8, original patches with their mask, 255 = hole; N at least 2.
      completed: [N, P, P, 3] uint8, the same patches completed.

    Returns:
      [N] float64, the fraction of the pair that is judged right: 0, 0.5 or 1; NaN for pairs of the training.
    """
    pairs = np.stack([real, np.concatenate([completed, real[..., 3:]], axis=-1)], axis=1)
    params = _train(pairs[::2])
    tested = pairs[1::2]
    logits = [_logits(params, tested[start : start + PAIRS]) for start in range(0, len(tested), PAIRS)]
    right = (np.concatenate(logits) > 0) == np.array([False, True])
    fractions = np.full(len(pairs), np.nan)
    fractions[1::2] = right.mean(axis=1)
    return fractions


def _train(pairs: np.ndarray) -> Variables:
    """The parameters after training on pairs [N, 2, P, P, 4] uint8 of a real and a completed patch."""
    rng = np.random.default_rng(_SEED)
    epochs = -(-STEPS * PAIRS // len(pairs))
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(epochs)])
    params = jax.jit(Judge().init)(jax.random.key(_SEED), pairs[0])
    optimiser_state = _optimiser().init(params)
    for step in range(STEPS):
        batch = pairs[order[step * PAIRS : (step + 1) * PAIRS]]
        mirrored = rng.random(PAIRS) < 0.5
        batch[mirrored] = batch[mirrored][..., ::-1, :]
        params, optimiser_state = _update(params, optimiser_state, batch, step)
    return params


def _optimiser() -> optax.GradientTransformation:
    return optax.adamw(optax.cosine_decay_schedule(_LEARNING_RATE, STEPS), weight_decay=_WEIGHT_DECAY)


@jax.jit
def _update(
    params: Variables, optimiser_state: optax.OptState, pairs: jax.Array, step: int
) -> tuple[Variables, optax.OptState]:
    def loss(params: Variables) -> jax.Array:
        keys = {"dropout": jax.random.fold_in(jax.random.key(_SEED), step)}
        logits = _pair_logits(params, pairs, training=True, rngs=keys)
        return optax.sigmoid_binary_cross_entropy(logits, jnp.array([0.0, 1.0])).mean()

    updates, optimiser_state = _optimiser().update(jax.grad(loss)(params), optimiser_state, params)
    return optax.apply_updates(params, updates), optimiser_state


def _pair_logits(params: Variables, pairs: jax.Array, **options: Any) -> jax.Array:
    """The logits [N, 2] of pairs [N, 2, P, P, 4] uint8."""
    logits: Any = Judge().apply(params, pairs.reshape(-1, *pairs.shape[2:]), **options)
    return logits.reshape(-1, 2)


_logits = jax.jit(_pair_logits)


def describe(count: int, side: int) -> str:
    """The recipe for a reader, for `count` pairs of patches of `side` pixels."""
    return (
        f"for each method a network is trained on {(count + 1) // 2:,} pairs of an original and a completed patch "
        f"(of the first, third, ... image with a hole) and tested on {count // 2:,} (the second, fourth, ...); "
        f"patches of {side} px at the hole's centre of mass, with the mask; {STEPS} steps of {PAIRS} pairs, "
        f"mirrored at random, with AdamW; seed {_SEED}"
    )


def check_images(images: MaskedImages) -> None:
    """Checks that a judge can be trained on images, without completing them.

    Raises:
      ConfigError: There are fewer than 20 images, or their sizes differ.
    """
    if len(images) < FEWEST_IMAGES:
        raise ConfigError(f"--judge: needs at least {FEWEST_IMAGES} images, not {len(images)}")
    if images.side is not None:
        return
    first = None
    for batch in images.batches(PAIRS):
        if isinstance(batch, Unreadable):
            continue
        first = first or batch[0]
        if batch[0].image.shape != first.image.shape:
            sizes = [f"{one.name} has {one.image.shape[1]} x {one.image.shape[0]} px" for one in (first, batch[0])]
            raise ConfigError(f"--judge: needs images of one size, but {' and '.join(sizes)}: give --size N")
