"""What a run adds up while it goes: bytes that were predicted, seconds of steps and phases; and what comes of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from gridnn.comm.agree import agreed
from gridnn.comm.world import World, mpi_version
from gridnn.cost.memory import predict_memory
from gridnn.errors import TrafficError
from gridnn.geometry.traffic import Traffic
from gridnn.train.choose import Job
from gridnn.train.folder import versions
from gridnn.train.record import Summary
from gridnn.train.step import Evaluation, Trainer


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
        self, world: World, job: Job, trainer: Trainer, steps: int, loss: float, evaluation: Evaluation | None
    ) -> Summary:
        """Return the result of a run of `steps` updates.  Collective."""
        memory = _memory(world, trainer)
        both = (
            world.comm.allreduce(self.predicted.received_bytes),
            world.comm.allreduce(world.ledger.received_bytes),
        )
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
            predicted_memory_bytes=memory[1],
            memory_bytes=memory[0],
            versions=versions(mpi=mpi_version()),
        )


def _memory(world: World, trainer: Trainer) -> tuple[int, int]:
    """Return measured and predicted bytes of the rank that needed most.  Collective."""
    model, state = trainer.model, trainer.optimizer.nbytes
    found = predict_memory(model.placed, world.rank, model.dtype.itemsize, 0)
    measured: int = world.memory.peak_bytes
    if model.engine.where == "cpu":  # what a run keeps is no part of the heap; a device has one for all
        measured += model.arena.nbytes + state
    most: tuple[int, int] = max(world.comm.allgather((measured, found.total_bytes + state)))
    return most
