"""Seconds of layers on a rank, measured on the live layers that a run has, all ranks at once.

    forward    `Layer.forward`, the input already there        what a run calls, on one process: no message, the same
    data       `Layer.backward`                                Python, the same memory, the same choice of kernels
    weights    `Layer.weigh`

Arrays between layers are of the type that the engine stores them in (bfloat16 of two bytes with `precision = "bf16"`),
weights are multiplied by as a run does: by a copy of them in that type, made beforehand as a run makes it once a step.

On a device each pass begins and ends with the host waiting for it, so what a run would start meanwhile is not hidden:
passes of next to no work take what a launch and a wait take.

A block is called twice to warm up (kernels are chosen by the first call) and a few times more; a rank's time is the
median, and the slowest rank's counts, as in a run where the others wait for it.  Between two calls a processor's caches
are as in a run: all other layers came in between, so weights are gone from them, and the input was written just now.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array, World
from gridnn.compute import interface
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.cost.compute import forward_work
from gridnn.cost.profile import PASSES, Sample, work_of
from gridnn.geometry.interval import extents_of
from gridnn.layers.arena import Arena
from gridnn.layers.base import Layer
from gridnn.layers.kinds import make_layer
from gridnn.layers.loss import Loss
from gridnn.network import spec as s
from gridnn.train.calibrate.blocks import Block

Engine = CpuEngine | GpuEngine
OTHERS_BYTES = 16 << 20
"""What a core has touched since a layer's last call, at least: more than it keeps for itself."""
SHORT_S, MOST_REPEATS, LEAST_REPEATS = 0.1, 9, 3
"""Repeats of a block: as many as fit into `SHORT_S`, within the limits."""


class Times(NamedTuple):
    """Seconds of the passes."""

    forward_s: float
    data_s: float
    weights_s: float


Measured = tuple[Block, Times]


@dataclass(frozen=True)
class Point:
    """A measured pass in the terms of a machine file: products, elements touched, seconds."""

    flops: float
    touched: float
    seconds: float


def measure_blocks(
    world: World, engine: Engine, blocks: Sequence[Block], budget_s: float, say: Callable[[str], None]
) -> Iterator[tuple[Block, Times]]:
    """Yield the times of the blocks, the same on all ranks, until the budget is spent.  Collective.

    The first block of every family is measured whatever it takes: nothing would be known of the family otherwise.

    Parameters
    ----------
    say
        Told now and then how far it is.
    """
    alone = World(world.group((world.rank,)))
    alone.memory, alone.transport = engine.memory, world.transport
    started_s = said_s = time.perf_counter()
    seen, more, number = set[str](), True, 0
    for block in blocks:
        if not more and block.family in seen:
            continue
        yield block, _time(world, alone, engine, block)
        seen.add(block.family)
        number, now_s = number + 1, time.perf_counter()
        more = world.comm.bcast(now_s - started_s < budget_s)  # rank 0's clock, or ranks part ways
        if now_s - said_s > 5:
            say(f"layers: {number} of {len(blocks)} blocks, {now_s - started_s:.0f} s")
            said_s = now_s
    say(f"layers: {number} of {len(blocks)} blocks, {time.perf_counter() - started_s:.0f} s")
    alone.close()


def sample_of(block: Block, times: Times) -> Sample:
    """Return what a profile keeps of a measured block."""
    shape = block.shape
    work = work_of(block.spec, *(np.array([extents]) for extents in shape))
    return Sample(work.family, *shape, int(work.flops[0]), int(work.elements[0]), *times)


def telling(tiny: Sequence[Measured], large: Sequence[Measured]) -> list[Measured]:
    """Return what belongs in a profile: all, but tiny blocks whose family has no other to tell the work by."""
    known = {block.family for block, _ in large}
    return [*(each for each in tiny if each[0].family in known), *large]


def points_of(block: Block, times: Times) -> list[Point]:
    """Return the passes of a block with the work that prices go by."""
    work = forward_work(block.placed.layers[0], 0)
    touches = (work.touched, work.touched, 0 if work.product_flops else work.touched)
    found = zip(touches, times, strict=True)
    return [Point(work.product_flops, touched, seconds) for touched, seconds in found if seconds]


def _time(world: World, alone: World, engine: Engine, block: Block) -> Times:
    placed = block.placed
    arena = Arena(alone, placed, np.float32, 1 << 62, False, engine=engine)
    arena.initialise(seed=0)
    arena.round()
    layer = make_layer(
        alone, placed.layers[0], engine.activations(np.float32), arena.parameters["block"], engine
    )
    inputs = [_numbers(engine, shape) for shape in block.inputs]
    dy = _numbers(engine, extents_of(layer.out))
    for _ in range(2):  # the first call chooses kernels, which says nothing of how long one takes
        arena.begin()
        warm_s = sum(_passes(layer, inputs, dy))
    repeats = world.comm.bcast(min(MOST_REPEATS, max(LEAST_REPEATS, int(SHORT_S / max(warm_s, 1e-9)))))
    taken, others = [], np.zeros(0 if isinstance(engine, GpuEngine) else OTHERS_BYTES, np.uint8)
    fresh = [_numbers(engine, shape) for shape in block.inputs] if isinstance(engine, GpuEngine) else []
    for _ in range(repeats):
        arena.begin()
        others += 1
        for x, numbers in zip(
            inputs, fresh, strict=False
        ):  # CuPy copies bfloat16, and computes nothing in it
            x[...] = numbers
        for x in inputs[len(fresh) :]:
            x += 0
        world.comm.Barrier()
        taken.append(_passes(layer, inputs, dy))
    mine = tuple(statistics.median(column) for column in zip(*taken, strict=True))
    return Times(*(max(column) for column in zip(*world.comm.allgather(mine), strict=True)))


def _passes(layer: Layer, inputs: Sequence[Array], dy: Array) -> Times:
    """Run the three passes once."""
    if isinstance(layer, Loss):
        return _judged(layer, inputs[0])
    coming, now = [Pending.arrived_already(layer.world, x) for x in inputs], partial(now_s, layer.engine)
    start_s = now()
    y = layer.forward(coming, train=True)
    forward_s = now()
    del y
    dx = layer.backward(dy)
    data_s = now()
    del dx
    if type(layer).weigh is Layer.weigh:
        return Times(forward_s - start_s, data_s - forward_s, 0.0)
    again_s = now()
    layer.weigh()
    return Times(forward_s - start_s, data_s - forward_s, now() - again_s)


def _judged(layer: Loss, x: Array) -> Times:
    spec = layer.placed.node.spec
    classes = isinstance(spec, s.SoftmaxCrossEntropy)
    now, on_device = partial(now_s, layer.engine), isinstance(layer.engine, GpuEngine)
    if classes:
        target = layer.engine.take(np.zeros((len(x), *x.shape[2:]), np.int64))
    else:  # as a loader brings it: in the type of parameters
        target = layer.engine.take(np.zeros(x.shape, np.float32)) if on_device else np.zeros_like(x)
    start_s = now()
    layer.judge(x, target, len(x), score=False)
    forward_s = now()
    layer.gradient(1.0)
    return Times(forward_s - start_s, now() - forward_s, 0.0)


def now_s(engine: interface.Engine) -> float:
    """Return the host's clock when all that was started has been done."""
    if isinstance(engine, GpuEngine):
        engine.synchronize()
    return time.perf_counter()


def _numbers(engine: Engine, shape: tuple[int, ...]) -> Array:
    """Return numbers between -0.5 and 0.5: a rectifier keeps about half of them."""
    array = engine.empty(shape, engine.activations(np.float32))
    pattern = np.random.default_rng(0).random(4093, np.float32) - np.float32(0.5)
    array[...] = engine.take(np.resize(pattern, prod(shape)).reshape(shape))
    return array


assert len(PASSES) == len(Times._fields)
