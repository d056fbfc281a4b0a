"""What a fit of a machine learns from: measured seconds, each with its price on any machine.

| observation                                | measured                                    | left out                 |
|--------------------------------------------|---------------------------------------------|--------------------------|
| a pass of a layer on a rank                | median over the traced steps                | passes priced at nothing|
| what a layer moves one way by a collective | the same, of the rank that saw least of it: | what a run hides behind  |
|                                            | others also waited for one that was late    | its arithmetic; waits    |
|                                            |                                             | for other stages         |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from gridnn.analysis.compare_steps import PASSES, Runs
from gridnn.analysis.measured import Measured, Spent
from gridnn.analysis.runs import Run
from gridnn.cost.collectives import piece_bytes
from gridnn.cost.compute import WEIGHTED, pass_seconds
from gridnn.cost.machine import Machine
from gridnn.cost.movement import Moved, Movements
from gridnn.cost.price import priced_ranks
from gridnn.cost.profile import PASSES as PASS_NAMES
from gridnn.cost.traffic import predict_step
from gridnn.geometry.traffic import Key, Volume
from gridnn.network import spec as s
from gridnn.network.buckets import cut, plan_buckets
from gridnn.network.fusion import absorbable

Floats = NDArray[np.float64]
SCALARS = ("loss", "optimizer")
"""Names under which a run sums numbers that have no price."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Observations.

    Attributes
    ----------
    seconds
        Measured (observations,), all above 0.
    price
        Their seconds on a machine (observations,).
    notes
        What was left out.
    """

    seconds: Floats
    price: Callable[[Machine], Floats]
    notes: tuple[str, ...] = ()


def arithmetic_seen(runs: Runs) -> Seen:
    """Return the passes of layers of the ranks of runs; not the update, which is more calls than elements."""
    took, parts = list[float](), list[tuple[float, float, float]]()
    for run, measured in runs:
        if measured is not None:
            for seconds, part in _passes(run, measured):
                if seconds > 0 and any(part):
                    took.append(seconds)
                    parts.append(part)
    table = np.array(parts, dtype=float).reshape(-1, 3)

    def price(machine: Machine) -> Floats:
        rates = [1 / machine.flops_per_s, machine.touch_s_per_element, machine.layer_s]
        found: Floats = table @ np.array(rates)
        return found

    note = "updates are left out: they are more calls than elements"
    return Seen(np.array(took), price, (note,))


def movements_seen(runs: Runs) -> Seen:
    """Return the movements of runs that arithmetic does not hide, each on the rank that saw least of it."""
    took = list[float]()
    rows: dict[int, list[tuple[int, tuple[Spent, ...]]]] = {}
    hidden = 0
    for at, (run, measured) in enumerate(runs):
        if measured is None:
            continue
        found, out = _unhidden(run, measured)
        hidden += out
        for seconds, rank, keys in found:
            took.append(seconds)
            rows.setdefault(at, []).append((rank, keys))
    counts = {at: _counts(runs[at][0], {rank for rank, _ in of}) for at, of in rows.items()}

    def price(machine: Machine) -> Floats:
        found = list[float]()
        for at, of in rows.items():
            by_rank = _by_spent(runs[at][0], machine, counts[at])
            found += [sum(m.seconds for k in keys for m in by_rank[rank].get(k, [])) for rank, keys in of]
        return np.array(found)

    note = (
        f"{hidden} movements that a run hides behind arithmetic, or that wait for another stage, are left out"
    )
    return Seen(np.array(took), price, (note,) if hidden else ())


def _ranks(run: Run, measured: Measured) -> list[tuple[int, int]]:
    """Return the ranks of a run to look at, each with its row among those measured."""
    rows = {rank: row for row, rank in enumerate(measured.ranks)}
    return [(rank, rows[rank]) for rank in priced_ranks(run.job.procs) if rank in rows]


def _passes(run: Run, measured: Measured) -> list[tuple[float, tuple[float, float, float]]]:
    """Return measured seconds of every pass on every rank, and what each constant's unit adds to it."""
    # All but one constant cost nothing, so the price is the number of units of that one.
    nothing = replace(run.job.machine, flops_per_s=inf, touch_s_per_element=0.0, layer_s=0.0, profile=None)
    units = (
        replace(nothing, flops_per_s=1.0),
        replace(nothing, touch_s_per_element=1.0),
        replace(nothing, layer_s=1.0),
    )
    fused, passes = absorbable(run.placed.network), run.job.passes
    found = []
    for layer in run.placed.layers:
        if layer.node.name in fused:
            continue
        for name in PASS_NAMES:
            seconds = measured.each_s(Spent(layer.node.name, PASSES[name], "compute"))
            for rank, row in _ranks(run, measured):
                times = passes * (run.forwards(layer.node.name) if name == "forward" else 1)
                flops, touched, calls = (times * pass_seconds(layer, rank, unit, name) for unit in units)
                found.append((float(seconds[row]), (flops, touched, calls)))
    return found


def _unhidden(run: Run, measured: Measured) -> tuple[list[tuple[float, int, tuple[Spent, ...]]], int]:
    """Return what nothing hides: measured seconds, the rank they are of, what they are of; and how much is hidden."""
    ranks = _ranks(run, measured)
    priced = _by_spent(run, run.job.machine, _counts(run, {rank for rank, _ in ranks}))
    groups, hidden = _groups(run, priced)
    found = []
    for keys in groups:
        each = measured.each_s(*keys)
        seen = [
            (float(each[row]), rank)
            for rank, row in ranks
            if each[row] > 0 and any(m.seconds > 0 for k in keys for m in priced[rank].get(k, []))
        ]
        if seen:
            seconds, rank = min(seen)
            found.append((seconds, rank, keys))
    return found, hidden


def _groups(
    run: Run, priced: Mapping[int, Mapping[Spent, Sequence[Moved]]]
) -> tuple[list[tuple[Spent, ...]], int]:
    """Return what is observed together and not hidden, and how many movements are left out.

    The sums of gradients are one observation, with the statistics that are summed the same way: spans of both may
    bear the same layers.
    """
    parts: dict[Spent, set[str]] = {}
    for by in priced.values():
        for key, moved in by.items():
            parts.setdefault(key, set()).update(m.part for m in moved)
    parts = {key: found for key, found in parts.items() if key.layer not in SCALARS}
    summed = {(k.direction, k.what) for k, found in parts.items() if "gradients" in found}
    late, groups, hidden = _summed_late(run, list(priced)), list[tuple[Spent, ...]](), 0
    for way in sorted(summed):
        together = tuple(k for k in parts if (k.direction, k.what) == way)
        if late or way[0] == "update":
            groups.append(together)
        else:
            hidden += len(together)
    for key, found in parts.items():
        if (key.direction, key.what) in summed:
            continue
        if "edge" in found and _hidden(run, key):
            hidden += 1
        else:
            groups.append((key,))
    return groups, hidden


def _summed_late(run: Run, ranks: Sequence[int]) -> bool:
    """Return whether every sum of gradients waits for the layer that backward reaches last: nothing hides it."""
    if not run.overlap:
        return True
    machine, itemsize = run.job.machine, run.job.itemsize
    least = sys.maxsize if run.cut_optimizer else piece_bytes(machine.slowest_s_per_byte) // itemsize
    for rank in ranks:
        own = [
            layer.node.name
            for layer in run.placed.layers
            if rank in layer.scheme.ranks and layer.placement.parameters
        ]
        for bucket in plan_buckets(run.placed, rank, run.bucket_bytes, itemsize):
            parts = cut(bucket, least) if bucket.owed and len(bucket.replicas) > 1 else []
            if any(part.layer != own[0] for part in parts):
                return False
    return True


def _hidden(run: Run, key: Spent) -> bool:
    """Return whether a run computes while an edge is on its way, or a stage waits for another on it.

    Forward it is a convolution's interior, or another branch where the reader does not come next; backward the
    gradient by the weights of the reader.
    """
    if (key.layer, key.direction, key.what) in run.crosses:
        return True
    names = [layer.node.name for layer in run.placed.layers]
    for edge in run.placed.edges:
        if edge.owner != key.layer or edge.exchange is None or edge.exchange.kind == "none":
            continue
        reader = run.placed.layers[names.index(edge.owner)]
        if key.direction == "backward" and run.overlap and isinstance(reader.node.spec, WEIGHTED):
            return True
        apart = names.index(edge.owner) - (names.index(edge.producer) if edge.producer in names else -1)
        if apart > 1 or len(edge.users) > 1:
            return True
        if (
            key.direction == "forward"
            and key.what == "halo"
            and run.overlap
            and isinstance(reader.node.spec, s.Conv)
        ):
            return True
    return False


def _counts(run: Run, ranks: set[int]) -> dict[int, dict[Key, Volume]]:
    """Return the predicted traffic of a step of some ranks."""
    return {
        rank: dict(predict_step(
            run.placed, rank, run.job.widths, passes=run.job.passes, bucket_bytes=run.bucket_bytes,
            cut_optimizer=run.cut_optimizer,
        ).items())
        for rank in sorted(ranks)
    }  # fmt: skip


def _by_spent(
    run: Run, machine: Machine, counts: Mapping[int, Mapping[Key, Volume]]
) -> dict[int, dict[Spent, list[Moved]]]:
    """Return what ranks move in a step, priced on a machine; keys of several axes are one, replays are added."""
    moves = Movements(
        run.placed, machine, run.job.widths, run.job.passes, run.bucket_bytes, run.cut_optimizer
    )
    found: dict[int, dict[Spent, list[Moved]]] = {}
    for rank, count in counts.items():
        by = found.setdefault(rank, {})
        for key, moved in moves.seconds(rank, count).items():
            spent = Spent(key.layer, key.direction, key.collective)
            if key.direction == "forward" and spent not in run.crosses:
                moved = moved._replace(seconds=run.forwards(key.layer) * moved.seconds)
            by.setdefault(spent, []).append(moved)
    return found
