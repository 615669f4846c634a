"""The networks of the GANs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from glcic_jax.errors import ConfigError
from glcic_jax.model.gans import GANS, draw_latents, generate, generate_walks

# Side and channels of the papers' images, and the numbers of parameters of G and D.
PAPERS = {"vanilla_gan": (28, 1, 2_503_984, 1_231_441), "dcgan": (64, 3, 12_659_331, 17_234_689)}


def small(name, **fields):
    side, channels, *_ = PAPERS[name]
    generator = GANS[name].generator(image_size=min(side, 32), channels=channels, width=1 / 16, **fields)
    discriminator = GANS[name].discriminator(width=1 / 16)
    image = jnp.zeros((1, generator.image_size, generator.image_size, channels))
    key = jax.random.key(0)
    return generator, generator.init(key, jnp.zeros((1, 100))), discriminator, discriminator.init(key, image)


def count(variables):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", GANS)
def test_parameter_counts_and_shapes_are_the_papers(name):
    side, channels, of_generator, of_discriminator = PAPERS[name]
    generator, discriminator = GANS[name].generator(), GANS[name].discriminator()
    key = jax.random.key(0)
    image, variables = jax.eval_shape(generator.init_with_output, key, jnp.zeros((2, 100)))
    assert image.shape == (2, side, side, channels)
    assert count(variables) == of_generator
    logits, variables = jax.eval_shape(discriminator.init_with_output, key, jnp.zeros(image.shape))
    assert (logits.shape, logits.dtype) == ((2,), jnp.float32)
    assert count(variables) == of_discriminator


@pytest.mark.parametrize("name", GANS)
def test_images_are_in_range_and_depend_on_their_own_latents(name):
    generator, variables, *_ = small(name)
    latents = draw_latents(generator, jax.random.key(1), 70)
    np.testing.assert_array_equal(draw_latents(generator, jax.random.key(1), 3), latents[:3])
    images = generate(generator, variables, latents)
    assert (images.shape[0], images.dtype) == (70, np.uint8)
    # Whatever is drawn beside it.
    np.testing.assert_array_equal(generate(generator, variables, latents[65:66])[0], images[65])
    floats = generator.apply(variables, 100.0 * latents)
    assert float(floats.min()) >= 0
    assert float(floats.max()) <= 1


def test_priors_are_the_papers():
    normal, uniform = (
        np.asarray(draw_latents(GANS[name].generator(), jax.random.key(0), 500))
        for name in ("vanilla_gan", "dcgan")
    )
    np.testing.assert_allclose([normal.mean(), normal.std()], [0, 1], atol=0.02)
    assert -1 <= uniform.min() < -0.99
    assert 0.99 < uniform.max() < 1
    np.testing.assert_allclose(uniform.std(), 1 / np.sqrt(3), atol=0.01)


def test_walks_lead_from_latents_to_the_next():
    generator, variables, *_ = small("vanilla_gan")
    latents = draw_latents(generator, jax.random.key(1), 3)
    walks = generate_walks(generator, variables, latents, 5)
    assert walks.shape == (2, 5, 28, 28, 1)
    ends = generate(generator, variables, latents)
    np.testing.assert_array_equal(walks[:, 0], ends[:2])
    np.testing.assert_array_equal(walks[:, -1], ends[1:])
    middle = generate(generator, variables, (latents[:1] + latents[1:2]) / 2)
    np.testing.assert_allclose(walks[0, 2].astype(int), middle[0].astype(int), atol=1)


def test_dcgan_normalises_all_but_the_images():
    _, generator, _, discriminator = small("dcgan")
    of_generator, of_discriminator = (set(tree["params"]) for tree in (generator, discriminator))
    assert of_generator == {"project", "bn1", "deconv1", "bn2", "deconv2", "bn3", "deconv3"}
    assert of_discriminator == {"conv1", "conv2", "bn2", "conv3", "bn3", "linear"}


def test_dcgan_weights_are_drawn_as_in_the_paper():
    variables = GANS["dcgan"].generator(width=0.5).init(jax.random.key(0), jnp.zeros((1, 100)))
    for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items():
        mean, spread = {"kernel": (0, 0.02), "scale": (1, 0.02), "bias": (0, 0)}[path.rpartition("/")[2]]
        np.testing.assert_allclose([leaf.mean(), leaf.std()], [mean, spread], atol=0.006, err_msg=path)


@pytest.mark.parametrize("size", [4, 12, 48, 60])
def test_dcgan_of_another_size_is_refused(size):
    with pytest.raises(ConfigError, match=f"data.image_size is {size}: .* power of 2"):
        jax.eval_shape(GANS["dcgan"].generator(image_size=size).init, jax.random.key(0), jnp.zeros((1, 100)))


def test_dropout_is_each_examples_own_and_keeps_the_mean():
    _, _, discriminator, variables = small("vanilla_gan")
    params = {"params": jax.tree.map(lambda leaf: leaf + 0.01, variables["params"])}
    image = jnp.broadcast_to(jnp.linspace(0, 1, 28)[:, None, None], (2_000, 28, 28, 1))
    keys = jax.random.split(jax.random.key(0), 2_000)
    logits = discriminator.apply(params, image, train=True, keys=keys)
    some = discriminator.apply(params, image[:7], train=True, keys=keys[:7])
    np.testing.assert_allclose(some, logits[:7], rtol=1e-5)
    assert float(logits.std()) > 0
    plain = discriminator.apply(params, image[:1])[0]
    # Maxout is convex, so dropout raises its mean a little.
    np.testing.assert_allclose(logits.mean(), plain, rtol=0.05)
