"""Memory of a stage by its schedule: what a rank holds at the worst moment of a step, in parts.

With n passes open at once (`Schedule.open`) and gradients that are d steps late,

| schedule                     | weights   | older   | inputs        | kept      | worst |
|------------------------------|-----------|---------|---------------|-----------|-------|
| sequential, gpipe, 1f1b      | all       |         |               | n passes  | once  |
| local                        | all       |         |               | 1 pass    | once  |
| delayed, replay              | all       |         | n - 1 passes  | 1 pass    | once  |
| delayed, stash, d > 0        | all       | d + 1   |               | n passes  | once  |

*Older* are the values that open passes went forward with (Harlap et al. 2018: stashed weights), those of the step being
made among them; gradients and state of the optimizer there are once.  A replay keeps inputs only and makes the rest
again (Huo et al. 2018b), so one pass at a time has all that backward needs.  *Worst* is what a pass holds beside that
at its worst moment.
"""

from __future__ import annotations

from typing import NamedTuple

from gridnn.errors import InputError
from gridnn.plan.pipeline.costs import PipelineCost, StageCost
from gridnn.plan.pipeline.schedule import Schedule


class StageMemory(NamedTuple):
    """Bytes of a rank of a stage: of those above."""

    weights_bytes: int
    older_bytes: int
    inputs_bytes: int
    kept_bytes: int
    worst_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(self)


def stage_memory(schedule: Schedule, stage: int, cost: StageCost, states: int = 1) -> StageMemory:
    """Return what a rank of a stage holds.

    Parameters
    ----------
    states
        Arrays of optimizer state a parameter: of 2 + `states` equal parts of the weights' bytes one is their values.
        Where the state is cut over ranks values are a larger part, and `older_bytes` too small.
    """
    others = schedule.open(stage) - 1
    if schedule.replays(stage):
        return StageMemory(cost.weight_bytes, 0, others * cost.input_bytes, cost.kept_bytes, cost.worst_bytes)
    older = schedule.versions(stage) * -(-cost.weight_bytes // (2 + states))
    return StageMemory(cost.weight_bytes, older, 0, (1 + others) * cost.kept_bytes, cost.worst_bytes)


def pipeline_memory(schedule: Schedule, cost: PipelineCost, states: int = 1) -> tuple[StageMemory, ...]:
    """Return what a rank of each stage holds.

    Raises
    ------
    InputError
        If costs are not those of the schedule's stages.
    """
    if len(cost.stages) != schedule.stages:
        raise InputError(
            f"costs of {len(cost.stages)} stages for a schedule of {schedule.stages}; give the costs of each stage"
        )
    return tuple(stage_memory(schedule, k, stage, states) for k, stage in enumerate(cost.stages))
