"""The verdict on a run that is stuck: who waits where, who does not, and whose fault it is.  Words only, no messages.

The first of these that is true is the cause:

| some ranks                                                    | what it is                                     |
|---------------------------------------------------------------|------------------------------------------------|
| say nothing                                                   | stopped, lost, or on the far side of a cut     |
| entered another movement under the same number than others    | a mismatch: their programs went different ways |
| are in no movement                                            | busy: slow, or in an endless loop              |
| never entered a movement that others wait in                  | late: they wait for something else             |
| (none of these)                                               | a message was lost                             |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from gridnn.comm.clock import Where
from gridnn.comm.trail import AT_END, Movement, Place, Ranks

_NAMES = {"allreduce": "all-reduce", "allgather": "all-gather", "reduce_scatter": "reduce-scatter"}
_LINES = 16  # of places, and of one stack
_CAUSES = 4  # that are told
_STACKS = 3  # of ranks that differ
_LAYERS = 3  # of a bucket that are named


class Cause(NamedTuple):
    """What one thinks is wrong, and the ranks whose stacks are worth reading."""

    words: str
    ranks: Ranks


def verdict(places: Sequence[Place], absent: Sequence[int], hosts: Sequence[str], limit_s: float) -> str:
    """Return the message about a run whose steps stopped.

    Parameters
    ----------
    places
        Where the ranks are that answered.
    absent
        Those that did not.
    hosts
        Name of the host of every rank.
    limit_s
        Seconds after which a run counts as stuck.
    """
    places = sorted(places, key=lambda place: place.rank)
    causes = (
        _absent(absent, hosts)
        or _mismatches(places)
        or _busy(places)
        or _late(places)
        or [Cause("all ranks wait in movements that all have entered: a message was lost", ())]
    )
    lines = [f"stuck: no step ended for {limit_s:g} s, all ranks are stopped"]
    lines += [f"cause: {cause.words}" for cause in causes[:_CAUSES]]
    if len(causes) > _CAUSES:
        lines.append(f"       and {len(causes) - _CAUSES} more like it")
    table = _table(places)
    lines += table[:_LINES] + ([f"  and {len(table) - _LINES} lines more"] if len(table) > _LINES else [])
    by_rank = {place.rank: place for place in places}
    culprits = dict.fromkeys(rank for cause in causes for rank in cause.ranks if rank in by_rank)
    for rank in list(culprits)[:_STACKS]:
        lines.append(f"stack of rank {rank}, innermost first:")
        lines += [f"    {line}" for line in by_rank[rank].stack[:_LINES]]
    lines.append(
        "if steps may take longer, raise comm.timeout_s; if ranks were lost, start again with --resume auto"
    )
    return "\n".join(lines)


def _absent(absent: Sequence[int], hosts: Sequence[str]) -> list[Cause]:
    if not absent:
        return []
    several = len(set(hosts)) > 1
    found = []
    for host, ranks in _grouped((hosts[rank] if several else "", rank) for rank in absent).items():
        does = "does" if len(ranks) == 1 else "do"
        where = f" on host {host}" if host else ""
        found.append(Cause(f"{ranks_text(ranks)}{where} {does} not answer: stopped, lost or cut off", ranks))
    return found


def _mismatches(places: Sequence[Place]) -> list[Cause]:
    """Compare what ranks say of the same number; of each set of ranks the first difference counts."""
    said: dict[tuple[Ranks, str, int], dict[tuple[str, Where], list[int]]] = {}
    for place in places:
        for movement in place.recent:
            kinds = said.setdefault((movement.ranks, movement.lane, movement.number), {})
            kinds.setdefault((movement.kind, movement.where), []).append(place.rank)
    causes, seen = [], set[Ranks]()
    for (ranks, _, number), kinds in sorted(said.items(), key=lambda item: item[0][2]):
        if len(kinds) > 1 and ranks not in seen:
            seen.add(ranks)
            parts = sorted(kinds.items(), key=lambda item: len(item[1]))  # the few first: the fault is theirs
            words = "; ".join(f"{ranks_text(who)} entered {movement_text(*what)}" for what, who in parts)
            culprits = tuple(parts[0][1])
            causes.append(Cause(f"mismatch in movement {number} of {ranks_text(ranks)}: {words}", culprits))
    return causes


def _busy(places: Sequence[Place]) -> list[Cause]:
    found = []
    for place in places:
        if place.inside is None and place.phase != AT_END:
            after = f", after {movement_text(*place.recent[-1][::3])}" if place.recent else ""
            words = f"rank {place.rank} is in no movement but at {_line(place)}{after}"
            found.append(Cause(words, (place.rank,)))
    return found


def _late(places: Sequence[Place]) -> list[Cause]:
    by_rank = {place.rank: place for place in places}
    waited: dict[Movement, list[int]] = {}
    for place in places:
        if place.inside is not None:
            waited.setdefault(place.inside, []).append(place.rank)
    found = []
    for movement, who in waited.items():
        late = tuple(
            rank
            for rank in movement.ranks
            if rank in by_rank and by_rank[rank].entered(movement.ranks, movement.lane) < movement.number
        )
        if late:
            has = "has" if len(late) == 1 else "have"
            words = f"{ranks_text(late)} {has} not entered {_numbered(movement)}, in which {ranks_text(who)} "
            found.append(Cause(words + ("waits" if len(who) == 1 else "wait"), late))
    return found


def _table(places: Sequence[Place]) -> list[str]:
    """Return a line for each place where ranks are, ranks at the same place together."""
    lines = []
    for where, ranks in _grouped((_place_text(place), place.rank) for place in places).items():
        words = f"waits{where[4:]}" if where.startswith("wait ") and len(ranks) == 1 else where
        lines.append(f"  {ranks_text(ranks)} {words}")
    return lines


def _place_text(place: Place) -> str:
    if place.phase == AT_END:
        return "wait at the end of the run"
    if place.inside is None:
        return f"at {_line(place)}" + (f" ({place.phase})" if place.phase else "")
    return f"wait in {_numbered(place.inside)}"


def _line(place: Place) -> str:
    """Return the innermost line of ours that a rank is at."""
    ours = (line for line in place.stack if line.startswith("gridnn/"))
    return next(ours, place.stack[0] if place.stack else "an unknown line")


def _numbered(movement: Movement) -> str:
    return f"{movement_text(movement.kind, movement.where)}, movement {movement.number} of {ranks_text(movement.ranks)}"


def movement_text(kind: str, where: Where) -> str:
    """Return a movement in words: ``all-reduce of fc6 backward``."""
    layers, direction = where
    named = ", ".join(layers[:_LAYERS]) + (
        f" and {len(layers) - _LAYERS} more" if len(layers) > _LAYERS else ""
    )
    return f"{_NAMES.get(kind, kind)} of {named} {direction}".rstrip()


def ranks_text(ranks: Iterable[int]) -> str:
    """Return ranks in words: ``rank 2``, ``ranks 0-3, 6``."""
    ordered, parts = sorted(ranks), []
    for _, run in groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0]):
        members = [rank for _, rank in run]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    shown = parts if len(parts) <= _LINES else [*parts[: _LINES - 1], "...", parts[-1]]
    return f"rank {parts[0]}" if len(ordered) == 1 else f"ranks {', '.join(shown)}"


def _grouped(pairs: Iterable[tuple[str, int]]) -> Mapping[str, Ranks]:
    found: dict[str, Ranks] = {}
    for words, rank in pairs:
        found[words] = (*found.get(words, ()), rank)
    return found
