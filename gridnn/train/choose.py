"""From a configuration to data, network, plan and placed network: everything before the first array.

The same integers on every rank; nothing here communicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.cost.machine import Machine, load_machine
from gridnn.cost.price import price_plan
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape
from gridnn.geometry.traffic import Widths
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.graph import Network, check_runs
from gridnn.network.heads import head_schemes, unheard, with_heads
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.source import Source
from gridnn.network.stages import Stages, cut_network, ranks_of, stage_at
from gridnn.plan import problem
from gridnn.plan.pipeline.given import best_cut_at
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.search import best_pipelines
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.stagecost import pipeline_cost
from gridnn.plan.pipeline.weigh import plan_of, staged, weigh
from gridnn.plan.plan import Plan, read_plan, uniform_plan
from gridnn.plan.search import MODEL_ERROR, search
from gridnn.train.data.dataset import Dataset
from gridnn.train.optimizer import states
from gridnn.train.sections import Config


@dataclass(frozen=True)
class Job:
    """What a run will do: network, plan, and the network placed by it for one pass of a batch.

    Attributes
    ----------
    network, plan
        As they are asked for and written: heads are not among their layers, unless the plan has grids for them.
    placed
        For the largest passes; the heads of stages are in it.
    passes
        Of a step.
    rest
        The network placed for passes of one sample less, where a batch has both.
    stages
        Of the placed network, if the plan has some.
    widths
        Bytes of elements; None: all are as wide as parameters.
    said
        What is worth saying of the prices beside the plan.
    """

    network: Network
    plan: Plan
    placed: PlacedNetwork
    passes: int
    rest: PlacedNetwork | None = None
    stages: Stages | None = None
    widths: Widths | None = None
    said: tuple[str, ...] = ()

    @cached_property
    def schedule(self) -> Schedule:
        """The order in which stages work."""
        count = 1 if self.stages is None else self.stages.count
        return Schedule(self.plan.schedule, count, self.passes, self.plan.form)

    @property
    def lag(self) -> int:
        """Steps after which the loss of one is asked for: stages need not wait for each other before."""
        return 0 if self.schedule.exact else self.schedule.stages - 1

    @property
    def sizes_placed(self) -> tuple[PlacedNetwork, ...]:
        """The network placed for each size of a pass, by `kind`."""
        return (self.placed,) if self.rest is None else (self.placed, self.rest)

    def kind(self, number: int) -> int:
        """Return which size a pass has: 0 for the largest, 1 for one sample less."""
        return int(number % self.passes >= self.plan.batch % self.passes > 0)

    def stage(self, rank: int) -> int:
        """Return the stage of a rank; the last for one that has no part in any, and waits for nobody."""
        found = stage_at(rank, self.placed, self.stages)
        return found if found >= 0 else self.schedule.stages - 1


def choose(config: Config, train: Dataset, procs: int) -> Job:
    """Return the job of a configuration on `procs` processes.

    Raises
    ------
    InputError
        If network, data, batch and plan do not fit each other.
    """
    batch = config.train.batch
    if batch < config.train.accumulate:
        raise InputError(
            f"train.batch = {batch} cannot be split into train.accumulate = {config.train.accumulate} passes; each "
            "needs a sample at least"
        )
    network = _network(config, train)
    plan = choose_plan(config, network, procs)
    passes, stages = plan.passes, cut_network(network, plan.stages) if plan.stages else None
    whole, schemes, origin = network, plan.schemes, plan.origin
    if stages is not None and plan.schedule == "local":
        whole, stages = with_heads(network, stages)
        schemes, origin = head_schemes(whole, stages, schemes), f"{origin}; {_told_of_heads(whole, stages)}"
    if stages is not None:
        ranks_of(stages, schemes)
    placed = place_network(whole, schemes, -(-batch // passes), procs)
    rest = place_network(whole, schemes, batch // passes, procs) if batch % passes else None
    machine = machine_of(config)
    cost = price_plan(
        placed, machine, widths(config), passes, bucket_bytes=config.train.bucket_bytes,
        cut_optimizer=config.train.cut_optimizer, states=states(config.train),
    )  # fmt: skip
    predicted = {
        "step_s": cost.step_s, "compute_s": cost.compute_s, "comm_s": cost.comm_s, "overlapped_s": cost.overlapped_s,
        "machine": machine.name,
    }  # fmt: skip
    if stages is not None:
        schedule = Schedule(plan.schedule, stages.count, passes, plan.form)
        told = simulate(schedule, pipeline_cost(
            placed, stages, machine, widths(config), passes, states=states(config.train),
            bucket_bytes=config.train.bucket_bytes, cut_optimizer=config.train.cut_optimizer,
        ))  # fmt: skip
        predicted |= {"step_s": told.step_s, "overlapped_s": told.step_s, "bubble": told.bubble}
    model = Source(config.model.name, network.input_shape, train.classes, _options(config))
    plan = replace(
        plan,
        origin=origin,
        predicted=predicted,
        dtype=config.train.dtype,
        model=model,
        machine=config.plan.machine,
    )
    mismatch = machine.mismatch(config.compute.precision)
    said = (f"WARNING: plan.machine: {mismatch}",) if mismatch else ()
    return Job(network, plan, placed, passes, rest, stages, widths(config), said)


def machine_of(config: Config) -> Machine:
    """Return the machine that plans are priced on, with its rates for the widths of a run."""
    return load_machine(config.plan.machine).at(widths(config))


def widths(config: Config) -> Widths:
    """Return the bytes of elements of a run: compute.precision = "bf16" stores activations in two."""
    parameter = np.dtype(config.train.dtype).itemsize
    return Widths(2 if config.compute.precision == "bf16" else parameter, parameter)


def choose_plan(config: Config, network: Network, procs: int) -> Plan:
    """Return the plan that ``plan.spec`` asks for: "auto", a grid for every layer, or a file.

    A text that has a plan file's ending or a slash is a file; a grid has neither.
    """
    spec, batch, passes = config.plan.spec, config.train.batch, config.train.accumulate
    if spec.endswith(".json") or "/" in spec:
        plan = read_plan(Path(spec), network, batch, procs, passes)
        _check_heads(config.plan.heads, plan.schedule)
        return plan
    _check_heads(config.plan.heads, config.plan.schedule)
    if spec == "auto":
        return _planned(config, network, procs)
    if "|" in spec:
        job = _job(config, network, procs)
        found = staged(job, spec, _schedule(config), config.plan.form, config.plan.stages)
        return plan_of(job, found, f'"{spec}"')
    if config.plan.stages or config.plan.schedule not in ("auto", "sequential"):
        raise InputError(
            f'plan.spec = "{spec}" is one grid for every layer, but plan.stages or plan.schedule ask for a pipeline; '
            f'give a grid for each stage, such as "{spec} | {spec}", or plan.spec = "auto"'
        )
    grid = GridShape.parse(spec)
    if grid.size > procs:
        raise InputError(
            f'plan "{spec}" needs {grid.size} processes, {procs} {"is" if procs == 1 else "are"} running; '
            f"start {grid.size} (mpiexec -n {grid.size} ...) or choose a grid of {procs}"
        )
    plan = uniform_plan(network, grid, batch, procs, f'"{spec}" for every layer')
    return replace(plan, passes=passes)


def _check_heads(heads: str, schedule: str) -> None:
    """Refuse local losses without heads, and heads without local losses."""
    if schedule == "local" and heads == "none":
        raise InputError('schedule local needs a loss for every stage; set plan.heads = "linear"')
    if schedule != "local" and heads != "none":
        raise InputError(
            f'plan.heads = "{heads}" gives every stage a loss of its own, but the schedule is "{schedule}", which has '
            'the network\'s only; set plan.schedule = "local" (or "schedule" in the plan file), or leave plan.heads out'
        )


def _told_of_heads(network: Network, stages: Stages) -> str:
    """Return what is said of local losses: that they are not the network's, and which layers learn nothing."""
    told = "each stage has a loss of its own (plan.heads): another objective than the network's loss"
    if left := unheard(network, stages):
        told += f"; {', '.join(left[:4])}{f' and {len(left) - 4} more' if left[4:] else ''} get no gradient"
    return told


def _planned(config: Config, network: Network, procs: int) -> Plan:
    """Return the planner's plan, or the best known one where the planner's gain may be an error of the model."""
    job, machine = _job(config, network, procs), machine_of(config)
    wanted = config.plan.schedule
    if config.plan.stages or wanted not in ("auto", "sequential"):
        return _pipeline(config, job)
    found = search(job)
    if found.margin < MODEL_ERROR:
        name = found.runner_up[0]
        origin = f"auto: {name} on machine {machine.name}"
        if found.margin > 1e-9:
            origin += f"; a grid for each layer gains {found.margin:.1%}, less than the model's error"
        found = search(job, name)
    else:
        origin = f"auto: a grid for each layer on machine {machine.name}, {found.verdict}"
    plan = Plan(network.name, network.digest, procs, job.batch, found.schemes, origin, passes=job.passes)
    if wanted == "sequential" or procs == 1:
        return plan
    placed = place_network(network, found.schemes, job.per_pass, procs)
    price = price_plan(placed, machine, job.widths, job.passes, states=job.states)
    weighed = weigh(job, price.overlapped_s)
    if weighed.wins and weighed.best is not None:
        return plan_of(job, weighed.best, f"auto: {weighed.words}; on machine {machine.name}")
    return replace(plan, origin=f"{origin}; {weighed.words}")


def _pipeline(config: Config, job: problem.Job) -> Plan:
    """Return the best plan for a schedule that is asked for, or for stages that are."""
    name, first, form = _schedule(config), config.plan.stages, config.plan.form
    best = (
        best_cut_at(job, first, name, form=form) if first else best_pipelines(job, (name,), form=form)[name]
    )
    return plan_of(job, best, f"auto: {name}, {best.schedule.stages} stages on machine {job.machine.name}")


def _schedule(config: Config) -> str:
    """Return the schedule of a pipeline: what is asked for, or one that is exact and keeps few passes open."""
    return "1f1b" if config.plan.schedule == "auto" else config.plan.schedule


def _job(config: Config, network: Network, procs: int) -> problem.Job:
    """Return the planner's job of a configuration."""
    return problem.Job(
        network, machine_of(config), procs, config.train.batch, config.train.accumulate,
        np.dtype(config.train.dtype).itemsize, states(config.train), widths(config).activation,
    )  # fmt: skip


def _options(config: Config) -> dict[str, Any]:
    """Return the options of the network, the loss's smoothing among them."""
    options = dict(config.model.options)
    if config.train.label_smoothing and "label_smoothing" in zoo.options(config.model.name):
        options.setdefault("label_smoothing", config.train.label_smoothing)
    return options


def _network(config: Config, train: Dataset) -> Network:
    # Asked of the paper's network, since data for images say nothing of use about a network for words.
    check_runs(zoo.usual(config.model.name))
    network = zoo.build(config.model.name, train.input_shape, train.classes, **_options(config))
    made, wanted = network.shapes[network.output], train.target_shape
    if isinstance(network.loss.spec, s.SoftmaxCrossEntropy):
        fits, what = train.target != "image" and made[1:] == wanted, "one class for each of"
    else:
        fits, what = train.target == "image" and made == wanted, "numbers of shape"
    if not fits:
        raise InputError(
            f"network {network.name} predicts {what} {made[1:] if 'class' in what else made}, "
            f"but data {train.name} has "
            f'targets "{train.target}" of shape {wanted}; choose a network or data.target that fits'
        )
    return network
