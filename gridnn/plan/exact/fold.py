"""Elimination: fold the nodes of a cost graph away one by one, and take the steps back to find the choice.

    i──A──j──B──k      ->   i──T──k       T[a, c] = min over b of A[a, b] + cost_j[b] + B[b, c]     (Eq. 2)
    i══A,B══k          ->   i──A+B──k     two tables over the same nodes are one                    (Eq. 3)
    i──A──j            ->   i             cost_i[a] += min over b of A[a, b] + cost_j[b]
    j with 3 neighbours ->  a table over all three; and so on, while tables stay small

Jia et al., "Exploring hidden dimensions in parallelizing convolutional neural networks" (ICML 2018), fold nodes
with one edge in and one out, and enumerate what is left.  A table over more than two nodes is that enumeration,
made only as wide as the graph needs (bucket elimination: Dechter, Artificial Intelligence 113 (1999)).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridnn.plan.exact.costgraph import CostGraph, Vector, neighbours

Table = NDArray[np.float64]
Scope = tuple[int, ...]

# Entries looked at in one go: 2^15 float64 stay in the second-level cache.
CHUNK = 1 << 15


@dataclass(frozen=True)
class Schedule:
    """The order in which to fold, and what it takes.

    Parameters
    ----------
    order
        All nodes with more than one choice.
    entries
        Sums of costs to compare: the time of folding.
    widest
        Entries of the largest table: the memory of folding.
    """

    order: tuple[int, ...]
    entries: int
    widest: int


def schedule(graph: CostGraph) -> Schedule:
    """Choose an order of folding: the node whose table costs least now comes next.

    Nodes with one choice take no part: their costs fall to their neighbours.
    """
    sizes = graph.sizes
    near = neighbours(graph)
    free = {i for i, size in enumerate(sizes) if size > 1}
    links = {i: near[i] & free for i in free}

    def key(i: int) -> tuple[int, int, int]:
        work = sizes[i] * math.prod(sizes[k] for k in links[i])
        # Leaves first, whatever their size: they add nothing to the rest.
        return (work if len(links[i]) > 1 else 0), work, i

    heap = [key(i) for i in free]
    heapq.heapify(heap)
    order: list[int] = []
    entries = widest = 0
    while heap:
        top = heapq.heappop(heap)
        i = top[2]
        if i not in links or top != key(i):
            continue  # folded already, or priced anew since
        work = top[1]
        order.append(i)
        entries += work
        widest = max(widest, work // sizes[i])
        around = links.pop(i)
        for k in around:
            links[k] = (links[k] | around) - {i, k}
        for k in around:
            heapq.heappush(heap, key(k))
    return Schedule(tuple(order), entries, widest)


def core_size(graph: CostGraph) -> int:
    """Return the nodes left when no node with at most two neighbours is: what K is in the paper; 1 if all fold."""
    links = neighbours(graph)
    ready = [i for i, near in enumerate(links) if len(near) <= 2]
    gone: set[int] = set()
    while ready:
        i = ready.pop()
        if i in gone:
            continue
        gone.add(i)
        around = links[i]
        for k in around:
            links[k] = (links[k] | around) - {i, k}
            if len(links[k]) <= 2:
                ready.append(k)
    return max(1, len(links) - len(gone))


def fold(graph: CostGraph, plan: Schedule) -> tuple[tuple[int, ...], float]:
    """Return the cheapest choice of each node and its cost, np.inf if no choice is finite.  Exact.

    Ties go to the lower choice of the node that is folded last.
    """
    choice = [0] * len(graph.costs)
    costs, tables, constant = fix(graph)
    touching: dict[int, set[Scope]] = {i: set() for i in plan.order}
    for scope in tables:
        for i in scope:
            touching[i].add(scope)
    steps: list[tuple[int, Vector, list[tuple[Scope, Table]]]] = []
    for i in plan.order:
        mine = [(scope, tables.pop(scope)) for scope in sorted(touching.pop(i))]
        steps.append((i, costs[i], mine))
        rest = tuple(sorted({k for scope, _ in mine for k in scope} - {i}))
        for scope, _ in mine:
            for k in scope:
                if k != i:
                    touching[k].discard(scope)
        result = _cheapest_over(i, costs[i], mine, rest)
        if not rest:
            constant += float(result)
        elif len(rest) == 1:
            costs[rest[0]] = costs[rest[0]] + result
        elif rest in tables:
            tables[rest] = tables[rest] + result
        else:
            tables[rest] = result
            for k in rest:
                touching[k].add(rest)
    for i, cost, mine in reversed(steps):
        total = cost
        for scope, table in mine:
            total = total + table[tuple(slice(None) if k == i else choice[k] for k in scope)]
        choice[i] = int(total.argmin())
    return tuple(choice), constant


def fix(graph: CostGraph) -> tuple[list[Vector], dict[Scope, Table], float]:
    """Give the costs of nodes with one choice to their neighbours; return costs, tables and a constant."""
    sizes, costs = graph.sizes, list(graph.costs)
    constant = sum(float(cost[0]) for cost in costs if cost.size == 1)
    tables: dict[Scope, Table] = {}
    for (i, j), matrix in graph.edges.items():
        if sizes[i] > 1 and sizes[j] > 1:
            tables[i, j] = matrix
        elif sizes[i] > 1:
            costs[i] = costs[i] + matrix[:, 0]
        elif sizes[j] > 1:
            costs[j] = costs[j] + matrix[0]
        else:
            constant += float(matrix[0, 0])
    return costs, tables, constant


def _cheapest_over(i: int, cost: Vector, tables: Sequence[tuple[Scope, Table]], rest: Scope) -> Table:
    """Return min over the choices of node i of its cost and all `tables`, as a table over the nodes `rest`."""
    axes = (i, *rest)
    parts: list[Table] = [cost.reshape(-1, *[1] * len(rest))]
    for scope, table in tables:
        inner = table.transpose([scope.index(k) for k in axes if k in scope])
        parts.append(inner[tuple(slice(None) if k in scope else None for k in axes)])
    if len(tables) > 1:  # the cost joins the smallest table once, instead of every sum
        small = min(range(1, len(parts)), key=lambda at: parts[at].size)
        parts[small] = parts[small] + parts[0]
        del parts[0]
    shape = np.broadcast_shapes(*[part.shape for part in parts])
    if math.prod(shape) <= CHUNK or len(rest) < 2:
        return np.asarray(_sum(parts).min(axis=0))
    out = np.full(shape[1:], np.inf)
    # Blocks of the table small enough to stay in the cache while the choices of i pass over them.
    tail = math.prod(shape[2:])
    rows = max(1, CHUNK // tail)
    depth = max(1, CHUNK // (tail * min(rows, shape[1])))
    for row in range(0, shape[1], rows):
        block = out[row : row + rows]
        cut = [part[:, row : row + rows] if part.shape[1] > 1 else part for part in parts]
        for at in range(0, shape[0], depth):
            some = _sum([part[at : at + depth] if part.shape[0] > 1 else part for part in cut])
            np.minimum(block, some[0] if depth == 1 else some.min(axis=0), out=block)
    return out


def _sum(parts: Sequence[Table]) -> Table:
    """Return the broadcast sum of some tables."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
