"""Seconds of a run by layer and by what was done for it, from its spans.

| spans                                     | counted under (layer, direction, what)                      |
|-------------------------------------------|-------------------------------------------------------------|
| ``compute`` of conv1, forward             | conv1, forward, compute                                     |
| ``halo`` and ``halo wait`` of conv1       | conv1, forward, halo: posting, waiting and unpacking        |
| ``allreduce wait`` of a bucket of fc, conv| fc and conv, backward, allreduce: by size of their gradients|
| ``update``, ``data``                      | "", "", update or data                                      |
| ``compute`` of no layer                   | "", "", compute: what lies between layers                   |

Of each there is a number for every rank and step.  What a rank waits for a message is seen by it; what is on its way
while the rank computes is not, so a movement that is hidden shows less than it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.train.spans import Spans

Floats = NDArray[np.float64]
WAIT = " wait"
OWN_WORK = ("compute", "update", "data")
"""Phases that move nothing."""


class Spent(NamedTuple):
    """What seconds were spent on; no layer for the work of none."""

    layer: str
    direction: str
    what: str


@dataclass(frozen=True, eq=False)
class Measured:
    """Seconds by what they were spent on.

    Attributes
    ----------
    ranks, steps
        Those looked at.
    seconds
        Arrays (ranks, steps).
    """

    ranks: tuple[int, ...]
    steps: tuple[int, ...]
    seconds: Mapping[Spent, Floats]

    def total(self, keys: Iterable[Spent]) -> Floats:
        """Return the seconds of several keys together; those never seen took none."""
        nothing = np.zeros((len(self.ranks), len(self.steps)))
        return sum((self.seconds[key] for key in keys if key in self.seconds), nothing)

    def slowest_s(self, *keys: Spent) -> float:
        """Return the seconds of the slowest rank of a step, the median over steps."""
        return float(np.median(self.total(keys).max(axis=0)))

    def mean_s(self, *keys: Spent) -> float:
        """Return the mean seconds of a rank in a step, the median over steps."""
        return float(np.median(self.total(keys).mean(axis=0)))

    def seen_s(self, *keys: Spent) -> float:
        """Return the mean seconds of a rank that took part, the median over steps; 0 if none did."""
        found = self._taking_part(keys)
        return float(np.median(found.mean(axis=0))) if len(found) else 0.0

    def least_s(self, *keys: Spent) -> float:
        """Return the seconds of the quickest rank that took part, the median over steps; 0 if none did."""
        found = self._taking_part(keys)
        return float(np.median(found.min(axis=0))) if len(found) else 0.0

    def _taking_part(self, keys: Iterable[Spent]) -> Floats:
        total = self.total(keys)
        found: Floats = total[(total > 0).any(axis=1)]
        return found

    def each_s(self, *keys: Spent) -> Floats:
        """Return the seconds of each rank (ranks,), medians over steps."""
        found: Floats = np.median(self.total(keys), axis=1)
        return found


def measure(spans: Spans, shares: Mapping[Spent, float]) -> Measured | None:
    """Return what the spans of a run say; None if there are none.

    Parameters
    ----------
    shares
        Weights by which the layers of a bucket share its seconds; equal where all are 0.
    """
    if not len(spans):
        return None
    pairs = spans.phase.astype(np.int64) * len(spans.places) + spans.place
    kinds, which = np.unique(pairs, return_inverse=True)
    ranks, at_rank = np.unique(spans.rank, return_inverse=True)
    steps, at_step = np.unique(spans.step, return_inverse=True)
    sums = np.zeros((len(kinds), len(ranks), len(steps)))
    np.add.at(sums, (which.reshape(-1), at_rank.reshape(-1), at_step.reshape(-1)), spans.duration_ns / 1e9)
    found: dict[Spent, Floats] = {}
    for kind, spent in zip(kinds.tolist(), sums, strict=True):
        phase, place = spans.phases[kind // len(spans.places)], spans.places[kind % len(spans.places)]
        what = phase.removesuffix(WAIT)
        keys = [Spent(layer, place.direction, what) for layer in place.layers] or [Spent("", "", what)]
        weights = np.array([shares.get(key, 0.0) for key in keys])
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(keys), 1 / len(keys))
        for key, weight in zip(keys, weights.tolist(), strict=True):
            found[key] = found.get(key, np.zeros_like(spent)) + weight * spent
    return Measured(tuple(ranks.tolist()), tuple(steps.tolist()), found)
