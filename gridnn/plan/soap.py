"""Search by random walk in the space of SOAP: grids on subsets of ranks, priced by the simulator.

SOAP is sample, operator, attribute and parameter of Jia, Zaharia and Aiken 2019.  S, A and P are axes of a grid; O is
the first rank, by which layers that do not wait for each other stand beside each other:

    4 ranks        left branch "n2"  "k2"         on 0 1          candidates of a layer: every grid at
                   right branch "n2 @2"           on     2 3      every multiple of its size

What moves together, and how often each candidate is proposed, is `units`'; the walk is `mcmc`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network.placed import place_network
from gridnn.plan.mcmc import Choice, Found, Moves, search
from gridnn.plan.problem import Job
from gridnn.plan.simulate.build import program_of, simulate_plan
from gridnn.plan.simulate.graph import Segments
from gridnn.plan.simulate.simulator import Simulator
from gridnn.plan.simulate.timeline import Timeline, timeline
from gridnn.plan.simulate.wiring import wiring_of
from gridnn.plan.units import Candidates, Schemes, candidates_of, units_of


@dataclass(frozen=True, eq=False)
class Walked:
    """What a search found.

    Attributes
    ----------
    schemes, step_s
        The best plan and its simulated seconds.
    starts_s
        Simulated seconds of each start that was given, pins obeyed.
    walk : Found
        Acceptance, best-so-far curve, proposals; its choices are of units.
    timeline
        Of the best plan.
    """

    schemes: dict[str, Scheme]
    step_s: float
    starts_s: tuple[float, ...]
    walk: Found
    timeline: Timeline


def mcmc_search(
    job: Job,
    starts: Sequence[Schemes],
    seed: int,
    *,
    proposals: int | None = None,
    seconds: float | None = None,
    pins: Schemes | None = None,
    random_starts: int = 0,
) -> Walked:
    """Return the best plan that random walks from several starts visit.

    Parameters
    ----------
    starts
        A scheme for every layer; pins are put in their place.
    seed
        Of all that is drawn: with a budget of proposals alone, the same seed gives the same walk.
    proposals, seconds
        Budget of each start; see `mcmc.search`.
    pins
        The one scheme of layers that are not to be chosen.
    random_starts
        More starts, drawn evenly from the candidates.

    Raises
    ------
    InputError
        If a pin names no layer, a start or a pin is no plan of the job, or there is no start or budget.
    """
    pins = pins or {}
    names = [node.name for node in job.network.nodes]
    if unknown := sorted(set(pins) - set(names)):
        raise InputError(
            f"pin {unknown[0]}: network {job.network.name} has no such layer; known: {', '.join(names)}"
        )
    starts = [{**start, **pins} for start in starts]
    for start in starts:
        place_network(job.network, start, job.per_pass, job.procs)  # refuses what is no plan
    leaders = units_of(job, starts, pins)
    candidates = candidates_of(job, leaders, starts, pins)
    walks = _Walks(job, leaders, candidates)
    moves = Moves(
        [len(candidates[u].schemes) for u in walks.units], [candidates[u].weights for u in walks.units]
    )
    walk = search(
        walks.at, moves, [walks.choice(start) for start in starts], np.random.default_rng(seed),
        random_starts=random_starts, proposals=proposals, seconds=seconds,
    )  # fmt: skip
    # Each as a plan of its own: where a start's ReLU happens to stand on its producer's scheme, it is free only there.
    plans = [*starts, walks.schemes(walk.choice)]
    simulated = [simulate_plan(job, plan) for plan in plans]
    best = min(reversed(range(len(plans))), key=lambda at: simulated[at].cost_s)
    starts_s = tuple(simulator.cost_s for simulator in simulated[:-1])
    return Walked(dict(plans[best]), simulated[best].cost_s, starts_s, walk, timeline(simulated[best]))


class _Walks:
    """Walks over the choices of units; all of them share one program and what is known of it."""

    def __init__(self, job: Job, leaders: Sequence[int], candidates: Mapping[int, Candidates]) -> None:
        self.job, self.units = job, list(candidates)
        self.members = [[i for i, leader in enumerate(leaders) if leader == unit] for unit in self.units]
        self.rows = [candidates[leader].schemes for leader in leaders]
        self.counts = [len(row) for row in self.rows]
        self.unit_of = [self.units.index(leader) for leader in leaders]
        self.wiring = wiring_of(job.network)
        self.program = program_of(job, self.rows, leaders)
        self.segments = Segments(self.program)

    def at(self, choice: Choice) -> _Walk:
        """Return a walker at a choice."""
        return _Walk(self, choice)

    def choice(self, schemes: Schemes) -> Choice:
        """Return the choice that a plan is."""
        return tuple(self.rows[unit].index(schemes[self.job.network.nodes[unit].name]) for unit in self.units)

    def schemes(self, choice: Choice) -> dict[str, Scheme]:
        """Return the plan that a choice is."""
        nodes = self.job.network.nodes
        return {node.name: self.rows[i][choice[self.unit_of[i]]] for i, node in enumerate(nodes)}


class _Walk:
    """A walker (`mcmc.Walker`): the simulator, moved a unit at a time."""

    def __init__(self, walks: _Walks, choice: Choice) -> None:
        self._walks, self.choice = walks, choice
        picks, wiring = [choice[unit] for unit in walks.unit_of], walks.wiring
        operations = range(len(wiring.operations))
        start = tuple(wiring.configuration(x, picks, walks.counts) for x in operations)
        self.simulator = Simulator(walks.program, start, segments=walks.segments)
        self._picks, self._next = picks, choice

    @property
    def cost_s(self) -> float:
        """Simulated seconds of a step."""
        return self.simulator.cost_s

    def propose(self, unit: int, pick: int, limit_s: float, /) -> float | None:
        """Return the seconds with another scheme for a unit; None if they are certain to exceed the limit."""
        members = self._walks.members[unit]
        self._next = (*self.choice[:unit], pick, *self.choice[unit + 1 :])
        picks = list(self._picks)
        for i in members:
            picks[i] = pick
        return self.simulator.propose_all(
            self._walks.wiring.change(members, picks, self._walks.counts), limit_s
        )

    def accept(self) -> None:
        """Move."""
        self.simulator.accept()
        self.choice = self._next
        self._picks = [self.choice[unit] for unit in self._walks.unit_of]

    def reject(self) -> None:
        """Stay."""
        self.simulator.reject()
