"""Machines, plans and networks for tests of programs."""

from __future__ import annotations

import random
from dataclasses import replace

from gridnn.cost.machine import BEST, Level, Machine
from gridnn.cost.price import PlanPrice, price_plan
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.plan.problem import Job
from gridnn.plan.simulate.timeline import Timeline
from gridnn.plan.space import grids_of

NODES = (Level("node", 2, 1e-6, 1e-9), Level("network", 0, 5e-6, 1e-8, 1))
MACHINE = Machine("m", "s", "d", 1e12, 1e-10, 1e-6, 1, NODES, BEST)
FREE = replace(MACHINE, levels=(NODES[0], replace(NODES[1], links=0)))
"""A stream for every rank: nothing is shared."""


def uniform(network: Network, grid: str) -> dict[str, Scheme]:
    return {node.name: Scheme(GridShape.parse(grid)) for node in network.nodes}


def drawn(network: Network, batch: int, procs: int, rng: random.Random) -> dict[str, Scheme]:
    """Return a random grid of any size on random ranks for every layer."""
    found = {}
    for node in network.nodes:
        grids = grids_of(network, node, batch, procs, every=True)
        grid = grids.scheme(rng.randrange(len(grids))).grid
        found[node.name] = Scheme(grid, rng.randrange(procs - grid.size + 1))
    return found


def price(job: Job, schemes: dict[str, Scheme], bucket_bytes: int = 4 << 20) -> PlanPrice:
    placed = place_network(job.network, schemes, job.per_pass, job.procs)
    return price_plan(
        placed, job.machine, job.itemsize, job.passes, bucket_bytes=bucket_bytes, states=job.states
    )


def chain(features: int = 1024) -> Network:
    net = Builder("chain", (features,))
    x = net.relu(net.linear(net.input, features))
    return net.done(net.squared_error(net.linear(net.activation(net.linear(x, features), "gelu"), features)))


def parted(network: Network, grids: str) -> dict[str, Scheme]:
    """Return "first | second | third" grid of the linear layers and of what follows each."""
    rows, of, at = grids.split(" | "), {}, -1
    for node in network.nodes:
        at += node.name.startswith("linear")
        of[node.name] = Scheme(GridShape.parse(rows[min(at, len(rows) - 1)]))
    return of


def spent(found: Timeline, operation: str, phase: str) -> list[tuple[str, int]]:
    return [
        (t.device, t.end_ns - t.start_ns)
        for t in found
        if (t.operation, t.phase) == (operation, phase) and t.device
    ]
