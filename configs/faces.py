"""The paper's face experiment for a CPU: a quarter of the width, on any folder of faces.

Command: python main.py --config=configs/faces.py --config.data.source=folder:/path/to/faces
At 128 px instead of 64: --config=configs/faces.py:128
Hardware: two CPU cores.
Time, result: glcic_jax/evaluation/README.md.

The hole's sides are 5/16 to 9/16 of the crop's; the paper's are 48 to 96 of 160 px. Ours: -log D for C, gradients
balanced in all joint steps, and a moving average of C. The paper's log(1 - D) is as good.
"""

from ml_collections import ConfigDict

from configs import common

# By the side of the crops: steps of the three phases, and D's convolutions.
_SIZES = {
    "64": ((2_500, 100, 20_000), (64, 128, 256, 512), (64, 128, 256)),
    "128": ((10_000, 200, 40_000), (64, 128, 256, 512, 512), (64, 128, 256, 512)),
}


def get_config(size: str = "64") -> ConfigDict:
    """Returns all three phases on the folder ./faces, of which a fifth is held out.

    Args:
      size: Side of the crops in pixels, "64" or "128"; holes and local patches grow with it.
    """
    if size not in _SIZES:
        raise ValueError(f"configs/faces.py has no size {size!r}: choose from {', '.join(_SIZES)}")
    side = int(size)
    (completion, discriminator, joint), global_channels, local_channels = _SIZES[size]
    config = common.get_config()
    config.batch_size = 16
    config.compute_dtype = "float32"
    config.phases.completion = completion
    config.phases.discriminator = discriminator
    config.phases.joint = joint
    config.data.source = "folder:faces"
    config.data.validation_fraction = 0.2
    config.data.image_size = side
    config.data.resize_range = (side, side * 5 // 4)
    config.data.flip = True
    config.data.cache_images = 3_000
    config.data.threads = 2
    config.mask.rectangle.min_side = side * 5 // 16
    config.mask.rectangle.max_side = side * 9 // 16
    config.mask.rectangles.min_side = side // 8
    config.mask.rectangles.max_side = side * 5 // 16
    config.completion.width = 0.25
    config.completion.ema_decay = 0.999
    config.discriminator.width = 0.25
    config.discriminator.local_size = side * 5 // 8
    config.discriminator.global_channels = global_channels
    config.discriminator.local_channels = local_channels
    config.loss.adversarial = "non_saturating"
    config.balance.ratio = 3.0
    config.balance.hold_steps = joint
    config.balance.transition_steps = 0
    config.optimizer.objective_scale = 1_000.0
    config.log_every = 100
    config.validate_every = 500
    config.grid_every = 500
    config.checkpoint_every = 500
    config.validation_images = 48
    return config
