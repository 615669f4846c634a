import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.model.losses import (
    ADVERSARIAL_LOSSES,
    RECONSTRUCTION_LOSSES,
    create_reconstruction_loss,
    discriminator_loss,
)

# Each loss is the mean of this function of the error over the hole.
PER_NUMBER = {"mse": np.square, "l1": np.abs}

# C minimises these, with the logit as argument; logaddexp(0, x) is -log(1 - sigmoid(x)).
ADVERSARIAL_FORMULAS = {
    "minimax": lambda logit: -np.logaddexp(0.0, logit),
    "non_saturating": lambda logit: np.logaddexp(0.0, -logit),
}
SIGMOID_GRADIENTS = {
    "minimax": lambda logit: -1.0 / (1.0 + np.exp(-logit)),
    "non_saturating": lambda logit: -1.0 / (1.0 + np.exp(logit)),
}

LOGITS = np.array([-100.0, -20.0, -3.0, -0.5, 0.0, 0.5, 3.0, 20.0, 100.0])


@pytest.fixture(scope="module")
def examples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random outputs and images, with holes of 6, 35 and 72 of the 72 pixels."""
    random = np.random.default_rng(0)
    output, image = random.uniform(size=(2, 3, 8, 9, 3)).astype(np.float32)
    mask = np.zeros((3, 8, 9, 1), np.float32)
    mask[0, 2:4, 3:6] = 1
    mask[1, 1:8, 0:5] = 1
    mask[2] = 1
    return output, image, mask


def test_every_registered_loss_is_tested():
    assert PER_NUMBER.keys() == RECONSTRUCTION_LOSSES.keys()
    assert ADVERSARIAL_FORMULAS.keys() == SIGMOID_GRADIENTS.keys() == ADVERSARIAL_LOSSES.keys()


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_reconstruction_is_the_mean_over_the_hole(name, examples):
    output, image, mask = examples
    loss = RECONSTRUCTION_LOSSES[name](output, image, mask)
    expected = []
    for one in range(len(mask)):
        hole = mask[one, :, :, 0] > 0
        error = output[one][hole].astype(np.float64) - image[one][hole]
        expected.append(PER_NUMBER[name](error).mean())
    assert loss.shape == (3,)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_reconstruction_is_independent_of_the_hole_area(name, examples):
    _, image, mask = examples
    loss = RECONSTRUCTION_LOSSES[name](image + 0.25, image, mask)
    np.testing.assert_allclose(loss, np.full(3, PER_NUMBER[name](0.25)), rtol=1e-5)


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_reconstruction_ignores_pixels_outside_the_hole(name, examples):
    output, image, mask = examples
    loss = RECONSTRUCTION_LOSSES[name]
    spoilt = np.where(mask > 0, output, 1e4).astype(np.float32)
    np.testing.assert_array_equal(loss(spoilt, image, mask), loss(output, image, mask))
    assert np.all(np.asarray(loss(np.where(mask > 0, 1e4, output), image, mask)) > 1e3)


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_reconstruction_gradient_is_zero_outside_the_hole(name, examples):
    output, image, mask = examples
    gradient = np.asarray(jax.grad(lambda o: RECONSTRUCTION_LOSSES[name](o, image, mask).sum())(output))
    error = output - image
    count = mask.sum(axis=(1, 2, 3), keepdims=True) * 3
    slope = {"mse": 2 * error, "l1": np.sign(error)}[name]
    np.testing.assert_allclose(gradient, mask * slope / count, rtol=1e-5)
    assert np.all(gradient[np.broadcast_to(mask == 0, gradient.shape)] == 0)


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_reconstruction_of_an_empty_hole_is_zero(name, examples):
    output, image, mask = examples
    loss, gradient = jax.value_and_grad(lambda o: RECONSTRUCTION_LOSSES[name](o, image, 0 * mask).sum())(output)
    assert loss == 0
    assert np.all(np.asarray(gradient) == 0)


def test_reconstruction_loss_is_the_weighted_sum(examples):
    loss = create_reconstruction_loss({"mse": 2.0, "l1": 0.5})
    expected = 2.0 * RECONSTRUCTION_LOSSES["mse"](*examples) + 0.5 * RECONSTRUCTION_LOSSES["l1"](*examples)
    assert loss(*examples).shape == (3,)
    np.testing.assert_allclose(loss(*examples), expected, rtol=1e-6)


@pytest.mark.parametrize("name", RECONSTRUCTION_LOSSES)
def test_weight_of_zero_disables_a_loss(name, examples):
    weights = {other: float(other == name) for other in RECONSTRUCTION_LOSSES}
    alone = RECONSTRUCTION_LOSSES[name](*examples)
    np.testing.assert_array_equal(create_reconstruction_loss(weights)(*examples), alone)


@pytest.mark.parametrize("weights", [{}, {"mse": 0.0, "l1": 0.0}, {"mse": 1.0, "l1": -0.1}, {"mse": -1.0}])
def test_invalid_reconstruction_weights_are_refused(weights):
    with pytest.raises(ConfigError, match=r"loss\.reconstruction"):
        create_reconstruction_loss(weights)


def test_unknown_reconstruction_loss_is_refused_with_a_list_of_valid_names():
    with pytest.raises(ConfigError, match=r"'l3'.*l1, mse"):
        create_reconstruction_loss({"mse": 1.0, "l3": 0.0})


def test_discriminator_loss_is_the_binary_cross_entropy():
    real, fake = (grid.ravel() for grid in np.meshgrid(LOGITS, LOGITS))
    loss = discriminator_loss(jnp.asarray(real, jnp.float32), jnp.asarray(fake, jnp.float32))
    assert loss.shape == real.shape
    assert loss.dtype == jnp.float32
    # -log sigmoid(real) - log(1 - sigmoid(fake)), which a sigmoid followed by a log loses beyond 17 or so.
    np.testing.assert_allclose(loss, np.logaddexp(0.0, -real) + np.logaddexp(0.0, fake), rtol=1e-5, atol=1e-37)


def test_discriminator_loss_of_zero_logits_is_twice_log_two():
    np.testing.assert_allclose(discriminator_loss(jnp.zeros(1), jnp.zeros(1)), 2 * np.log(2), rtol=1e-6)


def test_discriminator_loss_raises_real_logits_and_lowers_completed_ones():
    logits = jnp.asarray(LOGITS, jnp.float32)
    by_real, by_fake = jax.grad(lambda r, f: discriminator_loss(r, f).sum(), argnums=(0, 1))(logits, logits)
    np.testing.assert_allclose(by_real, -1.0 / (1.0 + np.exp(LOGITS)), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(by_fake, 1.0 / (1.0 + np.exp(-LOGITS)), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_adversarial_loss_agrees_with_its_formula_for_large_logits(name):
    loss = ADVERSARIAL_LOSSES[name](jnp.asarray(LOGITS, jnp.float32))
    assert loss.shape == LOGITS.shape
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, ADVERSARIAL_FORMULAS[name](LOGITS), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_adversarial_loss_falls_as_the_completed_image_looks_more_real(name):
    gradient = np.asarray(jax.grad(lambda f: ADVERSARIAL_LOSSES[name](f).sum())(jnp.asarray(LOGITS, jnp.float32)))
    np.testing.assert_allclose(gradient, SIGMOID_GRADIENTS[name](LOGITS), rtol=1e-5, atol=1e-30)
    assert np.all(gradient[1:-1] < 0)


def test_only_minimax_gradient_vanishes_for_a_confident_discriminator():
    sure = jnp.full(1, -10.0)
    gradients = {
        name: jax.grad(lambda f, loss=loss: loss(f).sum())(sure) for name, loss in ADVERSARIAL_LOSSES.items()
    }
    assert abs(gradients["minimax"][0]) < 1e-4
    assert abs(gradients["non_saturating"][0]) > 0.99
