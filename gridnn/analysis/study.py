"""Studies: a network on a machine, from which the job of any number of processes and batch is made.

A grid is asked for as a user writes it:

| text                                        | plan                                                             |
|---------------------------------------------|------------------------------------------------------------------|
| ``k16 n32``                                 | this grid for every layer                                        |
| ``data model owt fc-only uniform dynamic``  | what this method of the planner finds (`gridnn.plan.search`)     |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gridnn.cost.machine import Machine, load_machine
from gridnn.errors import InputError
from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.network.graph import Network
from gridnn.network.placed import check_scheme
from gridnn.network.source import Source, open_network
from gridnn.plan.baselines import BASELINES, candidates
from gridnn.plan.job import Job
from gridnn.plan.search import search

STRATEGIES = (*BASELINES, "dynamic")
"""Methods whose plan a study can ask for; "dynamic" is a grid for every layer."""


@dataclass(frozen=True)
class Study:
    """What is studied; `job` gives it processes.

    Attributes
    ----------
    batch
        Samples in a step.
    itemsize
        Bytes of an element.
    """

    network: Network
    machine: Machine
    batch: int
    passes: int = 1
    itemsize: int = 4
    states: int = 1

    def job(self, procs: int, batch: int | None = None) -> Job:
        """Return the job on `procs` processes, of another batch if one is given."""
        return Job(
            self.network, self.machine, procs, batch or self.batch, self.passes, self.itemsize, self.states
        )

    def on(self, machine: Machine) -> Study:
        """Return the study of another machine."""
        return replace(self, machine=machine)


def study(
    network: str | Source | Network,
    batch: int,
    machine: str | Machine = "cori-knl",
    *,
    passes: int = 1,
    itemsize: int = 4,
) -> Study:
    """Return a study of a network: the name of one in the zoo, the path of an ONNX file, or a network.

    Raises
    ------
    InputError
        If the network or the machine is not known.
    """
    found = Source(network) if isinstance(network, str) else network
    opened = open_network(found) if isinstance(found, Source) else found
    on = load_machine(machine) if isinstance(machine, str) else machine
    return Study(opened, on, batch, passes, itemsize)


def schemes_of(job: Job, grid: str = "data") -> Mapping[str, Scheme]:
    """Return the scheme of every layer, by a strategy's name or one grid for all.

    Raises
    ------
    InputError
        If it is neither, or the grid does not fit the job.
    """
    if grid in ("data", "model", "owt"):  # these are one plan each: there is nothing to search
        degrees = candidates(job)[grid][0]
        return {
            name: Scheme(GridShape.of(**dict(zip(AXES, sizes, strict=True))))
            for name, sizes in degrees.items()
        }
    if grid in STRATEGIES:
        return search(job, grid).schemes
    if grid[:1].isalpha() and not any(letter.isdigit() for letter in grid):
        raise InputError(
            f'grid "{grid}": write axes and sizes such as "k4 n8", or one of {", ".join(STRATEGIES)}'
        )
    shape = GridShape.parse(grid)
    if shape.size > job.procs:
        raise InputError(
            f'grid "{grid}" needs {shape.size} processes, there are {job.procs}; use a grid of {job.procs}'
        )
    scheme = Scheme(shape)
    for node in job.network.nodes:
        check_scheme(node.name, scheme, job.per_pass, job.procs)
    return {node.name: scheme for node in job.network.nodes}
