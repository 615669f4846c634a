"""The first GAN (Goodfellow et al. 2014) on MNIST: fully connected networks, 28 px, grey.

Command: python main.py --config=configs/vanilla_gan.py --config.data.source=idx:/path/to/mnist
MNIST of TFDS: --config.data.source=tfds:mnist --config.data.validation_split=test
Hardware: a GPU, or one CPU core with --config=configs/vanilla_gan.py:small.
Time: small: digits after four minutes, 23 minutes in all.
Result: glcic_jax/training/README.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(size: str = "full") -> ConfigDict:
    """Returns the authors' training on the four files of MNIST in the folder ./mnist.

    Args:
      size: "full", the authors'; or "small", half the width and fewer steps, which shows digits in minutes.
    """
    if size not in ("full", "small"):
        raise ValueError(f"configs/vanilla_gan.py has no variant {size!r}: choose from full, small")
    config = common.generation()
    config.batch_size = 100
    config.compute_dtype = "float32"
    config.data.source = "idx:mnist"
    config.data.grey = True
    config.data.image_size = 28
    config.data.resize_range = ()
    config.data.cache_images = 60_000
    config.data.threads = 2
    config.network.name = "vanilla_gan"
    config.loss.discriminator_weight = 0.5  # As the authors' release.
    config.optimizer.name = "sgd"
    if size == "small":
        config.phases.adversarial = 12_000
        config.network.width = 0.5
    return config
