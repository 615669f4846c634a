"""The DCGAN (Radford et al. 2016) on faces: convolutional networks, 64 px, colour.

Command: python main.py --config=configs/dcgan.py
Faces in a folder: --config.data.source=folder:/path/to/faces --config.data.centre_crop=0
Hardware: a GPU, or a CPU with --config=configs/dcgan.py:small.
Time: small: rough faces after half an hour of two cores.
Result: glcic_jax/training/README.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(size: str = "full") -> ConfigDict:
    """Returns the paper's training on CelebA, whose faces fill the central square of 108 px.

    Args:
      size: "full", the paper's; or "small", an eighth of the width and batch 64, for a CPU.
    """
    if size not in ("full", "small"):
        raise ValueError(f"configs/dcgan.py has no variant {size!r}: choose from full, small")
    config = common.generation()
    config.batch_size = 128
    config.data.source = "tfds:celeb_a"
    config.data.centre_crop = 108
    config.data.image_size = 64
    config.data.resize_range = (64, 64)
    config.data.flip = True
    if size == "small":
        config.batch_size = 64
        config.compute_dtype = "float32"
        config.phases.adversarial = 8_000
        config.data.cache_images = 3_000
        config.data.threads = 2
        config.network.width = 0.125
    return config
