"""Boxes of a picture: layers that stand together and have one grid, and what moves between boxes.

    relu3 ─┬─ conv8 bn8 relu8 conv9 bn9 ─┐            one box: all of it, where all of it has one grid
           └─ conv10 bn10 ───────────────┴─ add4      else a box for every chain of one grid

A *region* ends at a layer that everything after it comes from.  One without weights joins the box before it; where a
picture would have too many boxes, neighbours of one grid are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from gridnn.cost.price import priced_ranks
from gridnn.cost.traffic import received
from gridnn.geometry.grid import Scheme
from gridnn.network import spec as s
from gridnn.network.graph import INPUT, Network
from gridnn.network.placed import Edge
from gridnn.plan.explain.why import Explanation

MOST = 60
WEIGHTED = (s.Conv, s.ConvTranspose, s.Linear, *s.SEQUENCES)


@dataclass(frozen=True)
class Box:
    """Layers of one grid: numbers in the network, seconds of a step, bytes that move among them.

    Attributes
    ----------
    inner_bytes
        What the busiest rank receives on edges inside the box, forward and backward: halos, mostly.
    """

    layers: tuple[int, ...]
    scheme: Scheme
    compute_s: float
    comm_s: float
    inner_bytes: int


@dataclass(frozen=True)
class Arrow:
    """Outputs of one box on their way to another (numbers; -1 is the input of the network), and what moves."""

    source: int
    target: int
    moved_bytes: int


def boxes(explanation: Explanation, most: int = MOST) -> tuple[list[Box], list[Arrow]]:
    """Return the boxes of a plan in the order of the network, and the arrows between them, all of them downwards."""
    network, schemes = explanation.job.network, [layer.scheme for layer in explanation.layers]
    groups = _join(_groups(network, schemes), network, schemes, most)
    of = {network.nodes[i].name: at for at, group in enumerate(groups) for i in group} | {INPUT: -1}
    inner, between = [0] * len(groups), dict[tuple[int, int], int]()
    known: dict[int, int] = {}  # edges that are alike share their exchange
    for edge in explanation.placed.edges:
        source, alike = of[edge.producer], id(edge.exchange)
        known[alike] = known[alike] if alike in known else _moved_bytes(explanation, edge)
        moved = known[alike]
        for user in edge.users:
            # What several want alike moves once, to the first of them.
            nbytes = moved if user == edge.owner else 0
            if of[user] == source:
                inner[source] += nbytes
            else:
                between[source, of[user]] = between.get((source, of[user]), 0) + nbytes
    found = []
    for at, group in enumerate(groups):
        layers = [explanation.layers[i] for i in group]
        seconds = sum(x.compute_s for x in layers), sum(x.comm_s for x in layers)
        found.append(Box(tuple(group), schemes[group[0]], *seconds, inner[at]))
    return found, [Arrow(*ends, nbytes) for ends, nbytes in sorted(between.items())]


def _moved_bytes(explanation: Explanation, edge: Edge) -> int:
    """Return the bytes the busiest rank receives on an edge in a step, forward and backward."""
    if edge.exchange is None:
        return 0
    job, (have, want) = explanation.job, (edge.exchange.source, edge.exchange.target)
    ranks = priced_ranks(job.procs)
    return (
        job.passes
        * job.itemsize
        * max(received(have, want, r)[1] + received(want, have, r)[1] for r in ranks)
    )


def _groups(network: Network, schemes: Sequence[Scheme]) -> list[list[int]]:
    """Return a group for every region of one grid, and for every chain of one grid in the others."""
    groups: list[list[int]] = []
    for region in _regions(network):
        same = len({schemes[i] for i in region}) == 1
        for part in [region] if same else _chains(network, schemes, region):
            if groups and _follows(network, schemes, groups[-1], part):
                groups[-1] += part
            else:
                groups.append(part)
    return groups


def _regions(network: Network) -> list[list[int]]:
    """Return runs of layers that end where no edge passes over."""
    at = {node.name: i for i, node in enumerate(network.nodes)} | {INPUT: -1}
    reach = [0] * (len(at))  # of everything up to a layer, the last layer that reads it; the input first
    for i, node in enumerate(network.nodes):
        for name in node.inputs:
            reach[at[name] + 1] = max(reach[at[name] + 1], i)
    regions: list[list[int]] = [[]]
    furthest = reach[0]
    for i in range(len(network.nodes)):
        regions[-1].append(i)
        if furthest <= i:
            regions.append([])
        furthest = max(furthest, reach[i + 1])
    return [region for region in regions if region]


def _chains(network: Network, schemes: Sequence[Scheme], region: Sequence[int]) -> list[list[int]]:
    """Split a region into chains of one grid: every layer but the first reads only the one before it."""
    users: dict[str, int] = {}
    for node in network.nodes:
        for name in node.inputs:
            users[name] = users.get(name, 0) + 1
    chains: dict[str, list[int]] = {}  # by the layer at its end
    for i in region:
        node = network.nodes[i]
        before = node.inputs[0]
        grown = chains.get(before, [])
        if len(node.inputs) == 1 and grown and users[before] == 1 and schemes[grown[-1]] == schemes[i]:
            del chains[before]
        else:
            grown = []
        chains[node.name] = [*grown, i]
    return sorted(chains.values())


def _follows(network: Network, schemes: Sequence[Scheme], before: Sequence[int], part: Sequence[int]) -> bool:
    """True for layers without weights that read only the end of the group before them, on its grid."""
    names = {network.nodes[i].name for i in part}
    reads = {name for i in part for name in network.nodes[i].inputs} - names
    plain = not any(isinstance(network.nodes[i].spec, WEIGHTED) for i in part)
    same = {schemes[i] for i in part} == {schemes[before[-1]]}
    return plain and same and reads == {network.nodes[before[-1]].name} and before[-1] + 1 == part[0]


def _join(groups: list[list[int]], network: Network, schemes: Sequence[Scheme], most: int) -> list[list[int]]:
    """Join neighbours of one grid, two, three, ... at a time, until there are at most `most` if that can be."""
    ends = {region[-1] for region in _regions(network)}
    runs: list[list[list[int]]] = []
    for before, group in pairwise([[], *groups]):
        # A box may grow over its end only where nothing passes by.
        whole = (
            before
            and before[-1] in ends
            and group[-1] in ends
            and group == list(range(before[-1] + 1, group[-1] + 1))
        )
        if whole and schemes[before[0]] == schemes[group[0]]:
            runs[-1].append(group)
        else:
            runs.append([group])
    for size in range(1, len(groups) + 1):
        joined = [[*chain(*run[at : at + size])] for run in runs for at in range(0, len(run), size)]
        if len(joined) <= most:
            return joined
    return joined
