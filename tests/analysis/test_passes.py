"""Passes of measured spans, told from what a schedule does; and the predicted step of a pipeline that is full."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gridnn.analysis.passes import OfPass, passes_of, told_step
from gridnn.plan.pipeline.costs import PipelineCost, StageCost, Transfer
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.timeline import REPLAY, tasks_of
from gridnn.train.spans import Place
from tests.analysis.folders import Row, made

NOTHING, THERE, BACK = Place((), ""), Place(("conv",), "forward"), Place(("conv",), "backward")
SCHEDULES = [
    Schedule(name, stages, passes, form)
    for name, form in (("sequential", "replay"), ("gpipe", "replay"), ("1f1b", "replay"), ("local", "replay"),
                       ("delayed", "replay"), ("delayed", "stash"))
    for stages, passes in ((1, 3), (2, 1), (3, 4))
]  # fmt: skip


def rows_of(schedule: Schedule, step: int) -> list[tuple[Row, OfPass | None]]:
    """What a rank a stage does in a step that all are busy in, and the pass of each piece."""
    found: list[tuple[Row, OfPass | None]] = []
    for rank in range(schedule.stages):
        found.append(((rank, step, "update", NOTHING, 1.0), None))
        for verb, number in tasks_of(schedule, rank, step):
            of = OfPass(number % schedule.passes, number // schedule.passes)
            if verb == "forward":
                found += [((rank, step, phase, NOTHING, 1.0), None) for phase in ("data", "update")]
            if verb == "update":
                found.append(((rank, step, "allreduce wait", Place(("a", "b"), "backward"), 1.0), None))
            else:
                where = BACK if verb == "backward" else THERE
                found += [((rank, step, p, where, 1.0), of) for p in ("repartition wait", "compute", "halo")]
            if number % schedule.passes == schedule.passes - 1 and verb == "forward":
                found += [((rank, step, "update", NOTHING, 1.0), None),
                          ((rank, step, "allreduce", Place(("loss",), "forward"), 1.0), None)]  # fmt: skip
            found.append(((rank, step, "update", NOTHING, 1.0), None))
    return found


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_span_has_the_pass_of_its_task(schedule: Schedule) -> None:
    rows = [row for step in (5, 6) for row in rows_of(schedule, step)]
    spans = made([row for row, _ in rows])
    stages = tuple(range(schedule.stages))
    assert passes_of(spans, schedule, stages) == [of for _, of in rows]
    # Ranks without a stage have no passes, and a step that has not those of its schedule says nothing.
    assert set(passes_of(spans, schedule, [-1] * schedule.stages)) == {None}
    other = Schedule(schedule.name, schedule.stages, schedule.passes + 1, schedule.form)
    assert set(passes_of(spans, other, stages)) == {None}


def test_no_spans_have_no_passes() -> None:
    assert passes_of(made([]), SCHEDULES[0], (0,)) == []


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_predicted_step_is_the_last_one_simulated(schedule: Schedule) -> None:
    stage = StageCost(1.0, 2.0, 0.5, 0, 0, 0)
    links = tuple(Transfer(k, k + 1, 0.25, 0.25, 0, 0) for k in range(schedule.stages - 1))
    line = simulate(schedule, PipelineCost((stage,) * schedule.stages, links))
    told = [told_step(line, k, 7) for k in range(schedule.stages)]
    assert min(tasks[0].start_s for tasks in told) == 0.0
    for k, tasks in enumerate(told):
        assert [(t.verb, t.of) for t in tasks] == [
            (verb, None if verb == "update" else OfPass(n % schedule.passes, n // schedule.passes))
            for verb, n in tasks_of(schedule, k, 7)
        ]
        assert all(t.of is None or t.of.step == 7 - (t.verb != "forward") * schedule.delay(k) for t in tasks)
        assert any(t.verb == REPLAY for t in tasks) == schedule.replays(k)
        assert all(a.stop_s <= b.start_s + 1e-9 for a, b in pairwise(tasks))
        assert sum(t.stop_s - t.start_s for t in tasks) == pytest.approx(line.busy_s[k])
    if schedule.exact:
        assert max(tasks[-1].stop_s for tasks in told) == pytest.approx(line.step_s)
