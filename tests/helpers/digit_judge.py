"""A small classifier of digits, trained on real ones, that reads the samples of a GAN.

python tests/helpers/digit_judge.py MNIST SAMPLES.npy

MNIST is the folder of the four files; SAMPLES.npy, [N, 28, 28, 1] uint8, is written by
`glcic generate RUN --format npy`. Shows the accuracy on held-out digits, and of these and of the samples the share
of each class, the mean confidence, and the entropy of the distribution of classes: 2.303 nats for ten equal
shares, 0 for one class alone.
"""

import sys
from pathlib import Path

import click
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from glcic_jax.data.idx import read_idx

_CLASSES, _BATCH, _EPOCHS = 10, 100, 6


class Judge(nn.Module):
    """[N, S, S] uint8 to logits [N, 10]: two convolutions with stride 2, two fully connected layers."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        hidden = image[..., None].astype(jnp.float32) / 255
        for features in (16, 32):
            hidden = nn.relu(nn.Conv(features, (3, 3), strides=2)(hidden))
        hidden = nn.relu(nn.Dense(64)(hidden.reshape(len(hidden), -1)))
        return nn.Dense(_CLASSES)(hidden)


def train_judge(image: np.ndarray, label: np.ndarray, epochs: int = _EPOCHS):
    """Returns a function that gives the probabilities [N, 10] of images [N, S, S] uint8."""
    judge, optimizer = Judge(), optax.adam(2e-3)
    params = judge.init(jax.random.key(0), image[:1])
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, image, label):
        def loss_of(params):
            return optax.softmax_cross_entropy_with_integer_labels(judge.apply(params, image), label).mean()

        updates, state = optimizer.update(jax.grad(loss_of)(params), state)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(image))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            chosen = order[start : start + _BATCH]
            params, state = step(params, state, image[chosen], label[chosen])
    return jax.jit(lambda image: nn.softmax(judge.apply(params, image)))


def read_samples(probabilities: np.ndarray) -> dict[str, object]:
    """The share of each class, the mean confidence and the entropy in nats of the distribution of classes."""
    classes = np.asarray(probabilities).argmax(axis=1)
    shares = np.bincount(classes, minlength=_CLASSES) / len(classes)
    some = shares[shares > 0]
    return {
        "shares": shares,
        "confidence": float(np.asarray(probabilities).max(axis=1).mean()),
        "entropy": float(-(some * np.log(some)).sum()),
    }


def main(folder: str, samples: str) -> None:
    judge = train_judge(*read_idx(Path(folder), "train"))
    image, label = read_idx(Path(folder), "validation")
    real = np.asarray(judge(image))
    click.echo(f"accuracy on {len(image)} held-out digits: {(real.argmax(axis=1) == label).mean():.3f}")
    for name, probabilities in (
        ("held-out digits", real),
        ("samples", np.asarray(judge(np.load(samples)[..., 0]))),
    ):
        found = read_samples(probabilities)
        shares = " ".join(f"{share:.3f}" for share in found["shares"])
        click.echo(
            f"{name}: shares {shares}; confidence {found['confidence']:.3f}; entropy {found['entropy']:.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
