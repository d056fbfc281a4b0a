"""What a run adds up while it goes: bytes that were predicted, seconds of steps and phases; and what comes of it.

Of a run in stages there is more to say, a row a stage:

| what      | predicted                | counted or measured                                                          |
|-----------|--------------------------|------------------------------------------------------------------------------|
| staleness |                          | steps between a batch and the update by its gradient, counted by `Trainer`   |
| bubble    | `plan.pipeline.simulate` | share of the traced steps' seconds that ranks wait (`bubbles` says what for) |
| memory    | `plan.pipeline.memory`   | what the rank that needed most had at once                                   |
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gridnn.comm.agree import agreed
from gridnn.comm.world import World, mpi_version
from gridnn.cost.memory import predict_memory
from gridnn.errors import TrafficError
from gridnn.geometry.traffic import Traffic
from gridnn.network.stages import crossing, ranks_of
from gridnn.plan.pipeline.costs import StageCost
from gridnn.plan.pipeline.memory import stage_memory
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.stagecost import held_bytes, pipeline_cost
from gridnn.train.choose import Job, machine_of
from gridnn.train.folder import versions
from gridnn.train.optimizer import states
from gridnn.train.record import PipelineRecord, StageRecord, Summary
from gridnn.train.sections import Config
from gridnn.train.spans import Place, Spans, shares
from gridnn.train.step import Evaluation, Trainer

OF_ALL = (
    ("allreduce wait", Place(("loss",), "forward")),
    ("allreduce", Place(("optimizer",), "update")),
)
"""Phases in which a rank waits for all others: sums of losses and norms."""


@dataclass
class Tally:
    """Sums over the steps that this process made.

    Attributes
    ----------
    predicted
        What the ledger should have counted.
    seconds
        Of each step.
    phases
        Seconds by phase.
    evaluations
        How many there were.
    """

    predicted: Traffic = field(default_factory=Traffic)
    seconds: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0

    def spent(self, phases_s: Mapping[str, float]) -> None:
        """Add seconds by phase."""
        for name, value in phases_s.items():
            self.phases[name] = self.phases.get(name, 0.0) + value

    def judged(self, predicted: Traffic) -> None:
        """Add an evaluation, and what it should have moved."""
        self.evaluations += 1
        self.predicted.merge(predicted)

    def check_traffic(self, world: World) -> None:
        """Hold the run to law 4: what was counted is what was predicted, on every rank and under every key.

        Raises
        ------
        TrafficError
        """
        with agreed(world):
            if differences := self.predicted.differences(world.ledger):
                listed = "\n  ".join(differences[:10])
                raise TrafficError(
                    f"rank {world.rank}: counted traffic is not what the formulas say; this is a bug of gridnn:\n  "
                    + listed
                )

    def summary(
        self, world: World, job: Job, trainer: Trainer, config: Config, steps: int, loss: float,
        evaluation: Evaluation | None, spans: Spans | None,
    ) -> Summary:  # fmt: skip
        """Return the result of a run of `steps` updates.  Collective.

        Parameters
        ----------
        spans
            Of all ranks, on rank 0; None elsewhere, or where none were kept.
        """
        memory: list[tuple[int, int]] = world.comm.allgather(_memory(world, job, trainer))
        both = (
            world.comm.allreduce(self.predicted.received_bytes),
            world.comm.allreduce(world.ledger.received_bytes),
        )
        most = max(memory)
        return Summary(
            loss=loss,
            test_accuracy=evaluation.accuracy if evaluation else None,
            steps=steps,
            step_s=statistics.median(self.seconds) if self.seconds else 0.0,
            predicted_step_s=float(job.plan.predicted["step_s"]),
            predicted_bytes=both[0],
            counted_bytes=both[1],
            plan=job.plan.summary,
            ranks=world.size,
            phases_s=self.phases,
            predicted_memory_bytes=most[1],
            memory_bytes=most[0],
            versions=versions(mpi=mpi_version()),
            pipeline=_pipeline(world, job, trainer, config, memory, spans),
        )


def _memory(world: World, job: Job, trainer: Trainer) -> tuple[int, int]:
    """Return measured and predicted bytes of this rank."""
    model, state = trainer.model, trainer.optimizer.nbytes
    measured: int = world.memory.peak_bytes
    if model.engine.where == "cpu":  # what a run keeps is no part of the heap; a device has one for all
        measured += model.arena.nbytes + state
    widths = job.widths or model.dtype.itemsize
    if job.stages is None:
        return measured, predict_memory(model.placed, world.rank, widths, 0).total_bytes + state
    at = model.placed, world.rank, widths, 0
    # State is what there is, for it may be cut over ranks; so older weights are half of values and gradients.
    held = StageCost(0.0, 0.0, 0.0, *held_bytes(*at))
    return measured, stage_memory(job.schedule, trainer.stage, held, 0).total_bytes + state


def _pipeline(
    world: World,
    job: Job,
    trainer: Trainer,
    config: Config,
    memory: list[tuple[int, int]],
    spans: Spans | None,
) -> PipelineRecord | None:
    """Return what became of the stages, the same on every rank; None without stages.  Collective."""
    if job.stages is None:
        return None
    late: list[int] = world.comm.allgather(max(trainer.staleness, default=0))
    found = None
    if world.rank == 0:  # who has the spans
        t, schedule = config.train, job.schedule
        told = simulate(schedule, pipeline_cost(
            job.placed, job.stages, machine_of(config), job.widths or np.dtype(t.dtype).itemsize,
            job.passes,
            states=states(t), bucket_bytes=t.bucket_bytes, cut_optimizer=t.cut_optimizer,
        ))  # fmt: skip
        waited = bubbles(job, spans)
        stages = tuple(
            StageRecord(
                job.stages.first[k], len(ranks), max(late[r] for r in ranks), told.bubbles[k], waited.get(k),
                max(memory[r][1] for r in ranks), max(memory[r][0] for r in ranks),
            )
            for k, ranks in enumerate(_ranks(job))
        )  # fmt: skip
        form = schedule.form if schedule.name == "delayed" else ""
        found = PipelineRecord(schedule.name, form, job.passes, stages)
    shared: PipelineRecord | None = world.comm.bcast(found)
    return shared


def bubbles(job: Job, spans: Spans | None) -> dict[int, float]:
    """Return by stage which part of the traced steps its ranks waited for others, the mean of those looked at.

    Counted is the time inside calls of MPI that wait: for what other stages send and for what they have not taken yet
    (phases "... wait" of edges that cross), and for sums over all ranks (`OF_ALL`).  A message that is on its way is
    waited for, too, as in the simulation.  Waits inside a stage are not counted, but where a layer reads another stage
    and its own by movements of one kind the clock does not tell them apart, and both are.
    """
    if spans is None or job.stages is None:
        return {}
    what = set(OF_ALL)
    for e in crossing(job.placed, job.stages):
        edge = job.placed.edges[e]
        if edge.exchange is not None:
            what.add((f"{edge.exchange.kind} wait", Place((edge.owner,), "forward")))
            what.add((f"{edge.exchange.transpose().kind} wait", Place((edge.owner,), "backward")))
    by_rank, found = shares(spans, what), dict[int, float]()
    for k, ranks in enumerate(_ranks(job)):
        if mine := [by_rank[r] for r in ranks if r in by_rank]:
            found[k] = statistics.fmean(mine)
    return found


def _ranks(job: Job) -> tuple[range, ...]:
    assert job.stages is not None
    return ranks_of(job.stages, {layer.node.name: layer.scheme for layer in job.placed.layers})
