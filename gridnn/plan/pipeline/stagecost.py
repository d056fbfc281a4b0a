"""From a placed network to the costs of its stages: the prices of a step, dealt out to stages and to what is between.

An edge inside a stage is stage time; one that crosses is a transfer of its own, from the stage that makes the output to
each that reads it, and does not pass through the stages between them:

    layers      a    b  |  c    d  |  e
    edges       a->b    |  c->d    |             time of stages 0 and 1
                b -----> c  d ----> e            transfers 0 -> 1 and 1 -> 2
                a --------------->  e            transfer 0 -> 2

A network in one stage costs what `price_plan` says its step costs: passes x (forward + backward) + update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from gridnn.cost.machine import Machine
from gridnn.cost.memory import KEEP_INPUTS, predict_memory
from gridnn.cost.movement import Movements
from gridnn.cost.price import (
    ALL_RANKS,
    SAMPLED_RANKS,
    LayerPrice,
    backward_seconds,
    forward_seconds,
    price_plan,
    spread_ranks,
)
from gridnn.cost.traffic import received
from gridnn.geometry.interval import volume
from gridnn.geometry.traffic import Widths, widths_of
from gridnn.network import spec as s
from gridnn.network.fusion import absorbed, passing
from gridnn.network.graph import INPUT
from gridnn.network.placed import Edge, PlacedNetwork
from gridnn.network.stages import Stages, ranks_of
from gridnn.plan.pipeline.costs import PipelineCost, StageCost, Transfer
from gridnn.plan.pipeline.runs import SPARED


class Spent(NamedTuple):
    """Seconds of a stage: of one pass there and back, and of the rest of a step."""

    forward_s: float
    backward_s: float
    update_s: float


def pipeline_cost(
    placed: PlacedNetwork, stages: Stages, machine: Machine, itemsize: int | Widths, passes: int, *, states: int = 1,
    bucket_bytes: int = 4 << 20, cut_optimizer: bool = False,
) -> PipelineCost:  # fmt: skip
    """Return what the stages of a placed network cost, and what moves between them.

    All ranks of the job are taken to talk at once, in stages and between them, as `price_plan` takes them.

    Parameters
    ----------
    placed
        With the samples of one pass as its batch, and schemes on ranks of one stage each.
    itemsize
        Bytes of an element, the same for all or by what they are for.
    passes
        Forward and backward passes in a step.
    states, bucket_bytes, cut_optimizer
        As `price_plan` has them.

    Raises
    ------
    InputError
        If two stages share a rank.
    """
    groups = ranks_of(stages, {layer.node.name: layer.scheme for layer in placed.layers})
    looked = [_looked_at(group, placed.procs) for group in groups]
    inside = replace(placed, edges=tuple(_inside(edge, stages) for edge in placed.edges))
    price = price_plan(
        inside, machine, itemsize, passes, bucket_bytes=bucket_bytes, cut_optimizer=cut_optimizer, states=states,
        ranks=tuple(chain.from_iterable(looked)),
    )  # fmt: skip
    found = []
    for (start, stop), ranks in zip(stages.bounds, looked, strict=True):
        held = [held_bytes(placed, rank, itemsize, states) for rank in ranks]
        seconds = stage_seconds(price.layers[start:stop], machine, passes)
        spared_s = _spared_s(placed, stages, range(start, stop), price.layers, passes)
        weights, kept, inputs, worst = map(max, zip(*held, strict=True))
        found.append(StageCost(*seconds, weights, kept, inputs, worst, spared_s))
    moves = tuple(_transfers(placed, stages, machine, itemsize, looked))
    return PipelineCost(tuple(found), moves, machine.overlap)


def stage_seconds(layers: Sequence[LayerPrice], machine: Machine, passes: int) -> Spent:
    """Return the seconds of some layers one after the other, hiding what `price_plan` hides."""
    there = sum(forward_seconds(layer, machine) for layer in layers) / passes
    back = now_s = end_s = 0.0
    for layer in reversed(layers):
        seconds = backward_seconds(layer, machine) / passes
        back, now_s = back + seconds, now_s + seconds
        # Of the last pass only: gradients are summed once, bucket after bucket, while it goes on.
        if sums_s := layer.moved_s("backward", "gradients"):
            end_s = max(end_s, now_s) + sums_s
            now_s += (1 - machine.overlap) * sums_s
    update_s = sum(layer.update_s + layer.moved_s("update") for layer in layers)
    return Spent(there, back, max(now_s, end_s) - back + update_s)


def _spared_s(
    placed: PlacedNetwork, stages: Stages, layers: range, prices: Sequence[LayerPrice], passes: int
) -> float:
    """Return the seconds of outputs that no layer of their stage reads: products with nothing to sum or mask."""
    hosts, read = set(absorbed(placed).values()), {i for at in layers for i in placed.layers[at].node.inputs}
    return sum(
        prices[at].forward_s / passes for at in layers
        if isinstance(placed.layers[at].node.spec, SPARED) and placed.layers[at].settle.kind == "none"
        and placed.layers[at].node.name not in read | hosts
    )  # fmt: skip


def held_bytes(
    placed: PlacedNetwork, rank: int, itemsize: int | Widths, states: int
) -> tuple[int, int, int, int]:
    """Return what a rank holds: weights, kept by a pass, of other stages or the data, the worst moment's besides."""
    use = predict_memory(placed, rank, itemsize, states)
    arrays = dict(chain.from_iterable(of.items() for of in kept_arrays(placed, rank, itemsize)))
    inputs = sum(
        volume(edge.need.box(rank)) * widths_of(itemsize).activation
        for edge in placed.edges
        if edge.exchange is None or rank not in edge.exchange.source.scheme.ranks
    )
    kept = sum(arrays.values())
    data = sum(size for array, size in arrays.items() if array.startswith(f"{INPUT} "))
    # The walk of `predict_memory` leaves the data out; several open passes keep theirs.
    return use.parameters_bytes + use.state_bytes, kept, inputs, use.arrays_bytes - (kept - data)


def kept_arrays(placed: PlacedNetwork, rank: int, itemsize: int | Widths) -> list[dict[str, int]]:
    """Return for every layer the arrays it keeps for backward on a rank, with their bytes.

    An array that two layers keep has the same name with both.  What is kept is the table of `cost.memory`, and the data
    that the first layers read.
    """
    relus, made, found = absorbed(placed), dict[str, tuple[str, int]](), list[dict[str, int]]()
    width = widths_of(itemsize).activation
    hosts = set(relus.values())
    margins, passed = _margins(placed, relus, rank), passing(placed)
    for layer in placed.layers:
        name, spec, place = layer.node.name, layer.node.spec, layer.placement
        arrived = [_arrived(placed.edges[e], e, made, rank, width) for e in layer.edges]
        out = volume(place.out.box(rank))
        same = name in passed or isinstance(spec, s.LOSSES)
        made[name] = arrived[0] if same else (name, max(out, margins.get(name, 0)) * width)
        keeps = {f"kept {name} {i}": volume(kept.box(rank)) * width for i, kept in enumerate(place.kept)}
        if isinstance(spec, (*KEEP_INPUTS, *s.LOSSES)):
            keeps.update(arrived)
        if isinstance(spec, s.Activation) and name not in relus:
            keeps.update([arrived[0] if spec.name in ("silu", "gelu") else made[name]])
        if name in hosts:
            keeps.update([made[name]])
        if isinstance(spec, s.Pool) and spec.how == "max":
            keeps[f"saved {name}"] = out
        if isinstance(spec, s.Dropout):
            keeps[f"mask {name}"] = out * width
        found.append(keeps)
    return found


def _arrived(
    edge: Edge, number: int, made: dict[str, tuple[str, int]], rank: int, width: int
) -> tuple[str, int]:
    """Return the array that an edge brings: the producer's own where it is read as it lies."""
    if edge.exchange is not None and edge.exchange.kind in ("none", "halo"):
        return made[edge.producer]
    word = INPUT if edge.exchange is None else "edge"
    return f"{word} {number}", volume(edge.need.box(rank)) * width


def _margins(placed: PlacedNetwork, relus: dict[str, str], rank: int) -> dict[str, int]:
    """Return the elements of outputs that are made with room for a halo around them."""
    found: dict[str, int] = {}
    for edge in placed.edges:
        if edge.exchange is not None and edge.exchange.kind == "halo":
            found.setdefault(relus.get(edge.producer, edge.producer), volume(edge.need.box(rank)))
    return found


def _looked_at(group: range, procs: int) -> tuple[int, ...]:
    """Return the ranks of a stage that are priced: all of a small job."""
    if procs <= ALL_RANKS:
        return tuple(group)
    return tuple(sorted({group.start + rank for rank in spread_ranks(len(group), SAMPLED_RANKS)}))


def _inside(edge: Edge, stages: Stages) -> Edge:
    """Return an edge as a stage pays for it: nothing where it comes from another stage."""
    stays = edge.producer == INPUT or stages.of[edge.producer] == stages.of[edge.owner]
    return edge if stays else replace(edge, exchange=None)


def _transfers(
    placed: PlacedNetwork, stages: Stages, machine: Machine, itemsize: int | Widths, looked: Sequence[Sequence[int]]
) -> Iterator[Transfer]:  # fmt: skip
    """Yield what moves between stages, pairs of stages in order."""
    crossing: dict[tuple[int, int], list[Edge]] = {}
    width = widths_of(itemsize).activation
    for edge in placed.edges:
        if edge.producer != INPUT and stages.of[edge.producer] != stages.of[edge.owner]:
            crossing.setdefault((stages.of[edge.producer], stages.of[edge.owner]), []).append(edge)
    for (source, target), edges in sorted(crossing.items()):
        # A network of nothing but these edges: its movements are the transfer's.
        moves = Movements(replace(placed, layers=(), edges=tuple(edges)), machine, itemsize, 1, 1, False)
        slowest = {"forward": 0.0, "backward": 0.0}
        for rank in (*looked[source], *looked[target]):
            spent = moves.seconds(rank, {})
            for way, before in slowest.items():
                seconds = sum(moved.seconds for key, moved in spent.items() if key.direction == way)
                slowest[way] = max(before, seconds)
        there = back = 0
        for edge in edges:
            made = placed.layers[stages.names.index(edge.producer)].placement.out
            there += sum(received(made, edge.need, rank)[1] for rank in edge.need.scheme.ranks)
            back += sum(received(edge.need, made, rank)[1] for rank in made.scheme.ranks)
        yield Transfer(source, target, slowest["forward"], slowest["backward"], there * width, back * width)
