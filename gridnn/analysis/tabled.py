"""Plans by the tables of a search, many at once: estimates, where exact traffic would take too long.

The tables hold for all ranks together (sizes that are powers of two) or for twelve (others).  First ranks are taken
as 0, the largest block stands for all, and every consumer of an output pays for its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gridnn.analysis.cost import LayerCost, PlanCost
from gridnn.cost.grids import Grids
from gridnn.cost.moves import Floats
from gridnn.geometry.grid import Scheme
from gridnn.plan.job import Job
from gridnn.plan.problem import Problem

Plan = Mapping[str, Scheme]


def by_tables(job: Job, plans: Sequence[Plan], count_bytes: bool = True) -> list[PlanCost]:
    """Return what plans cost by the tables.

    Bytes are had from a machine on which a byte takes a second, which takes as long again; without `count_bytes` they
    are 0.
    """
    problem = _problem(job, plans)
    bare = _problem(replace(job, machine=job.machine.only_bytes()), plans) if count_bytes else problem
    ways_s = _edges(problem, len(plans))
    ways_bytes = _edges(bare, len(plans)) if count_bytes else ways_s
    found: list[list[LayerCost]] = [[] for _ in plans]
    for at, (x, y) in enumerate(zip(problem.layers, bare.layers, strict=True)):
        comm_s = x.settle_s + x.statistics_s + x.gradients_s + ways_s[at]
        received = (y.settle_s + y.statistics_s + y.gradients_s + ways_bytes[at]) * count_bytes
        for row, layers in enumerate(found):
            layers.append(
                LayerCost(
                    problem.nodes[at].name, float(x.compute_s[row]), float(comm_s[row]), float(x.gradients_s[row]),
                    None, round(float(received[row])), None, None, round(float(x.memory_bytes[row])),
                )
            )  # fmt: skip
    return [PlanCost(tuple(layers), None, sum(x.memory_bytes for x in layers), "tables") for layers in found]


def _problem(job: Job, plans: Sequence[Plan]) -> Problem:
    """Return the problem in which a layer's candidates are its grids in the plans."""
    shared: dict[bytes, Grids] = {}
    grids = []
    for node in job.network.nodes:
        rows = np.array([plan[node.name].grid.sizes for plan in plans], dtype=np.int64)
        grids.append(shared.setdefault(rows.tobytes(), Grids(rows)))
    return Problem(job, grids)


def _edges(problem: Problem, plans: int) -> list[Floats]:
    """Return the seconds of every layer's inputs, plan by plan."""
    found, known, same = [np.zeros(plans) for _ in problem.layers], dict[object, Floats](), np.arange(plans)
    for producer, consumer, number in problem.edges:
        made, used = problem.layers[producer], problem.layers[consumer]
        key = (id(made), id(used), number)
        if key not in known:
            known[key] = problem.tables.edge(made, used, number, same, same)
        found[consumer] = found[consumer] + known[key]
    return found
