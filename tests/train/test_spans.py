"""Spans: which steps, packed and brought together, written and read; and what those of a run say."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.align import Line
from gridnn.comm.clock import Span
from gridnn.comm.world import World
from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.train.config import load_config
from gridnn.train.console import Console
from gridnn.train.predicted import Predicted
from gridnn.train.record import read_traffic
from gridnn.train.resume import Start
from gridnn.train.run import Run, prepare, train
from gridnn.train.spans import DIRECTIONS, SPANS, Place, Spans, read_spans, shares, write_spans
from gridnn.train.trace import looked_at, pack, spread, together

CONV, FC = (("conv",), "forward"), (("fc", "conv"), "backward")
PLAIN = Line(0.0, 0.0, 0.0, 0.0)
OWN_WORK = {"compute", "update", "data"}


def test_the_third_step_is_the_first_looked_at() -> None:
    assert list(looked_at(100, 4)) == [2, 3, 4, 5]
    assert list(looked_at(6, 4)) == [2, 3, 4, 5]
    assert list(looked_at(5, 4)) == [1, 2, 3, 4]
    assert list(looked_at(2, 4)) == [0, 1]
    assert list(looked_at(1, 1)) == [0]
    assert not looked_at(100, 0)


def test_steps_that_fill_a_pipeline_are_not_looked_at() -> None:
    assert list(looked_at(100, 2, 10, filling=3)) == [15, 16]
    assert list(looked_at(6, 2, 0, filling=3)) == [4, 5]
    assert list(looked_at(2, 4, 0, filling=3)) == [0, 1]


def test_ranks_are_spread() -> None:
    assert spread(3, 256) == (0, 1, 2) and spread(256, 256) == tuple(range(256))
    assert spread(10, 4) == (0, 2, 5, 7)
    many = spread(1000, 256)
    assert len(set(many)) == 256 and many[0] == 0 and many[-1] < 1000
    assert {b - a for a, b in pairwise(many)} == {3, 4}


def two_ranks() -> Spans:
    """Rank 0 waits for rank 2, whose clock is an hour ahead; their names come in different orders."""
    one = [Span("compute", CONV, 10.0, 10.5), Span("halo wait", FC, 10.5, 10.75)]
    other = [Span("halo wait", FC, 3610.0, 3610.25), Span("compute", CONV, 3610.25, 3610.75)]
    packed = [pack(0, [(2, one)], PLAIN), pack(2, [(2, other), (3, other[:1])], Line(0.0, 3600.0, 0.0, 1e-6))]
    return together([m for m, _ in packed], np.concatenate([n for _, n in packed]), 4, (2, 3))


def test_shares_of_ranks() -> None:
    spans = two_ranks()
    found = shares(spans, {("halo wait", Place(*FC))})
    assert found == pytest.approx({0: 0.25 / 0.75, 2: 0.5 / 1.0})
    assert shares(spans, {("halo wait", Place(*CONV)), ("halo", Place(*FC))}) == {0: 0.0, 2: 0.0}
    assert shares(spans, {("halo wait", Place(*FC)), ("compute", Place(*CONV))}) == {0: 1.0, 2: 1.0}


def test_ranks_come_together() -> None:
    spans = two_ranks()
    assert (spans.ranks, spans.procs, spans.steps) == ((0, 2), 4, (2, 3))
    assert (spans.offset_ns, spans.uncertainty_ns) == ((0, 3600 * 10**9), (0, 1000))
    assert (spans.phases, spans.places) == (("compute", "halo wait"), (Place(*CONV), Place(*FC)))
    assert spans.rank.tolist() == [0, 0, 2, 2, 2] and spans.step.tolist() == [2, 2, 2, 2, 3]
    assert spans.phase.tolist() == spans.place.tolist() == [0, 1, 1, 0, 1]
    assert spans.start_ns.tolist() == [0, 500_000_000, 0, 250_000_000, 0]
    assert spans.duration_ns.tolist() == [500_000_000, 250_000_000, 250_000_000, 500_000_000, 250_000_000]


def test_spans_that_meet_still_do_on_another_clock() -> None:
    times = np.cumsum(np.random.default_rng(5).exponential(1e-5, 500)) + 98765.4321
    spans = [Span("compute", CONV, a, b) for a, b in pairwise(times)]
    _, numbers = pack(1, [(0, spans)], Line(98765.0, 17.3, 1e-5, 1e-6))
    assert (numbers[1:, 4] == numbers[:-1, 4] + numbers[:-1, 5]).all()
    assert numbers[-1, 4] + numbers[-1, 5] - numbers[0, 4] == numbers[:, 5].sum()
    assert numbers[:, 5].sum() == pytest.approx((times[-1] - times[0]) * (1 - 1e-5) * 1e9, abs=2)


def test_a_file_and_back(tmp_path: Path) -> None:
    assert read_spans(tmp_path) is None
    spans = two_ranks()
    write_spans(tmp_path, spans)
    found = read_spans(tmp_path)
    assert found is not None and [p.name for p in tmp_path.iterdir()] == [SPANS]
    for name, value in vars(spans).items():
        assert type(getattr(found, name)) is type(value)
        assert (
            np.all(getattr(found, name) == value)
            if isinstance(value, np.ndarray)
            else getattr(found, name) == value
        )


@pytest.mark.parametrize(
    "change",
    [
        {"phases": ("compute",)}, {"places": ()}, {"ranks": (0, 1)}, {"steps": (2,)}, {"hosts": ("a",)},
        {"duration_ns": np.array([1, 1, -1, 1, 1])}, {"rank": np.zeros(4, np.int32)},
        {"offset_ns": ()}, {"start_ns": np.zeros((5, 2), np.int64)},
    ],
)  # fmt: skip
def test_damage_is_seen(tmp_path: Path, change: dict[str, Any]) -> None:
    spans = Spans(**{**vars(two_ranks()), **change})
    write_spans(tmp_path, spans)
    with pytest.raises(InputError, match="damaged"):
        read_spans(tmp_path)


def test_files_that_are_none(tmp_path: Path) -> None:
    write_spans(tmp_path, two_ranks())
    whole = (tmp_path / SPANS).read_bytes()
    for content in (b"", b"no zip", whole[: len(whole) // 2]):
        (tmp_path / SPANS).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as spans"):
            read_spans(tmp_path)


def test_no_byte_changed_gives_a_traceback(tmp_path: Path) -> None:
    spans = two_ranks()
    write_spans(tmp_path, spans)
    whole = (tmp_path / SPANS).read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        (tmp_path / SPANS).write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read_spans(tmp_path)
        except InputError:
            refused += 1
    assert refused > len(whole) / 7 / 4  # the rest are names, dates and flags of the archive


def look(world: World, folder: Path, plan: str, *settings: str) -> Run:
    """Train the digits for six steps of four an epoch, so that one evaluation is between those looked at."""
    base = ("model.options.width=4", "train.batch=944", "train.steps=6", "train.warmup_steps=0")
    ready = prepare(world, load_config(None, [*base, *settings], plan), Console(world.rank, io.StringIO()))
    train(ready, Start(folder if world.rank == 0 else None))
    world.comm.Barrier()
    return ready


def contiguous(spans: Spans, rank: int, step: int) -> int:
    """Hold the spans of a step to law: one after another without a gap; returns their sum."""
    here = (spans.rank == rank) & (spans.step == step)
    start, duration = spans.start_ns[here], spans.duration_ns[here]
    assert here.any() and (duration >= 0).all()
    np.testing.assert_array_equal(start[1:], (start + duration)[:-1])
    keys = list(zip(spans.phase[here].tolist(), spans.place[here].tolist(), strict=True))
    assert all(a != b for a, b in pairwise(keys))  # maximal
    return int(duration.sum())


def computed(spans: Spans, rank: int, step: int, direction: str) -> set[str]:
    """Return the layers that computed."""
    here = (spans.rank == rank) & (spans.step == step) & (spans.phase == spans.phases.index("compute"))
    places = [spans.places[i] for i in set(spans.place[here].tolist())]
    return {layer for place in places if place.direction == direction for layer in place.layers}


def hold(world: World, folder: Path, ready: Run) -> None:
    """Hold the record of a run to what its plan says.  On every rank."""
    job, spans, traffic = ready.job, read_spans(folder), read_traffic(folder)
    assert spans is not None and spans.ranks == tuple(range(world.size)) == tuple(range(spans.procs))
    assert spans.steps == (2, 3, 4, 5)
    assert {p.direction for p in spans.places} <= set(DIRECTIONS)
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    for rank in spans.ranks:
        mine = [layer for layer in job.placed.layers if rank in layer.scheme.ranks]
        weighed = (s.Conv, s.Linear)
        for step in spans.steps:
            total_ns = contiguous(spans, rank, step)
            if rank == 0:
                assert total_ns <= lines[step]["step_s"] * 1e9 + 1000
                here = (spans.rank == 0) & (spans.step == step)
                for phase, seconds in lines[step]["phases_s"].items():
                    some = here & (spans.phase == spans.phases.index(phase))
                    assert spans.duration_ns[some].sum() / 1e9 == pytest.approx(seconds, abs=1e-6)
            names = {layer.node.name for layer in mine}
            assert computed(spans, rank, step, "forward") >= names
            assert computed(spans, rank, step, "backward") >= names
            assert computed(spans, rank, step, "weights") == {
                layer.node.name for layer in mine if isinstance(layer.node.spec, weighed)
            }
    moved = {
        (layer, spans.places[place].direction, phase.removesuffix(" wait"), phase.endswith(" wait"))
        for phase, place in {
            (spans.phases[p], w) for p, w in zip(spans.phase.tolist(), spans.place.tolist(), strict=True)
        }
        if phase not in OWN_WORK
        for layer in spans.places[place].layers
    }
    keys = [
        key[:3]
        for rank in range(world.size)
        for key, _ in Predicted(job, ready.config.train, world.size, rank).step(0).items()
    ]
    every = set(keys)
    assert {key[:3] for key in moved} >= every  # all that moves is seen
    assert {key[:3] for key in moved if key[3]} <= every  # nobody waits for what does not move
    counted = world.comm.allgather([(tuple(key), tuple(v)) for key, v in world.ledger.items()])
    sums: dict[tuple[str, ...], Any] = {}
    for key, volume in [pair for part in counted for pair in part]:
        sums[key] = np.add(sums.get(key, 0), volume)
    assert (traffic.steps, traffic.evaluations) == (6, 2)
    assert {row[:4] for row in traffic.rows} == set(sums)
    for row in traffic.rows:
        assert (row.counted_messages, row.counted_bytes) == tuple(sums[row[:4]])
        assert (row.predicted_messages, row.predicted_bytes) == tuple(sums[row[:4]])


@pytest.mark.ranks(4)
@pytest.mark.parametrize(
    ("plan", "settings"),
    [
        ("n2 k2", ()),
        ("h2 w2", ("train.accumulate=2",)),
        ("n4", ("train.cut_optimizer=true", "train.optimizer=lars")),
        ("c2 h2", ("comm.overlap=false", "train.clip_norm=1.0")),
        ("n3", ()),
    ],
)
def test_a_run_is_told_whole(comm: Any, shared_path: Path, plan: str, settings: tuple[str, ...]) -> None:
    """ "n3" leaves a rank without a layer."""
    with World(comm) as world:
        hold(world, shared_path, look(world, shared_path, plan, *settings))


@pytest.mark.ranks(3)
def test_layers_on_ranks_of_their_own(comm: Any, shared_path: Path) -> None:
    if comm.rank == 0:
        layers = {"*": "n3", "conv2": "h2 @1", "linear1": "k2", "linear2": "1 @2"}
        text = json.dumps({"format": "gridnn-plan", "version": 1, "layers": layers})
        (shared_path / "mine.json").write_text(text)
    comm.Barrier()
    with World(comm) as world:
        (folder := shared_path / "run").mkdir(exist_ok=True)
        hold(world, folder, look(world, folder, str(shared_path / "mine.json")))


@pytest.mark.ranks(1)
def test_one_process(comm: Any, shared_path: Path) -> None:
    with World(comm) as world:
        hold(world, shared_path, look(world, shared_path, "1"))
    spans = read_spans(shared_path)
    assert spans is not None and set(spans.phases) == OWN_WORK
    assert read_traffic(shared_path).rows == ()


@pytest.mark.ranks(4)
def test_some_ranks_of_many(comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridnn.train.trace.MOST_RANKS", 2)
    with World(comm) as world:
        look(world, shared_path, "n4", "train.eval=false")
        spans = read_spans(shared_path)
        assert spans is not None and spans.ranks == (0, 2) and spans.procs == 4
        assert set(spans.rank.tolist()) == {0, 2}
        for rank in spans.ranks:
            for step in spans.steps:
                contiguous(spans, rank, step)


@pytest.mark.ranks(2)
def test_none_are_kept_where_none_are_wanted(comm: Any, shared_path: Path) -> None:
    with World(comm) as world:
        look(world, shared_path, "n2", "run.trace_steps=0", "train.eval=false")
        assert read_spans(shared_path) is None
        assert read_traffic(shared_path).rows
