"""What Python costs around the kernels: microseconds a layer call, in training steps of a ResNet-20 on small images.

    python analysis/bench/overhead.py [--side 8] [--batch 1] [--repeats 30]

A layer call is a layer's forward, or its backward with the gradient of its weights.  A ReLU that the layer before it
computes is no call; what it costs is in the total.  Each time is taken twice:

    kernels    as a run computes
    Python     every compiled kernel replaced by a C function that returns at once, called with the same arguments

Times are of the processor, not of the wall, less what it takes to ask for them; every number is the smallest of the
repeats.  Those of single calls leave out what a whole step pays beside them: edges, sums, and caches gone cold.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from peer import measure

from gridnn.comm.world import World, world_comm
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native.library import Library, load
from gridnn.geometry.grid import GridShape
from gridnn.layers.model import Model
from gridnn.layers.pointwise import ActivationLayer
from gridnn.network import zoo
from gridnn.network.placed import place_network
from gridnn.plan.plan import uniform_plan

CLASSES = 10
STEPS = 10  # of a repeat
Calls = dict[tuple[str, str, str], float]  # kind, layer, pass -> seconds


class Empty(Library):
    """The library with kernels that return at once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._empty: dict[tuple[str, str], Any] = {}

    def kernel(self, name: str, dtype: np.dtype[Any]) -> Any:
        """Return a function that takes the kernel's arguments and ignores them; of scratch it says the truth."""
        if name == "winograd_scratch":
            return super().kernel(name, dtype)
        found = self._empty.get((name, dtype.char))
        if found is None:
            found = self._empty[name, dtype.char] = self._handle["gridnn_threads"]
            found.argtypes, found.restype = super().kernel(name, dtype).argtypes, None
        return found


def prepare(world: World, library: Library, side: int, batch: int) -> tuple[Model, Callable[[], None]]:
    """Return a model and its step, without the update, which is no layer's."""
    network = zoo.build("resnet20", (3, side, side), CLASSES)
    plan = uniform_plan(network, GridShape.parse("n1"), batch, 1, "benchmark")
    placed = place_network(network, plan.schemes, batch, 1)
    model = Model(world, placed, "float32", engine=Engine(library, world.memory))
    model.engine.set_threads(1)
    model.arena.initialise(0)
    x = measure.channels_last(measure.numbers((batch, 3, side, side), 0))
    target = measure.classes((batch,), CLASSES, 1)

    def step() -> None:
        model.arena.begin()
        model.forward(x, target)
        model.backward()
        model.arena.await_sums()

    return model, step


def step_s(step: Callable[[], None], repeats: int) -> float:
    """Return the seconds of a step."""
    taken = []
    for _ in range(repeats):
        started_s = time.process_time()
        for _ in range(STEPS):
            step()
        taken.append((time.process_time() - started_s) / STEPS)
    return min(taken)


def noting(calls: Calls, key: tuple[str, str, str], method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that notes its shortest time."""

    def called(*given: Any) -> Any:
        started_s = time.process_time()
        found = method(*given)
        spent_s = time.process_time() - started_s
        calls[key] = min(calls.get(key, spent_s), spent_s)
        return found

    return called


@contextmanager
def watched(model: Model, calls: Calls) -> Iterator[None]:
    """Note the shortest time of every layer call inside."""
    verbs = ("forward", "backward", "weigh", "judge", "gradient")
    for layer in model.layers:
        for verb in verbs:
            if hasattr(layer, verb):
                key = (type(layer).__name__, layer.name, verb)
                setattr(layer, verb, noting(calls, key, getattr(layer, verb)))
    yield
    for layer in model.layers:
        for verb in verbs:
            vars(layer).pop(verb, None)
    empty: Calls = {}
    nothing = noting(empty, ("", "", ""), lambda: None)
    for _ in range(1000):
        nothing()
    for key in calls:
        calls[key] -= min(empty.values())


def by_kind(model: Model, calls: Calls) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of layer calls by kind and pass, absorbed ReLUs left out."""
    passes = {"forward": "forward", "judge": "forward", "backward": "backward", "weigh": "backward",
              "gradient": "backward"}  # fmt: skip
    working = {layer.name for layer in model.layers} - absorbed(model)
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (kind, name, verb), seconds in calls.items():
        if name in working:
            found[kind, passes[verb]][name] += seconds
    return {key: list(each.values()) for key, each in found.items()}


def absorbed(model: Model) -> set[str]:
    """Return the names of the ReLUs that the layers before them compute."""
    return {layer.name for layer in model.layers if isinstance(layer, ActivationLayer) and layer.absorbed}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=8, help="rows and columns of an image (8)")
    parser.add_argument("--batch", type=int, default=1, help="images of a step (1)")
    parser.add_argument("--repeats", type=int, default=30, help=f"of {STEPS} steps each (30)")
    given = parser.parse_args()
    real = load()
    if real is None:
        parser.exit(2, "no compiled kernels: make kernels\n")
    totals, tables = list[float](), list[dict[tuple[str, str], list[float]]]()
    with (
        World(world_comm()) as world,
        np.errstate(all="ignore"),
    ):  # without kernels numbers are what memory held
        for library in (real, Empty(real.path)):
            model, step = prepare(world, library, given.side, given.batch)
            step()
            totals.append(step_s(step, given.repeats))
            calls: Calls = {}
            with watched(model, calls):
                for _ in range(given.repeats * STEPS):
                    step()
            tables.append(by_kind(model, calls))
    count = 2 * (len(model.layers) - len(absorbed(model)))
    print(f"ResNet-20, {given.batch} x 3 x {given.side} x {given.side}: {count} layer calls a step\n")
    print(f"{'us a call':36}{'calls':>6}{'kernels':>9}{'Python':>9}")
    for key in tables[0]:
        kernels, python = (1e6 * sum(table[key]) / len(table[key]) for table in tables)
        print(f"{' '.join(key):36}{len(tables[0][key]):6}{kernels:9.1f}{python:9.1f}")
    within, outside = zip(
        *((sum(map(sum, t.values())), s) for t, s in zip(tables, totals, strict=True)), strict=True
    )
    for words, some in (("inside layers", within), ("whole step", outside)):
        print(f"{words:36}{count:6}" + "".join(f"{1e6 * s / count:9.1f}" for s in some))


if __name__ == "__main__":
    main()
