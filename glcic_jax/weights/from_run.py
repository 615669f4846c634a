"""Completing images with a trained completion network."""

import logging
from pathlib import Path
from typing import Any

import jax

from glcic_jax.errors import DataError
from glcic_jax.model import images
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.training.checkpoint_items import read_variables
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.state import Variables

_log = logging.getLogger(__name__)


def complete(
    network: CompletionNetwork,
    variables: Variables,
    image: jax.Array,
    mask: jax.Array,
    mean_pixel: jax.Array,
    input_form: str,
) -> tuple[jax.Array, jax.Array]:
    """Fills the holes of images whose sides are multiples of 4, with the running statistics.

    Args:
      network: The completion network.
      variables: Its `params` and `batch_stats`.
      image: [N, H, W, 3] float in [0, 1]; what lies inside the hole is not looked at.
      mask: [N, H, W, 1] float, 1 = hole.
      mean_pixel: [3] float in [0, 1], the mean colour of the training set.
      input_form: As in `images.network_input`; the one that the network was trained with.

    Returns:
      `(output, completed)`, each [N, H, W, 3] float32 in [0, 1]: the raw output, and the image with its hole
      filled by it. Pixels of `completed` outside the hole are bit-identical to the image's.
    """
    network_input = images.network_input(image, mask, mean_pixel, input_form)
    output: Any = network.apply(variables, network_input, train=False)
    return output, images.composite(image, output, mask)


def restore_completion(workdir: Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores the completion network alone, for inference.

    Args:
      workdir: The run's directory.
      step: Which checkpoint; None: the newest that is sound (what is passed over is logged).

    Returns:
      `(variables, meta)`: `params` and `batch_stats` of the moving average where the run keeps one, of the
      trained network where not, as NumPy arrays; and the checkpoint's `meta` item.

    Raises:
      DataError: There is no checkpoint, or none that can be read.
    """
    checkpoints = Checkpoints(workdir)
    directory = (workdir / "checkpoints").absolute()
    steps = checkpoints.steps() if step is None else [step]
    if not directory.is_dir():
        raise DataError(f"{workdir} holds no checkpoints: is it the workdir of a run?")
    if not steps:
        raise DataError(f"{directory} holds no finished checkpoint")
    for tried in reversed(steps):
        try:
            meta = checkpoints.read_meta(tried)
            found = read_variables(directory / str(tried) / "completion", meta)
        except DataError as error:
            if tried == steps[0]:
                raise
            _log.warning("%s: going back to the one before it", error)
            continue
        chosen = found["ema"] if found.get("ema") else found
        return {"params": chosen["params"], "batch_stats": chosen["batch_stats"]}, meta
    raise AssertionError("the loop returns or raises")
