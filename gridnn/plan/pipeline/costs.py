"""What the stages of a pipelined plan cost: the numbers that partition and simulation work on."""

from __future__ import annotations

from typing import NamedTuple


class StageCost(NamedTuple):
    """A stage on its ranks, the slowest of them.

    Attributes
    ----------
    forward_s, backward_s
        Of one pass, what moves inside the stage included.
    update_s
        Of one step: sums of gradients that backward does not hide, and the update.
    weight_bytes
        Parameters, gradients and optimizer state.
    kept_bytes
        What one open pass keeps for backward.
    input_bytes
        What one pass takes from other stages or the data: all that a replay needs.
    worst_bytes
        Arrays alive at the worst moment of a pass, beside what it keeps for backward.
    spared_s
        Of `forward_s`, what a forward that is made again leaves out: outputs that only other stages read.
    """

    forward_s: float
    backward_s: float
    update_s: float
    weight_bytes: int
    kept_bytes: int
    input_bytes: int
    worst_bytes: int = 0
    spared_s: float = 0.0

    @property
    def replay_s(self) -> float:
        """Seconds of a forward that is made again."""
        return self.forward_s - self.spared_s


class Transfer(NamedTuple):
    """What one pass moves from a stage to a later one, and back: seconds on the slowest link, bytes of all ranks."""

    source: int
    target: int
    forward_s: float
    backward_s: float
    forward_bytes: int
    backward_bytes: int


class PipelineCost(NamedTuple):
    """All stages, in order, and all transfers between them.

    Attributes
    ----------
    overlap
        Share of a transfer that takes no time of the stages at its ends (`Machine.overlap`).
    """

    stages: tuple[StageCost, ...]
    transfers: tuple[Transfer, ...]
    overlap: float = 1.0


def carried(cost: PipelineCost, *, back: bool) -> PipelineCost:
    """Return the costs in which stages do their share of every transfer, each end as much: a pass sends and receives.

    Parameters
    ----------
    back
        Whether gradients go back.
    """
    if cost.overlap == 1.0:
        return cost
    there_s, back_s = ([0.0] * len(cost.stages) for _ in range(2))
    for move in cost.transfers:
        for end in move.source, move.target:
            there_s[end] += (1 - cost.overlap) * move.forward_s
            back_s[end] += (1 - cost.overlap) * move.backward_s * back
    stages = (  # what is made again is not sent again
        s._replace(forward_s=s.forward_s + f, spared_s=s.spared_s + f, backward_s=s.backward_s + b)
        for s, f, b in zip(cost.stages, there_s, back_s, strict=True)
    )
    transfers = (
        t._replace(forward_s=cost.overlap * t.forward_s, backward_s=cost.overlap * t.backward_s)
        for t in cost.transfers
    )
    return PipelineCost(tuple(stages), tuple(transfers))
