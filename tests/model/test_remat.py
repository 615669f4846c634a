"""Rematerialisation changes memory and nothing else."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.model.networks import REMATS, CompletionNetwork
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.resume import restore_run
from glcic_jax.training.schedule import create_schedule
from glcic_jax.training.tasks.completion import STEPS, CompletionTask, create_spec, create_state

# XLA:CPU would merge the recomputation with the first computation, and the test would compare equal programs.
NO_MERGING = {"xla_disable_hlo_passes": "cse_barrier_expander", "xla_backend_optimization_level": 0}
IMAGE = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 4)).astype(np.float32)


@functools.cache
def _trained(remat):
    """Parameters, running statistics, output and gradients after one pass in training mode."""
    network = CompletionNetwork(width=1 / 16, remat=remat)
    variables = jax.jit(functools.partial(network.init, train=True))(jax.random.key(0), IMAGE)

    def loss(params):
        output, updated = network.apply(
            {**variables, "params": params}, IMAGE, train=True, mutable=["batch_stats"]
        )
        return jnp.mean((output - 0.3) ** 2), (output, updated)

    gradient = jax.jit(jax.grad(loss, has_aux=True), compiler_options=NO_MERGING)
    return variables, gradient(variables["params"])


@pytest.mark.parametrize("remat", sorted(set(REMATS) - {"none"}))
def test_results_and_gradients_do_not_change(remat):
    variables, results = _trained(remat)
    expected_variables, expected = _trained("none")
    assert jax.tree.structure(variables) == jax.tree.structure(expected_variables)
    jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)
    assert jax.tree.structure(results) == jax.tree.structure(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), results, expected)
    # Recomputation does not update the running statistics a second time.
    mean = results[1][1]["batch_stats"]["bn1"]["mean"]
    np.testing.assert_allclose(mean, expected[1][1]["batch_stats"]["bn1"]["mean"], rtol=1e-6)
    assert np.abs(mean).max() > 0


def test_unknown_remat_is_refused_with_a_list_of_valid_names(config):
    config.remat = "everything"
    with pytest.raises(ConfigError, match="unknown remat 'everything': choose one of activations, none, stages"):
        create_spec(config)


def test_a_run_resumes_with_another_remat(config, tmp_path):
    state = create_state(create_spec(config), jax.random.key(0), config.data.image_size, jnp.zeros(3))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {}, json.loads(config.to_json_best_effort()), {})
    checkpoints.wait()
    schedule = create_schedule([(name, config.phases[name]) for name in STEPS])
    for remat in REMATS:
        config.remat = remat
        task = CompletionTask(config)
        assert restore_run(config, task, state, checkpoints, schedule, {}, lambda _: None) is not None
    checkpoints.close()
