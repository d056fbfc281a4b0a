"""Law 2 over MPI: every exchange and its transpose are adjoint, and the ledger counts what arrived."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from gridnn.comm.mover import Route, start
from gridnn.comm.shard import Shard, gather, scatter
from gridnn.comm.world import World
from gridnn.cost.traffic import received
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.layout import Layout, cut, part, whole, windows
from gridnn.geometry.traffic import Key
from gridnn.geometry.window import Window
from gridnn.network.placement import rest
from tests.support.factor import factorisations

KEY = Key("layer", "forward", "any", "")
SHAPE = (5, 7, 6, 3)  # N C H W, two of them prime


def draw_scheme(rng: random.Random, procs: int) -> Scheme:
    size = rng.randint(1, procs)
    grids = list(factorisations(size, ("n", "k", "c", "h", "w")))
    return Scheme(GridShape.of(**rng.choice(grids)), rng.randint(0, procs - size))


def draw_target(rng: random.Random, procs: int) -> Layout:
    scheme = draw_scheme(rng, procs)
    grid, (n, c, h, w) = scheme.grid, SHAPE
    channels = rng.choice(
        [cut(c, grid, ("c",)), cut(c, grid, ("k", "c")), whole(c), part(cut(c + 4, grid, ("k",)), 2, c)]
    )
    window = Window(rng.choice([1, 2, 3, 5]), 1, rng.choice([0, 1]), rng.choice([0, 2]))
    rows = windows(cut(window.out(h), grid, ("h",)), window, h)
    return Layout(scheme, (cut(n, grid, ("n",)), channels, rows, cut(w, grid, ("w",))))


def move(world: World, exchange: Exchange, array: Any) -> Any:
    # A copy: what a halo gives back is added onto the array that is handed over.
    return start(world, Route(exchange, world.rank), array.copy(), KEY, "float64").wait()


@pytest.mark.ranks(1, 2, 3, 4, 6)
@pytest.mark.parametrize("patient", [False, True])
def test_exchanges_are_right_adjoint_and_counted(comm: Any, patient: bool, sample_seed: int) -> None:
    rng = random.Random(f"{sample_seed} {comm.size}")  # the same draws on every rank
    numbers = np.random.default_rng(5)
    with World(comm) as world:
        world.patience.on = patient
        for _ in range(40):
            source, target = rest(SHAPE, draw_scheme(rng, comm.size)), draw_target(rng, comm.size)
            exchange = Exchange(source, target)
            x = numbers.standard_normal(SHAPE)
            mine = scatter(x, source, world.rank).array
            for there in (exchange, exchange.transpose()):
                before = world.ledger.received_bytes
                given = mine if there is exchange else numbers_for(target, world.rank, x)
                move(world, there, given)
                _, elements = received(there.source, there.target, world.rank)
                assert world.ledger.received_bytes - before == 8 * elements, (there.kind, source, target)
            got = move(world, exchange, mine)
            np.testing.assert_array_equal(got, scatter(x, target, world.rank).array)
            y = numbers_for(target, world.rank, x + 1)
            back = move(world, exchange.transpose(), y)
            left, right = comm.allreduce(float(np.vdot(got, y))), comm.allreduce(float(np.vdot(mine, back)))
            assert left == pytest.approx(right, rel=1e-12), (exchange.kind, source, target)


def numbers_for(layout: Layout, rank: int, x: Any) -> Any:
    """Return an array of a rank's box that differs from the same box on other ranks."""
    return scatter(x, layout, rank).array * (rank + 1.5)


@pytest.mark.ranks(4)
def test_named_collectives(comm: Any) -> None:
    """The patterns of the table are recognised, and one message is counted for each."""
    grid = GridShape.parse("n2 k2")
    scheme = Scheme(grid)
    source = rest((4, 6), scheme)
    gathered = Layout(scheme, (source.dims[0], whole(6)))
    with World(comm) as world:
        assert Exchange(source, gathered).kind == "allgather"
        assert Exchange(gathered, source).kind == "reduce_scatter"
        array = np.full(source.block_shape(world.rank), world.rank + 1.0)
        out = move(world, Exchange(source, gathered), array)
        assert world.ledger.messages == 1 and world.ledger.received_bytes == 8 * 2 * 3
        back = move(world, Exchange(gathered, source), out)
        np.testing.assert_array_equal(back, 2 * array)
        np.testing.assert_array_equal(
            gather(world, Shard(back, source)), gather(world, Shard(2 * array, source))
        )
