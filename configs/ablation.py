"""The paper's ablation for a CPU: a quarter of all lengths and a quarter of the width.

Command: configs/ablation.sh TRAIN_FOLDER HELD_OUT_FOLDER OUT trains and evaluates all variants. One variant:
python main.py --config=configs/ablation.py:global --config.data.source=folder:/path/to/photographs
Hardware: two CPU cores.
Time: about two hours.
Result: the table in glcic_jax/evaluation/README.md.
Reference: Iizuka et al. 2017, Section 4.3.
"""

from ml_collections import ConfigDict

from configs import common

# Branches of each variant's context discriminator. "completion" is phase 1, which all others start from.
_BRANCHES = {
    "completion": (),
    "mse": (),
    "global": ("global",),
    "local": ("local",),
    "both": ("global", "local"),
    "both_without_balance": ("global", "local"),
}
_COMPLETION_STEPS = 2_400
_DISCRIMINATOR_STEPS = 100
_JOINT_STEPS = 700


def get_config(variant: str = "both") -> ConfigDict:
    """Returns the training of one variant; all have the same images and holes in the same order.

    Args:
      variant: "mse" trains C alone for the others' total number of steps; "global", "local" and "both" name the
        discriminator's branches; "both_without_balance" applies alpha from the first joint step.
    """
    if variant not in _BRANCHES:
        raise ValueError(f"configs/ablation.py has no variant {variant!r}: choose from {', '.join(_BRANCHES)}")
    config = common.get_config()
    config.batch_size = 16
    config.phases.completion = _COMPLETION_STEPS
    config.phases.discriminator = _DISCRIMINATOR_STEPS
    config.phases.joint = _JOINT_STEPS
    config.data.source = "folder:photographs"
    config.data.image_size = 64
    config.data.resize_range = (64, 96)
    config.data.cache_images = 3_000
    config.data.threads = 2
    config.mask.rectangle.min_side = 24
    config.mask.rectangle.max_side = 32
    config.mask.rectangles.min_side = 8
    config.mask.rectangles.max_side = 20
    config.completion.width = 0.25
    config.completion.ema_decay = 0.99  # Otherwise the noise of the last steps is compared.
    config.discriminator.branches = _BRANCHES[variant]
    config.discriminator.width = 0.25
    config.discriminator.local_size = 32
    config.discriminator.global_channels = (64, 128, 256, 512)
    config.discriminator.local_channels = (64, 128, 256)
    config.balance.ratio = 0.3
    config.balance.hold_steps = _JOINT_STEPS // 2
    config.balance.transition_steps = _JOINT_STEPS // 2
    config.log_every = 20
    config.validate_every = 100
    config.grid_every = 400
    config.checkpoint_every = 200
    config.validation_images = 48
    if not config.discriminator.branches:
        config.phases.discriminator = config.phases.joint = 0
    if variant == "mse":
        config.phases.completion = _COMPLETION_STEPS + _DISCRIMINATOR_STEPS + _JOINT_STEPS
    if variant == "both_without_balance":
        config.balance.hold_steps = config.balance.transition_steps = 0
    return config
