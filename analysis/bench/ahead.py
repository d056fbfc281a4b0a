"""Pipelines that are too deep for this machine, simulated from what was measured on it.

A chain of four equal convolutions for every rank, one rank a stage, cut evenly; passes of 16 samples, four times as
many as stages where there is a flush, 8 where there is none.  One rank that does all makes the same passes.
"""

from __future__ import annotations

from report import Report

from gridnn.cost.machine import Machine
from gridnn.cost.price import price_plan
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.plan import problem
from gridnn.plan.pipeline.weigh import staged

EACH, SAMPLES, LATE = 4, 16, 8
"""Convolutions of a rank, samples of a pass, passes of schedules without a flush."""
SCHEDULES = ("gpipe", "1f1b", "delayed replay", "delayed stash")


def chain(units: int) -> Network:
    """Return equal convolutions, one after the other, and a small end."""
    net = Builder("chain", (64, 32, 32))
    x = net.input
    for _ in range(units):
        x = net.relu(net.conv(x, 64, 3, pad=1))
    return net.done(net.cross_entropy(net.linear(net.global_pool(x), 10)))


def simulate_ahead(machine: Machine, most: int, said: Report) -> None:
    """Say by how many times pipelines of 2, 4, ... ranks are as fast as one rank, simulated."""
    said.say(f"## simulated to {most} ranks: chains of {EACH} convolutions a rank, one rank a stage\n")
    said.head(("ranks", *(f"{words}, times one rank" for words in SCHEDULES), "of ranks, the best"))
    ranks = 2
    while ranks <= most:
        network, times = chain(EACH * ranks), list[float]()
        serial = {node.name: Scheme(GridShape()) for node in network.nodes}
        first = tuple(f"conv{EACH * k + 1}" for k in range(ranks))
        for words in SCHEDULES:
            name, _, form = words.partition(" ")
            passes = LATE if form else EACH * ranks
            job = problem.Job(network, machine, ranks, SAMPLES * passes, passes)
            found = staged(job, " | ".join(["1"] * ranks), name, form or "replay", first)
            alone = price_plan(place_network(network, serial, SAMPLES, 1), machine, 4, passes)
            times.append(alone.step_s / found.step_s)
        said.row([str(ranks), *(f"{t:.2f}" for t in times), f"{max(times) / ranks:.0%}"])
        ranks *= 2
    said.say("")
