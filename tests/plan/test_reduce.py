"""The reduced search against the one that prices all pairs."""

from __future__ import annotations

import pytest

from gridnn.network import zoo
from gridnn.plan import reduce
from gridnn.plan.baselines import candidates
from gridnn.plan.exact.costgraph import cost_of
from gridnn.plan.exact.eliminate import cheapest
from gridnn.plan.problem import Job, Problem, space
from tests.cost.test_tables import RATES, TWO_LEVELS, plain, residual
from tests.plan.test_problem import turning

NETWORKS = {
    "residual": residual,
    "plain": plain,
    "resnet20": lambda: zoo.build("resnet20", (3, 32, 32), 10),
    "turning": turning,
    "nmt": lambda: zoo.build("nmt", (1, 16), 64, hidden=32, pieces=2),
    "unet": lambda: zoo.build("unet", (3, 32, 32), 2),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("machine", "procs"), [(RATES, 8), (TWO_LEVELS, 16), (TWO_LEVELS, 6)])
def test_it_finds_and_proves_the_optimum(monkeypatch, name, machine, procs):
    monkeypatch.setattr(reduce, "FIRST", 4)  # so that most of the optimum has to be promoted
    job = Job(NETWORKS[name](), machine, procs, 32)
    extra = [plan for plans in candidates(job).values() for plan in plans]
    grids = space(job, extra={n.name: [p[n.name] for p in extra] for n in job.network.nodes})
    problem = Problem(job, grids)
    found = reduce.reduced(problem, [problem.choice(plan) for plan in extra])
    best = cheapest(problem.graph)
    assert found.cost == pytest.approx(best.cost, rel=1e-12)
    assert cost_of(problem.graph, found.choice) == pytest.approx(best.cost, rel=1e-12)
    assert found.gap_s == 0.0
    assert found.candidates == sum(map(len, problem.costs))


def test_pairs_run_out_with_a_gap_that_holds(monkeypatch):
    monkeypatch.setattr(reduce, "FIRST", 2)
    job = Job(residual(), TWO_LEVELS, 16, 32)
    problem = Problem(job, space(job))
    found = reduce.reduced(problem, [], most_pairs=0)
    best = cheapest(problem.graph)
    assert found.lower <= best.cost <= found.cost
    assert found.active < found.candidates
