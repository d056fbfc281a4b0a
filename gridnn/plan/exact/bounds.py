"""Lower bounds: for every choice of every node, a cost that no solution through it can beat.

The graph is cut into chains that run forward through the node numbers.  A cost that several chains share
(a node, where branches meet) is split between them, so the sum of the chains' cheapest solutions is a lower
bound; a message carries to the next node of a chain what its past costs at least.

    graph            chains (* where costs are split)        a pass: forward, then backward, ...
    0─1─2─3─4        0*─1─2─3*─4      main path              each pass splits anew, so that the chains
    └─────┘          0*──────3*       skip                   agree better: the bound never falls

On a chain the bound is the optimum and the bounds of choices are exact after one pass each way.  Elsewhere they
come near, for O(edges * C^2) a pass.  The passes are sequential tree-reweighted message passing:
Kolmogorov, "Convergent tree-reweighted message passing for energy minimization", PAMI 28 (2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.plan.exact.costgraph import CostGraph, Indices, Vector


@dataclass(frozen=True)
class Messages:
    """What each edge (i, j) says to its two ends: `early` to i, `late` to j.  Passes write into both.

    Any messages give a valid bound, so rounding in them costs tightness at most, never truth.
    """

    early: dict[tuple[int, int], Vector]
    late: dict[tuple[int, int], Vector]


def silence(pairs: Iterable[tuple[int, int]], sizes: Sequence[int]) -> Messages:
    """Return messages that say nothing, to start with: of edges between nodes with so many choices."""
    edges = tuple(pairs)
    return Messages(
        {(i, j): np.zeros(sizes[i]) for i, j in edges}, {(i, j): np.zeros(sizes[j]) for i, j in edges}
    )


def keep(messages: Messages, kept: Sequence[Indices]) -> Messages:
    """Return the messages about the choices that are `kept`."""
    return Messages(
        {(i, j): m[kept[i]] for (i, j), m in messages.early.items()},
        {(i, j): m[kept[j]] for (i, j), m in messages.late.items()},
    )


def sweep(graph: CostGraph, messages: Messages, *, forward: bool) -> tuple[float, list[Vector]]:
    """Send the messages of one direction over a graph, and return the bound they give; see `send`."""

    def say(edge: tuple[int, int], share: Vector) -> Vector:
        matrix = graph.edges[edge] if forward else graph.edges[edge].T
        return np.asarray((matrix + share[:, None]).min(axis=0))

    return send(graph.costs, messages, say, forward=forward)


def send(
    costs: Sequence[Vector],
    messages: Messages,
    say: Callable[[tuple[int, int], Vector], Vector],
    *,
    forward: bool,
) -> tuple[float, list[Vector]]:
    """Send the messages of one direction, and return the bound they give.

    Needs choices without forbidden dead ends (`costgraph.consistent`): then every message is finite.

    Parameters
    ----------
    say
        For an edge and a cost of each choice at the end the message leaves: the least cost of each choice at the
        other end, the edge's own included.  Less than that is allowed too, and loosens the bound.

    Returns
    -------
    lower
        No solution costs less.
    excess
        One vector a node, its least entry 0: if an earlier sweep gave `lower`, a solution through choice a
        of node i costs at least that `lower` + excess[i][a].
    """
    before: list[list[tuple[int, int]]] = [[] for _ in costs]
    after: list[list[tuple[int, int]]] = [[] for _ in costs]
    for i, j in messages.early:
        after[i].append((i, j))
        before[j].append((i, j))
    if forward:
        order, source, target, outgoing = range(len(before)), messages.early, messages.late, after
    else:
        order, source, target, outgoing = (
            range(len(before) - 1, -1, -1),
            messages.late,
            messages.early,
            before,
        )
    lower, excess = 0.0, list(costs)
    for node in order:
        belief = costs[node].copy()
        for edge in after[node]:
            belief += messages.early[edge]
        for edge in before[node]:
            belief += messages.late[edge]
        least = float(belief.min())
        lower += least
        belief -= least
        excess[node] = belief
        # As many chains pass the node as it has edges on its busier side; each carries its share on.
        share = belief / max(len(after[node]), len(before[node]), 1)
        for edge in outgoing[node]:
            said = say(edge, share - source[edge])
            least = float(said.min())
            lower += least
            target[edge] = said - least
    return lower, excess
