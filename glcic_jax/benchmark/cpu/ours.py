"""Our side of the comparison on a CPU: a process that makes the data and runs each piece of work when asked."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from glcic_jax.benchmark.common import fresh_state, load_config, noise_batch
from glcic_jax.benchmark.cpu.turns import answer, seconds_of
from glcic_jax.completion import Completer
from glcic_jax.model import images, losses
from glcic_jax.model.networks import COMPLETION_LAYERS, LAST_COMPLETION_LAYER
from glcic_jax.runtime import keep_freed_memory
from glcic_jax.training.tasks.completion import STEPS
from glcic_jax.training.tasks.completion.steps import draw_examples
from glcic_jax.weights import Description, Weights

Arrays = dict[str, Any]
Work = Callable[[], Arrays]  # Returns the outputs that are compared.


def prepare(task: dict[str, Any]) -> dict[str, Work]:
    """Compiles all work, and writes the data for the other side and the outputs of each first run.

    Args:
      task: `config`, the path; `folder`, where files are written; and the sizes of `compare.print_cpu`.
    """
    folder, key = Path(task["folder"]), jax.random.key(1)
    config = joint_config(task)
    state = fresh_state(config, None)
    batch = {**noise_batch(config), "place": np.arange(config.batch_size, dtype=np.int32)}
    data = _make_data(state, task["size"], task["batch_size"], task["picture"])
    work = {
        "forward": _forward(state, data),
        "gradient": _gradient(state, data),
        "joint": _joint(state, batch, key),
        "picture": _picture(state, data),
    }
    outputs = {name: run() for name, run in work.items()}
    # Our step draws the holes on the device and computes the weight: the other side is given both.
    data["adversarial_weight"] = outputs["joint"].pop("adversarial_weight")
    data |= {f"joint_{name}": value for name, value in vars(draw_examples(state, batch, key)).items()}
    assert state.discriminator is not None
    arrays = {"completion": _variables(state), "discriminator": {"params": state.discriminator.params}}
    data |= traverse_util.flatten_dict(arrays, sep="/")
    _save(folder / "data.npz", data)
    for name, output in outputs.items():
        _save(folder / f"ours_{name}.npz", output)
    layers = {
        "completion": [
            [layer.name, layer.stride, layer.dilation] for layer in (*COMPLETION_LAYERS, LAST_COMPLETION_LAYER)
        ],
        "local_size": config.discriminator.local_size,
    }
    (folder / "layers.json").write_text(json.dumps(layers))
    return work


def joint_config(task: dict[str, Any]) -> Any:
    """Returns the configuration of the joint step: local patches of half the size, and holes that scale with it.

    Each branch of D keeps 4 x 4 px before its fully connected layer, as at 256 px.
    """
    config = load_config(task["config"], task["joint_batch_size"])
    size, local_size = task["joint_size"], task["joint_size"] // 2
    config.compute_dtype = "float32"
    config.remat, config.accumulation_steps, config.completion.ema_decay = "none", 1, 0.0
    config.optimizer.name, config.optimizer.objective_scale = "adadelta", 1.0
    config.balance.place = "output"  # C is differentiated once, as on the other side.
    config.data.image_size = size
    config.mask.sampler = "rectangle"
    config.mask.rectangle.min_side, config.mask.rectangle.max_side = size * 3 // 8, local_size
    config.completion.width = config.discriminator.width = task["width"]
    config.completion.layer_order = config.discriminator.layer_order = "conv_bn_relu"
    config.discriminator.branches = ("global", "local")
    config.discriminator.local_size = local_size
    for branch, side in (("global", size), ("local", local_size)):
        channels = tuple(config.discriminator[f"{branch}_channels"])
        config.discriminator[f"{branch}_channels"] = channels[: max(1, (side // 4).bit_length() - 1)]
    return config


def _make_data(state: Any, size: int, count: int, side: int) -> Arrays:
    rng = np.random.default_rng(0)
    hole = np.zeros((side, side), bool)
    hole[side // 4 : side // 2, side // 4 : side // 2] = True
    mask: Any = np.zeros((count, size, size, 1), np.float32)
    mask[:, size // 4 : size // 2, size // 4 : size // 2] = 1
    image: Any = rng.uniform(0, 1, (count, size, size, 3)).astype(np.float32)
    return {
        "image": image,
        "mask": mask,
        "input": np.asarray(images.network_input(image, mask, state.mean_pixel)),
        "mean_pixel": np.asarray(state.mean_pixel),
        "pixels": rng.integers(0, 256, (side, side, 3), np.uint8),
        "hole": hole,
    }


def _forward(state: Any, data: Arrays) -> Work:
    variables = _variables(state)
    apply = jax.jit(functools.partial(state.spec.completion_network.apply, train=False))
    return lambda: {"output": np.asarray(apply(variables, data["input"]))}


def _gradient(state: Any, data: Arrays) -> Work:
    network, variables = state.spec.completion_network, _variables(state)

    @jax.jit
    def gradient(params: Any, image: Any, mask: Any, network_input: Any) -> Any:
        def loss_of(params: Any) -> tuple[Any, Any]:
            output: Any
            output, updated = network.apply(
                {**variables, "params": params}, network_input, train=True, mutable=["batch_stats"]
            )
            return losses.mse(output, image, mask).mean(), updated

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    def run() -> Arrays:
        (loss, _), grads = jax.block_until_ready(
            gradient(variables["params"], data["image"], data["mask"], data["input"])
        )
        kernels = {name: np.asarray(grads[name]["kernel"]) for name in ("conv1", "conv10", "conv17")}
        return {"loss": np.asarray(loss), **kernels}

    return run


def _joint(state: Any, batch: Arrays, key: Any) -> Work:
    step = jax.jit(STEPS["joint"], donate_argnums=0)  # As in training.
    names = ("reconstruction_loss", "discriminator_loss", "adversarial_loss", "adversarial_weight")
    current = jax.tree.map(lambda leaf: leaf.copy(), state)

    def run() -> Arrays:
        nonlocal current
        current, metrics = jax.block_until_ready(step(current, batch, key))
        return {name: np.asarray(getattr(metrics, name)) for name in names}

    return run


def _picture(state: Any, data: Arrays) -> Work:
    red, green, blue = (float(value) for value in data["mean_pixel"])
    description = Description("mean_subtracted", (red, green, blue), 256, (96, 128), "made for a benchmark")
    completer = Completer(Weights(state.spec.completion_network, jax.device_get(_variables(state)), description))

    def run() -> Arrays:
        filling = completer.fill(data["pixels"], data["hole"], strategy="original", blend="off")
        return {"completed": filling.pixels.astype(np.float32) / 255}

    return run


def _save(path: Path, arrays: Arrays) -> None:
    converted: Any = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(path, **converted)


def _variables(state: Any) -> dict[str, Any]:
    return {"params": state.completion.params, "batch_stats": state.completion.batch_stats}


def main() -> None:
    """Prepares the work and answers requests on stdin."""
    keep_freed_memory()  # As in training.
    pieces = prepare(json.loads(sys.argv[1]))
    answer({"ready": lambda: True, "run": lambda work: seconds_of(pieces[work])}, sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
