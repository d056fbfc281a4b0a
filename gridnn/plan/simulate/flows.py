"""Movements between two layouts, and collectives within a layer, as groups of the simulator.

| pattern (as `Exchange.kind`)   | seconds of a rank                                   | at which port    |
|--------------------------------|-----------------------------------------------------|------------------|
| all-gather, reduce-scatter     | of the collective                                   | in, all members  |
| any other                      | alpha messages + beta bytes, by level, added up     | in, or out where |
|                                |                                                     | senders take     |
|                                |                                                     | longer           |

All pieces to a rank are one task, for its port takes them one after the other and its layer waits for all of them;
ranks with the same peers form one group.  So tasks grow with the ranks, not with the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.plan.simulate.boxes import Boxes, kind_of, overlaps
from gridnn.plan.simulate.links import Floats, Links
from gridnn.plan.simulate.program import LOCAL, Flow, Group
from gridnn.plan.simulate.segment import Longs


class Lane(NamedTuple):
    """A group in seconds: which parts are awaited, which wait, and how long each of its devices is busy."""

    sources: Longs
    targets: Longs
    links: Longs
    seconds: Floats


class Movement(NamedTuple):
    """What moves between two layouts: parts that keep data, and lanes for what is carried, either way."""

    kept: tuple[Longs, Longs]
    forward: tuple[Lane, ...]
    backward: tuple[Lane, ...]


def movement(links: Links, source: Boxes, target: Boxes, itemsize: int) -> Movement:
    """Return what moves from one layout to another, and back.

    Parameters
    ----------
    itemsize
        Bytes of an element.
    """
    shared = overlaps(source, target)
    apart = source.ranks[:, None] != target.ranks
    kept = np.nonzero((shared > 0) & ~apart)
    if not ((shared > 0) & apart).any():
        return Movement((kept[0], kept[1]), (), ())
    return Movement(
        (kept[0], kept[1]),
        tuple(_lanes(links, source, target, shared, itemsize)),
        tuple(_lanes(links, target, source, shared.T, itemsize)),
    )


def among(
    links: Links, kind: str, groups: Longs, first: int, nbytes: Sequence[float], times: float = 1.0
) -> list[Lane]:
    """Return one collective within a layer, made `times` times.

    Parameters
    ----------
    groups : (groups, members)
        Parts of each group; their world ranks are `first` more.
    nbytes
        Of the buffer of each group.
    """
    lanes = []
    for parts, size in zip(groups, nbytes, strict=True):
        seconds = times * links.collective_s(kind, first + parts, size) if len(parts) > 1 else 0.0
        if seconds:
            lanes.append(Lane(parts, parts, *_collective(links, first + parts, first + parts, seconds)))
    return lanes


def worst_s(lanes: Sequence[Lane]) -> float:
    """Return the seconds of a movement on an idle machine: those of its busiest device."""
    links = np.concatenate([np.zeros(1, np.int64), *(lane.links for lane in lanes)])
    seconds = np.concatenate([np.zeros(1), *(lane.seconds for lane in lanes)])
    return float(np.bincount(links, seconds).max())


def groups_of(lanes: Sequence[Lane], factor: float = 1.0) -> tuple[Group, ...]:
    """Return lanes as groups, their seconds times a factor."""
    return tuple(Group(s, t, links, nanoseconds(factor * seconds)) for s, t, links, seconds in lanes)


def flow_of(kept: tuple[Longs, Longs], lanes: Sequence[Lane], factor: float = 1.0) -> Flow:
    """Return what moves in one direction."""
    source, target = kept
    links = np.full(len(source), LOCAL)
    return Flow(source, target, links, np.zeros(len(source), np.int64), groups_of(lanes, factor))


def nanoseconds(seconds: Floats) -> Longs:
    """Return seconds as whole nanoseconds."""
    return np.rint(1e9 * seconds).astype(np.int64)


def _lanes(links: Links, source: Boxes, target: Boxes, shared: Longs, itemsize: int) -> Iterator[Lane]:
    """Yield what is carried from a source to a target."""
    carried = shared * (source.ranks[:, None] != target.ranks) * itemsize
    kind = kind_of(source, target, shared)
    if kind != "other":
        full = target if kind == "allgather" else source
        for sources, targets in _alike(shared, carried.any(axis=0)):
            ranks = np.union1d(source.ranks[sources], target.ranks[targets])
            nbytes = full.volumes[targets[0] if full is target else sources[0]] * itemsize
            seconds = links.collective_s(kind, ranks, float(nbytes))
            yield Lane(sources, targets, *_collective(links, target.ranks[targets], ranks, seconds))
        return
    level = links.levels(source.ranks, target.ranks)
    into, out_of = _ends(links, carried, level, target.ranks), _ends(links, carried.T, level.T, source.ranks)
    if out_of.port_s.max() > into.port_s.max():
        for targets, senders in _alike(shared.T, out_of.port_s > 0):
            others = (
                targets[target.ranks[targets] != source.ranks[senders[0]]] if len(senders) == 1 else targets
            )
            yield Lane(senders, others, *_busy(links, out_of, senders, True))
        return
    for sources, takers in _alike(shared, into.port_s > 0):
        others = sources[source.ranks[sources] != target.ranks[takers[0]]] if len(takers) == 1 else sources
        yield Lane(others, takers, *_busy(links, into, takers, False))


class _Ends(NamedTuple):
    """The ends of pieces at one side: ranks (R,), how long their ports are busy, and their streams by shared level."""

    ranks: Longs
    port_s: Floats
    stream_s: dict[int, Floats]


def _ends(links: Links, carried: Longs, level: Longs, ranks: Longs) -> _Ends:
    """Return the seconds of each of `ranks`, the columns of `carried` (bytes)."""
    port_s, stream_s = np.zeros(len(ranks)), dict[int, Floats]()
    for at, here in enumerate(links.machine.levels):
        across = carried * (level == at)
        nbytes, beta = across.sum(axis=0), np.full(len(ranks), here.beta_s_per_byte)
        if at in links.shared:
            # Who shares a stream in this movement takes turns: all of a unit, or as many as do talk.
            stream = links.streams(at, ranks, False)
            talking = np.bincount(stream, nbytes > 0)
            stream_s[at] = beta * nbytes
            beta = beta * np.maximum(1, talking[stream])
        port_s += here.alpha_s * (across > 0).sum(axis=0) + beta * nbytes
    return _Ends(ranks, port_s, stream_s)


def _busy(links: Links, ends: _Ends, some: Longs, outgoing: bool) -> tuple[Longs, Floats]:
    """Return the devices on which some of the ranks are, and how long."""
    ranks = ends.ranks[some]
    devices, seconds = [links.ports(ranks, outgoing)], [ends.port_s[some]]
    for level, busy in ends.stream_s.items():
        devices.append(links.streams(level, ranks, outgoing))
        seconds.append(busy[some])
    return _added(devices, seconds)


def _collective(links: Links, targets: Longs, ranks: Longs, seconds: float) -> tuple[Longs, Floats]:
    """Return the devices of a collective of `ranks` to `targets`: their ports, and of streams the members' share."""
    devices, busy = [links.ports(targets, False)], [np.full(len(targets), seconds)]
    for level in links.crossed(ranks):
        unit, count = links.machine.units[level - 1], links.machine.levels[level].links
        devices.append(links.streams(level, ranks, False))
        busy.append(np.full(len(ranks), seconds * count / min(unit, links.procs)))
    return _added(devices, busy)


def _added(devices: Sequence[Longs], seconds: Sequence[Floats]) -> tuple[Longs, Floats]:
    """Return each device that is busy once, and its seconds."""
    found = np.bincount(np.concatenate(devices), np.concatenate(seconds))
    used: Longs = np.flatnonzero(found).astype(np.int64)
    busy: Floats = found[used].astype(np.float64)
    return used, busy


def _alike(shared: Longs, wanted: NDArray[np.bool_]) -> Iterator[tuple[Longs, Longs]]:
    """Yield (rows, columns): sets of the wanted columns that overlap the same rows."""
    sets: dict[bytes, list[int]] = {}
    patterns = np.packbits(shared > 0, axis=0).T.copy()
    for column in np.flatnonzero(wanted).tolist():
        sets.setdefault(patterns[column].tobytes(), []).append(column)
    for columns in sets.values():
        yield np.flatnonzero(shared[:, columns[0]]), np.array(columns)
