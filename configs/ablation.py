"""The paper's ablation for a CPU: the discriminator of configs/faces.py with one branch, both or none.

Command: configs/ablation.sh FOLDER OUT trains and evaluates all variants. One variant:
python main.py --config=configs/ablation.py:global --config.data.source=folder:/path/to/faces
Hardware: two CPU cores.
Time: about two hours.
Result: the table in glcic_jax/evaluation/README.md.
Reference: Iizuka et al. 2017, Section 4.3.
"""

from ml_collections import ConfigDict

from configs import faces

# Branches of each variant's context discriminator. "completion" is phase 1, which all others start from.
_BRANCHES = {
    "completion": (),
    "mse": (),
    "global": ("global",),
    "local": ("local",),
    "both": ("global", "local"),
}


def get_config(variant: str = "both") -> ConfigDict:
    """Returns the training of one variant; all have the same images and holes in the same order.

    Args:
      variant: "mse" trains C alone for the others' total number of steps; "global", "local" and "both" name the
        discriminator's branches.
    """
    if variant not in _BRANCHES:
        raise ValueError(f"configs/ablation.py has no variant {variant!r}: choose from {', '.join(_BRANCHES)}")
    config = faces.get_config()
    config.phases.joint = 6_000
    config.completion.ema_decay = 0.995  # A shorter average than in faces.py, as the training is shorter.
    config.discriminator.branches = _BRANCHES[variant]
    if variant == "mse":
        config.phases.completion = sum(config.phases.values())
    if not config.discriminator.branches:
        config.phases.discriminator = config.phases.joint = 0
    return config
