"""Our training steps, as a run makes them: `Model`, `Optimizer` and `Trainer` on one batch that stays the same.

All that the benchmarks know of gridnn's model stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from export import exported
from peer import measure

from gridnn.comm.world import World
from gridnn.compute.cpu.choice import Choice
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native.library import load
from gridnn.compute.cpu.onednn.library import find
from gridnn.geometry.grid import GridShape
from gridnn.layers.model import Model
from gridnn.network import zoo
from gridnn.network.count import flop_counts
from gridnn.network.graph import INPUT, Network
from gridnn.network.placed import place_network
from gridnn.plan.plan import uniform_plan
from gridnn.train.choose import Job
from gridnn.train.data.loader import Batch, Loader
from gridnn.train.sections import TrainSection
from gridnn.train.step import Trainer


@dataclass(frozen=True)
class OneBatch:
    """A loader that always gives the same batch, without a thread of its own."""

    only: Batch

    def batch(self, number: int) -> Batch:
        """Return the batch."""
        return self.only


def prepare(
    world: World, threads: int, name: str, shape: list[int], classes: int, batch: int, options: dict[str, Any],
    grid: str, lr: float, momentum: float, decay: float, weights: str | None,
) -> tuple[Callable[[], float], dict[str, Any]]:  # fmt: skip
    """Return a step of a network of the zoo, which returns its loss, and what a peer needs to do the same.

    Parameters
    ----------
    grid
        The grid of every layer, such as ``n2``.
    weights
        Where the first weights are saved, from rank 0, which must hold all of them; None for nowhere.
    """
    network = zoo.build(name, tuple(shape), classes, **options)
    plan = uniform_plan(network, GridShape.parse(grid), batch, world.size, "benchmark")
    placed = place_network(network, plan.schemes, batch, world.size)
    engine = Engine(load(), world.memory, find(), Choice("measured"))  # what a run takes by default
    engine.set_threads(threads)
    model = Model(world, placed, "float32", engine=engine)
    model.arena.initialise(0)
    if weights is not None and world.rank == 0:
        values = {f"{n}.{p}": q.value for n, of in model.arena.parameters.items() for p, q in of.items()}
        np.savez(weights, **cast(Any, values))
    config = TrainSection(batch=batch, steps=1, optimizer="sgd", lr=lr, momentum=momentum, weight_decay=decay)
    trainer = Trainer(world, [model], Job(network, plan, placed, 1), config, 1, 1)
    target_shape = network.shapes[network.output][1:]
    x = measure.numbers((batch, *shape), 0)[tuple(slice(*i) for i in model.input_box)]
    target = measure.classes((batch, *target_shape), classes, 1)
    target = target[tuple(slice(*i) for i in model.target_box)].copy()
    loader = cast(Loader, OneBatch(Batch(measure.channels_last(x), target, batch)))
    described = {
        "layers": exported(network), "input": shape, "target": target_shape, "classes": classes, "weights": weights,
        "flops": batch * step_flops(network),
    }  # fmt: skip
    return lambda: trainer.step(0, loader)[0].loss, described


def step_flops(network: Network) -> int:
    """Return the operations of a step for one sample: three products a layer, two where its input is the data."""
    counts = flop_counts(network)
    return sum((2 if INPUT in node.inputs else 3) * counts[node.name] for node in network.nodes)
