import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glcic_jax.checkpoints import Checkpoints, restore_completion
from glcic_jax.errors import DataError


@pytest.fixture
def state(config, create):
    """A state in which every leaf differs from a fresh one's."""
    config.completion.ema_decay = 0.9
    leaves, structure = jax.tree.flatten(create(config))
    rng = np.random.default_rng(0)
    changed = [
        x + 5 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.asarray(rng.normal(size=x.shape), x.dtype)
        for x in leaves
    ]
    return jax.tree.unflatten(structure, changed)


def save(checkpoints, state, step, hole_l1):
    state = state.replace(step=jnp.asarray(step, jnp.int32))
    checkpoints.save(state, {"next_index": 8 * step}, {"seed": 0}, {"hole_l1": hole_l1})
    checkpoints.wait()


def assert_equal(tree, other):
    for (path, x), y in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def test_a_run_comes_back_bit_for_bit(tmp_path, config, create, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 7, 0.1)
    restored = checkpoints.restore(create(config), 7)
    checkpoints.close()
    assert_equal(restored.state, state.replace(step=jnp.asarray(7, jnp.int32)))
    assert restored.data_state == {"next_index": 56}
    assert restored.meta["step"] == 7
    assert restored.meta["versions"]["jax"] == jax.__version__
    assert restored.state.recipe.ema_decay == 0.9


def test_the_next_update_does_not_reach_what_is_being_saved(tmp_path, config, create, state):
    # Training hands the state's memory over to the next state while the checkpoint is still being written.
    before = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 + 9, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {}, {}, {"hole_l1": 0.1})
    jax.block_until_ready(overwrite(state))
    checkpoints.wait()
    restored = checkpoints.restore(create(config), int(before.step)).state
    checkpoints.close()
    assert_equal(restored, before)


def test_completion_restores_alone(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 3, 0.1)
    checkpoints.close()
    for item in ("discriminator", "data"):
        shutil.rmtree(tmp_path / "checkpoints" / "3" / item)
    variables, meta = restore_completion(tmp_path)
    assert_equal(variables, state.ema)
    np.testing.assert_array_equal(np.float32(meta["mean_pixel"]), state.mean_pixel)


def test_without_a_moving_average_the_trained_weights_complete(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state.replace(ema=None), 3, 0.1)
    checkpoints.close()
    variables, _ = restore_completion(tmp_path)
    assert_equal(variables, {"params": state.completion.params, "batch_stats": state.completion.batch_stats})


def test_the_newest_and_the_best_are_kept(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, hole_l1 in ((1, 0.5), (2, 0.1), (3, 0.4), (4, 0.3), (5, 0.2)):
        save(checkpoints, state, step, hole_l1)
    assert checkpoints.latest_step() == 5
    checkpoints.close()
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {2, 4, 5}


def test_networks_of_another_width_are_refused(tmp_path, config, create, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 1, 0.1)
    config.completion.width = 1 / 8
    with pytest.raises(DataError, match="another shape") as caught:
        checkpoints.restore(create(config), 1)
    checkpoints.close()
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_one_clear_error(tmp_path, config, create, state):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, state, 1, 0.1)
    largest = max((tmp_path / "checkpoints/1/completion").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be restored"):
        checkpoints.restore(create(config), 1)
    checkpoints.close()


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_checkpoints_is_named(tmp_path, made):
    if made:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match=str(tmp_path)):
        restore_completion(tmp_path)
