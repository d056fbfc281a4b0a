"""The job of a plan: what is to be trained on what."""

from __future__ import annotations

from dataclasses import dataclass

from gridnn.cost.machine import Machine
from gridnn.cost.patterns import sketches_of
from gridnn.cost.tables import CostTables
from gridnn.errors import InputError
from gridnn.geometry.traffic import Widths
from gridnn.network.graph import Network

Degrees = tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What is to be planned.

    Attributes
    ----------
    batch
        Samples in a step, in `passes` of the same number or of one less.
    itemsize
        Bytes of an element of parameters and sums.
    states
        Arrays of optimizer state a parameter.
    activation_bytes
        Of an element of the arrays between layers; 0: as of parameters.
    """

    network: Network
    machine: Machine
    procs: int
    batch: int
    passes: int = 1
    itemsize: int = 4
    states: int = 1
    activation_bytes: int = 0

    def __post_init__(self) -> None:
        if self.procs < 1:
            raise InputError(f"{self.procs} processes: a plan needs at least 1; give --procs 1 or more")
        if self.passes < 1 or self.batch < self.passes:
            raise InputError(f"batch {self.batch} in {self.passes} passes: each needs a sample at least")
        object.__setattr__(
            self, "machine", self.machine.at(self.widths)
        )  # its rates are those of these widths

    @property
    def per_pass(self) -> int:
        """Samples in one pass, the largest."""
        return -(-self.batch // self.passes)

    @property
    def widths(self) -> Widths:
        """Bytes of elements, by what they are for."""
        return Widths(self.activation_bytes or self.itemsize, self.itemsize)

    def tables(self) -> CostTables:
        """Return the cost tables of the job; what shapes decide they share with all jobs of the network."""
        return CostTables(
            self.machine, self.per_pass, self.procs, self.widths, passes=self.passes, states=self.states,
            sketches=sketches_of(self.network.name),
        )  # fmt: skip
