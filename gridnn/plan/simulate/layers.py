"""One layer on one scheme, as the simulator sees it: computing, and the collectives within it.

| of `OperationCost` | what                                                                                  |
|--------------------|---------------------------------------------------------------------------------------|
| forward, backward  | the passes of `cost.compute` on each rank's own block; gradients by data and by       |
|                    | weights are one task, so a layer's dX leaves when both are done                       |
| after_forward      | terms owed, summed (`settle`); movements inside the layer; statistics                 |
| before_backward    | their transposes; sums of statistics                                                  |
| gradients          | a sum for each set of ranks that share a block; a small one takes its share of a      |
|                    | bucket's time, as in `cost.tables`, and none waits for a bucket to be full; the share |
|                    | that ranks carry themselves (`Machine.beside`) keeps them busy beside their ports     |
| update             | as soon as the layer's sums are made                                                  |

Of several passes the last is simulated as it is; all that those before it take is added to its forward tasks, for
gradients are summed behind the last backward only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from gridnn.cost.compute import pass_seconds
from gridnn.cost.profile import PASSES
from gridnn.cost.traffic import STATISTIC_BYTES
from gridnn.geometry.grid import AXES, Scheme
from gridnn.geometry.layout import Layout
from gridnn.network import spec as s
from gridnn.network.placed import PlacedLayer
from gridnn.plan.problem import Job
from gridnn.plan.simulate.boxes import Boxes
from gridnn.plan.simulate.flows import Lane, among, groups_of, movement, nanoseconds, worst_s
from gridnn.plan.simulate.links import Floats, Links
from gridnn.plan.simulate.program import Group, OperationCost
from gridnn.plan.simulate.segment import NOWHERE, Longs


def layer_cost(
    job: Job,
    layer: PlacedLayer,
    links: Links,
    boxes: Callable[[Layout], Boxes],
    bucket_bytes: int,
    absorbed: bool,
    rectified: bool = False,
    relu: PlacedLayer | None = None,
) -> OperationCost:
    """Return what a layer costs on its scheme.

    Parameters
    ----------
    boxes
        The boxes of a layout, perhaps kept from before.
    bucket_bytes
        Gradients are summed in buckets of about that size.
    absorbed
        The layer before it does its work: it takes no time, and waits for no rank.
    rectified
        It is a ReLU, and the layer before it rectifies: it masks the gradient.
    relu
        One that this layer does the work of: forward on its way out, backward by masking the gradient first.
    """
    parts, ranks = layer.scheme.grid.size, np.array(layer.scheme.ranks)
    if absorbed:
        nothing = np.zeros(parts, np.int64)
        return OperationCost(np.full(parts, NOWHERE), nothing, nothing, nothing)
    forward_s, data_s, weights_s = _compute_s(job, layer, boxes)
    if rectified:
        forward_s, data_s = np.zeros(parts), _masked_s(job, layer, boxes)
    if relu is not None:
        data_s = data_s + _masked_s(job, relu, boxes)
    backward_s, before = data_s + weights_s, job.passes - 1
    place = layer.placement
    sums = list(_gradients(job, layer, links, boxes, bucket_bytes))
    update_s = np.zeros(parts)
    for parameter in place.parameters:
        update_s += boxes(parameter.layout).volumes * ((2 + job.states) * job.machine.touch_s_per_element)
    after, ahead = list[Group](), list[Group]()
    for there, back in _inside(job, layer, links, boxes):
        there_s, back_s = worst_s(there), worst_s(back)
        after += groups_of(there, (job.passes * there_s + before * back_s) / there_s)
        ahead += groups_of(back)
    return OperationCost(
        ranks, nanoseconds(job.passes * forward_s + before * backward_s), nanoseconds(backward_s),
        nanoseconds(update_s), tuple(after), tuple(ahead),
        groups_of([_carried(lane, ranks, 1 - job.machine.overlap) for lane in sums]),
    )  # fmt: skip


def grid_groups(scheme: Scheme, axes: Sequence[str]) -> Longs:
    """Return the parts that differ along some axes only: (groups, members)."""
    sizes = scheme.grid.sizes
    moving = [at for at, axis in enumerate(AXES) if axis in axes]
    resting = [at for at, axis in enumerate(AXES) if axis not in axes]
    parts = np.arange(scheme.grid.size).reshape(sizes).transpose(resting + moving)
    return parts.reshape(-1, prod(sizes[at] for at in moving))


def _compute_s(
    job: Job, layer: PlacedLayer, boxes: Callable[[Layout], Boxes]
) -> tuple[Floats, Floats, Floats]:
    """Return the seconds of the three passes on every rank; ranks with blocks of the same shapes are asked once."""
    place = layer.placement
    found, known = np.zeros((len(PASSES), layer.scheme.grid.size)), dict[bytes, Floats]()
    shapes = np.concatenate([boxes(a).extents for a in (*place.needs, place.raw, *place.kept)], axis=1)
    for part, shape in enumerate(shapes):
        key, rank = shape.tobytes(), layer.scheme.first + part
        if key not in known:
            known[key] = np.array([pass_seconds(layer, rank, job.machine, p) for p in PASSES])
        found[:, part] = known[key]
    return found[0], found[1], found[2]


def _masked_s(job: Job, relu: PlacedLayer, boxes: Callable[[Layout], Boxes]) -> Floats:
    """Return what masking a gradient for a ReLU takes on every rank, as `cost.compute.masked_seconds` has it."""
    return np.maximum(_compute_s(job, relu, boxes)[1] - job.machine.layer_s, 0.0)


def _inside(
    job: Job, layer: PlacedLayer, links: Links, boxes: Callable[[Layout], Boxes]
) -> Iterator[tuple[list[Lane], list[Lane]]]:
    """Yield what moves within a layer in a pass: forward, backward."""
    place = layer.placement
    moves = [
        (1, place.raw, place.out),
        *((i.times, i.exchange.source, i.exchange.target) for i in place.inner),
    ]
    for times, source, target in moves:
        found = movement(links, boxes(source), boxes(target), job.itemsize) if source != target else None
        if found and found.forward:
            yield _repeated(found.forward, times), _repeated(found.backward, times)
    axes = [a for a in layer.scheme.grid.used if a in place.statistics]
    if not axes:
        return
    groups, extents = grid_groups(layer.scheme, axes), boxes(place.needs[0]).extents
    there = [
        lane
        for nbytes in _statistics(layer.node.spec, extents[groups[:, 0]], job.itemsize)
        for lane in among(links, "allreduce", groups, layer.scheme.first, nbytes)
    ]
    if there:
        yield there, [] if isinstance(layer.node.spec, s.LOSSES) else there


def _statistics(spec: s.LayerSpec, blocks: Longs, itemsize: int) -> list[list[float]]:
    """Return the bytes of each sum of a pass, by group; `blocks` (groups, dims) are the block shapes."""
    if isinstance(spec, s.BatchNorm):  # two sums a channel
        return [list(2.0 * STATISTIC_BYTES * blocks[:, 1])]
    if isinstance(spec, s.LayerNorm):  # two a sample
        return [list(2.0 * STATISTIC_BYTES * blocks[:, 0])]
    positions = blocks[:, 0] * blocks[:, 2:].prod(axis=1)
    # The largest logit; then the sum of exponentials, the picked logit and a plain sum.
    return [list(float(itemsize) * positions), list(3.0 * STATISTIC_BYTES * positions)]


def _gradients(
    job: Job, layer: PlacedLayer, links: Links, boxes: Callable[[Layout], Boxes], bucket_bytes: int
) -> Iterator[Lane]:
    """Yield the sums of weight gradients over the ranks that share a block (Gholami et al. 2018, Eq. 8)."""
    for parameter in layer.placement.parameters:
        groups = grid_groups(layer.scheme, parameter.layout.uncut)
        if not parameter.owed or groups.shape[1] < 2:
            continue
        nbytes = boxes(parameter.layout).volumes[groups[:, 0]] * job.itemsize
        for group, size in zip(groups, nbytes.tolist(), strict=True):
            bucket = max(size, bucket_bytes)
            yield from among(
                links, "allreduce", group[None], layer.scheme.first, [float(bucket)], size / bucket
            )


def _carried(lane: Lane, ranks: Longs, share: float) -> Lane:
    """Return a collective that keeps its ranks busy, too, for a share of its seconds."""
    if not share:
        return lane
    own = np.full(len(lane.targets), share * lane.seconds.max())
    return lane._replace(
        links=np.concatenate([lane.links, ranks[lane.targets]]), seconds=np.concatenate([lane.seconds, own])
    )


def _repeated(lanes: Sequence[Lane], times: int) -> list[Lane]:
    return [lane._replace(seconds=times * lane.seconds) for lane in lanes]
