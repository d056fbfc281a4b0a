"""Seconds and bytes of a step of a placed network, layer by layer.

Every layer waits for its slowest rank, so a step is a sum over layers of maxima over ranks:

| part       | of a layer                                                  | what `overlapped_s` hides           |
|------------|-------------------------------------------------------------|-------------------------------------|
| compute    | its passes on the largest block; the update                 |                                     |
| edge       | halos, gathers, repartitions on the way in; their adjoints  | forward: a convolution's halo       |
|            |                                                             | behind its interior                 |
|            |                                                             | backward: all, behind the gradient  |
|            |                                                             | by the weights                      |
| settle     | sums over `c` (and space) forward, gathers backward         |                                     |
| statistics | all-reduces inside the layer                                |                                     |
| gradients  | its share of the all-reduces of its buckets                 | all, one after the other, behind    |
|            |                                                             | the backward of the layers before   |

What is hidden still keeps its rank busy for the share that the machine's `overlap` leaves (`Machine.beside`).
Bytes and messages are `predict_step`'s, which the ledger of a run equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from gridnn.cost.compute import masked_seconds, pass_seconds
from gridnn.cost.machine import Machine
from gridnn.cost.movement import Movements, Part
from gridnn.cost.profile import PASSES
from gridnn.cost.traffic import predict_step
from gridnn.geometry.interval import volume
from gridnn.geometry.traffic import Key, Volume, Widths
from gridnn.network import spec as s
from gridnn.network.fusion import absorbable
from gridnn.network.placed import PlacedLayer, PlacedNetwork

ALL_RANKS = 16
"""Jobs up to this size are priced on every rank."""
SAMPLED_RANKS = 8
"""Ranks that stand for a larger job: the first, the last, and some spread evenly between them."""


class Movement(NamedTuple):
    """What a layer moves by one collective along some axes: counts and seconds of a step of the slowest rank.

    `part` is that of the table above: edge, settle, statistics or gradients.
    """

    direction: str
    collective: str
    axes: str
    messages: int
    received_bytes: int
    part: Part
    seconds: float


class LayerPrice(NamedTuple):
    """Seconds of a layer in a step, those of the slowest rank in each part."""

    name: str
    forward_s: float
    data_s: float
    weights_s: float
    update_s: float
    movements: tuple[Movement, ...]
    interior: float  # share of the forward pass that needs no halo

    @property
    def compute_s(self) -> float:
        """All passes and the update."""
        return self.forward_s + self.data_s + self.weights_s + self.update_s

    @property
    def comm_s(self) -> float:
        """All movements."""
        return sum(m.seconds for m in self.movements)

    def moved_s(self, direction: str, part: Part | None = None) -> float:
        """Return the seconds of the movements of one direction, of one part or all."""
        return sum(m.seconds for m in self.movements if m.direction == direction and part in (None, m.part))


@dataclass(frozen=True)
class PlanPrice:
    """Price of a step.

    Attributes
    ----------
    layers
        In the order of the network.
    overlapped_s
        Seconds of a step that hides what a run can hide; never more than `step_s`.
    received_bytes
        Of the rank that receives most.
    ranks
        The ranks looked at.
    """

    layers: tuple[LayerPrice, ...]
    overlapped_s: float
    received_bytes: int
    ranks: tuple[int, ...]

    @cached_property
    def compute_s(self) -> float:
        """Computing, added over layers."""
        return sum(layer.compute_s for layer in self.layers)

    @cached_property
    def comm_s(self) -> float:
        """Communicating, added over layers."""
        return sum(layer.comm_s for layer in self.layers)

    @property
    def step_s(self) -> float:
        """Computing and communicating one after the other."""
        return self.compute_s + self.comm_s


def price_plan(
    placed: PlacedNetwork, machine: Machine, itemsize: int | Widths, passes: int = 1, *, bucket_bytes: int = 4 << 20,
    cut_optimizer: bool = False, states: int = 1, ranks: Sequence[int] | None = None,
) -> PlanPrice:  # fmt: skip
    """Return the price of a step of a placed network.

    Parameters
    ----------
    itemsize
        Bytes of an element, the same for all or by what they are for.
    passes
        Forward and backward passes in a step; gradients are summed once.
    bucket_bytes, cut_optimizer
        As a run sums gradients.
    states
        Arrays of optimizer state a parameter, which the update reads and writes beside value and gradient.
    ranks
        The ranks to look at; `priced_ranks` if None.
    """
    ranks = priced_ranks(placed.procs) if ranks is None else tuple(ranks)
    found: dict[Key, Movement] = {}
    most = 0
    moves = Movements(placed, machine, itemsize, passes, bucket_bytes, cut_optimizer)
    for rank in ranks:
        traffic = predict_step(
            placed, rank, itemsize, passes=passes, bucket_bytes=bucket_bytes, cut_optimizer=cut_optimizer
        )
        most = max(most, traffic.received_bytes)
        counts = dict(traffic.items())
        for key, moved in moves.seconds(rank, counts).items():
            if key not in found or moved.seconds > found[key].seconds:
                found[key] = Movement(*key[1:], *counts.get(key, Volume()), *moved)
    by_layer: dict[str, list[Movement]] = {}
    for key, movement in found.items():
        by_layer.setdefault(key.layer, []).append(movement)
    fused = absorbable(placed.network)
    layers = tuple(
        _layer(placed, layer, machine, ranks, passes, states, tuple(by_layer.get(layer.node.name, ())),
               layer.node.name in fused)
        for layer in placed.layers
    )  # fmt: skip
    return PlanPrice(layers, _overlapped_s(layers, machine, passes), most, ranks)


def priced_ranks(procs: int) -> tuple[int, ...]:
    """Return the ranks that are looked at: all of a small job, `SAMPLED_RANKS` of a large one."""
    return tuple(range(procs)) if procs <= ALL_RANKS else spread_ranks(procs, SAMPLED_RANKS)


def spread_ranks(procs: int, most: int) -> tuple[int, ...]:
    """Return at most `most` ranks, two or more: the first, the last, and some spread evenly between them."""
    count = min(procs, most)
    return tuple(round(i * (procs - 1) / max(1, count - 1)) for i in range(count))


def _layer(
    placed: PlacedNetwork, layer: PlacedLayer, machine: Machine, ranks: Sequence[int], passes: int, states: int,
    movements: tuple[Movement, ...], fused: bool,
) -> LayerPrice:  # fmt: skip
    place = layer.placement
    # Ranks with blocks of the same shapes take the same time: one of them is asked.
    shapes = {tuple(a.block_shape(rank) for a in (*place.needs, place.raw)): rank for rank in ranks}
    if fused:  # a ReLU: the layer before it rectifies
        data_s = max(passes * masked_seconds(layer, rank, machine) for rank in shapes.values())
        forward_s = weights_s = 0.0
    else:
        forward_s, data_s, weights_s = (
            max(passes * pass_seconds(layer, rank, machine, p) for rank in shapes.values()) for p in PASSES
        )
    elements = max(sum(volume(p.layout.box(rank)) for p in place.parameters) for rank in ranks)
    update_s = elements * (2 + states) * machine.touch_s_per_element
    interior = min(_interior(placed, layer, rank) for rank in ranks)
    return LayerPrice(layer.node.name, forward_s, data_s, weights_s, update_s, movements, interior)


def _interior(placed: PlacedNetwork, layer: PlacedLayer, rank: int) -> float:
    """Return the share of a convolution's outputs on a rank that read none of its halo; 0 for all others."""
    spec, edge = layer.node.spec, placed.edges[layer.edges[0]]
    out = layer.placement.raw.box(rank)
    if not isinstance(spec, s.Conv) or edge.exchange is None or edge.exchange.kind != "halo":
        return 0.0
    if not volume(out):
        return 1.0
    share = 1.0
    spaces = zip(spec.windows, out[2:], edge.exchange.source.box(rank)[2:], edge.need.shape[2:], strict=True)
    for window, block, held, extent in spaces:
        share *= window.interior(block, held, extent).size / block.size
    return share


def _overlapped_s(layers: Sequence[LayerPrice], machine: Machine, passes: int) -> float:
    """Return the seconds of a step with what the table above hides hidden."""
    forward_s = sum(forward_seconds(layer, machine) for layer in layers)
    backward_s = [backward_seconds(layer, machine) for layer in layers]
    # Gradients are summed in the last pass; the passes before it end with nothing on its way.
    now_s = forward_s + sum(backward_s) * (passes - 1) / passes
    sums_end_s = 0.0
    for layer, seconds in zip(reversed(layers), reversed(backward_s), strict=True):
        now_s += seconds / passes
        if sums_s := layer.moved_s("backward", "gradients"):
            sums_end_s = max(sums_end_s, now_s) + sums_s
            now_s += (1 - machine.overlap) * sums_s
    return max(now_s, sums_end_s) + sum(layer.update_s + layer.moved_s("update") for layer in layers)


def forward_seconds(layer: LayerPrice, machine: Machine) -> float:
    """Return the seconds of a layer's forward passes, its halo behind the interior."""
    halo_s = sum(m.seconds for m in layer.movements if m.direction == "forward" and m.collective == "halo")
    inside_s = layer.interior * layer.forward_s
    return layer.moved_s("forward") - halo_s + machine.beside(halo_s, inside_s) + layer.forward_s - inside_s


def backward_seconds(layer: LayerPrice, machine: Machine) -> float:
    """Return the seconds of a layer's backward passes but its sums, its edges behind the gradient by its weights."""
    edges_s = layer.moved_s("backward", "edge")
    rest_s = layer.moved_s("backward") - edges_s - layer.moved_s("backward", "gradients")
    return rest_s + layer.data_s + machine.beside(edges_s, layer.weights_s)
