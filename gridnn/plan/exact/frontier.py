"""Frontiers: elimination that keeps every useful trade of cost for memory, for an exact minimum under a limit.

A label is one way to choose the nodes folded so far: what it costs, what memory it takes.  Labels stand in
groups, one for each choice of the nodes around.  Folding a node joins the labels of its tables; dropped are

    memory ^  a              b: c is in its group, costs less and takes less
           |    b            d: cost + price * memory, with the least the rest can add, is beyond `reach`
           |   c      d      all that are above the limit, even with the least memory for the rest
           +------------> cost

The second rule keeps groups short.  The least the rest can add is exact for each choice of the nodes around: it
comes from folding the graph of priced costs once inwards and once outwards (plan/exact/limit.py finds the price).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.plan.exact.costgraph import CostGraph, Indices, Vector
from gridnn.plan.exact.fold import Schedule, Scope, Table, fix

# Classes of memory that share the labels a table may keep.
CLASSES = 16


@dataclass(frozen=True)
class Rules:
    """When a label is dropped.

    Parameters
    ----------
    limit
        Bytes.
    price, reach
        Of memory, a byte; and the most that cost + price * memory of all nodes may come to.
    most
        Labels a table may keep.
    rows
        Labels, or entries of a table, that may be looked at in one step.
    """

    limit: float
    price: float
    reach: float
    most: int
    rows: int


@dataclass(frozen=True)
class Labels:
    """A table of labels: row r is a choice keys[v][r] of each node v of `scope`, a cost and a memory.

    `keys` may know a node more, the one just folded; `folded` are all the nodes the costs include.  `origins`
    are the tables the rows were joined from, and their rows: the way back to the choices of other nodes.
    """

    scope: Scope
    keys: dict[int, Indices]
    cost: Vector
    memory: Vector
    folded: frozenset[int]
    origins: tuple[tuple[Labels, Indices], ...] = ()

    def rows(self, chosen: Indices, scope: Scope) -> Labels:
        """Return some rows, over some of the nodes; the keys of the others stay for the way back."""
        keys = {v: key[chosen] for v, key in self.keys.items()}
        origins = tuple((table, rows[chosen]) for table, rows in self.origins)
        return Labels(scope, keys, self.cost[chosen], self.memory[chosen], self.folded, origins)

    def group(self, scope: Scope, sizes: Sequence[int]) -> Indices:
        """Return one number a row, equal where the choices of the nodes `scope` are."""
        number = np.zeros(self.cost.size, np.intp)
        for v in scope:
            number = number * sizes[v] + self.keys[v]
        return number


@dataclass(frozen=True)
class Bucket:
    """One node to fold: the nodes around it, its tables of priced costs, and where those came from.

    A table is an edge of the graph, or what an earlier bucket (its number) folded to.
    """

    node: int
    around: Scope
    tables: tuple[tuple[Scope, Table], ...]
    sources: tuple[int | None, ...]


class TooManyError(Exception):
    """A step would look at more labels than the rules allow."""


def cheapest_frontier(graph: CostGraph, plan: Schedule, rules: Rules) -> tuple[tuple[int, ...] | None, bool]:
    """Return the cheapest choice that fits, or None if no label is left, and whether that is exact.

    Parameters
    ----------
    graph
        Costs (not priced) and memory.
    plan
        `fold.schedule(graph)`.

    Raises
    ------
    TooManyError
        If a step outgrows `rules.rows`.
    """
    assert graph.memory is not None
    sizes = graph.sizes
    costs, pairs, constant = fix(graph)
    priced = [c + rules.price * m for c, m in zip(costs, graph.memory, strict=True)]
    buckets, constants = _inwards(priced, pairs, plan, rules)
    taken = math.fsum(float(m[0]) for m in graph.memory if m.size == 1)
    single = frozenset(i for i, size in enumerate(sizes) if size == 1)
    whole = Labels((), {}, np.array([constant]), np.array([taken]), single)
    outer = _outwards(buckets, constants, priced, constant + rules.price * taken)
    least = tuple(float(m.min()) for m in graph.memory)
    # Where no node has a choice left, this is all there is to do.
    whole, exact = _shorten(whole, (), np.array(math.fsum(constants.values())), sizes, least, rules)
    made: dict[int, Labels] = {}
    for number, bucket in enumerate(buckets):
        i, scope = bucket.node, (bucket.node, *bucket.around)
        joined = Labels((i,), {i: np.arange(sizes[i])}, costs[i], graph.memory[i], frozenset((i,)))
        for at, ((edge, _), source) in enumerate(zip(bucket.tables, bucket.sources, strict=True)):
            labels = _pairs(edge, pairs[edge]) if source is None else made.pop(source)
            joined = _join(joined, labels, sizes, rules)
            # What is still to come: the rest of the bucket, and all beyond it.
            coming = [*bucket.tables[at + 1 :], (bucket.around, outer[number])]
            rest = _least(coming, joined.scope, scope)
            joined, full = _shorten(joined, joined.scope, rest, sizes, least, rules)
            exact &= full
        if bucket.around:
            made[number], full = _shorten(joined, bucket.around, outer[number], sizes, least, rules)
        else:
            ahead = np.array(math.fsum(own for later, own in constants.items() if later > number))
            whole = _join(whole, joined, sizes, rules)
            whole, full = _shorten(whole, (), ahead, sizes, least, rules)
        exact &= full
    return (_way_back(whole, len(sizes)) if whole.cost.size else None), exact


def _inwards(
    priced: Sequence[Vector], pairs: dict[Scope, Table], plan: Schedule, rules: Rules
) -> tuple[list[Bucket], dict[int, float]]:
    """Fold the priced costs; return the buckets in order, and what each component folds to."""
    live: list[tuple[Scope, Table, int | None]] = [(scope, table, None) for scope, table in pairs.items()]
    buckets: list[Bucket] = []
    constants: dict[int, float] = {}
    for number, i in enumerate(plan.order):
        mine = sorted((entry for entry in live if i in entry[0]), key=lambda entry: entry[1].size)
        live = [entry for entry in live if i not in entry[0]]
        around = tuple(sorted({v for scope, _, _ in mine for v in scope} - {i}))
        tables = tuple((scope, table) for scope, table, _ in mine)
        if math.prod(priced[v].size for v in (i, *around)) > 4 * rules.rows:
            raise TooManyError
        buckets.append(Bucket(i, around, tables, tuple(source for _, _, source in mine)))
        folded = _least([((i,), priced[i]), *tables], around, (i, *around))
        if around:
            live.append((around, folded, number))
        else:
            constants[number] = float(folded)
    return buckets, constants


def _outwards(
    buckets: Sequence[Bucket], constants: dict[int, float], priced: Sequence[Vector], constant: float
) -> dict[int, Table]:
    """Return, for each bucket and each choice of the nodes around, the least that all beyond it costs."""
    total = constant + math.fsum(constants.values())
    outer = {number: np.array(total - own) for number, own in constants.items()}
    for number in range(len(buckets) - 1, -1, -1):
        bucket = buckets[number]
        beyond = [((bucket.node,), priced[bucket.node]), (bucket.around, outer[number])]
        for at, source in enumerate(bucket.sources):
            if source is not None:
                others = [table for k, table in enumerate(bucket.tables) if k != at]
                scope = bucket.tables[at][0]
                outer[source] = _least([*beyond, *others], scope, (bucket.node, *bucket.around))
    return outer


def _least(tables: Sequence[tuple[Scope, Table]], scope: Scope, axes: Scope) -> Table:
    """Return the sum of tables over the nodes `axes`, least over those not in `scope`, in the order of `scope`."""
    total: Table = np.zeros([1] * len(axes))
    for nodes, table in tables:
        inner = table.transpose([nodes.index(v) for v in axes if v in nodes])
        total = total + inner[tuple(slice(None) if v in nodes else None for v in axes)]
    # Nodes that no table names have length 1 here; what reads the result broadcasts it.
    total = total.min(axis=tuple(at for at, v in enumerate(axes) if v not in scope))
    left = [v for v in axes if v in scope]
    return np.asarray(total.transpose([left.index(v) for v in scope]))


def _pairs(edge: Scope, table: Table) -> Labels:
    """Return the finite pairs of a matrix as labels that take no memory."""
    rows, columns = np.nonzero(np.isfinite(table))
    keys = {edge[0]: rows, edge[1]: columns}
    return Labels(edge, keys, table[rows, columns], np.zeros(rows.size), frozenset())


def _join(a: Labels, b: Labels, sizes: Sequence[int], rules: Rules) -> Labels:
    """Return every pair of rows that agree on the nodes both tables know."""
    shared = tuple(v for v in a.scope if v in b.scope)
    left, right = a.group(shared, sizes), b.group(shared, sizes)
    order = right.argsort(kind="stable")
    low, high = (np.searchsorted(right[order], left, side) for side in ("left", "right"))
    counts = high - low
    total = int(counts.sum())
    if total > rules.rows:
        raise TooManyError
    ia = np.repeat(np.arange(left.size), counts)
    # Row r of the result is the (r - first of its run)-th partner of its left row.
    ib = order[np.arange(total) - np.repeat(counts.cumsum() - counts - low, counts)]
    scope = a.scope + tuple(v for v in b.scope if v not in a.scope)
    keys = {v: a.keys[v][ia] if v in a.scope else b.keys[v][ib] for v in scope}
    origins = ((a, ia), (b, ib))
    return Labels(
        scope, keys, a.cost[ia] + b.cost[ib], a.memory[ia] + b.memory[ib], a.folded | b.folded, origins
    )


def _shorten(
    labels: Labels, scope: Scope, rest: Table, sizes: Sequence[int], least: Sequence[float], rules: Rules
) -> tuple[Labels, bool]:
    """Drop labels by the rules, in groups over `scope`; say whether none was left out for number.

    Parameters
    ----------
    rest
        The least priced cost of everything else, for each choice of `scope`.
    """
    group = labels.group(scope, sizes)
    beyond = np.broadcast_to(rest, [sizes[v] for v in scope]).reshape(-1)[group]
    priced = labels.cost + rules.price * labels.memory
    spared = math.fsum(m for v, m in enumerate(least) if v not in labels.folded)
    alive = np.flatnonzero((labels.memory + spared <= rules.limit) & (priced + beyond <= rules.reach))

    # Dominated: in order of memory, a label lives if it costs less than all before it in its group.  Ranks
    # are whole numbers, so shifting each group below the last lets one running minimum serve all groups.
    order = alive[np.lexsort((labels.cost[alive], labels.memory[alive], group[alive]))]
    starts = np.r_[True, group[order][1:] != group[order][:-1]][: order.size]
    _, rank = np.unique(labels.cost[order], return_inverse=True)
    shifted = rank - starts.cumsum() * (order.size + 1)
    first = np.r_[True, shifted[1:] < np.minimum.accumulate(shifted)[:-1]][: order.size]
    order, starts = order[first], starts[first]

    # Too many: in each class of memory those go on that promise the least total (one class alone would soon be
    # all above the limit), and in each group the leanest, so that one always fits.
    if order.size <= rules.most:
        return labels.rows(order, scope), True
    promise = np.where(starts, -np.inf, (priced + beyond)[order])
    place = np.empty(order.size, np.intp)
    place[labels.memory[order].argsort(kind="stable")] = np.arange(order.size) * CLASSES // order.size
    by_class = np.lexsort((promise, place))
    within = np.arange(order.size) - np.searchsorted(place[by_class], place[by_class])
    chosen = by_class[(within < rules.most // CLASSES) | starts[by_class]]
    return labels.rows(order[np.sort(chosen)], scope), False


def _way_back(whole: Labels, nodes: int) -> tuple[int, ...]:
    """Return the choice of every node behind the cheapest label."""
    choice = [0] * nodes
    trail = [(whole, int(whole.cost.argmin()))]
    while trail:
        table, row = trail.pop()
        for v, key in table.keys.items():
            choice[v] = int(key[row])
        trail += [(origin, int(rows[row])) for origin, rows in table.origins]
    return tuple(choice)
