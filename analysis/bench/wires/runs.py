"""One plan measured on hosts: the run, its record read back, what the interfaces say; and PyTorch's twin.

All steps but the first ones, which choose kernels and open connections, are taken, and of them the median.  Wire bytes
are all frames of the job, its start included; counted bytes are the contents of its messages.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from export import exported
from hidden import Visible, visible
from hosts import Failed, Hosts, run
from outcome import Outcome, Peer
from regime import AUTO, Case

from gridnn.analysis.runs import open_run
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import INPUT, Network
from gridnn.network.placed import place_network
from gridnn.train.record import read_summary

BENCH = Path(__file__).resolve().parents[1]
PORT = 29511


@dataclass(frozen=True)
class Setting:
    """What all runs have in common.

    Attributes
    ----------
    warm, steps
        Steps left out, and steps measured.
    limit_s
        Of one run.
    """

    name: str
    network: Network
    batch: int
    warm: int
    steps: int
    limit_s: float
    folder: Path

    @property
    def classes(self) -> int:
        """Of the network."""
        return int(self.network.shapes[self.network.nodes[-1].inputs[0]][0])

    def data(self, batch: int) -> Path:
        """Return a folder of one batch of random arrays, which a rank maps: to draw numbers would take its core."""
        folder, rng = self.folder / f"data-{batch}", np.random.default_rng(0)
        if not folder.exists():
            folder.mkdir(parents=True)
            for part in ("train", "test"):
                shape = (batch, *self.network.shapes[INPUT])
                np.save(folder / f"x_{part}.npy", rng.standard_normal(shape).astype(np.float32))
                np.save(folder / f"y_{part}.npy", np.arange(batch) % self.classes)
        return folder

    def job(self, batch: int) -> list[str]:
        """Return the words of a training job on random data, without evaluation."""
        keys = {
            "model.name": self.name, "data.name": "random", "data.path": str(self.data(batch)),
            "data.classes": self.classes, "train.batch": batch,
            "train.steps": self.warm + self.steps, "train.lr": 1e-3, "train.momentum": 0.9, "train.eval": False,
            "run.trace_steps": self.steps, "checkpoint.keep": 0,
        }  # fmt: skip
        sets = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        return [sys.executable, "-m", "gridnn.train", "--set", *sets]


def compute_alone(hosts: Hosts, setting: Setting, when: str) -> float:
    """Return the seconds of a step of pure batch without communication: every host its share, all at once.

    Raises
    ------
    Failed
    """
    share, place = setting.batch // hosts.count, setting.folder / f"{hosts.count}-alone-{when}"
    words = [*setting.job(share), "--plan", "1", "--run-dir", str(place) + "-{host}"]
    hosts.each(words, [{}] * hosts.count, setting.limit_s)
    found = [_steps(Path(f"{place}-{host}"))[setting.warm :] for host in range(hosts.count)]
    return statistics.median([seconds for steps in found for seconds in steps])


def measure(
    hosts: Hosts, setting: Setting, case: Case, machine: Path, turn: int, overlap: bool = True
) -> Outcome:
    """Run a plan.

    Raises
    ------
    Failed
        If it ends badly, or not in time; a run whose counted bytes are not the predicted ones ends badly.
    """
    name = f"{hosts.count}-{case.name}{'' if overlap else ' apart'}-{turn}".replace(" ", "_").replace(",", "")
    place, plan = setting.folder / name, setting.folder / f"{name}.json"
    plan.write_text(json.dumps({"format": "gridnn-plan", "version": 1, "layers": dict(case.grids)}))
    more = [f"plan.machine={json.dumps(str(machine))}", f"comm.overlap={json.dumps(overlap)}"]
    before = hosts.sent_bytes()
    hosts.ranks(
        [*setting.job(setting.batch), *more, "--plan", str(plan), "--run-dir", str(place)], setting.limit_s
    )
    wire = sum(hosts.sent_bytes()) - sum(before)
    found, summary, steps = open_run(place), read_summary(place), _steps(place)[setting.warm :]
    seen = Visible() if found.spans is None else visible(found.spans, setting.warm)
    price = found.price
    return Outcome(
        case.name, tuple(steps), price.overlapped_s, price.step_s, summary.counted_bytes, summary.predicted_bytes, wire,
        (seen,),
    )  # fmt: skip


def searched(hosts: Hosts, setting: Setting, machine: Path, limit_s: float = 300.0) -> Case:
    """Return the plan that ``gridnn plan`` finds.

    Raises
    ------
    Failed
    """
    path = setting.folder / f"{hosts.count}-searched.json"
    words = ["plan", setting.name, "--procs", str(hosts.count), "--batch", str(setting.batch)]
    words += ["--machine", str(machine), "-o", str(path)]
    run([sys.executable, "-m", "gridnn.cli", *words], limit_s, hosts.env)
    return Case(AUTO, json.loads(path.read_text())["layers"])


def torch_case(setting: Setting, layout: str) -> dict[str, Any]:
    """Return what ``ddp.py`` needs to step the same network."""
    network = setting.network
    placed = place_network(network, {n.name: Scheme(GridShape()) for n in network.nodes}, setting.batch, 1)
    shapes = {
        f"{layer.node.name}.{p.name}": list(p.layout.shape)
        for layer in placed.layers
        for p in layer.placement.parameters
    }
    return {
        "layers": exported(network), "shapes": shapes, "input": list(network.shapes[INPUT]),
        "target": list(network.shapes[network.output][1:]), "classes": setting.classes, "batch": setting.batch,
        "steps": setting.warm + 1 + setting.steps, "lr": 1e-3, "layout": layout,
    }  # fmt: skip


def torch_steps(hosts: Hosts, setting: Setting, python: str, layout: str) -> Peer:
    """Run PyTorch's data parallelism in one of its memory layouts.

    It is given a step more to warm up in: it lays its buckets anew after the first.

    Raises
    ------
    Failed
    """
    path = setting.folder / f"{hosts.count}-ddp-{layout}.json"
    path.write_text(json.dumps(torch_case(setting, layout)))
    common = {
        "WORLD_SIZE": str(hosts.count), "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": str(PORT),
        "GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": str(BENCH),
    }  # fmt: skip
    envs: Sequence[Mapping[str, str]] = [common | {"RANK": str(rank)} for rank in range(hosts.count)]
    before = sum(hosts.sent_bytes())
    said = hosts.each([python, str(BENCH / "wires" / "ddp.py"), str(path)], envs, setting.limit_s)
    wire = sum(hosts.sent_bytes()) - before
    found = [line for line in said[0].splitlines() if line.startswith("{")]
    if not found:
        raise Failed(f"PyTorch said nothing to read: {said[0][-300:]}")
    told = json.loads(found[-1])
    seconds = told["seconds"]
    return Peer(layout, tuple(seconds[setting.warm + 1 :]), wire, len(seconds), str(told["torch"]))


def calibrated(hosts: Hosts, setting: Setting, quick: bool) -> Path:
    """Measure the machine on these hosts; returns its file.

    Raises
    ------
    Failed
    """
    path = setting.folder / f"wires{hosts.count}.toml"
    words = ["-o", str(path), "--network", setting.name, "--batch", str(setting.batch), "--force"]
    hosts.ranks([sys.executable, "-m", "gridnn.cli", "calibrate", *words, *["--quick"] * quick], 900.0)
    return path


def _steps(folder: Path) -> list[float]:
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return [float(json.loads(line)["step_s"]) for line in lines]
