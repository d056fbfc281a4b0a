"""Initial weights are bitwise the same on every grid: they belong to global indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.comm.shard import Shard, gather
from gridnn.comm.world import World
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network.placed import place_network
from tests.support.laws import uniform_schemes
from tests.support.nets import build


def weights(world: World, grid: str) -> dict[str, Any]:
    network = build("residual")
    schemes = uniform_schemes(network, grid) if grid else {n.name: Scheme(GridShape()) for n in network.nodes}
    placed = place_network(network, schemes, 6, world.size)
    model = Model(world, placed, "float32")
    model.arena.initialise(seed=5)
    found = {}
    for layer in placed.layers:
        for p in layer.placement.parameters:
            mine = model.arena.parameters[layer.node.name][p.name].value
            found[f"{layer.node.name}.{p.name}"] = gather(world, Shard(mine, p.layout))
    return found


@pytest.mark.ranks(3, 4, 6)
def test_initial_weights_are_bitwise_the_same(comm: Any) -> None:
    from mpi4py import MPI

    with World(MPI.COMM_SELF) as alone:
        wanted = weights(alone, "")
    with World(comm) as world:
        for axis in ("n", "k", "c", "h"):
            for name, array in weights(world, f"{axis}{comm.size}").items():
                np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    assert any(np.ptp(array) > 0 for array in wanted.values())
