"""Our side of the comparison on a CPU: a process that makes the data, and runs the work when it is told to."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from glcic_jax.benchmark.common import fresh_state, load_config, noise, with_norms
from glcic_jax.benchmark.cpu.turns import answer, seconds_of
from glcic_jax.completion.completer import Completer
from glcic_jax.model import images, losses
from glcic_jax.model.networks import COMPLETION_LAYERS, LAST_COMPLETION_LAYER
from glcic_jax.runtime import keep_freed_memory
from glcic_jax.training import steps
from glcic_jax.training.steps import draw_examples
from glcic_jax.weights.file import Description, Weights

_KEY = 1


class Ours:
    """All rows' work, compiled and ready.

    Args:
      task: `config`, `size` and `batch_size` of the rows of C alone, `joint_size`, `joint_batch_size`, `picture`,
        `width`, and `folder`, where data for the other side and outputs are put.
    """

    def __init__(self, task: dict[str, Any]):
        self._folder = Path(task["folder"])
        config = joint_config(task)
        self._state = with_norms(fresh_state(config, None))
        self._batch = {**noise(config), "place": np.arange(config.batch_size, dtype=np.int32)}
        self._key = jax.random.key(_KEY)
        self._outputs: dict[str, dict[str, Any]] = {}
        data = self._make_data(task["size"], task["batch_size"], task["picture"])
        self.work: dict[str, Callable[[], None]] = {
            "forward": self._forward(data),
            "gradient": self._gradient(data),
            "joint": self._joint(),
            "picture": self._picture(data),
        }
        for run in self.work.values():  # Compiles, and keeps the outputs for the comparison.
            run()
        data |= self._joint_data()
        np.savez(self._folder / "data.npz", **data)
        (self._folder / "layers.json").write_text(json.dumps(self._layers(config)))
        for work, outputs in self._outputs.items():
            np.savez(self._folder / f"ours_{work}.npz", **outputs)

    def _make_data(self, size: int, count: int, side: int) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        hole = np.zeros((side, side), bool)
        hole[side // 4 : side // 2, side // 4 : side // 2] = True
        mask: Any = np.zeros((count, size, size, 1), np.float32)
        mask[:, size // 4 : size // 2, size // 4 : size // 2] = 1
        image: Any = rng.uniform(0, 1, (count, size, size, 3)).astype(np.float32)
        return {
            "image": image,
            "mask": mask,
            "input": np.asarray(images.network_input(image, mask, self._state.mean_pixel)),
            "mean_pixel": np.asarray(self._state.mean_pixel),
            "pixels": rng.integers(0, 256, (side, side, 3), np.uint8),
            "hole": hole,
        }

    def _forward(self, data: dict[str, Any]) -> Callable[[], None]:
        network, variables = self._state.spec.completion_network, self._variables()
        apply = jax.jit(functools.partial(network.apply, train=False))

        def run() -> None:
            self._outputs["forward"] = {"output": np.asarray(apply(variables, data["input"]))}

        return run

    def _gradient(self, data: dict[str, Any]) -> Callable[[], None]:
        network, variables = self._state.spec.completion_network, self._variables()

        @jax.jit
        def gradient(params: Any, image: Any, mask: Any, network_input: Any) -> Any:
            def loss_of(params: Any) -> tuple[Any, Any]:
                moved = {**variables, "params": params}
                output: Any
                output, updated = network.apply(moved, network_input, train=True, mutable=["batch_stats"])
                return losses.mse(output, image, mask).mean(), updated

            return jax.value_and_grad(loss_of, has_aux=True)(params)

        def run() -> None:
            (loss, _), grads = jax.block_until_ready(
                gradient(variables["params"], data["image"], data["mask"], data["input"])
            )
            kernels = {name: np.asarray(grads[name]["kernel"]) for name in ("conv1", "conv10", "conv17")}
            self._outputs["gradient"] = {"loss": np.asarray(loss), **kernels}

        return run

    def _joint(self) -> Callable[[], None]:
        # C is differentiated once, as there; and the state's memory is handed on, as in training.
        step = jax.jit(steps.joint_step_between_measurements, donate_argnums=0)
        state = jax.tree.map(lambda leaf: leaf.copy(), self._state)

        def run() -> None:
            nonlocal state
            state, metrics = jax.block_until_ready(step(state, self._batch, self._key))
            names = ("reconstruction_loss", "discriminator_loss", "adversarial_loss")
            # Of the first update, from which both sides begin.
            self._outputs.setdefault("joint", {name: np.asarray(getattr(metrics, name)) for name in names})
            self._weight = np.asarray(metrics.adversarial_weight)

        return run

    def _joint_data(self) -> dict[str, Any]:
        """What the other side needs to make the same joint step: holes are drawn on the device here."""
        examples = draw_examples(self._state, self._batch, self._key)
        drawn = {f"joint_{name}": np.asarray(value) for name, value in vars(examples).items()}
        arrays = {"completion": self._variables()}
        assert self._state.discriminator is not None
        arrays["discriminator"] = {"params": self._state.discriminator.params}
        flat = {name: np.asarray(value) for name, value in traverse_util.flatten_dict(arrays, sep="/").items()}
        return {**drawn, **flat, "adversarial_weight": self._weight}

    def _picture(self, data: dict[str, Any]) -> Callable[[], None]:
        red, green, blue = (float(value) for value in data["mean_pixel"])
        description = Description("mean_subtracted", (red, green, blue), 256, (96, 128), "made for a benchmark")
        variables = jax.device_get(self._variables())
        network = self._state.spec.completion_network
        completer = Completer(Weights(network, variables, description))

        def run() -> None:
            filling = completer.fill(data["pixels"], data["hole"], strategy="original")
            self._outputs["picture"] = {"completed": filling.pixels.astype(np.float32) / 255}

        return run

    def _variables(self) -> dict[str, Any]:
        return {"params": self._state.completion.params, "batch_stats": self._state.completion.batch_stats}

    @staticmethod
    def _layers(config: Any) -> dict[str, Any]:
        convolutions = [*COMPLETION_LAYERS, LAST_COMPLETION_LAYER]
        return {
            "completion": [[one.name, one.stride, one.dilation] for one in convolutions],
            "branches": list(config.discriminator.branches),
            "local_size": config.discriminator.local_size,
        }


def joint_config(task: dict[str, Any]) -> Any:
    """The configuration of the joint step: half as large a local patch, the holes scaled with the image.

    Each branch of D keeps 4 x 4 px before its fully connected layer, as at 256 px.
    """
    config = load_config(task["config"], task["joint_batch_size"])
    size, local_size = task["joint_size"], task["joint_size"] // 2
    config.compute_dtype = "float32"
    config.remat, config.accumulation_steps, config.completion.ema_decay = "none", 1, 0.0
    config.optimizer.name = "adadelta"
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


def main() -> None:
    """Gets ready, and answers."""
    keep_freed_memory()  # As in training.
    ours = Ours(json.loads(sys.argv[1]))
    answer({"ready": lambda: True, "run": lambda work: seconds_of(ours.work[work])}, sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
