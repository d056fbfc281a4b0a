"""The rates of a machine file, measured: run as ``mpiexec -n 2 python analysis/bench/rates.py``.

Latency and inverse bandwidth by swaps through the mover; products by a residual network's convolutions, forward and
both backwards; touches by batch norm and ReLU.  Medians of rounds; one thread a rank, both ranks computing at once.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from gridnn.comm.mover import Route, start
from gridnn.comm.world import World, world_comm
from gridnn.compute.cpu.reference import activation, conv, norm
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.traffic import Key
from gridnn.network.placement import rest

KEY = Key("bench", "forward", "repartition", "")


def seconds(world: World, work: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of `work`, all ranks starting together."""
    taken = []
    for _ in range(rounds):
        world.comm.Barrier()
        started_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started_s)
    return statistics.median(taken[rounds // 5 :])


def exchange_s(world: World, elements: int, rounds: int) -> float:
    """Return the seconds in which two ranks swap `elements` float32 each."""
    one, other = (Scheme(GridShape.of(**{axis: 2})) for axis in ("n", "k"))
    exchange = Exchange(rest((2, 2 * elements), one), rest((2, 2 * elements), other))
    path, array = Route(exchange, world.rank), np.ones((1, 2 * elements), np.float32)
    return seconds(world, lambda: start(world, path, array, KEY, np.float32).wait(), rounds)


def products_flops_per_s(world: World) -> float:
    """Return operations a second over the convolutions of a ResNet-20, batch 16, forward and both backwards."""
    flops = spent_s = 0.0
    window = {"stride": (1, 1), "dilation": (1, 1), "pad_lo": (1, 1), "pad_hi": (1, 1)}
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        x, w = (
            np.ones((16, channels, side, side), np.float32),
            np.ones((channels, channels, 3, 3), np.float32),
        )

        def step(x: object = x, w: object = w) -> None:
            y = conv.forward(x, w, **window)
            conv.backward_data(y, w, x.shape, **window)
            conv.backward_weights(x, y, w.shape, **window)

        flops += 3 * 2 * 16 * channels * channels * 9 * side * side
        spent_s += seconds(world, step, 20)
    return flops / spent_s


def touched_s(world: World) -> float:
    """Return the seconds an element costs in a batch norm and a ReLU, forward and backward (8 arrays touched)."""
    x, channel = np.ones((16, 32, 32, 32), np.float32), np.ones(32)

    def step() -> None:
        norm.moments(x, channel)
        y = norm.apply(x, channel, channel, channel, channel)
        z = activation.forward("relu", y)
        dy = activation.backward("relu", y, z, x)
        sums = norm.backward_sums(x, channel, channel, dy)
        norm.backward_apply(x, channel, channel, channel, dy, sums, x.size // 32)

    return seconds(world, step, 30) / (8 * x.size)


def main() -> None:
    """Measure and print a machine file's numbers as JSON, the slower rank's where they differ."""
    with World(world_comm()) as world, threadpool_limits(1):
        assert world.size == 2, "start two ranks"
        small_s, large_s = exchange_s(world, 1, 2000), exchange_s(world, 1 << 20, 60)
        touch_s = touched_s(world)
        found = {
            "alpha_s": small_s,
            "beta_s_per_byte": (large_s - small_s) / (4 << 20),
            "flops_per_s": products_flops_per_s(world),
            "touch_s_per_element": touch_s,
        }
        both = world.comm.gather(found)
        if both:
            worst = {k: (min if k == "flops_per_s" else max)(b[k] for b in both) for k in found}
            print(json.dumps(worst, indent=1))


if __name__ == "__main__":
    main()
