"""The simulator: a program in one choice of configurations, and what a change of it would bring.

    simulator = Simulator(program, choice)                   full simulation
    simulator.propose(op, configuration)                     delta simulation: the new seconds of a step
    simulator.accept()  or  simulator.reject()               a rejection leaves everything as it was

A proposal equals a full simulation of the new graph, bitwise: kernels/plan/simulate.c says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from gridnn.plan.simulate.graph import Segments, State, TaskGraph
from gridnn.plan.simulate.loop import FOREVER, Schedule, simulate_plain
from gridnn.plan.simulate.native import NativeLoop, library_path
from gridnn.plan.simulate.program import Program


class Work(NamedTuple):
    """What the last simulation did: tasks of its graph, and how many of them were simulated, not copied."""

    tasks: int
    updates: int


class Simulator:
    """A task graph, its schedule, and at most one proposal.

    Parameters
    ----------
    choice
        Configuration of each operation.
    plain
        Simulate in Python even where the compiled loop is there; every proposal is then a full simulation.
    segments
        Segments of the same program that another simulator made; they are used and added to.
    """

    def __init__(
        self,
        program: Program,
        choice: tuple[int, ...],
        *,
        plain: bool = False,
        segments: Segments | None = None,
    ) -> None:
        self.program = program
        self._graph = TaskGraph(program, choice, segments)
        self._native = None if plain or not library_path().exists() else _loaded(self._graph)
        self._now, self._next = Schedule(self._graph.slots), Schedule(self._graph.slots)
        self._proposal: tuple[State, list[int]] | None = None
        self.work = Work(0, 0)
        self._run(self._graph.state, self._now, FOREVER)

    @property
    def choice(self) -> tuple[int, ...]:
        """Configuration of each operation."""
        return self._graph.state.choice

    @property
    def makespan_ns(self) -> int:
        """Nanoseconds of a step."""
        return self._now.makespan_ns

    @property
    def cost_s(self) -> float:
        """Seconds of a step."""
        return self._now.makespan_ns / 1e9

    @property
    def segments(self) -> Segments:
        """What is known of the program's segments."""
        return self._graph.segments

    @property
    def state(self) -> tuple[TaskGraph, Schedule]:
        """The task graph and its schedule, to be read; see `timeline`."""
        return self._graph, self._now

    def propose(self, operation: int, configuration: int, limit_s: float = float("inf")) -> float | None:
        """Return the seconds of a step if an operation had another configuration.

        Parameters
        ----------
        limit_s
            Give up, and return None, once the step is certain to take longer.  Such a proposal can only be rejected.
        """
        return self.propose_all({operation: configuration}, limit_s)

    def propose_all(self, change: Mapping[int, int], limit_s: float = float("inf")) -> float | None:
        """Return the seconds of a step if several operations had other configurations; see `propose`."""
        assert self._proposal is None, "accept or reject the last proposal first"
        state, changed = self._graph.changed(change)
        self._proposal = state, changed
        # Never below the limit in floating point: who asked compares the exact result again.
        bound = ceil(min(limit_s * 1e9, 2.0**62)) + 1 if limit_s >= 0 else -1
        self._run(state, self._next, bound, (self._graph.state, self._now, changed))
        return None if self._next.over else self._next.makespan_ns / 1e9

    def accept(self) -> None:
        """Make the proposal the current state."""
        assert self._proposal is not None and not self._next.over, "no complete proposal to accept"
        self._graph.move_to(*self._proposal)
        self._now, self._next = self._next, self._now
        self._proposal = None

    def reject(self) -> None:
        """Forget the proposal."""
        assert self._proposal is not None, "no proposal to reject"
        self._graph.forget(*self._proposal)
        self._proposal = None

    def _run(
        self,
        state: State,
        out: Schedule,
        bound_ns: int,
        since: tuple[State, Schedule, list[int]] | None = None,
    ) -> None:
        for schedule in (self._now, self._next):
            if schedule.slots < self._graph.slots:
                schedule.grow(self._graph.slots)
        if self._native is None:
            simulate_plain(self._graph, state, out, bound_ns)
        else:
            self._native.simulate(state, out, bound_ns, since)
        self.work = Work(state.tasks, out.count - out.kept)
        assert out.over or out.count == state.tasks, "the task graph has a cycle"


def _loaded(graph: TaskGraph) -> NativeLoop | None:
    try:
        return NativeLoop(graph)
    except OSError:  # built for another processor or C library
        return None
