"""The random walk: where it spends its time, what a search from several starts returns, what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice, product
from math import inf

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.plan.mcmc import Choice, Found, Moves, chain, default_beta, search
from gridnn.plan.simulate.simulator import Simulator
from tests.plan.programs import random_choice, random_program

SIZES = (4, 6, 3)
BETA = 2.0
STEPS = 50_000
SKEWED = [[1, 2, 3, 8], [9, 1, 1, 2, 4, 1], [1, 5, 1]]


class Table:
    """A walker on a table of costs; gives up at the limit where it is told to."""

    def __init__(self, costs: np.ndarray, choice: Choice, gives_up: bool = True) -> None:
        self.costs, self.choice, self.gives_up, self.asked = costs, choice, gives_up, 0

    @property
    def cost_s(self) -> float:
        return float(self.costs[self.choice])

    def propose(self, operation: int, configuration: int, limit_s: float = inf) -> float | None:
        self.asked += 1
        self.next = (*self.choice[:operation], configuration, *self.choice[operation + 1 :])
        cost = float(self.costs[self.next])
        return None if self.gives_up and cost > limit_s else cost

    def accept(self) -> None:
        self.choice = self.next

    def reject(self) -> None:
        pass


def random_costs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SIZES)


def distance(moves: Moves, costs: np.ndarray) -> float:
    """Total variation between the walk's visits and exp(-beta cost) / Z."""
    walker = Table(costs, (0, 0, 0))
    visits: Counter[Choice] = Counter()
    for _ in islice(chain(walker, moves, BETA, np.random.default_rng(0)), STEPS):
        visits[walker.choice] += 1
    weight = np.exp(-BETA * costs)
    wanted = weight / weight.sum()
    return 0.5 * sum(abs(visits[x] / STEPS - float(wanted[x])) for x in product(*map(range, SIZES)))


class NoFactor(Moves):
    def log_factor(self, operation: int, old: int, new: int) -> float:
        return 0.0


@pytest.mark.parametrize("weights", [None, SKEWED], ids=["even", "skewed"])
def test_visits_follow_the_costs(weights: Sequence[Sequence[float]] | None) -> None:
    assert distance(Moves(SIZES, weights), random_costs(1)) < 0.06


def test_without_hastings_factor_they_do_not() -> None:
    assert distance(NoFactor(SIZES, SKEWED), random_costs(1)) > 0.2


def test_giving_up_does_not_change_the_walk() -> None:
    """On a table, and on the simulator, where giving up also saves work."""
    costs = random_costs(2)
    walks = []
    for gives_up in (True, False):
        walker = Table(costs, (0, 0, 0), gives_up)
        steps = chain(walker, Moves(SIZES, SKEWED), 20.0, np.random.default_rng(3))
        walks.append([(step.cost_s, step.moved, walker.choice) for step in islice(steps, 3000)])
    assert walks[0] == walks[1] and len({x for _, _, x in walks[0]}) > 10

    class Patient(Simulator):
        def propose(self, operation: int, configuration: int, limit_s: float = inf) -> float | None:
            return super().propose(operation, configuration)

    program = random_program(4)
    start, curves = random_choice(program, np.random.default_rng(4)), []
    for kind in (Simulator, Patient):
        simulator = kind(program, start)
        beta = default_beta(simulator.cost_s, len(start))
        steps = chain(simulator, Moves(program.choices), beta, np.random.default_rng(4))
        curves.append([(step.cost_s, step.moved, simulator.choice) for step in islice(steps, 300)])
    assert curves[0] == curves[1] and sum(moved for _, moved, _ in curves[0]) > 10


def look(costs: np.ndarray, seed: int, **more: object) -> Found:
    return search(
        lambda x: Table(costs, x), Moves(SIZES), [(0, 0, 0), (3, 5, 2)], np.random.default_rng(seed),
        **{"random_starts": 2, "proposals": 400, **more},  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_search_finds_the_cheapest_and_says_how() -> None:
    costs = random_costs(5)
    found = look(costs, 5)
    assert found.cost_s == costs.min() == costs[found.choice]
    drops = [point.cost_s for point in found.curve]
    assert drops == sorted(drops, reverse=True) and drops[0] == costs[0, 0, 0] and drops[-1] == found.cost_s
    assert [p.proposal for p in found.curve] == sorted(p.proposal for p in found.curve)
    assert len(found.beta_per_s) == 4 and 0 < found.accepted < found.proposals <= 4 * 400
    assert found.acceptance == found.accepted / found.proposals and found.given_up > 0


def test_the_same_seed_walks_the_same_way() -> None:
    def facts(found: Found) -> tuple[object, ...]:
        curve = [(p.start, p.proposal, p.cost_s) for p in found.curve]
        return found.choice, found.proposals, found.accepted, found.given_up, curve

    costs = random_costs(6)
    assert facts(look(costs, 1)) == facts(look(costs, 1)) != facts(look(costs, 2))


def test_a_search_on_the_simulator_is_local_optimal_and_the_same_in_both_loops() -> None:
    program = random_program(8, operations=6, choices=3)
    found = [
        search(
            lambda x, plain=plain: Simulator(program, x, plain=plain),  # type: ignore[misc]
            Moves(program.choices), [(0,) * 6], np.random.default_rng(8), proposals=400,
        )
        for plain in (False, True)
    ]  # fmt: skip
    assert found[0].choice == found[1].choice and found[0].cost_s == found[1].cost_s
    best, known = found[0].choice, Simulator(program, found[0].choice).segments
    neighbours = {(*best[:i], a, *best[i + 1 :]) for i in range(6) for a in range(3)} - {best}
    assert len(neighbours) == 12
    assert found[0].cost_s <= min(Simulator(program, x, segments=known).cost_s for x in neighbours)


def test_a_start_ends_when_half_of_its_budget_brought_nothing() -> None:
    flat = np.ones(SIZES)
    found = look(flat, 0, random_starts=0, proposals=100)
    assert found.proposals == 2 * 51 and len(found.curve) == 1
    assert look(flat, 0, random_starts=0, proposals=0).proposals == 0


def test_seconds_end_a_search() -> None:
    assert look(random_costs(0), 0, proposals=None, seconds=0.02, random_starts=0).proposals > 0


def test_a_choice_that_cannot_be_is_left_and_never_entered() -> None:
    costs = random_costs(7)
    costs[0] = inf
    walker = Table(costs, (0, 0, 0))
    seen = [step.cost_s for step in islice(chain(walker, Moves(SIZES), 5.0, np.random.default_rng(0)), 2000)]
    first = next(at for at, cost in enumerate(seen) if cost < inf)
    assert all(cost < inf for cost in seen[first:])
    found = look(costs, 0)
    assert found.cost_s == costs.min()


def test_beta_of_nothing_accepts_every_even_proposal() -> None:
    steps = list(
        islice(chain(Table(random_costs(0), (0, 0, 0)), Moves((4, 6, 3)), 0.0, np.random.default_rng(0)), 500)
    )
    walker = Table(random_costs(0), (0, 0, 0))
    list(islice(chain(walker, Moves(SIZES), 0.0, np.random.default_rng(0)), 500))
    assert sum(step.moved for step in steps) == walker.asked and not any(step.given_up for step in steps)


@pytest.mark.parametrize(
    "bad", [[[1, 1], [1, 0]], [[1, 1]], [[1, 1], [1, inf]], [[1, 1], [1, 1, 1]], [[1, 1], [1, -1]]]
)
def test_weights_that_cannot_be_drawn_are_refused(bad: list[list[float]]) -> None:
    with pytest.raises(InputError, match="weight"):
        Moves((2, 2), bad)


def test_a_search_needs_a_start_and_a_budget() -> None:
    costs, rng = random_costs(0), np.random.default_rng(0)
    with pytest.raises(InputError, match="needs a start"):
        search(lambda x: Table(costs, x), Moves(SIZES), [], rng, proposals=1)
    with pytest.raises(InputError, match="needs a budget"):
        search(lambda x: Table(costs, x), Moves(SIZES), [(0, 0, 0)], rng)
