"""What a plan costs: estimates beside exact counts, layer by layer and all in all."""

from __future__ import annotations

import pytest

from gridnn.cost.machine import load_machine
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import zoo
from gridnn.network.count import parameter_count
from gridnn.plan.outcome import estimate, outcome
from gridnn.plan.problem import Job
from gridnn.plan.search import search


@pytest.mark.parametrize("name", ["resnet20", "alexnet"])
@pytest.mark.parametrize("method", ["data", "model", "owt", "dynamic"])
def test_estimated_bytes_are_near_the_counted_ones(name: str, method: str) -> None:
    job = Job(zoo.usual(name), load_machine("p100-cluster"), 8, 64)
    schemes = search(job, method).schemes
    exact, near = outcome(job, schemes), estimate(job, schemes)
    assert exact.exact and not near.exact
    # Borders of halos and consumers that share an input are what an estimate does not see.
    assert near.received_bytes == pytest.approx(exact.received_bytes, rel=0.05)
    if method != "dynamic":  # whose grids are shown under the names of their neighbours
        assert near.step_s == pytest.approx(search(job, method).step_s, rel=1e-9)


def test_parts_add_up_and_overlap_helps() -> None:
    job = Job(zoo.usual("resnet20"), load_machine("laptop"), 4, 64, passes=2)
    found = outcome(job, search(job, "data").schemes)
    assert found.step_s == pytest.approx(sum(x.compute_s + x.comm_s for x in found.layers))
    assert found.compute_s > 0 and found.comm_s > 0 and found.overlapped_s is not None
    assert found.compute_s < found.overlapped_s <= found.step_s


def test_beyond_placing_bytes_are_estimated() -> None:
    job = Job(zoo.usual("digits-cnn"), load_machine("h100"), 65536, 65536)
    found = outcome(job, search(job, "data").schemes)
    assert not found.exact and found.overlapped_s is None
    # A ring over all processes receives every gradient twice, less one part in P; statistics are small beside them.
    gradients = 2 * 4 * parameter_count(job.network) * (1 - 1 / job.procs)
    assert gradients < found.received_bytes < 1.1 * gradients


def test_a_scheme_that_does_not_fit_is_refused() -> None:
    job = Job(zoo.usual("digits-cnn"), load_machine("h100"), 4, 64)
    schemes = {node.name: Scheme(GridShape.parse("n8")) for node in job.network.nodes}
    with pytest.raises(InputError, match="wants grid n8 = 8 processes"):
        outcome(job, schemes)
