"""Why the stages of a pipelined plan are as they are: what each does and waits for, and its cuts moved to either side.

    stage 0                  | stage 1                    now      the step of the plan
    conv1 relu1 conv2 relu2  | conv3 relu3 fc4 loss       later    conv3 relu3 to stage 0, priced, simulated anew
                             |                            earlier  conv2 relu2 to stage 1: the same

A cut moves by a *unit* (`plan.pipeline.runs`), a layer that multiplies and what follows it, to where a search would
cut.  Layers that move take a grid of the stage that they come to: the best of its `NEAREST`.

Seconds and bytes are those of one step, and of the stage's slowest or fullest rank; `stagewords` says it in lines.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from gridnn.cost.price import priced_ranks
from gridnn.cost.traffic import predict_backward, predict_forward, predict_gradients
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.geometry.traffic import Traffic
from gridnn.network import spec as s
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.stages import Stages, crossing, cut_network, ranks_of
from gridnn.plan.job import Job
from gridnn.plan.outcome import Outcome, outcome
from gridnn.plan.pipeline.candidates import Pipelined
from gridnn.plan.pipeline.memory import StageMemory, pipeline_memory
from gridnn.plan.pipeline.runs import masked_later, units_of
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.timeline import Timeline
from gridnn.plan.pipeline.weigh import pipelined
from gridnn.plan.plan import Plan

NEAREST = 3
"""Grids that layers are tried on in the stage they move to, those of the layers next to them first."""
MOVED = 64
"""Processes up to which cuts are moved: each place is priced anew."""
BUCKET_BYTES = 4 << 20


@dataclass(frozen=True)
class StageRow:
    """A stage in its plan.

    Attributes
    ----------
    layers
        How many.
    grids
        Of its layers, without the ranks they begin at, in order.
    forward_s, backward_s
        Of one pass.
    update_s, busy_s
        Of one step: sums of gradients and the update; all work.
    bubble
        Which part of a step it waits.
    open
        Passes, at most, that it has open at once.
    late
        Steps by which its gradients are late.
    """

    first: str
    layers: int
    ranks: range
    grids: tuple[str, ...]
    forward_s: float
    backward_s: float
    update_s: float
    busy_s: float
    bubble: float
    open: int
    late: int
    memory: StageMemory


@dataclass(frozen=True)
class MovedCut:
    """A plan in which a cut is a unit further to one side.

    Attributes
    ----------
    stage, begins
        That begins at the cut, and the layer it then begins with.
    layers
        That move.
    target
        Stage they move to.
    grid
        They have there.
    step_s, memory_bytes
        Of the plan; of the rank that needs most.
    slowest
        Stage that then works longest.
    """

    stage: int
    begins: str
    layers: tuple[str, ...]
    target: int
    grid: str
    step_s: float
    memory_bytes: int
    slowest: int


@dataclass(frozen=True, eq=False)
class Staged:
    """A pipelined plan explained; `cuts` is empty where they were not moved."""

    job: Job
    plan: Pipelined
    timeline: Timeline
    cuts: tuple[MovedCut, ...]
    notes: tuple[str, ...]

    @property
    def schedule(self) -> Schedule:
        """The order of work."""
        return self.plan.schedule

    @property
    def slowest(self) -> int:
        """The stage that works longest in a step."""
        return _slowest(self.timeline)

    @cached_property
    def stages(self) -> tuple[StageRow, ...]:
        """A row for each stage."""
        plan, line = self.plan, self.timeline
        used = ranks_of(plan.stages, plan.schemes)
        held = pipeline_memory(plan.schedule, plan.cost, self.job.states)
        found = []
        for k, cost in enumerate(plan.cost.stages):
            layers = plan.stages.layers(k)
            grids = tuple(dict.fromkeys(str(plan.schemes[name].grid) for name in layers))
            found.append(StageRow(
                layers[0], len(layers), used[k], grids, cost.forward_s, cost.backward_s, cost.update_s, line.busy_s[k],
                line.bubbles[k], line.open[k], line.staleness[k], held[k],
            ))  # fmt: skip
        return tuple(found)


def pipeline_of(job: Job, plan: Plan) -> Pipelined:
    """Return a plan of a file that has stages, with its price.

    Raises
    ------
    InputError
        If it does not fit the job.
    """
    stages = cut_network(job.network, plan.stages)
    ranks = tuple(len(each) for each in ranks_of(stages, plan.schemes))
    schedule = Schedule(plan.schedule, stages.count, job.passes, plan.form)
    return pipelined(job, stages, plan.schemes, schedule, ranks)


def explain_stages(job: Job, plan: Pipelined, *, cuts: bool = True) -> Staged:
    """Explain a pipelined plan.

    Parameters
    ----------
    job
        With the plan's number of passes.
    cuts
        Look at what they would cost elsewhere.
    """
    line, notes = simulate(plan.schedule, plan.cost), list(_notes(job, plan))
    if cuts and job.procs > MOVED:
        notes.append(f"cuts are not moved above {MOVED} processes")
    moved = _moved_cuts(job, plan) if cuts and job.procs <= MOVED else ()
    return Staged(job, plan, line, tuple(moved), tuple(notes))


def stage_outcome(job: Job, plan: Pipelined) -> Outcome:
    """Return what a pipelined plan costs layer by layer, and in all; `job` has the plan's number of passes."""
    placed = place_network(job.network, plan.schemes, job.per_pass, job.procs)
    found = outcome(job, plan.schemes, placed)
    received = found.received_bytes
    if found.exact:
        ranks = {*priced_ranks(job.procs), *(each.start for each in ranks_of(plan.stages, plan.schemes))}
        received = max(_received(job, plan, placed, rank) for rank in ranks)
    return replace(
        found, overlapped_s=plan.step_s, received_bytes=received, memory_bytes=plan.memory_bytes,
        pipelined_s=plan.step_s,
    )  # fmt: skip


def _received(job: Job, plan: Pipelined, placed: PlacedNetwork, rank: int) -> int:
    """Return the bytes that a rank receives in a step of a pipeline that is full."""
    between, schedule, traffic = crossing(placed, plan.stages), plan.schedule, Traffic()
    at = placed, rank, job.itemsize
    traffic.merge(predict_forward(*at, train=True), job.passes)
    stage = next((k for k, each in enumerate(ranks_of(plan.stages, plan.schemes)) if rank in each), -1)
    if stage >= 0 and schedule.replays(stage):  # what came from other stages was kept
        traffic.merge(predict_forward(*at, train=True, without=between), job.passes)
    traffic.merge(predict_backward(*at, without=between if schedule.name == "local" else ()), job.passes)
    traffic.merge(predict_gradients(*at, BUCKET_BYTES, False))
    return traffic.received_bytes


def _moved_cuts(job: Job, plan: Pipelined) -> Iterator[MovedCut]:
    """Yield every cut but the first one unit later and one unit earlier, as far as every stage keeps a layer."""
    stages = plan.stages
    at = {name: i for i, name in enumerate(stages.names)}
    names = units_of(job.network)
    units = [at[name] for name in (masked_later(job.network, names) if plan.schedule.replays(0) else names)]
    bounds = [start for start, _ in stages.bounds] + [len(at)]
    for k in range(1, stages.count):
        here = bounds[k]
        later = next(iter(units[bisect_right(units, here) :]), len(at))
        earlier = units[bisect_left(units, here) - 1]
        if later < bounds[k + 1]:
            yield from _moved(job, plan, k, later, range(here, later), k - 1)
        if earlier > bounds[k - 1]:
            yield from _moved(job, plan, k, earlier, range(earlier, here), k)


def _moved(job: Job, plan: Pipelined, k: int, to: int, layers: range, target: int) -> Iterator[MovedCut]:
    """Yield the best plan in which stage `k` begins at layer `to`; none where no grid fits."""
    names = plan.stages.names
    stages = Stages(names, tuple(names[to] if j == k else name for j, name in enumerate(plan.stages.first)))
    found: list[tuple[Pipelined, Scheme]] = []
    for scheme in _nearest(plan, layers, target):
        schemes: Mapping[str, Scheme] = {**plan.schemes, **{names[i]: scheme for i in layers}}
        try:
            found.append((pipelined(job, stages, schemes, plan.schedule, plan.ranks), scheme))
        except InputError:
            continue  # a batch of so few samples, or ranks that another stage has now
    if found:
        best, scheme = min(found, key=lambda each: each[0].step_s)
        slowest = _slowest(simulate(best.schedule, best.cost))
        moved = tuple(names[i] for i in layers)
        yield MovedCut(k, names[to], moved, target, str(scheme.grid), best.step_s, best.memory_bytes, slowest)


def _nearest(plan: Pipelined, layers: range, target: int) -> list[Scheme]:
    """Return the schemes of a stage, those of layers next to some layers first."""
    others = plan.stages.layers(target)
    ordered = others[::-1] if plan.stages.bounds[target][0] < layers.start else others
    return list(dict.fromkeys(plan.schemes[name] for name in ordered))[:NEAREST]


def _slowest(line: Timeline) -> int:
    return max(range(len(line.busy_s)), key=line.busy_s.__getitem__)


def _notes(job: Job, plan: Pipelined) -> Iterator[str]:
    if job.passes > 1 and any(isinstance(node.spec, s.BatchNorm) for node in job.network.nodes):
        yield f"batch norm takes its statistics of each pass, {job.per_pass} samples, not of the batch"
    if plan.schedule.name == "local":
        yield "what the losses of the stages compute is not counted"
    if job.procs > (used := sum(len(each) for each in ranks_of(plan.stages, plan.schemes))):
        yield f"{job.procs - used} of {job.procs} ranks are in no stage, and wait"
