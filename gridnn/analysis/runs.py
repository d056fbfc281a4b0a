"""Runs that have ended, opened for analysis: what was planned, on which machine, and what was counted and measured.

runs/                      a folder of runs stands for all finished ones in it
    digits-cnn-20250131/   plan.json      network, grids, machine       -> `Run.job`, `Run.placed`, `Run.price`
                           config.toml    how gradients are summed
                           summary.json   measured step, bytes, memory
                           traffic.json   counted, by key               (None in runs of an older gridnn)
                           spans.npz      measured, piece by piece      (None where none were kept)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from gridnn.cost.machine import Machine, load_machine
from gridnn.cost.price import LayerPrice, PlanPrice, price_plan
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network.graph import Network
from gridnn.network.heads import head_schemes, is_head, with_heads
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.source import open_network
from gridnn.network.stages import Stages, crossing, cut_network, ranks_of
from gridnn.plan.job import Job
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.stagecost import pipeline_cost
from gridnn.plan.pipeline.timeline import Timeline
from gridnn.plan.plan import Plan, PlanFile, open_plan, parse_scheme
from gridnn.train.record import (
    CONFIG,
    PLAN,
    STEPS,
    SUMMARY,
    TRAFFIC,
    RunTraffic,
    Summary,
    read_config,
    read_summary,
    read_traffic,
)
from gridnn.train.spans import Spans, read_spans

STATES = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}
"""Arrays of state an optimizer keeps for a parameter."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes
    ----------
    name
        Of its folder; the whole path where two folders have one name.
    job
        Network, machine, processes and batch.
    bucket_bytes, cut_optimizer, overlap
        How it summed gradients, and whether it computed while halos were on their way.
    finished
        Day on which its summary was written, in UTC.
    """

    name: str
    folder: Path
    plan: Plan
    job: Job
    bucket_bytes: int
    cut_optimizer: bool
    overlap: bool
    finished: date
    summary: Summary
    traffic: RunTraffic | None
    spans: Spans | None

    @cached_property
    def placed(self) -> PlacedNetwork:
        """The network on its grids, with the heads of local losses."""
        network, _, schemes = self._staged
        return place_network(network, schemes, self.job.per_pass, self.job.procs)

    @cached_property
    def price(self) -> PlanPrice:
        """A step by the formulas, one pass and one layer after the other."""
        return self.price_on(self.job.machine)

    @cached_property
    def stages(self) -> Stages | None:
        """The stages of a pipelined run."""
        return self._staged[1]

    @cached_property
    def ranks(self) -> tuple[range, ...]:
        """The ranks of each stage; nothing without stages."""
        return () if self.stages is None else ranks_of(self.stages, self.schemes)

    @property
    def schemes(self) -> Mapping[str, Scheme]:
        """The scheme of every layer, heads too."""
        return self._staged[2]

    @cached_property
    def _staged(self) -> tuple[Network, Stages | None, Mapping[str, Scheme]]:
        network, schemes = self.job.network, self.plan.schemes
        stages = cut_network(network, self.plan.stages) if self.plan.stages else None
        if stages is not None and self.plan.schedule == "local":
            network, stages = with_heads(network, stages)
            schemes = head_schemes(network, stages, schemes)
        return network, stages, schemes

    @cached_property
    def schedule(self) -> Schedule:
        """The order in which stages work."""
        count = 1 if self.stages is None else self.stages.count
        return Schedule(self.plan.schedule, count, self.job.passes, self.plan.form)

    @cached_property
    def timeline(self) -> Timeline | None:
        """The simulated step of a pipelined run."""
        return self.timeline_on(self.job.machine)

    @property
    def step_s(self) -> float:
        """Predicted seconds of a step, nothing hidden; of a pipelined run simulated, and as it hides things."""
        return self.step_on(self.job.machine)

    @property
    def overlapped_s(self) -> float:
        """Predicted seconds of a step that hides what a run can hide."""
        return self.price.overlapped_s if self.timeline is None else self.timeline.step_s

    @cached_property
    def layers(self) -> tuple[LayerPrice, ...]:
        """The layers of the price as the schedule has them: forward twice where it is replayed, no way back of `local`.

        What comes from another stage is kept, so it moves once.
        """
        return tuple(self._as_scheduled(layer) for layer in self.price.layers)

    def forwards(self, layer: str) -> int:
        """Return how often a pass goes forward through a layer."""
        return 1 if self.stages is None else 1 + self.schedule.replays(self.stages.of[layer])

    @cached_property
    def crosses(self) -> frozenset[tuple[str, str, str]]:
        """What moves between stages: layer, direction, collective."""
        edges = (self.placed.edges[e] for e in crossing(self.placed, self.stages))
        both = ((edge.owner, edge.exchange) for edge in edges if edge.exchange is not None)
        return frozenset(
            key for layer, there in both
            for key in ((layer, "forward", there.kind), (layer, "backward", there.transpose().kind))
        )  # fmt: skip

    def _as_scheduled(self, layer: LayerPrice) -> LayerPrice:
        again, moves = self.forwards(layer.name), []
        for m in layer.movements:
            crosses = (layer.name, m.direction, m.collective) in self.crosses
            if m.direction == "forward" and not crosses:
                moves.append(m._replace(seconds=again * m.seconds))
            elif not (crosses and m.direction == "backward" and self.schedule.name == "local"):
                moves.append(m)
        return layer._replace(forward_s=again * layer.forward_s, movements=tuple(moves))

    def step_on(self, machine: Machine) -> float:
        """Return the predicted seconds of a step on a machine; see `step_s`."""
        if self.stages is None:
            return (self.price if machine is self.job.machine else self.price_on(machine)).step_s
        line = self.timeline if machine is self.job.machine else self.timeline_on(machine)
        return 0.0 if line is None else line.step_s

    def timeline_on(self, machine: Machine) -> Timeline | None:
        """Return the simulated step of a pipelined run on a machine."""
        job = self.job
        return None if self.stages is None else simulate(self.schedule, pipeline_cost(
            self.placed, self.stages, machine, job.widths, job.passes, states=job.states,
            bucket_bytes=self.bucket_bytes, cut_optimizer=self.cut_optimizer,
        ))  # fmt: skip

    def price_on(self, machine: Machine) -> PlanPrice:
        """Return a step by the formulas, on a machine."""
        job = self.job
        return price_plan(
            self.placed, machine, job.widths, job.passes, bucket_bytes=self.bucket_bytes,
            cut_optimizer=self.cut_optimizer, states=job.states,
        )  # fmt: skip


def open_runs(folders: Sequence[str | Path], machine: str | Machine | None = None) -> list[Run]:
    """Open runs, each once, in the order in which they are named.

    Parameters
    ----------
    folders
        Run folders, or folders that hold some.
    machine
        What they are priced on; None takes for each the machine that it was planned on.

    Raises
    ------
    InputError
        If a folder is no finished run and holds none, or a run's network or machine cannot be had any more.
    """
    if not folders:
        raise InputError(
            "no run is named; name run folders that gridnn.train wrote, or a folder that holds some"
        )
    found = {folder.resolve(): folder for path in folders for folder in _runs_in(Path(path))}
    short = [folder.name for folder in found]
    on = load_machine(machine) if isinstance(machine, str) else machine
    return [
        _open(folder, real.name if short.count(real.name) == 1 else str(folder), on)
        for real, folder in found.items()
    ]


def open_run(folder: str | Path, machine: str | Machine | None = None) -> Run:
    """Open one run; see `open_runs`."""
    path = Path(folder)
    read_summary(path)  # a folder of several runs is none
    return open_runs([path], machine)[0]


def _runs_in(path: Path) -> list[Path]:
    """Return a run folder, or the finished runs that a folder holds, by name."""
    if path.is_dir() and not any((path / name).exists() for name in (SUMMARY, STEPS)):
        inner = sorted(child for child in path.iterdir() if (child / SUMMARY).is_file())
        if inner:
            return inner
    read_summary(path)  # says what is wrong with it
    return [path]


def _open(folder: Path, name: str, machine: Machine | None) -> Run:
    summary, config = read_summary(folder), read_config(folder)
    file = open_plan(folder / PLAN)
    if file.model is None:
        raise InputError(
            f"the plan of the run in {folder} does not say what its network is; an older gridnn wrote it: run again"
        )
    plan = _plan(file, open_network(file.model))
    try:
        itemsize = np.dtype(plan.dtype).itemsize
        train, comm = config["train"], config.get("comm", {})
        bucket_bytes, cut = int(train["bucket_bytes"]), bool(train["cut_optimizer"])
        optimizer, momentum = str(train["optimizer"]), float(train.get("momentum", 0.0))
        overlap = bool(comm.get("overlap", True))
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{folder / CONFIG} is not the configuration of a run: {what}; run again") from None
    states = 0 if optimizer == "sgd" and not momentum else STATES.get(optimizer, 1)
    job = Job(
        open_network(file.model), machine or _machine_of(folder, plan), plan.procs, plan.batch, plan.passes, itemsize,
        states, 2 if config.get("compute", {}).get("precision") == "bf16" else 0,
    )  # fmt: skip
    return Run(
        name, folder, plan, job, bucket_bytes, cut, overlap,
        datetime.fromtimestamp((folder / SUMMARY).stat().st_mtime, UTC).date(), summary,
        read_traffic(folder) if (folder / TRAFFIC).exists() else None, read_spans(folder),
    )  # fmt: skip


def _plan(file: PlanFile, network: Network) -> Plan:
    """Return the plan of a file; grids of heads are of layers that the network gets from them."""
    layers, heads = file.table.get("layers"), dict[str, Scheme]()
    if file.table.get("schedule") == "local" and isinstance(layers, dict):
        heads = {name: parse_scheme(text) for name, text in layers.items() if is_head(name)}
        others = {name: text for name, text in layers.items() if name not in heads}
        file = replace(file, table={**file.table, "layers": others})
    plan = file.plan(network)
    return replace(plan, schemes={**plan.schemes, **heads})


def _machine_of(folder: Path, plan: Plan) -> Machine:
    """Return the machine that a run was planned on."""
    if not plan.machine:
        raise InputError(f"the plan of the run in {folder} names no machine; name one with --machine")
    try:
        return load_machine(plan.machine)
    except InputError as error:
        raise InputError(
            f"the machine of the run in {folder} cannot be had: {error}; name one with --machine"
        ) from None
