"""Delta simulation equals full simulation, start and end of every task; a rejection leaves no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridnn.plan.simulate import simulator as module
from gridnn.plan.simulate.graph import Segments
from gridnn.plan.simulate.native import library_path
from gridnn.plan.simulate.simulator import Simulator
from tests.plan.programs import chain, random_choice, random_program

needs_library = pytest.mark.skipif(not library_path().exists(), reason="make kernels first")

Times = dict[int, tuple[int, int, int]]


def times(simulator: Simulator) -> Times:
    """Ready, start and end of every task by its key, which is the same in every graph of a choice."""
    graph, schedule = simulator.state
    order = schedule.order[: schedule.count]
    return dict(
        zip(graph.tasks["key"][order].tolist(), map(tuple, schedule.times[order].tolist()), strict=True)
    )


@needs_library
@pytest.mark.parametrize("block", range(10))
def test_delta_equals_full(block: int) -> None:
    """Over all blocks 1200 proposals on 40 random programs; half of them are accepted."""
    kept = 0
    for seed in range(4 * block, 4 * block + 4):
        program, rng = random_program(seed), np.random.default_rng(seed)
        simulator = Simulator(program, random_choice(program, rng))
        for number in range(30):
            operation = int(rng.integers(len(program.choices)))
            new = int(rng.integers(program.choices[operation]))
            before, cost = times(simulator), simulator.cost_s
            proposed = simulator.propose(operation, new)
            kept += simulator.work.tasks - simulator.work.updates
            neighbour = list(simulator.choice)
            neighbour[operation] = new
            # The oracle is now and then the plain loop on segments of its own, else another graph of the same segments.
            known = simulator.segments if number % 5 else None
            full = Simulator(program, tuple(neighbour), plain=known is None, segments=known)
            assert proposed == full.cost_s
            if number % 2:
                simulator.accept()
                assert times(simulator) == times(full) and simulator.choice == full.choice
            else:
                simulator.reject()
                assert times(simulator) == before and simulator.cost_s == cost
    assert kept > 0


@needs_library
def test_several_operations_at_once() -> None:
    program, rng = random_program(77), np.random.default_rng(77)
    simulator = Simulator(program, random_choice(program, rng))
    for _ in range(20):
        change = {int(i): int(rng.integers(5)) for i in rng.permutation(len(program.choices))[:3]}
        simulator.propose_all(change)
        simulator.accept()
        assert times(simulator) == times(Simulator(program, simulator.choice, plain=True))


@pytest.mark.parametrize("plain", [pytest.param(False, marks=needs_library), True])
def test_a_limit_gives_up_exactly_what_is_above_it(plain: bool) -> None:
    program, rng = random_program(5), np.random.default_rng(5)
    simulator = Simulator(program, random_choice(program, rng), plain=plain)
    saved = 0
    for _ in range(60):
        operation = int(rng.integers(len(program.choices)))
        new = int(rng.integers(program.choices[operation]))
        exact = simulator.propose(operation, new)
        simulator.reject()
        assert exact is not None
        for limit in (exact * 0.9, exact, exact * 1.1):
            found = simulator.propose(operation, new, limit)
            # One or two nanoseconds above the limit may still be computed to the end.
            assert found == exact if limit >= exact else found is None
            saved += simulator.work.updates < simulator.work.tasks and found is None
            if found is None:
                with pytest.raises(AssertionError, match="no complete proposal"):
                    simulator.accept()
            simulator.reject()
        for limit, above in ((-np.inf, True), (-1e300, True), (0.0, True), (1e300, False), (np.inf, False)):
            assert (simulator.propose(operation, new, limit) is None) == above
            simulator.reject()
    assert saved > 20


@needs_library
def test_slots_are_used_again() -> None:
    program, rng = random_program(3, operations=30), np.random.default_rng(3)
    simulator = Simulator(program, random_choice(program, rng))
    for number in range(300):
        simulator.propose(int(rng.integers(30)), int(rng.integers(5)))
        simulator.accept() if number % 2 else simulator.reject()
    graph, _ = simulator.state
    assert graph.slots < 8 * graph.state.tasks
    assert times(simulator) == times(Simulator(program, simulator.choice))


def test_segments_that_were_dropped_are_made_again() -> None:
    program, rng = random_program(9), np.random.default_rng(9)
    simulator = Simulator(program, random_choice(program, rng), segments=Segments(program, most_tasks=50))
    for _ in range(20):
        simulator.propose(int(rng.integers(14)), int(rng.integers(5)))
        simulator.accept()
    assert times(simulator) == times(Simulator(program, simulator.choice))


def test_without_the_library_python_does_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = random_program(1)
    choice = random_choice(program, np.random.default_rng(1))
    here = times(Simulator(program, choice))
    monkeypatch.setattr(module, "library_path", lambda: tmp_path / "none.so")
    bare = Simulator(program, choice)
    bare.propose(2, (choice[2] + 1) % 5)
    assert bare.work.tasks == bare.work.updates
    bare.reject()
    assert times(bare) == here


def test_one_proposal_at_a_time() -> None:
    simulator = Simulator(chain(), (0, 0, 1))
    with pytest.raises(AssertionError, match="no proposal"):
        simulator.reject()
    simulator.propose(1, 1)
    with pytest.raises(AssertionError, match="accept or reject"):
        simulator.propose(1, 1)
