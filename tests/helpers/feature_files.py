"""Random weights for LPIPS and FID, the same on every machine, and their files."""

import numpy as np

from helpers.foreign_files import ordered_dict, pickled, tensor, zip_file


def random_arrays(shapes, seed=0) -> dict[str, np.ndarray]:
    """Weights that keep the scale of activations, from NumPy's legacy generator, whose numbers never change."""
    random = np.random.RandomState(seed)
    arrays = {}
    for name, shape in sorted(shapes.items()):
        if name.startswith("lin") or name.endswith(("bn.weight", "running_var")):
            values = random.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = 0.1 * random.standard_normal(shape)
        arrays[name] = values.astype(np.float32)
    return arrays


def random_pictures(count, height, width, seed=0) -> np.ndarray:
    """Colour gradients with noise: [count, height, width, 3] uint8."""
    random = np.random.RandomState(seed)
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    slopes = random.uniform(-100, 100, (2, count, 1, 1, 3))
    noise = random.uniform(-60, 60, (count, height, width, 3))
    return np.clip(128 + slopes[0] * rows + slopes[1] * columns + noise, 0, 255).astype(np.uint8)


def torch_file(arrays) -> bytes:
    """A state dict in the format of `torch.save`."""
    return zip_file(*pickled(ordered_dict({name: tensor(array) for name, array in arrays.items()})))
