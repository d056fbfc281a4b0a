"""What a plan costs in a step, layer by layer: the record, however it was found (see `costs`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gridnn.cost.memory import KEEP_INPUTS
from gridnn.geometry.interval import volume
from gridnn.network import spec as s
from gridnn.network.placed import PlacedLayer

COLLECTIVES = ("halo", "allgather", "reduce_scatter", "allreduce", "repartition")


@dataclass(frozen=True)
class LayerCost:
    """A layer in a step.

    Attributes
    ----------
    sums_s
        The part of `comm_s` that sums gradients over ranks.
    moved : mapping of collective to bytes received, or None
        None where only their sum is known.
    parameters_bytes, kept_bytes
        Values, gradients and optimizer state of a rank; what it keeps from forward to backward.
    """

    name: str
    compute_s: float
    comm_s: float
    sums_s: float
    moved: Mapping[str, int] | None
    received_bytes: int
    parameters_bytes: int | None
    kept_bytes: int | None
    memory_bytes: int


@dataclass(frozen=True)
class PlanCost:
    """A plan in a step.

    Attributes
    ----------
    memory_bytes
        All that a rank needs at the worst moment; by tables and equations the sum over layers.
    source
        "traffic", "tables" or "equations".
    ranks
        The ranks looked at; none but by traffic.
    """

    layers: tuple[LayerCost, ...]
    overlapped_s: float | None
    memory_bytes: int
    source: str
    ranks: tuple[int, ...] = ()

    @property
    def compute_s(self) -> float:
        """Seconds computing, added over layers."""
        return sum(x.compute_s for x in self.layers)

    @property
    def comm_s(self) -> float:
        """Seconds communicating, added over layers."""
        return sum(x.comm_s for x in self.layers)

    @property
    def sums_s(self) -> float:
        """Seconds summing gradients, added over layers."""
        return sum(x.sums_s for x in self.layers)

    @property
    def step_s(self) -> float:
        """Seconds of a step that overlaps nothing."""
        return self.compute_s + self.comm_s

    @property
    def received_bytes(self) -> int:
        """Bytes a rank receives, added over layers."""
        return sum(x.received_bytes for x in self.layers)


def kept_bytes(layer: PlacedLayer, rank: int, itemsize: int) -> int:
    """Return the bytes of what the backward pass reads, layer by layer as the tables of a search have it."""
    spec, at = layer.node.spec, layer.placement
    kept = sum(volume(x.box(rank)) for x in at.kept) * itemsize
    if isinstance(spec, (*KEEP_INPUTS, *s.LOSSES)):
        return kept + sum(volume(need.box(rank)) for need in at.needs) * itemsize
    if isinstance(spec, s.Activation | s.Dropout):
        return volume(at.out.box(rank)) * itemsize
    return volume(at.out.box(rank)) if isinstance(spec, s.Pool) else kept
