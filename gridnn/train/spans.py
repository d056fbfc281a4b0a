"""Spans: where the time of some steps went on every rank, piece by piece, as it stands in ``spans.npz``.

    rank 0   |-- compute conv1 forward --|- halo conv2 -|-- compute conv2 forward --| ...
    rank 1   |-- compute conv1 forward ----|- halo wait conv2 ---|-- compute ...

A moment of a rank belongs to one span: the spans of a step add up to it.  Times are on the clock of rank 0.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import InputError

SPANS = "spans.npz"
SPANS_VERSION = 1
DIRECTIONS = ("forward", "backward", "weights", "update", "")
"""What a span is for.  Of ``compute``, "backward" is the gradient by a layer's input and "weights" that by its weights;
a movement has the direction it is counted under, so the sum of the weights' gradients is "backward"."""
_ARRAYS = {"rank": "i4", "step": "i4", "phase": "i4", "place": "i4", "start_ns": "i8", "duration_ns": "i8"}

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    AttributeError,
)  # what damage makes zipfile say


class Place(NamedTuple):
    """Which layers a span works for, and what on.

    The sum of a bucket is shared by several layers.  No layer has ``data``, ``update``, and what a rank does in a pass
    between its layers: giving on messages of others.
    """

    layers: tuple[str, ...]
    direction: str


@dataclass(frozen=True, eq=False)
class Spans:
    """Spans of some steps of some ranks.

    Attributes
    ----------
    ranks, hosts : tuple
        The ranks looked at, and where each ran.
    procs : int
        Ranks of the run.
    steps : tuple of int
        Steps looked at, counted from 0.
    offset_ns, uncertainty_ns : tuple of int
        Of each rank's clock against that of rank 0, already subtracted; half the shortest round trip.
    phases : tuple of str
        ``compute``, ``data``, a collective such as ``halo``, its ``halo wait``, or ``update``: all that is left.
    places : tuple of Place
    rank, step, phase, place : ndarray of int32
        Of every span; the last two count through `phases` and `places`.
    start_ns, duration_ns : ndarray of int64
        From the start of the first step on rank 0.
    """

    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    procs: int
    steps: tuple[int, ...]
    offset_ns: tuple[int, ...]
    uncertainty_ns: tuple[int, ...]
    phases: tuple[str, ...]
    places: tuple[Place, ...]
    rank: NDArray[np.int32]
    step: NDArray[np.int32]
    phase: NDArray[np.int32]
    place: NDArray[np.int32]
    start_ns: NDArray[np.int64]
    duration_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start_ns)


def shares(spans: Spans, what: Collection[tuple[str, Place]]) -> dict[int, float]:
    """Return by rank which part of its seconds has one of some phases at its place; ranks without spans are left out.

    Parameters
    ----------
    what
        Phases, each with the place that it is looked for at.
    """
    wanted = np.array([[(phase, place) in what for place in spans.places] for phase in spans.phases], bool)
    if not len(spans):
        return {}
    here = wanted[spans.phase, spans.place]
    ranks, at = np.unique(spans.rank, return_inverse=True)
    every, mine = (np.bincount(at, spans.duration_ns * keep, len(ranks)) for keep in (1, here))
    pairs = zip(ranks.tolist(), mine.tolist(), every.tolist(), strict=True)
    return {rank: part / whole for rank, part, whole in pairs if whole}


def write_spans(folder: Path, spans: Spans) -> None:
    """Write ``spans.npz`` into a run folder, whole or not at all."""
    about = {
        "spans_version": SPANS_VERSION, "ranks": spans.ranks, "hosts": spans.hosts, "procs": spans.procs,
        "steps": spans.steps, "offset_ns": spans.offset_ns, "uncertainty_ns": spans.uncertainty_ns,
        "phases": spans.phases, "places": [[list(p.layers), p.direction] for p in spans.places],
    }  # fmt: skip
    path, unfinished = folder / SPANS, folder / f"{SPANS}.part"
    arrays: dict[str, Any] = {name: getattr(spans, name) for name in _ARRAYS}
    with unfinished.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
    unfinished.replace(path)


def read_spans(folder: Path) -> Spans | None:
    """Return the spans of a run folder; None if the run kept none.

    Raises
    ------
    InputError
        If the file is damaged or of another version.
    """
    path = folder / SPANS
    if not path.exists():
        return None
    try:
        with path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = {name: file[name].astype(kind) for name, kind in _ARRAYS.items()}
        if about["spans_version"] != SPANS_VERSION:
            raise InputError(
                f"{path} has version {about['spans_version']}, this gridnn reads {SPANS_VERSION}; "
                "read it with the gridnn that wrote it"
            )
        spans = Spans(
            ranks=tuple(about["ranks"]), hosts=tuple(about["hosts"]), procs=int(about["procs"]),
            steps=tuple(about["steps"]), offset_ns=tuple(about["offset_ns"]),
            uncertainty_ns=tuple(about["uncertainty_ns"]), phases=tuple(about["phases"]),
            places=tuple(Place(tuple(layers), direction) for layers, direction in about["places"]),
            rank=arrays["rank"], step=arrays["step"], phase=arrays["phase"], place=arrays["place"],
            start_ns=arrays["start_ns"], duration_ns=arrays["duration_ns"],
        )  # fmt: skip
        good = all(a.shape == (len(spans),) for a in arrays.values()) and _within(spans)
    except (OSError, ValueError, KeyError, TypeError, EOFError, *_DAMAGED) as error:
        raise InputError(f"{path} cannot be read as spans of a run: {error}") from None
    if not good:
        raise InputError(f"{path} is damaged: its spans do not fit its names; run again, or remove the file")
    return spans


def _within(spans: Spans) -> bool:
    """Return whether every number names something, and time goes on."""
    ends = ((spans.phase, len(spans.phases)), (spans.place, len(spans.places)))
    named = all(not len(a) or (a.min() >= 0 and a.max() < n) for a, n in ends)
    known = np.isin(spans.rank, spans.ranks).all() and np.isin(spans.step, spans.steps).all()
    each = {len(a) for a in (spans.ranks, spans.hosts, spans.offset_ns, spans.uncertainty_ns)}
    return bool(named and known and len(each) == 1 and (spans.duration_ns >= 0).all())
