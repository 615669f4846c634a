"""The completion network C and the context discriminators D, as flax.linen modules.

Sizes are the paper's, as in the authors' release. Padding is explicit and symmetric: with stride 2, "SAME" pads an
even input by (0, 1), which shifts it by half a stride relative to all published weights. Parameters are float32;
`dtype` is the type of the arithmetic.

Reference: Iizuka et al. 2017, Sections 3.2 and 3.3.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from glcic_jax.errors import ConfigError, lookup
from glcic_jax.model import images
from glcic_jax.model.convolutions import convolution, upsampling_convolution
from glcic_jax.model.images import OUTPUT_ACTIVATIONS, crop_patch, inside

Variables = Mapping[str, Any]

# The paper names no initialisation; ReLU follows almost every layer.
_INITIALIZER = nn.initializers.he_normal()

_BATCH_NORM_MOMENTUM = 0.9  # Torch calls this 0.1, the weight of the new batch.
BATCH_NORM_EPSILON = 1e-5


class Layer(NamedTuple):
    """A convolution; transposed, with stride 1/2, if its name begins with "deconv"."""

    name: str
    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1


# BatchNorm follows each of these, and not `LAST_COMPLETION_LAYER`.
COMPLETION_LAYERS = (
    Layer("conv1", 64, kernel=5),
    Layer("conv2", 128, stride=2),
    Layer("conv3", 128),
    Layer("conv4", 256, stride=2),
    Layer("conv5", 256),
    Layer("conv6", 256),
    Layer("conv7", 256, dilation=2),
    Layer("conv8", 256, dilation=4),
    Layer("conv9", 256, dilation=8),
    Layer("conv10", 256, dilation=16),
    Layer("conv11", 256),
    Layer("conv12", 256),
    Layer("deconv13", 128, kernel=4),
    Layer("conv14", 128),
    Layer("deconv15", 64, kernel=4),
    Layer("conv16", 32),
)
LAST_COMPLETION_LAYER = Layer("conv17", 3)


class Convolution(nn.Module):
    """The convolution of a `Layer`, with bias: [N, H, W, I] -> [N, H / stride, W / stride, features].

    A transposed convolution doubles the height and width instead. Parameters: `kernel` [K, K, I, features] and
    `bias` [features], as in `nn.Conv` and `nn.ConvTranspose`.
    """

    layer: Layer
    features: int
    dtype: Any = jnp.float32
    initializer: nn.initializers.Initializer = _INITIALIZER

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        layer = self.layer
        shape = layer.kernel, layer.kernel, image.shape[-1], self.features
        kernel = self.param("kernel", self.initializer, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        image, kernel, bias = _promote_all_but_bias(image, kernel, bias, dtype=self.dtype)
        if layer.name.startswith("deconv"):
            hidden = upsampling_convolution(image, kernel)
        else:
            hidden = convolution(image, kernel, layer.stride, layer.dilation)
        return (hidden + bias).astype(self.dtype)


def _promote_all_but_bias(*arrays: Any, dtype: Any = None, inexact: bool = True) -> list[Any]:
    """`nn.dtypes.promote_dtype` without the last array, the bias: its gradient is a sum that needs float32."""
    *others, bias = arrays
    return [*nn.dtypes.promote_dtype(*others, dtype=dtype, inexact=inexact), bias]


def _normalise_and_activate(
    image: jax.Array, order: str, name: str, train: bool, dtype: Any, axis_name: str | None
) -> jax.Array:
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=_BATCH_NORM_MOMENTUM,
        epsilon=BATCH_NORM_EPSILON,
        dtype=dtype,
        axis_name=axis_name if train else None,
        name=name,
    )
    return lookup(LAYER_ORDERS, order, "layer order")(norm, image)


def _zero_outside(hidden: jax.Array, valid_size: jax.Array | None, height: int) -> jax.Array:
    """Sets pixels outside the valid part to zero, the padding of convolutions; the input is `height` px high."""
    if valid_size is None:
        return hidden
    return jnp.where(inside(valid_size // (height // hidden.shape[1]), *hidden.shape[1:3]), hidden, 0)


def scaled(features: int, width: float) -> int:
    """A layer's number of features at a width."""
    return max(1, round(features * width))


class CompletionNetwork(nn.Module):
    """C: 17 convolutions, four of them dilated, that complete an image of any size.

    Collections: `params` (6,072,131 values at width 1) and `batch_stats` (5,952). Layers are named `conv1` to
    `conv12`, `deconv13`, `conv14`, `deconv15`, `conv16`, `conv17` and `bn1` to `bn16`. `intermediates`,
    if mutable, receives `last_input`, the last layer's input.

    Attributes:
      width: Multiplies the features of every layer except the last.
      layer_order: A name in `LAYER_ORDERS`.
      output_activation: A name in `OUTPUT_ACTIVATIONS`.
      dtype: Type of the arithmetic; parameters and running statistics stay float32.
      axis_name: The pmap axis over which training averages batch statistics; None for each device's own.
      remat: A name in `REMATS`: what the backward pass recomputes; changes no parameter or result.

    Reference: Iizuka et al. 2017, Section 3.2.
    """

    width: float = 1.0
    layer_order: str = "conv_bn_relu"
    output_activation: str = "sigmoid"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: str = "none"

    @nn.compact
    def __call__(
        self, network_input: jax.Array, train: bool = False, valid_size: jax.Array | None = None
    ) -> jax.Array:
        """Runs the network.

        Args:
          network_input: [N, H, W, 4] float, from `images.network_input`; H and W multiples of 4.
          train: Normalise by the batch's statistics and update the running ones; else by the running ones.
          valid_size: [N, 2] int32, the (height, width), multiples of 4, of the valid part at the top left of each
            image; None for all. The output of the valid part is that of this part alone, because every layer
            treats the rest as padding. So one compiled program can serve many sizes.

        Returns:
          [N, H, W, 3] float32 in [0, 1]: the raw output, inside and outside the hole.

        Raises:
          ValueError: A side is not a multiple of 4.
        """
        height, width = network_input.shape[1:3]
        if height % 4 or width % 4:
            raise ValueError(f"sides must be multiples of 4, not {height} x {width}: pad the image first")
        activate = lookup(OUTPUT_ACTIVATIONS, self.output_activation, "output activation")
        last_initializer = nn.initializers.zeros if activate.begins_at_zero else _INITIALIZER
        layers = [layer._replace(features=scaled(layer.features, self.width)) for layer in COMPLETION_LAYERS]
        layers.append(LAST_COMPLETION_LAYER)

        def run(network: nn.Module, hidden: jax.Array, first: int, end: int) -> jax.Array:
            """Runs layers [first, end): each one normalises the output of the layer before, then convolves.

            `network` is this network as nn.remat passes it; modules created here become its children.
            """
            for index in range(first, end):
                if index > 0:
                    hidden = _normalise_and_activate(
                        hidden, self.layer_order, f"bn{index}", train, self.dtype, self.axis_name
                    )
                    hidden = _zero_outside(hidden, valid_size, height)
                layer = layers[index]
                if layer is LAST_COMPLETION_LAYER:
                    network.sow("intermediates", "last_input", hidden)
                initializer = last_initializer if layer is LAST_COMPLETION_LAYER else _INITIALIZER
                hidden = Convolution(layer, layer.features, self.dtype, initializer, name=layer.name)(hidden)
            return hidden

        kept = lookup(REMATS, self.remat, "remat")
        ends = [index for index, layer in enumerate(layers, start=1) if layer.name in kept]
        stage = nn.remat(run, static_argnums=(2, 3)) if ends and train else run
        hidden = _zero_outside(network_input.astype(self.dtype), valid_size, height)
        for first, end in itertools.pairwise([0, *ends, len(layers)]):
            hidden = stage(self, hidden, first, end)
        return activate.apply(hidden.astype(jnp.float32), network_input[..., :3].astype(jnp.float32))


class _Branch(nn.Module):
    """5x5 convolutions with stride 2, then a fully connected layer: an image to a feature vector.

    `pooled` averages the convolutions' output over all positions first.
    """

    width: float = 1.0
    channels: tuple[int, ...] = ()
    features: int = 1024
    pooled: bool = False
    layer_order: str = "conv_bn_relu"
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """[N, S, S, 3] float in [0, 1] to [N, features * width] float32 >= 0."""
        hidden = image.astype(self.dtype)
        for index, channels in enumerate(self.channels, start=1):
            layer = Layer(f"conv{index}", channels, kernel=5, stride=2)
            hidden = Convolution(layer, scaled(channels, self.width), self.dtype, name=layer.name)(hidden)
            hidden = _normalise_and_activate(
                hidden, self.layer_order, f"bn{index}", train, self.dtype, self.axis_name
            )
        flat = hidden.mean(axis=(1, 2)) if self.pooled else hidden.reshape(hidden.shape[0], -1)
        features = scaled(self.features, self.width)
        dense = nn.Dense(
            features,
            dtype=self.dtype,
            kernel_init=_INITIALIZER,
            promote_dtype=_promote_all_but_bias,
            name="linear",
        )
        return nn.relu(dense(flat)).astype(jnp.float32)


class GlobalDiscriminator(_Branch):
    """The branch for the whole image: 25.81 M parameters at width 1 and 256 x 256 px.

    [N, S, S, 3] float in [0, 1] to features [N, 1024 * width]. 160 x 160 px (CelebA) take five `channels`.

    Reference: Iizuka et al. 2017, Section 3.3.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512, 512)


class LocalDiscriminator(_Branch):
    """The branch for the patch around the hole: 19.25 M parameters at width 1 and 128 x 128 px.

    [N, S, S, 3] float in [0, 1] to features [N, 1024 * width].

    Reference: Iizuka et al. 2017, Section 3.3.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)


class TextureDiscriminator(_Branch):
    """A branch for the texture of the patch around the hole, wherever in the patch it is. Not in the paper.

    [N, S, S, 3] float in [0, 1] to features [N, 1024 * width]. Every position at the end sees 29 x 29 px; their
    features are averaged, so thin strokes count as much at any place.

    Reference: the patch discriminators of Isola et al. 2017, Section 3.2.2, and of Yu et al. 2019, Section 3.3.
    """

    channels: tuple[int, ...] = (64, 128, 256)
    pooled: bool = True


class ContextDiscriminator(nn.Module):
    """D: distinguishes real from completed images by the whole image and the patch around the hole.

    Attributes:
      branches: Names in `BRANCHES`, each at most once; ("global", "local") in the paper, one alone in its
        ablation (Section 4.3).
      local_size: Side of the local patch in pixels.
      channels: The convolution channels of each branch; None for the defaults.
      width: Multiplies the features of every layer except the last.
      layer_order, dtype, axis_name: As in `CompletionNetwork`.

    Reference: Iizuka et al. 2017, Section 3.3.
    """

    branches: tuple[str, ...] = ("global", "local")
    local_size: int = 128
    channels: tuple[tuple[int, ...], ...] | None = None
    width: float = 1.0
    layer_order: str = "conv_bn_relu"
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, local_box: jax.Array, train: bool = False) -> jax.Array:
        """Runs the network.

        Args:
          image: [N, H, W, 3] float in [0, 1], real or completed; never a raw output.
          local_box: [N, 2] int32, corner of each local patch.
          train: As in `CompletionNetwork`.

        Returns:
          [N] float32 logits, positive = real; the loss applies the sigmoid.

        Raises:
          ConfigError: There is no branch, or an unknown one.
        """
        if not self.branches:
            raise ConfigError("a context discriminator needs at least one branch")
        features = []
        for index, name in enumerate(self.branches):
            module, view = lookup(BRANCHES, name, "discriminator branch")
            fields: dict[str, Any] = {} if self.channels is None else {"channels": tuple(self.channels[index])}
            branch = module(
                width=self.width,
                layer_order=self.layer_order,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=f"{name}_branch",
                **fields,
            )
            features.append(branch(view(image, local_box, self.local_size), train))
        # In float32: a sum over all features, and too small to save anything.
        return nn.Dense(1, dtype=jnp.float32, name="linear")(jnp.concatenate(features, axis=-1))[:, 0]


def last_layer(
    network: CompletionNetwork, params: Any, last_input: jax.Array, network_input: jax.Array
) -> jax.Array:
    """Runs the last layer of C alone.

    Args:
      network: C.
      params: The parameters of `LAST_COMPLETION_LAYER`.
      last_input: [N, H, W, 32 * width], its input.
      network_input: [N, H, W, 4], C's input.

    Returns:
      C's output, [N, H, W, 3] float32.
    """
    convolution = Convolution(LAST_COMPLETION_LAYER, LAST_COMPLETION_LAYER.features, network.dtype)
    hidden: Any = convolution.apply({"params": params}, last_input)
    activate = lookup(OUTPUT_ACTIVATIONS, network.output_activation, "output activation")
    return activate.apply(hidden.astype(jnp.float32), network_input[..., :3].astype(jnp.float32))


def complete(
    network: CompletionNetwork,
    variables: Variables,
    image: jax.Array,
    mask: jax.Array,
    mean_pixel: jax.Array,
    input_form: str,
) -> tuple[jax.Array, jax.Array]:
    """Completes images with the running statistics.

    Args:
      network: The completion network.
      variables: Its `params` and `batch_stats`.
      image: [N, H, W, 3] float in [0, 1], sides multiples of 4; pixels inside the hole are ignored.
      mask: [N, H, W, 1] float, 1 = hole.
      mean_pixel: [3] float in [0, 1], the mean colour of the training set.
      input_form: The form that the network was trained with, see `images.network_input`.

    Returns:
      `(output, completed)`, each [N, H, W, 3] float32 in [0, 1]; `completed` is bit-identical to the image outside
      the hole.
    """
    network_input = images.network_input(image, mask, mean_pixel, input_form)
    output: Any = network.apply(variables, network_input, train=False)
    return output, images.composite(image, output, mask)


LAYER_ORDERS: dict[str, Callable[[nn.Module, jax.Array], jax.Array]] = {
    "conv_bn_relu": lambda norm, image: nn.relu(norm(image)),  # The authors' release.
    "conv_relu_bn": lambda norm, image: norm(nn.relu(image)),  # Some ports.
}

# Each branch of D, and the part of the image that it sees: `(image, local_box, local_size) -> view`.
BRANCHES: dict[str, tuple[type[_Branch], Callable[[jax.Array, jax.Array, int], jax.Array]]] = {
    "global": (GlobalDiscriminator, lambda image, local_box, local_size: image),
    "local": (LocalDiscriminator, crop_patch),
    "texture": (TextureDiscriminator, crop_patch),
}

# The convolutions of C whose outputs are kept for the backward pass, which recomputes everything between them; ()
# for everything kept. "activations" recomputes no convolution; "stages" cuts where the outputs are small.
REMATS: dict[str, tuple[str, ...]] = {
    "none": (),
    "activations": tuple(layer.name for layer in COMPLETION_LAYERS),
    "stages": ("conv4", "conv9", "conv12", "conv14"),
}
