"""Reads the network of a training run that inference uses. Importing this module imports Orbax and optax."""

import logging
from pathlib import Path
from typing import Any

from glcic_jax import __version__
from glcic_jax.errors import DataError, WeightsError, printable
from glcic_jax.training.checkpoints import Checkpoints, DamagedCheckpointError, read_variables
from glcic_jax.training.tasks import task_of
from glcic_jax.weights.file import Weights, check_arrays, description_type

_log = logging.getLogger(__name__)


def restore_network(workdir: Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores the network that inference uses, without the others.

    Args:
      workdir: The directory of the run.
      step: The checkpoint; None: the newest intact one. Damaged ones are logged.

    Returns:
      `(variables, meta)`: the network's collections as NumPy arrays, of the moving average where the run keeps
      one, and the checkpoint's `meta` item.

    Raises:
      DataError: There is no checkpoint, or no intact one, or the newest cannot be opened.
    """
    checkpoints = Checkpoints(workdir)
    directory = (workdir / "checkpoints").absolute()
    steps = checkpoints.steps() if step is None else [step]
    if not workdir.is_dir():
        raise DataError(f"{printable(str(workdir))}: no such folder: name the workdir of a run")
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
            item = task_of(meta["config"]).inference_item
            found = read_variables(directory / str(candidate) / item, meta)
        except DamagedCheckpointError as error:
            if candidate == steps[0]:
                raise
            _log.warning("%s: trying the checkpoint before it", error)
            continue
        chosen = found["ema"] if found.get("ema") else found
        variables = {name: chosen[name] for name in ("params", "batch_stats") if chosen.get(name)}
        return variables, meta
    raise AssertionError("the loop returns or raises")


def run_weights(workdir: Path, step: int | None = None) -> tuple[Weights, int]:
    """Returns the network of a run that inference uses as weights, and the step of its checkpoint.

    Args:
      workdir, step: As for `restore_network`.

    Raises:
      WeightsError: There is no checkpoint, or no intact one.
    """
    try:
        variables, meta = restore_network(workdir, step)
    except DataError as error:
        raise WeightsError(str(error)) from error
    network, facts = task_of(meta["config"]).exported(meta)
    source = meta["config"]["data"]["source"]
    origin = f"trained with glcic_jax {__version__} on {source}, step {meta['step']:,}"
    description = description_type(network)(**facts, origin=origin)
    return check_arrays(Weights(network, variables, description), printable(str(workdir))), meta["step"]
