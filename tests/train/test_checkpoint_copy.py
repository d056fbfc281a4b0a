"""What a save copies and when: the update after it waits, and what a forward pass changes was copied before."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from gridnn.comm.world import World
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native.library import load
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network.placed import place_network
from gridnn.train.checkpoint import shards
from gridnn.train.checkpoint.find import find_newest
from gridnn.train.checkpoint.read import open_checkpoint
from gridnn.train.checkpoint.save import Snapshot
from gridnn.train.checkpoint.whole import read_whole
from gridnn.train.checkpoint.write import Writer
from gridnn.train.config import load_config
from gridnn.train.console import Console
from gridnn.train.record import Summary
from gridnn.train.resume import Start
from gridnn.train.run import prepare, train
from gridnn.train.saving import Saving
from tests.support.laws import data
from tests.support.nets import NETS, build
from tests.train.checkpoints import advance, ranks_of, small
from tests.train.test_checkpoint_writer import Training

copy_now = Snapshot.copy


@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", NETS)
def test_passes_change_no_weights(comm: Any, name: str) -> None:
    """On this rests that they are copied beside them."""
    network, batch = build(name), 4
    x, target = data(network, batch)
    placed = place_network(network, {n.name: Scheme(GridShape()) for n in network.nodes}, batch, 1)
    for native in (None, load()):
        with World(comm) as world:
            model = Model(world, placed, "float64", engine=Engine(native, world.memory, None))
            model.arena.initialise(3)
            before = [share.value.tobytes() for share in model.arena.shares()]
            assert before
            for step in range(2):
                model.arena.begin()
                model.forward(x, target, at=(1, step))
                model.backward()
                model.arena.await_sums()
                model.forward(x, target, train=False)
                assert [share.value.tobytes() for share in model.arena.shares()] == before


def test_what_is_copied_at_once_and_what_later() -> None:
    ranks = ranks_of(small(), 1, {"*": "1"})
    advance(ranks, seed=3)
    snapshot, values = Snapshot(ranks.contents, 0), ranks.values(0)
    wanted = b"".join(value.tobytes() for value in values)
    parts = ranks.contents.parts(0)
    assert {part.name.split("/")[0]: part.moves_in_forward for part in parts} == {
        "statistics": True,
        "weights": False,
        "optimizer": False,
    }
    snapshot.take(values)
    for part, value in zip(parts, values, strict=True):
        if part.moves_in_forward:
            value += 1
    with pytest.raises(AssertionError, match="not copied yet"):
        snapshot.data  # noqa: B018
    snapshot.copy()
    for value in values:
        value += 1
    assert b"".join(snapshot.data) == wanted


@pytest.mark.ranks(1, 2, 3)
def test_the_update_waits_for_the_copy(comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy does not begin before training has come to the update; what is on the disk is of the save."""
    reached, events = threading.Event(), list[str]()

    def copy(snapshot: Snapshot) -> None:
        reached.wait(5)
        copy_now(snapshot)
        events.append("copied")

    monkeypatch.setattr(Snapshot, "copy", copy)
    with World(comm) as world:
        training = Training(world, f"n{comm.size}", cut=comm.size > 1)
        writer = Writer(world, shared_path / "checkpoints", training.contents)

        def before_update() -> None:
            events.append(f"passes made, copied: {writer.copied}")
            reached.set()
            writer.await_copy()
            events.append(f"update, copied: {writer.copied}")

        assert writer.copied
        for number in range(2):
            training.step(number)
        training.save(writer, 2)
        shares = {s.entry.name: s.value.copy() for s in training.model.arena.counted_once()}
        means = {name: s.copy() for layer in training.model.layers if hasattr(layer, "statistics")
                 for name, s in layer.statistics().items()}  # fmt: skip
        training.step(2, before_update)
        assert events == ["passes made, copied: False", "copied", "update, copied: True"]
        assert any((s.value != shares[s.entry.name]).any() for s in training.model.arena.counted_once())
        writer.finish()
        assert writer.stalled_s > 0 and means
        found, _ = find_newest(world, shared_path)
        assert found is not None and found.state.step == 2
        again = Training(world, f"n{comm.size}", cut=comm.size > 1)
        again.resume(found)
        for share in again.model.arena.counted_once():
            assert share.value.tobytes() == shares[share.entry.name].tobytes()
        assert {name: s.tobytes() for layer in again.model.layers if hasattr(layer, "statistics")
                for name, s in layer.statistics().items()} == {
            name: s.tobytes() for name, s in means.items()}  # fmt: skip
        writer.close()


@pytest.mark.ranks(1, 2)
def test_a_run_writes_behind_what_it_writes_at_once(
    comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose copies are late, as late as its updates allow, makes the same checkpoints as one that waits."""
    at_update = threading.Event()
    wait = Saving.before_update

    def copy(snapshot: Snapshot) -> None:
        at_update.wait(0.5)  # after the last step there is no update
        at_update.clear()
        copy_now(snapshot)

    def before_update(saving: Saving) -> None:
        at_update.set()
        wait(saving)

    def made(name: str, *settings: str) -> dict[int, dict[str, bytes]]:
        job = ("train.steps=4", "train.eval=false", "train.batch=16", "train.dtype=float64", 'compute.choice="fixed"',
               "checkpoint.every_steps=1", "checkpoint.keep=9")  # fmt: skip
        config = load_config(None, [*job, *settings], f"n{comm.size}")
        folder = shared_path / name
        if world.rank == 0:
            folder.mkdir()
        ready = prepare(world, config, Console(world.rank, io.StringIO()))
        assert isinstance(train(ready, Start(folder if world.rank == 0 else None)), Summary)
        comm.Barrier()
        found = {}
        for step in range(1, 5):
            opened = open_checkpoint(folder / "checkpoints" / f"step-{step:08d}")
            found[step] = {array: read_whole(opened, array).tobytes() for array in opened.index.arrays}
        return found

    with World(comm) as world:
        wanted = made("waits", "checkpoint.behind=false")
        monkeypatch.setattr(Snapshot, "copy", copy)
        monkeypatch.setattr(Saving, "before_update", before_update)
        got = made("behind")
    assert any(name.startswith("optimizer/") for name in wanted[1])
    for step in range(1, 5):
        assert got[step].keys() == wanted[step].keys()
        assert [name for name, bits in wanted[step].items() if got[step][name] != bits] == [], step
    assert wanted[1] != wanted[2]


@pytest.mark.parametrize("size", [0, 1, shards.CHUNK_BYTES, 2 * shards.CHUNK_BYTES + 12345])
def test_the_checksum_is_that_of_all_bytes(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    (tmp_path / "file").write_bytes(content)
    assert shards.checksum(tmp_path / "file") == f"xxh3:{xxhash.xxh3_64(content).hexdigest()}"
