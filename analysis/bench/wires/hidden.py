"""How much of a movement a run hides behind its arithmetic, from the spans of two runs of one plan.

    comm.overlap = false    compute |=====|          |====|          wait 10:  what it takes when nothing hides it
    comm.overlap = true     compute |=====|====|     |                wait  4:  visible, so 6 of 10 are hidden

A rank that waits for one that came late waits in both runs.  So each movement of a layer is also looked at on the rank
that saw least of it, the one that came last: that is the movement alone.

    mean over ranks    rank 0 |====|wait 6|    rank 1 |=======|wait 2|    visible 4, of a movement and of a late rank
    least                                                                 visible 2, of the movement

`could` bounds what can be hidden, by the arithmetic that there is beside it:

| of            | beside it                                                                      |
|---------------|--------------------------------------------------------------------------------|
| gradient sums | the backward passes                                                            |
| halos         | of each layer its own: forward the layer, backward the gradient by its weights |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridnn.train.spans import Place, Spans

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Visible:
    """Seconds of a step, means over ranks unless said otherwise, medians over steps.

    Attributes
    ----------
    sums_s, halos_s
        Posting, awaiting and unpacking the sums of gradients, and halos.
    least_sums_s, least_halos_s
        The same, of each layer the rank that saw least.
    backward_s
        Arithmetic of the backward passes.
    beside_halos_s
        The part of `halos_s` for which each layer has arithmetic of its own to do meanwhile.
    """

    sums_s: float = 0.0
    halos_s: float = 0.0
    least_sums_s: float = 0.0
    least_halos_s: float = 0.0
    backward_s: float = 0.0
    beside_halos_s: float = 0.0


@dataclass(frozen=True)
class Hidden:
    """What one kind of movement takes alone, what is seen of it, and what arithmetic there is to hide it.

    `least_alone_s` and `least_visible_s` are of the rank that saw least of each layer's.
    """

    alone_s: float
    visible_s: float
    beside_s: float
    least_alone_s: float = 0.0
    least_visible_s: float = 0.0

    @property
    def share(self) -> float | None:
        """Hidden of what it takes alone; None where there is none."""
        return None if self.alone_s <= 0 else 1 - self.visible_s / self.alone_s

    @property
    def least_share(self) -> float | None:
        """The same without the waits for a late rank."""
        return None if self.least_alone_s <= 0 else 1 - self.least_visible_s / self.least_alone_s

    @property
    def could(self) -> float | None:
        """The most of it that the arithmetic beside it can hide."""
        return None if self.alone_s <= 0 else min(1.0, self.beside_s / self.alone_s)


def visible(spans: Spans, warm: int) -> Visible:
    """Return the visible seconds of a run, its first `warm` steps left out."""
    steps = [step for step in spans.steps if step >= warm] or list(spans.steps)
    phases = [phase.removesuffix(" wait") for phase in spans.phases]

    ranks, at = max(1, len(spans.ranks)), np.unique(spans.rank, return_inverse=True)[1]

    def each(wanted: list[tuple[int, int]]) -> list[Floats]:
        """Return seconds of each step by place and rank."""
        which = np.zeros((len(spans.phases), len(spans.places)), bool)
        for phase, place in wanted:
            which[phase, place] = True
        found = []
        for step in steps:
            mine = which[spans.phase, spans.place] & (spans.step == step)
            table = np.zeros((len(spans.places), ranks))
            np.add.at(table, (spans.place[mine], at[mine]), spans.duration_ns[mine] * 1e-9)
            found.append(table)
        return found

    def seconds(wanted: list[tuple[int, int]]) -> float:
        return float(np.median([table.sum() / ranks for table in each(wanted)]))

    def least(wanted: list[tuple[int, int]]) -> float:
        there = np.zeros((len(spans.places), ranks), bool)
        there[spans.place, at] = True
        return float(np.median([
            np.where(there, table, np.inf).min(axis=1)[there.any(axis=1)].sum()
            for table in each(wanted)
        ]))  # fmt: skip

    every = [(i, j) for i in range(len(spans.phases)) for j in range(len(spans.places))]
    summed = [
        (i, j) for i, j in every if phases[i] == "allreduce" and spans.places[j].direction == "backward"
    ]
    computed = [(i, j) for i, j in every if phases[i] == "compute"]
    back = [(i, j) for i, j in computed if spans.places[j].direction in ("backward", "weights")]
    halos = [(i, j) for i, j in every if phases[i] == "halo"]
    covered_s = 0.0
    for layers, direction in dict.fromkeys(spans.places[j] for _, j in halos):
        beside = Place(layers, "forward" if direction == "forward" else "weights")
        covered_s += min(
            seconds([(i, j) for i, j in halos if spans.places[j] == (layers, direction)]),
            seconds([(i, j) for i, j in computed if spans.places[j] == beside]),
        )
    moved = seconds(summed), seconds(halos), least(summed), least(halos)
    return Visible(*moved, seconds(back), covered_s)


def hidden_sums(with_overlap: Visible, apart: Visible) -> Hidden:
    """Return what is hidden of the sums of gradients; backward is beside them."""
    return Hidden(
        apart.sums_s, with_overlap.sums_s, apart.backward_s, apart.least_sums_s, with_overlap.least_sums_s
    )


def hidden_halos(with_overlap: Visible, apart: Visible) -> Hidden:
    """Return what is hidden of halos; beside each is arithmetic of its own layer."""
    return Hidden(
        apart.halos_s,
        with_overlap.halos_s,
        apart.beside_halos_s,
        apart.least_halos_s,
        with_overlap.least_halos_s,
    )
