"""PyTorch's side of the comparison on a CPU: the same networks with the same parameters.

The only file that imports PyTorch. Each piece of work is tried in several settings, and the fastest is timed.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from glcic_jax.benchmark.cpu.turns import answer, seconds_of
from glcic_jax.runtime import keep_freed_memory

_EPSILON = 1e-5
_TRIES = 2  # Timed runs of each setting, after an untimed one.

Arrays = dict[str, np.ndarray]
Work = Callable[[], Arrays]  # Returns the outputs that are compared.


def _to_torch(array: np.ndarray) -> torch.Tensor:
    """Converts [N, H, W, C] to [N, C, H, W], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)


def _convolution(arrays: Arrays, path: str, stride: int, dilation: int) -> nn.Module:
    kernel, bias = (torch.from_numpy(arrays[f"{path}/{name}"].copy()) for name in ("kernel", "bias"))
    taps, inputs, outputs = kernel.shape[0], kernel.shape[2], kernel.shape[3]
    layer: nn.Module
    if path.rpartition("/")[2].startswith("deconv"):
        layer = nn.ConvTranspose2d(inputs, outputs, taps, 2, 1)
        kernel = kernel.flip((0, 1)).permute(2, 3, 0, 1)
    else:
        layer = nn.Conv2d(inputs, outputs, taps, stride, dilation * (taps // 2), dilation)
        kernel = kernel.permute(3, 2, 0, 1)
    layer.load_state_dict({"weight": kernel.contiguous(), "bias": bias})
    return layer


def _batch_norm(arrays: Arrays, path: str) -> nn.BatchNorm2d:
    scale, shift = (torch.from_numpy(arrays[f"{path}/{name}"].copy()) for name in ("scale", "bias"))
    layer = nn.BatchNorm2d(len(scale), eps=_EPSILON)
    layer.load_state_dict({"weight": scale, "bias": shift}, strict=False)
    return layer


class Completion(nn.Sequential):
    """The completion network with our parameters; fresh running statistics are 0 and 1 on both sides."""

    def __init__(self, arrays: Arrays, layers: list[list[Any]]):
        modules: list[nn.Module] = []
        for index, (name, stride, dilation) in enumerate(layers, start=1):
            modules.append(_convolution(arrays, f"completion/params/{name}", stride, dilation))
            if index < len(layers):
                modules += [_batch_norm(arrays, f"completion/params/bn{index}"), nn.ReLU(inplace=True)]
        super().__init__(*modules, nn.Sigmoid())

    def folded(self) -> nn.Sequential:
        """Returns the network for inference, with each BatchNorm folded into the convolution before it."""
        modules: list[nn.Module] = []
        for layer in copy.deepcopy(self).eval():
            if isinstance(layer, nn.BatchNorm2d):
                before: Any = modules.pop()
                modules.append(fuse_conv_bn_eval(before, layer, isinstance(before, nn.ConvTranspose2d)))
            else:
                modules.append(layer)
        return nn.Sequential(*modules).eval()


class _Branch(nn.Module):
    def __init__(self, arrays: Arrays, path: str):
        super().__init__()
        count = sum(name.startswith(f"{path}/conv") and name.endswith("/kernel") for name in arrays)
        modules: list[nn.Module] = []
        for index in range(1, count + 1):
            modules.append(_convolution(arrays, f"{path}/conv{index}", 2, 1))
            modules += [_batch_norm(arrays, f"{path}/bn{index}"), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*modules)
        self.linear = _linear(arrays, f"{path}/linear")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Flattened channels last, as ours: no copy in that memory format.
        hidden = self.convolutions(image).permute(0, 2, 3, 1).flatten(1)
        return functional.relu(self.linear(hidden))


def _linear(arrays: Arrays, path: str) -> nn.Linear:
    kernel, bias = (torch.from_numpy(arrays[f"{path}/{name}"].copy()) for name in ("kernel", "bias"))
    layer = nn.Linear(*kernel.shape)
    layer.load_state_dict({"weight": kernel.T.contiguous(), "bias": bias})
    return layer


class Discriminator(nn.Module):
    """The context discriminator with our parameters; maps images and local boxes to logits [N]."""

    def __init__(self, arrays: Arrays, local_size: int):
        super().__init__()
        root = "discriminator/params"
        self.whole = _Branch(arrays, f"{root}/global_branch")
        self.local = _Branch(arrays, f"{root}/local_branch")
        self.linear = _linear(arrays, f"{root}/linear")
        self.local_size = local_size

    def forward(self, image: torch.Tensor, boxes: list[list[int]]) -> torch.Tensor:
        size = self.local_size
        patches = torch.stack(
            [one[:, top : top + size, left : left + size] for one, (top, left) in zip(image, boxes, strict=True)]
        ).contiguous(memory_format=torch.channels_last)
        return self.linear(torch.cat([self.whole(image), self.local(patches)], dim=1))[:, 0]


def _masked_mse(output: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return ((mask * (output - image) ** 2).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))).mean()


class Workloads:
    """The work of all rows in several settings; `choose_setting` keeps the fastest setting of each.

    Args:
      folder: Holds data.npz and layers.json, which our side wrote.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._arrays = dict(np.load(folder / "data.npz"))
        self._layers = json.loads((folder / "layers.json").read_text())
        self._completion = Completion(self._arrays, self._layers["completion"])
        self.work: dict[str, Work] = {}
        self._settings: dict[str, dict[str, Work]] = {
            name: {} for name in ("forward", "gradient", "joint", "picture")
        }
        for name, form in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            for folding in ("", ", folded"):
                network = self._completion.folded() if folding else copy.deepcopy(self._completion).eval()
                network = network.to(memory_format=form)
                self._settings["forward"][name + folding] = self._forward(network, form)
                self._settings["picture"][name + folding] = self._picture(network, form)
            self._settings["gradient"][name] = self._gradient(form)
            self._settings["joint"][name] = self._joint(form)

    def choose_setting(self, work: str) -> str:
        """Times all settings of a piece of work, writes its outputs, and returns the fastest setting."""
        best: dict[str, float] = {}
        outputs: dict[str, Any] = {}
        for name, run in self._settings[work].items():
            outputs[name] = run()  # The first run, before any update, as on our side.
            best[name] = min(seconds_of(run) for _ in range(_TRIES))
        chosen = min(best, key=lambda name: best[name])
        self.work[work] = self._settings[work][chosen]
        self._settings[work].clear()  # Frees the memory of the others.
        np.savez(self._folder / f"theirs_{work}.npz", **outputs[chosen])
        return chosen

    def _forward(self, network: nn.Module, form: torch.memory_format) -> Work:
        network_input = _to_torch(self._arrays["input"]).contiguous(memory_format=form)

        def run() -> Arrays:
            with torch.inference_mode():
                return {"output": network(network_input).permute(0, 2, 3, 1).numpy()}

        return run

    def _gradient(self, form: torch.memory_format) -> Work:
        network = copy.deepcopy(self._completion).train().to(memory_format=form)
        image, mask, network_input = (
            _to_torch(self._arrays[name]).contiguous(memory_format=form) for name in ("image", "mask", "input")
        )
        kernels: dict[str, Any] = {"conv1": network[0], "conv10": network[27], "conv17": network[-2]}

        def run() -> Arrays:
            network.zero_grad(set_to_none=True)
            loss = _masked_mse(network(network_input), image, mask)
            loss.backward()
            grads = {name: layer.weight.grad.permute(2, 3, 1, 0).numpy() for name, layer in kernels.items()}
            return {"loss": loss.detach().numpy(), **grads}

        return run

    def _joint(self, form: torch.memory_format) -> Work:
        """D's update on real and completed images, then C's against the new D."""
        completion = copy.deepcopy(self._completion).train().to(memory_format=form)
        discriminator = Discriminator(self._arrays, self._layers["local_size"]).train().to(memory_format=form)
        image, mask, network_input = (
            _to_torch(self._arrays[f"joint_{name}"]).contiguous(memory_format=form)
            for name in ("image", "mask", "network_input")
        )
        box, real_box = (self._arrays[f"joint_{name}"].tolist() for name in ("local_box", "real_local_box"))
        weight = float(self._arrays["adversarial_weight"])
        optimizers = [
            torch.optim.Adadelta(net.parameters(), lr=1.0, rho=0.9, eps=1e-6)
            for net in (completion, discriminator)
        ]

        def run() -> Arrays:
            output = completion(network_input)
            completed = torch.where(mask > 0.5, output, image)
            optimizers[1].zero_grad(set_to_none=True)
            real_logits, fake_logits = discriminator(image, real_box), discriminator(completed.detach(), box)
            discriminator_loss = (functional.softplus(-real_logits) + functional.softplus(fake_logits)).mean()
            discriminator_loss.backward()
            optimizers[1].step()
            optimizers[0].zero_grad(set_to_none=True)
            discriminator.requires_grad_(False)  # Computes no gradients of D, which are unused here.
            adversarial = -functional.softplus(discriminator(completed, box)).mean()
            mse = _masked_mse(output, image, mask)
            (mse + weight * adversarial).backward()
            discriminator.requires_grad_(True)
            optimizers[0].step()
            return {
                "reconstruction_loss": mse.detach().numpy(),
                "discriminator_loss": discriminator_loss.detach().numpy(),
                "adversarial_loss": adversarial.detach().numpy(),
            }

        return run

    def _picture(self, network: nn.Module, form: torch.memory_format) -> Work:
        """Completes an 8-bit array to an 8-bit array."""
        pixels, hole = self._arrays["pixels"], self._arrays["hole"]
        mean_pixel = torch.from_numpy(self._arrays["mean_pixel"])

        def run() -> Arrays:
            with torch.inference_mode():
                image = torch.from_numpy(pixels).float().div_(255)
                inside = torch.from_numpy(hole)[..., None]
                subtracted = torch.where(inside, 0.0, image - mean_pixel)
                network_input = torch.cat([subtracted, inside.float()], dim=-1).permute(2, 0, 1)[None]
                output = network(network_input.contiguous(memory_format=form))[0].permute(1, 2, 0)
                rounded = output.clamp(0, 1).mul(255).round().byte()
                completed = torch.where(inside, rounded, torch.from_numpy(pixels)).numpy()
            return {"completed": completed.astype(np.float32) / 255}

        return run


def main() -> None:
    """Prepares the work and answers requests on stdin."""
    keep_freed_memory()
    torch.set_num_threads(int(sys.argv[2]))
    workloads = Workloads(Path(sys.argv[1]))
    jobs: dict[str, Callable[..., Any]] = {
        "choose_setting": workloads.choose_setting,
        "run": lambda work: seconds_of(workloads.work[work]),
    }
    answer(jobs, sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
