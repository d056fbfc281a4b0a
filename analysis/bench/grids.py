"""Steps on every kind of grid against the serial step of the same run.

    mpiexec -n 2 python analysis/bench/grids.py [--network resnet20] [--batch 64] [--rounds 12]

Rank 0 first steps alone (the ceiling: ranks x its speed), then all ranks step under each plan; plans are interleaved
round by round, because the machine is shared.  Printed: median step, speed-up over serial, efficiency, share of
the step that is not computing, predicted seconds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from datetime import date

import numpy as np
from threadpoolctl import threadpool_limits

from gridnn.comm.world import World, mpi_version, world_comm
from gridnn.cost.machine import load_machine
from gridnn.cost.price import price_plan
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network import zoo
from gridnn.network.placed import place_network
from gridnn.network.spec import Shape

INPUTS: dict[str, Shape] = {
    "resnet20": (3, 32, 32),
    "digits-cnn": (1, 8, 8),
    "unet": (1, 64, 64),
    "mlp": (784,),
}


class Case:
    """A plan with its model and data, ready to step."""

    def __init__(self, world: World, name: str, grid: str, batch: int, overlap: bool) -> None:
        network = zoo.build(name, INPUTS[name], 10)
        schemes = {node.name: Scheme(GridShape.parse(grid)) for node in network.nodes}
        self.placed = place_network(network, schemes, batch, world.size)
        self.model = Model(world, self.placed, "float32", overlap=overlap)
        self.model.arena.initialise(0)
        self.world, self.label = world, f"{grid}{'' if overlap else ' (halo not overlapped)'}"
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, *INPUTS[name])).astype(np.float32)
        t = rng.integers(0, 10, (batch, *network.shapes[network.output][1:]))
        self.x = np.ascontiguousarray(x[tuple(slice(*i) for i in self.model.input_box)])
        self.t = np.ascontiguousarray(t[tuple(slice(*i) for i in self.model.target_box)])
        self.step_s: list[float] = []
        self.waiting_s: list[float] = []

    def step(self) -> None:
        """Make one step of plain gradient descent and note its time."""
        self.world.comm.Barrier()
        self.world.clock.take()
        started_s = time.perf_counter()
        self.model.arena.begin()
        self.model.forward(self.x, self.t)
        self.model.backward()
        self.model.arena.await_sums()
        for share in self.model.arena.shares():
            share.value[...] -= 0.01 * share.grad
        self.step_s.append(time.perf_counter() - started_s)
        spent = self.world.clock.take()
        self.waiting_s.append(sum(s for phase, s in spent.items() if phase != "compute"))


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet20", choices=sorted(INPUTS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    comm = world_comm()
    with World(comm.Split(comm.rank)) as alone, World(comm) as world, threadpool_limits(1):
        p = world.size
        axes = ["n", "k", "c"] + ["h"] * (len(INPUTS[given.network]) > 1)
        cases = [Case(world, given.network, f"{a}{p}", given.batch, True) for a in axes]
        if "h" in axes:
            cases.append(Case(world, given.network, f"h{p}", given.batch, False))
        serial = Case(alone, given.network, "1", given.batch, True)
        for _ in range(given.rounds):
            if world.rank == 0:
                serial.step()
            for case in cases:
                case.step()
        if world.rank == 0:
            one_s = statistics.median(serial.step_s[2:])
            print(
                f"# {given.network}, batch {given.batch}, {p} ranks x 1 thread, {date.today()}, {mpi_version()}"
            )
            print(f"# {platform.machine()}, NumPy {np.__version__}; serial step {1e3 * one_s:.1f} ms\n")
            print("| plan | step ms | speed-up | efficiency | not computing | predicted ms |")
            print("|---|---|---|---|---|---|")
            for case in cases:
                step_s, waits_s = statistics.median(case.step_s[2:]), statistics.median(case.waiting_s[2:])
                predicted_s = price_plan(case.placed, load_machine(), 4).step_s
                row = f"{1e3 * step_s:.1f} | {one_s / step_s:.2f} | {100 * one_s / step_s / p:.0f} %"
                print(f"| {case.label} | {row} | {100 * waits_s / step_s:.0f} % | {1e3 * predicted_s:.1f} |")


if __name__ == "__main__":
    main()
