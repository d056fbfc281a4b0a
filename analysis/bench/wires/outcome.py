"""What is kept of a measured plan, and of PyTorch; several turns of one add up."""

from __future__ import annotations

import statistics
from dataclasses import astuple, dataclass, replace

from hidden import Visible


@dataclass(frozen=True)
class Outcome:
    """A plan, measured and predicted; outcomes of several turns add up.

    Attributes
    ----------
    steps_s
        Measured, of all turns.
    predicted_s, apart_s
        Seconds of a step that hides what a run can hide, and of one that hides nothing.
    counted_bytes, predicted_bytes, wire_bytes
        Of all turns and hosts.
    seen
        What was visible in each turn.
    """

    name: str
    steps_s: tuple[float, ...]
    predicted_s: float
    apart_s: float
    counted_bytes: int
    predicted_bytes: int
    wire_bytes: int
    seen: tuple[Visible, ...]

    def __add__(self, other: Outcome) -> Outcome:
        return replace(
            self, steps_s=self.steps_s + other.steps_s, counted_bytes=self.counted_bytes + other.counted_bytes,
            predicted_bytes=self.predicted_bytes + other.predicted_bytes, wire_bytes=self.wire_bytes + other.wire_bytes,
            seen=self.seen + other.seen,
        )  # fmt: skip

    @property
    def measured_s(self) -> float:
        """Median of the steps."""
        return statistics.median(self.steps_s)

    @property
    def turns_s(self) -> tuple[float, ...]:
        """Median of the steps of each turn."""
        count = len(self.steps_s) // len(self.seen)
        return tuple(
            statistics.median(self.steps_s[i : i + count]) for i in range(0, count * len(self.seen), count)
        )

    @property
    def quickest_s(self) -> float:
        """The step that was disturbed least: on shared cores some are slowed by who else is on the machine."""
        return min(self.steps_s)

    @property
    def slowest_s(self) -> float:
        """The step that was disturbed most."""
        return max(self.steps_s)

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted_s / self.measured_s - 1

    @property
    def visible(self) -> Visible:
        """Mean of the turns."""
        return Visible(*(statistics.mean(numbers) for numbers in zip(*map(astuple, self.seen), strict=True)))


@dataclass(frozen=True)
class Peer:
    """PyTorch in one layout: steps of all turns, wire bytes of all hosts and steps (warm ones too), its version."""

    layout: str
    steps_s: tuple[float, ...]
    wire_bytes: int
    made_steps: int
    version: str

    def __add__(self, other: Peer) -> Peer:
        return replace(
            self, steps_s=self.steps_s + other.steps_s, wire_bytes=self.wire_bytes + other.wire_bytes,
            made_steps=self.made_steps + other.made_steps,
        )  # fmt: skip

    @property
    def measured_s(self) -> float:
        """Median of the steps."""
        return statistics.median(self.steps_s)
