"""The first GAN (Goodfellow et al. 2014) on MNIST: fully connected networks, 28 px, grey.

Command: python main.py --config=configs/vanilla_gan.py --config.data.source=idx:/path/to/mnist
MNIST of TFDS: --config.data.source=tfds:mnist --config.data.validation_split=test
Hardware: one CPU core.
Time, result: not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the authors' training on the four files of MNIST in the folder ./mnist."""
    config = common.generation()
    config.batch_size = 100
    config.compute_dtype = "float32"
    config.phases.adversarial = 10_000
    config.data.source = "idx:mnist"
    config.data.grey = True
    config.data.image_size = 28
    config.data.resize_range = ()
    config.data.cache_images = 60_000
    config.data.threads = 2
    config.network.name = "vanilla_gan"
    config.loss.discriminator_weight = 0.5  # As the authors' release.
    config.optimizer.name = "sgd"
    return config
