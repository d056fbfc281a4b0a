"""Exact traffic at many processes: a placed network whose exchanges are known without going through all ranks.

What `Exchange` finds rank by rank (its collective, its axes, its groups) comes from `pattern` here, for the ranks that
are looked at; prices and bytes are then those of `price_plan` and `predict_step`, in milliseconds where it took
seconds.  Where a pattern cannot be told, exchanges of few processes are left to find it; of many, there is no answer:

| grids of neighbouring layers            | up to `ENUMERATED` processes | more                                 |
|-----------------------------------------|------------------------------|--------------------------------------|
| the same, or with sizes that nest       | by patterns                  | by patterns, axes up to `LONGEST`    |
| sizes that do not nest: n6 beside k4    | rank by rank                 | None                                 |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gridnn.cost.sampled.pattern import Pattern, pattern
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import Scheme
from gridnn.geometry.layout import Layout
from gridnn.network.graph import Network
from gridnn.network.placed import PlacedNetwork, place_network

ENUMERATED = 512
"""Processes up to which a pattern that cannot be told is found rank by rank."""
LONGEST = 1 << 12
"""Longest axis of a grid whose blocks are listed."""


def placed_on(
    network: Network, schemes: Mapping[str, Scheme], batch: int, procs: int, ranks: Sequence[int]
) -> PlacedNetwork | None:
    """Return a network placed for a pass, ready to be asked about some ranks; None where that would take too long.

    Only traffic, prices and memory of `ranks` may be asked of it: of the groups of an exchange it has theirs.

    Raises
    ------
    InputError
        If a scheme does not fit.
    """
    if max((max(x.grid.sizes) for x in schemes.values()), default=1) > LONGEST:
        return None
    placed = place_network(network, schemes, batch, procs)
    known: dict[tuple[Layout, Layout], Pattern | None] = {}
    for exchange in _exchanges(placed):
        if exchange.known:  # equal movements share one
            continue
        ends = (exchange.source, exchange.target)
        if ends not in known:
            known[ends] = pattern(*ends)
        found = known[ends]
        if found is not None:
            groups = tuple(dict.fromkeys(group for rank in ranks if (group := found.group(rank))))
            exchange.tell(found.kind, found.axes, groups)
        elif procs > ENUMERATED:
            return None
    return placed


def _exchanges(placed: PlacedNetwork) -> Iterator[Exchange]:
    for edge in placed.edges:
        if edge.exchange is not None:
            yield edge.exchange
    for layer in placed.layers:
        yield layer.settle
        yield from (inner.exchange for inner in layer.placement.inner)
