"""Run folders whose measured seconds are those of a machine that the test knows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from gridnn.cost.compute import pass_seconds
from gridnn.cost.machine import Level, Machine, dumps
from gridnn.cost.movement import Movements
from gridnn.cost.price import price_plan
from gridnn.cost.traffic import predict_step
from gridnn.geometry.grid import GridShape
from gridnn.geometry.traffic import Key, Traffic, Volume
from gridnn.network import zoo
from gridnn.network.buckets import plan_buckets
from gridnn.network.fusion import absorbable
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.source import Source
from gridnn.plan.plan import uniform_plan
from gridnn.train.record import RECORD_VERSION, RunTraffic, Summary, TrafficRow
from gridnn.train.spans import Place, Spans, write_spans

FILE = Machine("file", "a test", "2020-02-02", 2e9, 1e-9, 2e-5, 10**9, (Level("node", 0, 2e-5, 1e-9),))
TRUTH = replace(
    FILE, flops_per_s=1e9, touch_s_per_element=3e-9, layer_s=5e-5, levels=(Level("node", 0, 6e-5, 4e-9),)
)
SOURCE = Source("digits-cnn", (1, 8, 8), 10, {"width": 8})
PLANS = ("n4", "k4", "c4", "h2 w2", "n2 k2", "n2 h2")
PROCS, BATCH, STEPS, BUCKET = 4, 16, 12, 4 << 20
Row = tuple[int, int, str, Place, float]  # rank, step, phase, place, seconds
_WAYS = {"forward": "forward", "data": "backward", "weights": "weights"}


def machine_file(folder: Path, machine: Machine = FILE) -> Path:
    path = folder / f"{machine.name}.toml"
    path.write_text(dumps(machine), encoding="utf-8")
    return path


def write_run(
    folder: Path, grid: str, machine: str, truth: Machine = TRUTH, *, step_s: float | None = None, spans: bool = True,
    noise: float = 0.0, late_s: float = 0.0, traced: Sequence[int] = (2, 3, 4),
) -> Path:  # fmt: skip
    """Write a run folder; a step takes what `truth` says, nothing hidden, unless `step_s` is given.

    Ranks other than the first wait `late_s` longer for every message.
    """
    folder.mkdir(parents=True)
    network = zoo.build(SOURCE.word, (1, 8, 8), 10, **SOURCE.options)
    plan = uniform_plan(network, GridShape.parse(grid), BATCH, PROCS, "a test")
    placed = place_network(network, plan.schemes, BATCH, PROCS)
    told = price_plan(placed, FILE, 4).step_s
    took = price_plan(placed, truth, 4).step_s if step_s is None else step_s
    (folder / "plan.json").write_text(replace(plan, model=SOURCE, machine=machine).dumps(), encoding="utf-8")
    (folder / "config.toml").write_text(
        f'[train]\nbucket_bytes = {BUCKET}\ncut_optimizer = false\noptimizer = "sgd"\nmomentum = 0.9\n'
        "[comm]\noverlap = true\n",
        encoding="utf-8",
    )
    traffic = Traffic()
    for rank in range(PROCS):
        traffic.merge(predict_step(placed, rank, 4, bucket_bytes=BUCKET), STEPS)
    rows = tuple(TrafficRow(*k, v.messages, v.messages, *[v.received_bytes] * 2) for k, v in traffic.items())
    _write(
        folder / "traffic.json", {**RunTraffic(STEPS, 0, rows)._asdict(), "rows": [r._asdict() for r in rows]}
    )
    nbytes = traffic.received_bytes
    summary = Summary(0.5, 0.9, STEPS, took, nbytes, nbytes, grid, PROCS, predicted_step_s=told,
                      predicted_memory_bytes=1000, memory_bytes=1100)  # fmt: skip
    if spans:
        found = [row for step in traced for rank in range(PROCS) for row in a_step(placed, truth, rank, step)]
        found = [(*row[:4], row[4] + late_s * (row[0] > 0 and "wait" in row[2])) for row in found]
        rng = np.random.default_rng(7)
        factors = np.exp(noise * rng.standard_normal(len(found)))
        write_spans(
            folder, made([(*row[:4], row[4] * f) for row, f in zip(found, factors.tolist(), strict=True)])
        )
    _write(folder / "summary.json", asdict(summary))
    return folder


def a_step(placed: PlacedNetwork, truth: Machine, rank: int, step: int) -> Iterator[Row]:
    """Yield what a rank does in a step, on a machine: every pass, every movement in two halves."""
    count: dict[Key, Volume] = dict(predict_step(placed, rank, 4, bucket_bytes=BUCKET).items())
    moves = Movements(placed, truth, 4, 1, BUCKET, False).seconds(rank, count)
    fused = absorbable(placed.network)
    yield rank, step, "data", Place((), ""), 1e-4
    for name, way in _WAYS.items():
        for layer in placed.layers:
            seconds = 1e-7 if layer.node.name in fused else pass_seconds(layer, rank, truth, name)  # type: ignore[arg-type]
            yield rank, step, "compute", Place((layer.node.name,), way), seconds
    for key, moved in moves.items():
        if moved.part != "gradients":
            for phase in (key.collective, f"{key.collective} wait"):
                yield rank, step, phase, Place((key.layer,), key.direction), moved.seconds / 2
    sums = sum(m.seconds for m in moves.values() if m.part == "gradients")
    buckets = [b for b in plan_buckets(placed, rank, BUCKET, 4) if b.owed and len(b.replicas) > 1]
    for bucket in buckets:
        layers = tuple(dict.fromkeys(e.layer for e in bucket.entries))
        yield rank, step, "allreduce wait", Place(layers, "backward"), sums / len(buckets)
    yield rank, step, "update", Place((), ""), 2e-4


def made(rows: Sequence[Row]) -> Spans:
    """Return spans that follow each other on every rank; steps begin together."""
    phases, places = dict[str, int](), dict[Place, int]()
    ends, start = dict[int, int](), dict[int, int]()
    columns = list[tuple[int, ...]]()
    for rank, step, phase, place, seconds in rows:
        if step not in start:
            start[step] = max(ends.values(), default=0)
            ends.clear()
        at = ends.get(rank, start[step])
        duration = round(seconds * 1e9)
        ends[rank] = at + duration
        columns.append((rank, step, phases.setdefault(phase, len(phases)), places.setdefault(place, len(places)), at,
                        duration))  # fmt: skip
    table = np.array(columns, dtype=np.int64).reshape(-1, 6)
    ranks = tuple(sorted({row[0] for row in rows}))
    small = table[:, :4].astype(np.int32)
    return Spans(
        ranks, tuple(f"host{r // 2}" for r in ranks), PROCS, tuple(sorted({row[1] for row in rows})),
        (0,) * len(ranks), (50,) * len(ranks), tuple(phases), tuple(places),
        small[:, 0], small[:, 1], small[:, 2], small[:, 3], table[:, 4], table[:, 5],
    )  # fmt: skip


def _write(path: Path, table: dict[str, object]) -> None:
    path.write_text(json.dumps({"record_version": RECORD_VERSION, **table}), encoding="utf-8")
