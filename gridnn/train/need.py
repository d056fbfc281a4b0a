"""What a rank is predicted to need in a step, which layer that is for, and what no prediction knows.

|<------------------ predicted: `cost.memory`, `plan.pipeline.memory` ---------------->|<------ beside ------>|
| parameters, gradients | optimizer | kept by open passes | alive at the worst moment | messages, workspaces |
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import NamedTuple

from gridnn.compute.gpu.cudnn_engine import CudnnEngine
from gridnn.compute.gpu.cudnn_graph import WORKSPACE_BYTES
from gridnn.cost.memory import MemoryUse, predict_memory, worst_moment
from gridnn.network.placed import PlacedNetwork
from gridnn.network.stages import Stages, stage_at
from gridnn.plan.pipeline.costs import StageCost
from gridnn.plan.pipeline.memory import stage_memory
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.stagecost import held_bytes, kept_arrays
from gridnn.train.choose import widths
from gridnn.train.console import bytes_text
from gridnn.train.optimizer import states
from gridnn.train.run import Run
from gridnn.train.sections import Config


class Need(NamedTuple):
    """What a rank is predicted to need.

    Parameters
    ----------
    use : MemoryUse
    moment : str
        When that is most, in words, and which layer holds most of it then.
    beside_bytes : int
        What a step may take that is not predicted.
    """

    use: MemoryUse
    moment: str
    beside_bytes: int


def predicted(placed: PlacedNetwork, rank: int, config: Config) -> MemoryUse:
    """Return what a step takes of a rank's memory, the optimizer's state cut where the run cuts it."""
    own, kinds = widths(config), states(config.train)
    use = predict_memory(placed, rank, own, kinds)
    if not config.train.cut_optimizer:
        return use
    elements = 0
    for layer in placed.layers:
        for parameter in layer.placement.parameters:
            box = parameter.layout.box(rank)
            sharing = sum(parameter.layout.box(other) == box for other in layer.scheme.ranks)
            elements += -(-prod(i.size for i in box) // max(1, sharing))
    return replace(use, state_bytes=kinds * elements * own.parameter)


def in_stages(
    placed: PlacedNetwork, stages: Stages | None, schedule: Schedule, rank: int, config: Config
) -> MemoryUse:
    """Return what a step takes of a rank's memory, all passes counted that its stage has open at once."""
    use = predicted(placed, rank, config)
    if stages is None:
        return use
    at = stage_at(rank, placed, stages)
    held = StageCost(0.0, 0.0, 0.0, *held_bytes(placed, rank, widths(config), 0))
    arrays = stage_memory(schedule, at if at >= 0 else stages.count - 1, held, 0).total_bytes
    return replace(use, arrays_bytes=arrays - held.weight_bytes)


def use_of(run: Run) -> MemoryUse:
    """Return what a step takes of this rank's memory, all passes that a pipeline has open at once."""
    job = run.job
    return in_stages(job.placed, job.stages, job.schedule, run.world.rank, run.config)


def need_of(run: Run) -> Need:
    """Return what this rank is predicted to need, and which layer that is for."""
    job, rank, width = run.job, run.world.rank, widths(run.config)
    moment = worst_moment(job.placed, rank, width)
    held, largest = dict(moment.arrays), max(moment.arrays.values(), default=0)
    if job.stages is not None:
        at = job.stage(rank)
        known, others = set[str](), 0 if job.schedule.replays(at) else job.schedule.open(at) - 1
        for layer, kept in zip(job.placed.layers, kept_arrays(job.placed, rank, width), strict=True):
            mine = sum(size for array, size in kept.items() if array not in known)
            known |= set(kept)
            held[layer.node.name] = held.get(layer.node.name, 0) + others * mine
    kinds = 0 if run.config.train.cut_optimizer else states(run.config.train)
    for layer in job.placed.layers:
        elements = sum(prod(i.size for i in p.layout.box(rank)) for p in layer.placement.parameters)
        name, copies = layer.node.name, width.activation if width.activation != width.parameter else 0
        held[name] = held.get(name, 0) + elements * ((2 + kinds) * width.parameter + copies)
    words = ""
    if any(held.values()):
        most = max(held, key=held.__getitem__)
        words = f"worst in layer {moment.layer}, {moment.direction}: layer {most} has {bytes_text(held[most])} of it"
    # A message of a layer is packed here and received there, a workspace may be as large as the arrays it is for.
    workspace = WORKSPACE_BYTES if isinstance(run.engine, CudnnEngine) else 0
    beside = largest + 2 * run.config.train.bucket_bytes * (run.world.size > 1) + workspace
    return Need(use_of(run), words, beside)


def parts_text(use: MemoryUse) -> str:
    """Return bytes in words, with what they are for."""
    parts = ((use.parameters_bytes, "parameters and gradients"), (use.state_bytes, "optimizer"),
             (use.arrays_bytes, "activations"))  # fmt: skip
    listed = ", ".join(f"{what} {bytes_text(count)}" for count, what in parts)
    return f"{bytes_text(use.total_bytes)} ({listed})"
