"""The traffic of a step, from extents and grids.

Not a list of messages added up: a closed formula per exchange.  Boxes are products of intervals, so what
rank r receives factors into the dims,

    received(r) = copies * prod_d ( sum_j |S_dj & T_d(r)| )  -  | S(r) & T(r) |

S_dj being the intervals of the source in dim d, T(r) and S(r) the rank's boxes, `copies` the ranks that have
the same source box.  For one gathered axis of p ranks it is the (p-1)/p of Gholami et al. 2018, Eqs. 3 and 8;
for a halo it is the exact form of their Eq. 7; for an all-reduce see `geometry.traffic`.
"""

from __future__ import annotations

from collections.abc import Container
from math import prod

from gridnn.geometry.exchange import Exchange
from gridnn.geometry.interval import overlap, volume
from gridnn.geometry.layout import Layout
from gridnn.geometry.traffic import Key, Traffic, Widths, allreduce_shares, owned, widths_of
from gridnn.network import spec as s
from gridnn.network.buckets import plan_buckets
from gridnn.network.placed import PlacedLayer, PlacedNetwork

STATISTIC_BYTES = 8
"""Statistics of batch norm, layer norm and cross-entropy travel as float64."""


def predict_step(
    placed: PlacedNetwork,
    rank: int,
    itemsize: int | Widths,
    *,
    passes: int = 1,
    bucket_bytes: int = 4 << 20,
    cut_optimizer: bool = False,
) -> Traffic:
    """Return the traffic of one training step of one rank.

    Parameters
    ----------
    itemsize
        Bytes of an element, the same for all or by what they are for.
    passes
        Forward and backward passes in a step (gradient accumulation); gradients are summed once.
    """
    step = Traffic()
    step.merge(predict_forward(placed, rank, itemsize, train=True), passes)
    step.merge(predict_backward(placed, rank, itemsize), passes)
    step.merge(predict_gradients(placed, rank, itemsize, bucket_bytes, cut_optimizer))
    return step


def predict_forward(
    placed: PlacedNetwork, rank: int, itemsize: int | Widths, *, train: bool, score: bool = False,
    without: Container[int] = (),
) -> Traffic:  # fmt: skip
    """Return the traffic of one forward pass of one rank.

    Parameters
    ----------
    without
        Edges on which nothing moves.
    """
    traffic = Traffic()
    for e, edge in enumerate(placed.edges):
        if edge.exchange is not None and e not in without:
            _exchange(traffic, edge.owner, "forward", edge.exchange, rank, itemsize)
    for layer in placed.layers:
        _inside(traffic, layer, "forward", rank, itemsize)
        _statistics(traffic, layer, "forward", rank, itemsize, train, score)
    return traffic


def predict_scalars(traffic: Traffic, layer: str, direction: str, procs: int, rank: int, values: int) -> None:
    """Add the all-reduce of `values` float64 over all processes (loss, norms)."""
    if procs > 1 and values:
        (share,) = allreduce_shares([values], procs, rank)
        traffic.add(Key(layer, direction, "allreduce", "all"), 1, share * STATISTIC_BYTES)


def predict_backward(
    placed: PlacedNetwork, rank: int, itemsize: int | Widths, *, without: Container[int] = ()
) -> Traffic:
    """Return the traffic of one backward pass of one rank, without the sums of gradients; see `predict_forward`."""
    traffic = Traffic()
    for e, edge in enumerate(placed.edges):
        if edge.exchange is not None and e not in without:
            _exchange(traffic, edge.owner, "backward", edge.exchange.transpose(), rank, itemsize)
    for layer in placed.layers:
        _inside(traffic, layer, "backward", rank, itemsize)
        if not isinstance(layer.node.spec, s.LOSSES):
            _statistics(traffic, layer, "backward", rank, itemsize, True, False)
    return traffic


def _inside(traffic: Traffic, layer: PlacedLayer, direction: str, rank: int, itemsize: int | Widths) -> None:
    """Add what a layer moves by itself: its output on its way to rest, and the steps of a sequence."""
    for times, exchange in ((1, layer.settle), *((i.times, i.exchange) for i in layer.placement.inner)):
        way = exchange if direction == "forward" else exchange.transpose()
        _exchange(traffic, layer.node.name, direction, way, rank, itemsize, times)


def _exchange(
    traffic: Traffic, layer: str, direction: str, exchange: Exchange, rank: int, itemsize: int | Widths,
    times: int = 1,
) -> None:  # fmt: skip
    if exchange.kind == "none":
        return
    key = Key(layer, direction, exchange.kind, " ".join(exchange.axes))
    messages, elements = received(exchange.source, exchange.target, rank)
    if exchange.kind in ("allgather", "reduce_scatter"):
        messages = int(any(rank in group for group in exchange.groups))
    width = widths_of(itemsize).moved(exchange.kind)
    traffic.add(key, times * messages, times * elements * width)


def received(source: Layout, target: Layout, rank: int) -> tuple[int, int]:
    """Return how many pieces and elements a rank receives from others in an exchange."""
    if rank not in target.scheme.ranks:
        return 0, 0
    wanted, own = target.box(rank), source.box(rank)
    met = [d.shared(want) for d, want in zip(source.dims, wanted, strict=True)]
    mine = volume(overlap(own, wanted))
    pieces, elements = prod(count for count, _ in met), prod(size for _, size in met)
    return source.copies * pieces - (mine > 0), source.copies * elements - mine


def _statistics(
    traffic: Traffic, layer: PlacedLayer, direction: str, rank: int, itemsize: int | Widths, train: bool,
    score: bool,
) -> None:  # fmt: skip
    """Add the all-reduces inside a layer."""
    spec, axes = layer.node.spec, tuple(a for a in layer.scheme.grid.used if a in layer.placement.statistics)
    if not axes or rank not in layer.scheme.ranks or (isinstance(spec, s.BatchNorm) and not train):
        return
    group = layer.scheme.group(rank, axes)
    batch, channels, *space = layer.placement.needs[0].block_shape(rank)
    key = Key(layer.node.name, direction, "allreduce", " ".join(axes))
    sums: list[tuple[int, int]]  # elements and their bytes
    if isinstance(spec, s.BatchNorm):
        sums = [(2 * channels, STATISTIC_BYTES)]
    elif isinstance(spec, s.LayerNorm):
        sums = [(2 * batch, STATISTIC_BYTES)]
    else:  # largest logit; sum of exponentials, picked logit and plain sum; best class when scored
        positions = batch * prod(space)
        sums = [(positions, widths_of(itemsize).parameter), (3 * positions, STATISTIC_BYTES)]
        sums += [(positions, STATISTIC_BYTES)] * score
    for elements, size in sums:
        if elements:
            (share,) = allreduce_shares([elements], len(group), group.index(rank))
            traffic.add(key, 1, share * size)


def predict_gradients(
    placed: PlacedNetwork, rank: int, itemsize: int | Widths, bucket_bytes: int, cut: bool
) -> Traffic:
    """Return the traffic of the sums of gradients over replicas (Gholami et al. 2018, Eqs. 4 and 8)."""
    traffic, width = Traffic(), widths_of(itemsize).parameter
    for bucket in plan_buckets(placed, rank, bucket_bytes, width):
        procs = len(bucket.replicas)
        if not bucket.owed or procs < 2 or not bucket.size:
            continue
        sizes = [e.size for e in bucket.entries]
        mine = owned(sizes, procs, bucket.replicas.index(rank))
        for at, (entry, size, own) in enumerate(zip(bucket.entries, sizes, mine, strict=True)):
            scatter, gather = (procs - 1) * own * width, (size - own) * width
            if cut:
                traffic.add(Key(entry.layer, "backward", "reduce_scatter", entry.axes), at == 0, scatter)
                traffic.add(Key(entry.layer, "update", "allgather", entry.axes), at == 0, gather)
            else:
                traffic.add(Key(entry.layer, "backward", "allreduce", entry.axes), at == 0, scatter + gather)
    return traffic
