"""The sequential evaluation of a recursion, and its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import affine, contraction
from jax.flatten_util import ravel_pytree

from parsample.chain.transition import Inputs, as_inputs, from_step, rollout


@pytest.mark.parametrize("recursion", [contraction(30), affine(30)], ids=["pytree", "vector"])
def test_rollout_of_a_plain_recursion_is_a_loop(recursion):
    transition, start = from_step(recursion.step, recursion.initial_state)
    final, path, outputs = rollout(transition, start, as_inputs(recursion.inputs))
    state, states = recursion.initial_state, []
    for t in range(30):
        state = recursion.step(state, jax.tree.map(lambda leaf, t=t: leaf[t], recursion.inputs))
        states.append(ravel_pytree(state)[0])
    np.testing.assert_allclose(path, np.stack(states), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(ravel_pytree(final)[0], path[-1])
    assert outputs is None


def test_inputs_have_one_entry_a_step():
    inputs = Inputs({"a": 2 * jnp.arange(7)})
    assert inputs.num_steps == 7
    assert [int(inputs.at(jnp.asarray(t))["a"]) for t in (0, 2, 4)] == [0, 4, 8]


@pytest.mark.parametrize("inputs", [None, jnp.zeros(()), jnp.zeros((0, 2)), (jnp.zeros(3), jnp.zeros(4))])
def test_inputs_without_one_length_are_refused(inputs):
    with pytest.raises(ValueError, match=r"inputs: every array needs the same leading axis.*jnp\.arange\(T\)"):
        as_inputs(inputs)
