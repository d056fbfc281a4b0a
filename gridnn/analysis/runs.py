"""Runs that have ended, opened for analysis: what was planned, on which machine, and what was counted and measured.

runs/                      a folder of runs stands for all finished ones in it
    digits-cnn-20250131/   plan.json      network, grids, machine       -> `Run.job`, `Run.placed`, `Run.price`
                           config.toml    how gradients are summed
                           summary.json   measured step, bytes, memory
                           traffic.json   counted, by key               (None in runs of an older gridnn)
                           spans.npz      measured, piece by piece      (None where none were kept)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from gridnn.cost.machine import Machine, load_machine
from gridnn.cost.price import PlanPrice, price_plan
from gridnn.errors import InputError
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.source import open_network
from gridnn.plan.job import Job
from gridnn.plan.plan import Plan, open_plan
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
        """The network on its grids."""
        return place_network(self.job.network, self.plan.schemes, self.job.per_pass, self.job.procs)

    @cached_property
    def price(self) -> PlanPrice:
        """A step by the formulas."""
        return self.price_on(self.job.machine)

    def price_on(self, machine: Machine) -> PlanPrice:
        """Return a step by the formulas, on a machine."""
        job = self.job
        return price_plan(
            self.placed, machine, job.itemsize, job.passes, bucket_bytes=self.bucket_bytes,
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
    plan = file.plan(open_network(file.model))
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
        states,
    )  # fmt: skip
    return Run(
        name, folder, plan, job, bucket_bytes, cut, overlap,
        datetime.fromtimestamp((folder / SUMMARY).stat().st_mtime, UTC).date(), summary,
        read_traffic(folder) if (folder / TRAFFIC).exists() else None, read_spans(folder),
    )  # fmt: skip


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
