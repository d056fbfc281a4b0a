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
from engines import run_engine
from threadpoolctl import threadpool_limits

from gridnn.comm.mover import Route, start
from gridnn.comm.world import World, world_comm
from gridnn.compute.cpu import conv, memory, norm, pointwise
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.window import Window
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


def products_flops_per_s(world: World, engine: Engine) -> float:
    """Return operations a second over the convolutions of a ResNet-20, batch 16, forward and both backwards."""
    flops = spent_s = 0.0
    window = Window((3, 3), *[(1, 1)] * 4)
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        x, w = ones(16, channels, side, side), ones(channels, channels, 3, 3)

        def step(x: np.ndarray = x, w: np.ndarray = w) -> None:
            y = conv.forward(engine, x, w, window)
            conv.backward_data(engine, y, w, window, x.shape)
            conv.backward_weights(engine, x, y, window, memory.empty(w.shape, w.dtype), add=False)

        flops += 3 * 2 * 16 * channels * channels * 9 * side * side
        spent_s += seconds(world, step, 20)
    return flops / spent_s


def touched_s(world: World, engine: Engine) -> float:
    """Return the seconds an element costs in a batch norm and a ReLU, forward and backward (8 arrays touched)."""
    x, channel = ones(16, 32, 32, 32), np.ones(32)
    statistics = (channel, channel)

    def step() -> None:
        norm.moments(engine, x, channel)
        y = norm.apply(engine, x, statistics, channel, channel)
        z = pointwise.activate(engine, "relu", y)
        dy = pointwise.activate_backward(engine, "relu", z, x)
        sums = norm.backward_sums(engine, x, statistics, dy)
        norm.backward_apply(engine, x, statistics, channel, dy, sums, x.size // 32)

    return seconds(world, step, 30) / (8 * x.size)


def ones(*shape: int) -> np.ndarray:
    """Return ones in channels-last memory."""
    array = memory.empty(shape, np.float32)
    array[...] = 1
    return array


def main() -> None:
    """Measure and print a machine file's numbers as JSON, the slower rank's where they differ."""
    with World(world_comm()) as world, threadpool_limits(1):
        assert world.size == 2, "start two ranks"
        small_s, large_s = exchange_s(world, 1, 2000), exchange_s(world, 1 << 20, 60)
        engine = run_engine(1)
        touch_s = touched_s(world, engine)
        found = {
            "alpha_s": small_s,
            "beta_s_per_byte": (large_s - small_s) / (4 << 20),
            "flops_per_s": products_flops_per_s(world, engine),
            "touch_s_per_element": touch_s,
        }
        both = world.comm.gather(found)
        if both:
            worst = {k: (min if k == "flops_per_s" else max)(b[k] for b in both) for k in found}
            print(json.dumps(worst, indent=1))


if __name__ == "__main__":
    main()
