"""Sums of gradients in parts of buckets: each starts behind its last layer, and all is as with whole ones."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gridnn.comm.collectives import start_sum
from gridnn.comm.world import World
from gridnn.geometry.interval import Interval
from gridnn.layers import arena
from gridnn.layers.model import Model
from gridnn.network.placed import place_network
from tests.support.laws import check, data, random_schemes, uniform_schemes
from tests.support.nets import build

BATCH, PIECE = 5, 200
SOME = (
    "conv3",
    "conv-groups",
    "transposed",
    "linear-chain",
    "batch-norm",
    "layer-norm",
    "residual",
    "inception",
    "unet",
)


@pytest.mark.ranks(2, 3, 6)
@pytest.mark.parametrize("name", SOME)
def test_serial_equality_and_traffic(comm: Any, name: str, sample_seed: int) -> None:
    """Laws 1 and 4, also where blocks of neighbours differ in size, and with the optimizer's state cut."""
    network, rng = build(name), random.Random(f"{sample_seed} {name} {comm.size}")
    with World(comm) as world:
        world.sums.piece_bytes = PIECE
        check(world, network, uniform_schemes(network, f"n{comm.size}"), BATCH + 1)
        check(world, network, random_schemes(network, comm.size, BATCH, rng), BATCH)
        check(world, network, uniform_schemes(network, f"n{comm.size}"), BATCH + 1, cut_optimizer=True)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("piece", "overlap", "early"), [(PIECE, True, True), (PIECE, False, False), (1 << 40, True, False)]
)
def test_a_sum_starts_behind_its_layer(
    comm: Any, monkeypatch: pytest.MonkeyPatch, piece: int, overlap: bool, early: bool
) -> None:
    """One bucket holds all: in parts its first sum starts while the layers before it have not gone backward."""
    log: list[str | Interval] = []

    def logged(world: World, ranks: tuple[int, ...], array: Any, parts: Any, within: Interval) -> Any:
        log.append(within)
        return start_sum(world, ranks, array, parts, within)

    monkeypatch.setattr(arena, "start_sum", logged)
    network = build("conv3")
    with World(comm) as world:
        world.sums.piece_bytes = piece
        placed = place_network(network, uniform_schemes(network, "n2"), 4, 2)
        model = Model(world, placed, "float64", 1 << 40, overlap=overlap)
        model.arena.initialise(1)
        done = model.arena.finished

        def finished(layer: str) -> None:
            log.append(layer)
            done(layer)

        monkeypatch.setattr(model.arena, "finished", finished)
        x, target = (array[world.rank * 2 : world.rank * 2 + 2] for array in data(network, 4))
        model.arena.begin()
        model.forward(x, target)
        model.backward()
        model.arena.await_sums()
        found = {name: mine for name, mine in model.arena.parameters.items() if mine}
    sums = [entry for entry in log if isinstance(entry, Interval)]
    assert [s.start for s in sums] == [0, *(s.stop for s in sums[:-1])]
    assert sums[-1].stop == sum(p.grad.size for mine in found.values() for p in mine.values())
    assert (log.index(sums[0]) < log.index("first")) == early
    assert (len(sums) > 1) == early
