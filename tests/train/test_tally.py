"""What is said of the stages of a run: what counts as waiting for others, by hand."""

from __future__ import annotations

import io

import pytest

from gridnn.geometry.grid import GridShape, Scheme
from gridnn.train.console import Console
from gridnn.train.record import PipelineRecord, StageRecord, Summary
from gridnn.train.spans import Place
from gridnn.train.tally import bubbles
from tests.analysis.folders import made
from tests.support.nets import build
from tests.support.pipelines import Cut, job_of


def test_waits_for_other_stages_are_bubbles_and_others_are_not() -> None:
    network = build("linear-chain")
    names = [node.name for node in network.nodes]
    first = (names[0], names[len(names) // 2])
    schemes = {n: Scheme(GridShape.of(n=2), 0 if names.index(n) < len(names) // 2 else 2) for n in names}
    job = job_of(
        network, Cut(first, schemes), 4, 2, "1f1b", "replay", 5, "float64"
    )  # rank 4 has nothing to do
    kinds = {e.exchange.kind for e in job.placed.edges if e.exchange is not None and e.owner == first[1]}
    assert kinds == {"repartition"}
    crossing, inside = Place((first[1],), "forward"), Place((names[-2],), "forward")
    back = Place((first[1],), "backward")
    rows = [
        (0, 0, "compute", Place((names[0],), "forward"), 3.0), (0, 0, "repartition wait", back, 1.0),
        (1, 0, "compute", Place((names[0],), "forward"), 3.0), (1, 0, "repartition", back, 1.0),  # posts, packs
        (2, 0, "repartition wait", crossing, 2.0), (2, 0, "allreduce wait", Place(("loss",), "forward"), 1.0),
        (2, 0, "compute", crossing, 1.0),
        (3, 0, "allreduce", Place(("optimizer",), "update"), 1.0), (3, 0, "repartition wait", inside, 1.0),
        (3, 0, "update", Place((), ""), 2.0), (4, 0, "allreduce wait", Place(("loss",), "forward"), 4.0),
    ]  # fmt: skip
    assert bubbles(job, made(rows)) == pytest.approx({0: (0.25 + 0) / 2, 1: (0.75 + 0.25) / 2})
    assert bubbles(job, made([row for row in rows if row[0] < 2])) == pytest.approx({0: 0.125})
    assert bubbles(job, None) == {}


def test_stages_are_shown() -> None:
    stages = (
        StageRecord("conv1", 2, 1, 0.25, None, 2048, 3072),
        StageRecord("fc1", 1, 0, 0.0, 0.5, 1024, 512),
    )
    summary = Summary(
        1.0, None, 1, 0.1, 5, 5, "2 stages", 3, pipeline=PipelineRecord("delayed", "stash", 4, stages)
    )
    stream = io.StringIO()
    Console(0, stream).summary_table(summary, "runs/x")
    lines = [" ".join(line.split()) for line in stream.getvalue().split("\n")]
    wanted = [
        "delayed (stash), 4 passes in a step; waits are shares of a step",
        "0 conv1 2 1 25.0 % - 2.0 KiB 3.0 KiB", "1 fc1 1 0 0.0 % 50.0 % 1.0 KiB 512 B",
    ]  # fmt: skip
    assert [line for line in wanted if line not in lines] == []
