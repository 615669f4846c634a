"""The networks once more, in float64 NumPy, from the textbook definitions and in Torch's layout.

Weights are a flat dict as a Torch state dict has them: `conv1.weight` [O, I, kH, kW], `deconv13.weight`
[I, O, 4, 4], `bn1.weight`, `bn1.bias`, `bn1.running_mean`, `bn1.running_var`, `linear.weight` [O, C * H * W].
Arrays are [N, C, H, W]. Nothing here imports the package under test.
"""

import numpy as np

# Name, kernel, stride, dilation, inputs, outputs: Table 1 of the paper.
COMPLETION_TABLE = (
    ("conv1", 5, 1, 1, 4, 64),
    ("conv2", 3, 2, 1, 64, 128),
    ("conv3", 3, 1, 1, 128, 128),
    ("conv4", 3, 2, 1, 128, 256),
    ("conv5", 3, 1, 1, 256, 256),
    ("conv6", 3, 1, 1, 256, 256),
    ("conv7", 3, 1, 2, 256, 256),
    ("conv8", 3, 1, 4, 256, 256),
    ("conv9", 3, 1, 8, 256, 256),
    ("conv10", 3, 1, 16, 256, 256),
    ("conv11", 3, 1, 1, 256, 256),
    ("conv12", 3, 1, 1, 256, 256),
    ("deconv13", 4, 2, 1, 256, 128),
    ("conv14", 3, 1, 1, 128, 128),
    ("deconv15", 4, 2, 1, 128, 64),
    ("conv16", 3, 1, 1, 64, 32),
    ("conv17", 3, 1, 1, 32, 3),
)

EPSILON = 1e-5
MOMENTUM = 0.1  # Torch's: the share of the new batch.


def convolution(image, weight, bias, stride=1, dilation=1, padding=0):
    """Torch's Conv2d: every output is the sum over taps of the input under that tap."""
    image = np.pad(image, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    taps_high, taps_wide = weight.shape[2:]
    height = (image.shape[2] - dilation * (taps_high - 1) - 1) // stride + 1
    width = (image.shape[3] - dilation * (taps_wide - 1) - 1) // stride + 1
    output = np.zeros((image.shape[0], weight.shape[0], height, width))
    for row in range(taps_high):
        for column in range(taps_wide):
            top, left = row * dilation, column * dilation
            seen = image[:, :, top : top + stride * height : stride, left : left + stride * width : stride]
            output += np.einsum("nihw,oi->nohw", seen[:, :, :height, :width], weight[:, :, row, column])
    return output + bias[:, None, None]


def transposed_convolution(image, weight, bias):
    """Torch's ConvTranspose2d(I, O, 4, stride=2, padding=1): every input pixel adds its 4 x 4 stamp."""
    batch, _, height, width = image.shape
    canvas = np.zeros((batch, weight.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(height):
        for column in range(width):
            stamp = np.einsum("ni,iokl->nokl", image[:, :, row, column], weight)
            canvas[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return canvas[:, :, 1:-1, 1:-1] + bias[:, None, None]


def batch_norm(image, weights, name, train):
    """Returns the normalised image, and the running statistics after it.

    The running variance takes the variance of the batch as it is (divided by n, as Flax does).
    """
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if train:
        batch_mean = image.mean(axis=(0, 2, 3))
        batch_variance = ((image - batch_mean[:, None, None]) ** 2).mean(axis=(0, 2, 3))
        updated = {
            f"{name}.running_mean": (1 - MOMENTUM) * mean + MOMENTUM * batch_mean,
            f"{name}.running_var": (1 - MOMENTUM) * variance + MOMENTUM * batch_variance,
        }
        mean, variance = batch_mean, batch_variance
    else:
        updated = {f"{name}.running_mean": mean, f"{name}.running_var": variance}
    scale = weights[f"{name}.weight"] / np.sqrt(variance + EPSILON)
    return (image - mean[:, None, None]) * scale[:, None, None] + weights[f"{name}.bias"][:, None, None], updated


def relu(values):
    return np.maximum(values, 0.0)


def _normalise_and_activate(image, weights, name, order, train):
    """Returns what the BatchNorm gave, what the next layer reads, and the running statistics."""
    if order == "conv_bn_relu":
        normalised, updated = batch_norm(image, weights, name, train)
        return normalised, relu(normalised), updated
    normalised, updated = batch_norm(relu(image), weights, name, train)
    return normalised, normalised, updated


def complete(weights, network_input, order="conv_bn_relu", activation="sigmoid", train=False):
    """The completion network: [N, 4, H, W] to `(output, layers, statistics)`.

    `layers` holds what every convolution and every BatchNorm gave, by its name; `statistics` the running
    statistics after the call.
    """
    hidden, layers, statistics = np.asarray(network_input, np.float64), {}, {}
    for index, (name, kernel, stride, dilation, _, _) in enumerate(COMPLETION_TABLE, start=1):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if name.startswith("deconv"):
            hidden = transposed_convolution(hidden, weight, bias)
        else:
            hidden = convolution(hidden, weight, bias, stride, dilation, dilation * (kernel - 1) // 2)
        layers[name] = hidden
        if index < len(COMPLETION_TABLE):
            layers[f"bn{index}"], hidden, updated = _normalise_and_activate(
                hidden, weights, f"bn{index}", order, train
            )
            statistics.update(updated)
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-hidden)), layers, statistics
    return (np.clip(hidden, -1, 1) + 1) / 2, layers, statistics


def branch(weights, prefix, image, order="conv_bn_relu", train=False, pooled=False):
    """One branch of the discriminator: [N, 3, H, W] to `(features, statistics)`."""
    hidden, statistics, index = np.asarray(image, np.float64), {}, 1
    while f"{prefix}.conv{index}.weight" in weights:
        name = f"{prefix}.conv{index}"
        hidden = convolution(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2, padding=2)
        _, hidden, updated = _normalise_and_activate(hidden, weights, f"{prefix}.bn{index}", order, train)
        statistics.update(updated)
        index += 1
    if pooled:
        hidden = hidden.mean(axis=(2, 3), keepdims=True)
    flat = hidden.reshape(hidden.shape[0], -1)  # In the order C, H, W.
    features = flat @ weights[f"{prefix}.linear.weight"].T + weights[f"{prefix}.linear.bias"]
    return relu(features), statistics


def discriminate(weights, image, boxes, local_size, branches, order="conv_bn_relu", train=False):
    """The context discriminator: [N, 3, H, W] and [N, 2] to `(logits [N], statistics)`."""
    corners = [(slice(top, top + local_size), slice(left, left + local_size)) for top, left in np.asarray(boxes)]
    patches = np.stack([one[:, rows, columns] for one, (rows, columns) in zip(image, corners, strict=True)])
    views = {"global": image, "local": patches, "texture": patches}
    features, statistics = [], {}
    for name in branches:
        vector, updated = branch(weights, f"{name}_branch", views[name], order, train, name == "texture")
        features.append(vector)
        statistics.update(updated)
    logits = np.concatenate(features, axis=1) @ weights["linear.weight"].T + weights["linear.bias"]
    return logits[:, 0], statistics


def _random_convolution(rng, name, inputs, outputs, kernel):
    # He's scale, so that no layer's output fades; a stride-2 stamp overlaps only a quarter of its taps.
    deconvolution = name.split(".")[-1].startswith("deconv")
    shape = (inputs, outputs) if deconvolution else (outputs, inputs)
    fan_in = inputs * kernel**2 / (4 if deconvolution else 1)
    return {
        f"{name}.weight": rng.normal(0, np.sqrt(2 / fan_in), (*shape, kernel, kernel)),
        f"{name}.bias": rng.normal(0, 0.3, outputs),
    }


def _random_norm(rng, name, features):
    return {
        f"{name}.weight": rng.uniform(0.5, 1.5, features) * rng.choice([-1, 1], features, p=[0.2, 0.8]),
        f"{name}.bias": rng.normal(0, 0.4, features),
        f"{name}.running_mean": rng.normal(0, 0.4, features),
        f"{name}.running_var": rng.uniform(0.5, 2.0, features),
    }


def _random_linear(rng, name, inputs, outputs):
    return {
        f"{name}.weight": rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)),
        f"{name}.bias": rng.normal(0, 0.3, outputs),
    }


def random_completion_weights(rng, width):
    """Weights and running statistics, all random: a wrong axis or a dropped term shows."""
    weights = {}
    for index, (name, kernel, _, _, table_inputs, table_outputs) in enumerate(COMPLETION_TABLE, start=1):
        inputs = table_inputs if name == "conv1" else round(table_inputs * width)
        outputs = table_outputs if name == "conv17" else round(table_outputs * width)
        weights |= _random_convolution(rng, name, inputs, outputs, kernel)
        if name != "conv17":
            weights |= _random_norm(rng, f"bn{index}", outputs)
    return weights


def random_discriminator_weights(rng, branches):
    """`branches`: for each one `(name, (H, W) of the last map, convolution channels, features)`."""
    weights, joined = {}, 0
    for name, last_map, channels, features in branches:
        inputs, (height, width) = 3, last_map
        for index, outputs in enumerate(channels, start=1):
            weights |= _random_convolution(rng, f"{name}_branch.conv{index}", inputs, outputs, 5)
            weights |= _random_norm(rng, f"{name}_branch.bn{index}", outputs)
            inputs = outputs
        weights |= _random_linear(rng, f"{name}_branch.linear", inputs * height * width, features)
        joined += features
    return weights | _random_linear(rng, "linear", joined, 1)


def to_flax(weights, flattened=None):
    """Torch-layout weights as Flax variables `{"params": ..., "batch_stats": ...}`, float32.

    `flattened`: for each fully connected layer that reads a flattened [C, H, W], by name, that shape.
    """
    variables = {"params": {}, "batch_stats": {}}
    for key, value in weights.items():
        *path, kind = key.split(".")
        collection, leaf, array = "params", kind, value
        if kind.startswith("running_"):
            collection, leaf = "batch_stats", {"running_mean": "mean", "running_var": "var"}[kind]
        elif kind == "weight" and path[-1].startswith("bn"):
            leaf = "scale"
        elif kind == "weight":
            leaf, array = "kernel", _kernel_to_flax(path, value, flattened or {})
        node = variables[collection]
        for name in path:
            node = node.setdefault(name, {})
        node[leaf] = np.asarray(array, np.float32)
    return variables


def _kernel_to_flax(path, value, flattened):
    if path[-1].startswith("deconv"):
        return value[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    if path[-1].startswith("conv"):
        return value.transpose(2, 3, 1, 0)
    shape = flattened.get(".".join(path))
    if shape is None:
        return value.T
    return value.reshape(-1, *shape).transpose(2, 3, 1, 0).reshape(-1, value.shape[0])


def to_channels_last(image):
    return np.moveaxis(np.asarray(image), 1, -1)


def to_channels_first(image):
    return np.moveaxis(np.asarray(image, np.float64), -1, 1)
