"""What a plan costs layer by layer: by a run's own traffic where that can be counted, by a search's tables above.

| processes       | seconds                             | bytes, the busiest rank's                                 |
|-----------------|-------------------------------------|-----------------------------------------------------------|
| up to 16        | `price_plan`, every rank            | exact: the ledger of a run says the same                  |
| up to `PLACED`  | `price_plan`, some ranks            | exact for the ranks looked at                             |
| more            | the tables: additive only           | the tables on a machine where a byte takes a second and   |
|                 |                                     | all else nothing: an estimate                             |

The tables differ from a run in three things: a ReLU that its convolution computes has a price of its own, consumers of
one output that want it alike pay each, and the largest block stands for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gridnn.cost.grids import Grids
from gridnn.cost.memory import predict_memory
from gridnn.cost.price import price_plan, priced_ranks
from gridnn.cost.sampled.placed import placed_on
from gridnn.geometry.grid import Scheme
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.plan.problem import Degrees, Job, Problem

PLACED = 512
"""Processes up to which a plan is placed: 50 layers take some seconds there."""
SIMULATED = 256
"""Processes up to which a step is simulated: its tasks are some for each layer and process."""


@dataclass(frozen=True)
class LayerOutcome:
    """A layer in its plan: seconds of a step of the slowest rank, what it moves on the way in included."""

    name: str
    scheme: Scheme
    compute_s: float
    comm_s: float


@dataclass(frozen=True)
class Outcome:
    """A plan's price.

    Attributes
    ----------
    overlapped_s
        Seconds of a step that hides what a run can hide; None above `PLACED` processes.
    received_bytes, memory_bytes
        Of the rank that receives most, and of the one that needs most.
    exact
        True where bytes are those of a run, False where they are estimated.
    pipelined_s
        Seconds of a step of stages that work at the same time; None without stages.
    """

    layers: tuple[LayerOutcome, ...]
    overlapped_s: float | None
    received_bytes: int
    memory_bytes: int
    exact: bool
    pipelined_s: float | None = None

    @property
    def compute_s(self) -> float:
        """Seconds a step computes, added over layers."""
        return sum(layer.compute_s for layer in self.layers)

    @property
    def comm_s(self) -> float:
        """Seconds a step communicates, added over layers."""
        return sum(layer.comm_s for layer in self.layers)

    @property
    def step_s(self) -> float:
        """Seconds of a step: of stages simulated, else one layer after the other."""
        return self.compute_s + self.comm_s if self.pipelined_s is None else self.pipelined_s


def outcome(job: Job, schemes: Mapping[str, Scheme], placed: PlacedNetwork | None = None) -> Outcome:
    """Return what a plan costs.

    Parameters
    ----------
    placed
        The network placed by the schemes, where it is known.

    Raises
    ------
    InputError
        If a scheme does not fit the job.
    """
    if job.procs > PLACED:
        return estimate(job, schemes)
    asked = job.network, schemes, job.per_pass, job.procs
    placed = placed or placed_on(*asked, priced_ranks(job.procs)) or place_network(*asked)
    price = price_plan(placed, job.machine, job.widths, job.passes, states=job.states)
    memory = max(predict_memory(placed, rank, job.widths, job.states).total_bytes for rank in price.ranks)
    layers = tuple(LayerOutcome(p.name, schemes[p.name], p.compute_s, p.comm_s) for p in price.layers)
    return Outcome(layers, price.overlapped_s, price.received_bytes, memory, exact=True)


def estimate(job: Job, schemes: Mapping[str, Scheme]) -> Outcome:
    """Return what a plan costs by the tables of a search; first ranks are taken as 0."""
    problem = _problem(job, schemes)
    comm_s, moved = _comm(problem), _comm(_problem(replace(job, machine=job.machine.only_bytes()), schemes))
    layers = tuple(
        LayerOutcome(node.name, schemes[node.name], float(layer.compute_s[0]), seconds)
        for node, layer, seconds in zip(problem.nodes, problem.layers, comm_s, strict=True)
    )
    memory = sum(float(layer.memory_bytes[0]) for layer in problem.layers)
    return Outcome(layers, None, round(sum(moved)), round(memory), exact=False)


def _problem(job: Job, schemes: Mapping[str, Scheme]) -> Problem:
    """Return the problem in which every layer has one candidate."""
    shared: dict[Degrees, Grids] = {}
    sizes = [schemes[node.name].grid.sizes for node in job.network.nodes]
    return Problem(job, [shared.setdefault(s, Grids(np.array([s], dtype=np.int64))) for s in sizes])


def _comm(problem: Problem) -> list[float]:
    """Return the seconds each layer communicates, its inputs included."""
    found = [float((x.settle_s + x.statistics_s + x.gradients_s)[0]) for x in problem.layers]
    for producer, consumer, number in problem.edges:
        found[consumer] += float(problem.edge(producer, consumer, number)[0, 0])
    return found
