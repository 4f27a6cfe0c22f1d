"""Collectives between devices, and the devices that may form a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parsample.internal.devices import SPLIT, WHOLE, Collectives, mesh_of

DEVICES = jax.devices()


def test_eight_virtual_devices_are_there():
    assert len(DEVICES) == 8


# Collectives


def test_gathered_values_are_the_ones_that_were_sent():
    collectives = Collectives(mesh_of(DEVICES[:3]))

    def on_each_device(vector: jax.Array) -> tuple:
        return collectives.all_gather(
            (collectives.rank, vector, vector[0] > 2, {"x": vector.astype(jnp.float32).reshape(1, 2)})
        )

    values = jnp.arange(6.0)
    ranks, vectors, flags, tree = collectives.spread(on_each_device, SPLIT, WHOLE)(values)
    assert ranks.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(vectors, values.reshape(3, 2))
    assert flags.tolist() == [False, False, True]
    np.testing.assert_array_equal(tree["x"], values.reshape(3, 1, 2))
    assert tree["x"].dtype == jnp.float32


def test_without_a_mesh_there_is_one_device():
    collectives = Collectives()
    assert (collectives.num_devices, collectives.rank) == (1, 0)
    assert collectives.all_gather(jnp.arange(2)).shape == (1, 2)


# Meshes


def test_the_first_device_alone_needs_no_mesh():
    assert mesh_of(DEVICES[:1]) is None
    assert mesh_of(DEVICES[:2]).size == 2
    assert mesh_of(DEVICES[3:4]).size == 1


@pytest.mark.parametrize("devices", [[], [0], "cpu", 3, [DEVICES[0], DEVICES[0]]], ids=str)
def test_unusable_devices_are_refused(devices):
    with pytest.raises((TypeError, ValueError), match="devices must be"):
        mesh_of(devices)
