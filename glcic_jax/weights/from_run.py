"""Reads the completion network of a training run. Importing this module imports Orbax and optax."""

import logging
from pathlib import Path
from typing import Any

from glcic_jax import __version__
from glcic_jax.errors import DataError, WeightsError, printable
from glcic_jax.model import masks
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.training.checkpoints import Checkpoints, DamagedCheckpointError, read_variables
from glcic_jax.weights.file import Description, Weights, check_arrays

_log = logging.getLogger(__name__)


def restore_completion(workdir: Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores the completion network alone, for inference.

    Args:
      workdir: The directory of the run.
      step: The checkpoint; None: the newest intact one. Damaged ones are logged.

    Returns:
      `(variables, meta)`: `params` and `batch_stats` as NumPy arrays, of the moving average where the run keeps
      one, and the checkpoint's `meta` item.

    Raises:
      DataError: There is no checkpoint, or no intact one, or the newest cannot be opened.
    """
    checkpoints = Checkpoints(workdir)
    directory = (workdir / "checkpoints").absolute()
    steps = checkpoints.steps() if step is None else [step]
    if not directory.is_dir():
        raise DataError(f"{workdir} holds no checkpoints: is it the workdir of a run?")
    if not steps:
        raise DataError(f"{directory} holds no finished checkpoint")
    if step is not None and step not in checkpoints.steps():
        existing = ", ".join(map(str, checkpoints.steps())) or "none"
        raise DataError(f"{directory} holds no checkpoint of step {step}; there are: {existing}")
    for candidate in reversed(steps):
        try:
            meta = checkpoints.read_meta(candidate)
            found = read_variables(directory / str(candidate) / "completion", meta)
        except DamagedCheckpointError as error:
            if candidate == steps[0]:
                raise
            _log.warning("%s: trying the checkpoint before it", error)
            continue
        chosen = found["ema"] if found.get("ema") else found
        return {"params": chosen["params"], "batch_stats": chosen["batch_stats"]}, meta
    raise AssertionError("the loop returns or raises")


def run_weights(workdir: Path, step: int | None = None) -> tuple[Weights, int]:
    """Returns the completion network of a run as weights, and the step of its checkpoint.

    Args:
      workdir, step: As for `restore_completion`.

    Raises:
      WeightsError: There is no checkpoint, or no intact one.
    """
    try:
        variables, meta = restore_completion(workdir, step)
    except DataError as error:
        raise WeightsError(str(error)) from error
    config = meta["config"]
    fields = config["completion"]
    network = CompletionNetwork(fields["width"], fields["layer_order"], fields["output_activation"])
    image_size = config["data"]["image_size"]
    red, green, blue = meta["mean_pixel"]
    description = Description(
        input_form=fields["input_form"],
        mean_pixel=(red, green, blue),
        image_size=image_size,
        hole_sides=masks.hole_sides(config["mask"]["sampler"], config["mask"], image_size),
        origin=f"trained with glcic_jax {__version__} on {config['data']['source']}, step {meta['step']:,}",
    )
    return check_arrays(Weights(network, variables, description), printable(str(workdir))), meta["step"]
