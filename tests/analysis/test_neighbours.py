"""Where a plan is looked for: around those that are known, of other batches and numbers of processes too."""

from __future__ import annotations

import pytest

from gridnn.analysis.neighbours import around
from gridnn.analysis.sensitivity import sensitivity
from gridnn.analysis.strategies import choices
from gridnn.analysis.study import study
from gridnn.plan.job import Degrees

ALEXNET = study("alexnet", 512, "cori-knl")


def plan(grid: Degrees) -> dict[str, Degrees]:
    return {node.name: grid for node in ALEXNET.network.nodes}


def test_layers_with_the_same_candidates_share_them() -> None:
    job = ALEXNET.job(64)
    found = around(job, [plan((64, 1, 1, 1, 1, 1))], [plan((16, 2, 1, 1, 2, 1))], [2])
    rows = {id(grids): frozenset(map(tuple, grids.degrees.tolist())) for grids in found}
    assert len(set(rows.values())) == len(rows) < len(found)
    for node, grids in zip(job.network.nodes, found, strict=True):
        known = rows[id(grids)]
        assert (64, 1, 1, 1, 1, 1) in known, node.name
        assert all(64 % (n * k * c * d * h * w) == 0 for n, k, c, d, h, w in known)


def test_near_a_larger_batch_is_what_cuts_all_of_the_smaller_one() -> None:
    job = study("alexnet", 4, "cori-knl").job(16)
    found = around(job, [plan((4, 1, 1, 1, 1, 1))], [plan((16, 1, 1, 1, 1, 1))], [2])
    (first,) = {frozenset(map(tuple, g.degrees.tolist())) for g, n in zip(found, job.network.nodes, strict=True)
                if n.name == "conv2"}  # fmt: skip
    assert {(4, 1, 1, 1, 1, 1), (4, 4, 1, 1, 1, 1), (4, 1, 1, 1, 4, 1), (4, 2, 1, 1, 2, 1)} <= first
    assert max(n for n, *_ in first) <= 4


@pytest.mark.parametrize("batch", [16, 64, 2048, 8192])
def test_a_series_outwards_finds_what_each_job_alone_finds(batch: int) -> None:
    job = ALEXNET.job(64)
    near = [choices(job, ["dynamic"])["dynamic"].degrees]
    table = sensitivity(ALEXNET, 64, "batch", [16, 64, 512, 2048, 8192], ["dynamic"], near=near)
    rows = {row["batch"]: row["step_s"] for row in table.records()}
    alone = choices(ALEXNET.job(64, batch), ["dynamic"])["dynamic"].step_s
    assert list(rows) == [16, 64, 512, 2048, 8192]
    assert rows[batch] == pytest.approx(alone, rel=0.01)
