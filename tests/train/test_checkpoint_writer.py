"""The writer on real ranks: behind training, found again on another plan, and failing on all ranks together."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.errors import GridnnError, InputError, RunError
from gridnn.layers.model import Model
from gridnn.network.placed import place_network
from gridnn.train.checkpoint import folders, save, shards
from gridnn.train.checkpoint.behind import heard, words_of
from gridnn.train.checkpoint.find import find_named, find_newest
from gridnn.train.checkpoint.index import State
from gridnn.train.checkpoint.live import contents_of, restore, values_of
from gridnn.train.checkpoint.write import Writer
from gridnn.train.optimizer import Optimizer, Piece
from gridnn.train.sections import TrainSection
from tests.support.laws import data, uniform_schemes
from tests.support.nets import build

NETWORK, BATCH = build("residual"), 6
CONFIG = TrainSection(optimizer="adam", dtype="float64", bucket_bytes=1000)


class Training:
    """A model that takes steps, as a run does."""

    def __init__(self, world: World, grid: str, cut: bool = False) -> None:
        self.world = world
        config = CONFIG.model_copy(update={"cut_optimizer": cut})
        placed = place_network(NETWORK, uniform_schemes(NETWORK, grid), BATCH, world.size)
        self.contents = contents_of(placed, config)
        self.model = Model(world, placed, config.dtype, config.bucket_bytes, cut)
        self.model.arena.initialise(3)
        self.optimizer = Optimizer(config, self.model.engine)
        whole_x, whole_t = data(NETWORK, BATCH)
        self.x = np.ascontiguousarray(whole_x[tuple(slice(*i) for i in self.model.input_box)])
        self.target = np.ascontiguousarray(whole_t[tuple(slice(*i) for i in self.model.target_box)])
        self.pieces = [Piece(s.entry.name, s.value, s.grad, True, 0) for s in self.model.arena.shares()]

    def step(self, number: int, before_update: Callable[[], None] = lambda: None) -> float:
        self.model.arena.begin()
        verdict = self.model.forward(self.x, self.target, at=(1, number))
        self.model.backward()
        self.model.arena.await_sums()
        before_update()
        self.optimizer.step(self.pieces, 0.01)
        self.model.arena.publish()
        return float(self.world.comm.allreduce(verdict.loss))

    def save(self, writer: Writer, step: int) -> None:
        values = values_of(
            self.contents, self.world.rank, self.model.arena, self.model.layers, self.optimizer
        )
        writer.save(values, State(step, 0, self.optimizer.updates, 3, "", ""))

    def resume(self, checkpoint: Any) -> None:
        restore(
            checkpoint, self.contents, self.world.rank, self.model.arena, self.model.layers, self.optimizer
        )


def poll_until_idle(writer: Writer) -> None:
    while writer.busy:
        writer.poll()
        time.sleep(1e-3)


@pytest.mark.ranks(1, 2, 4)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_resumed_on_another_plan_is_the_uninterrupted_run(comm: Any, shared_path: Path, cut: bool) -> None:
    grids = {1: ("1", "1"), 2: ("n2", "k2"), 4: ("n2 h2", "k2 w2")}[comm.size]
    with World(comm) as world:
        straight = Training(world, grids[0], cut)
        writer = Writer(world, shared_path / "checkpoints" if world.rank == 0 else None, straight.contents)
        losses = [straight.step(number) for number in range(2)]
        straight.save(writer, 2)
        for number in range(
            2, 5
        ):  # goes on while the checkpoint is written; its values are those of the save
            losses.append(straight.step(number, writer.await_copy))
            writer.poll()
        poll_until_idle(writer)
        assert writer.saved_step == 2 and writer.nbytes > 0
        found, warnings = find_newest(world, shared_path)
        assert found is not None and not warnings
        assert (found.state.step, found.state.updates, found.index.ranks) == (2, 2, comm.size)
        resumed = Training(world, grids[1], not cut)
        resumed.resume(found)
        again = [resumed.step(number) for number in range(2, 5)]
        np.testing.assert_allclose(again, losses[2:], rtol=1e-9)
        writer.close()


@pytest.mark.ranks(3)
def test_saves_in_a_row_wait_for_each_other(comm: Any, shared_path: Path) -> None:
    with World(comm) as world:
        training = Training(world, "n3")
        writer = Writer(world, shared_path / "c", training.contents, keep=2, best=False)
        for step in (1, 2, 3):
            training.save(writer, step)  # nobody polled: the one before is finished first
        writer.finish()
        assert not writer.busy and writer.saved_step == 3
        comm.Barrier()
        assert [path.name for path in folders.steps_in(shared_path / "c")] == [
            "step-00000003",
            "step-00000002",
        ]
        one = Writer(world, shared_path / "c", training.contents, behind=False)
        training.save(one, 4)
        assert not one.busy and (shared_path / "c" / "step-00000004" / "index.json").exists()
        one.close()
        writer.close()


def disk_full(path: Path, *_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


class FullDisk:
    """A disk that takes no more, at the will of a test."""

    def __init__(self, world: World, root: Path) -> None:
        self.world, self.root = world, root
        self.training = Training(world, f"n{world.size}")
        self.writer = Writer(world, root, self.training.contents)
        self.training.save(self.writer, 1)
        poll_until_idle(self.writer)
        world.comm.Barrier()
        self.before = self.content()

    def content(self) -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in (self.root / "step-00000001").iterdir()}
        self.world.comm.Barrier()
        return found

    def fails(self, words: str) -> None:
        """A save now fails on all ranks with the same words; what was there is as it was, and nothing else is."""
        self.training.save(self.writer, 2)
        with pytest.raises(RunError, match=words) as told:
            poll_until_idle(self.writer)
        assert len(set(self.world.comm.allgather(str(told.value)))) == 1
        assert [path.name for path in self.root.glob("step-*")] == ["step-00000001"]
        assert self.content() == self.before

    def works_again(self) -> None:
        """There is room: the writer is as good as before, and leaves no part of what failed."""
        self.training.save(self.writer, 2)
        poll_until_idle(self.writer)
        found, warnings = find_named(self.world, self.root)
        assert found.state.step == 2 and not warnings and self.writer.saved_step == 2
        assert not list(self.root.glob("*.part"))
        self.writer.close()


@pytest.mark.ranks(2, 3)
def test_a_file_that_may_not_grow_on_one_rank_is_told_by_all(comm: Any, shared_path: Path) -> None:
    """The system itself refuses one rank's writes, in the middle of its shard."""
    with World(comm) as world:
        disk = FullDisk(world, shared_path / "c")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        last = comm.size - 1
        try:
            if world.rank == last:
                resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
            disk.fails(
                rf"step 2 failed on rank {last}: .*shard-0000{last}\.safetensors: File too large; earlier"
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        disk.works_again()


@pytest.mark.ranks(2)
def test_a_disk_that_is_full_is_told_by_all(comm: Any, shared_path: Path) -> None:
    root, mounted = shared_path / "tiny", False
    if comm.rank == 0:
        root.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=128k", "gridnn-test", str(root)]
        mounted = (
            os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
        )
    if not comm.bcast(mounted):
        pytest.skip("only root may mount a small file system")
    try:
        with World(comm) as world:
            disk = FullDisk(world, root)
            if comm.rank == 0:
                with (
                    pytest.raises(OSError, match="No space"),
                    (root / "others").open("wb", buffering=0) as file,
                ):
                    while True:
                        file.write(bytes(4096))
            comm.Barrier()
            disk.fails(r"step 2 failed on rank [01]: .*step-00000002.*: No space left on device; earlier")
            comm.Barrier()
            if comm.rank == 0:
                (root / "others").unlink()
            comm.Barrier()
            disk.works_again()
    finally:
        comm.Barrier()
        if comm.rank == 0:
            subprocess.run(["umount", "-l", str(root)], check=True)


@pytest.mark.ranks(3)
def test_a_folder_that_cannot_be_listed_is_refused_by_all(comm: Any, shared_path: Path) -> None:
    with World(comm) as world:
        if comm.rank == 0:
            (shared_path / "checkpoints").write_text("no folder")
        comm.Barrier()
        for find in (find_newest, find_named):
            with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)") as told:
                find(world, shared_path)
            assert told.value.everywhere


@pytest.mark.parametrize("name", ["plain", "x" * 900, "\N{SNOWMAN}" * 300, "\U0001f3c1" * 300])
def test_words_always_fit(name: str) -> None:
    told = heard(words_of(None, OSError(errno.ENOSPC, "No space left on device", f"/{name}")))["error"]
    assert told.endswith(f"{name[-1]}: No space left on device")


@pytest.mark.ranks(3)
def test_a_commit_that_fails_is_told_by_all(
    comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with World(comm) as world:
        training = Training(world, "n3")
        writer = Writer(world, shared_path / "c", training.contents)
        monkeypatch.setattr(folders, "write_durably", disk_full)  # the index; rank 0 writes it
        training.save(writer, 1)
        with pytest.raises(RunError, match=r"rank 0: .*index\.json: No space left"):
            poll_until_idle(writer)
        comm.Barrier()
        assert not list((shared_path / "c").iterdir())
        writer.close()


@pytest.mark.ranks(2)
@pytest.mark.parametrize(("place", "name"), [(save, "sync_folder"), (save.Snapshot, "copy")])
def test_a_bug_in_the_thread_is_told_too(
    comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    """Also while it copies, which the update waits for."""
    with World(comm) as world:
        training = Training(world, "n2")
        writer = Writer(world, shared_path / "c", training.contents)
        if world.rank == 1:
            monkeypatch.setattr(place, name, lambda of: 1 // 0)
        training.save(writer, 1)
        writer.await_copy()
        with pytest.raises(RunError, match=r"rank 1: ZeroDivisionError"):
            writer.finish()
        writer.close()


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("what", ["weights", "optimizer"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_run_that_has_diverged_keeps_what_it_saved_before(
    comm: Any, shared_path: Path, what: str, number: float, behind: bool
) -> None:
    """With one checkpoint to keep: the last element that some rank alone writes down is no number."""
    with World(comm) as world:
        training, root = Training(world, f"n{comm.size}"), shared_path / "c"
        writer = Writer(world, root, training.contents, keep=1, best=False, behind=behind)
        training.step(0)
        training.save(writer, 1)
        writer.finish()
        mine = [part.name for part in training.contents.parts(world.rank) if part.name.startswith(what)]
        owned = comm.allgather(mine)
        rank = max(at for at, names in enumerate(owned) if names)
        values = values_of(
            training.contents, world.rank, training.model.arena, training.model.layers, training.optimizer
        )
        if world.rank == rank:
            names = [part.name for part in training.contents.parts(rank)]
            at = max(at for at, value in enumerate(values) if names[at] in mine and value is not None)
            spoilt = np.array(values[at])
            spoilt[-1], values[at] = number, spoilt
        with pytest.raises(
            RunError, match=rf"step 2 failed on rank {rank}: {what}/.* is not finite; .*lower"
        ) as told:
            writer.save(values, State(2, 0, training.optimizer.updates, 3, "", ""))
            poll_until_idle(writer)
        assert "make room" not in str(told.value) and len(set(comm.allgather(str(told.value)))) == 1
        assert [
            path.name for path in root.iterdir() if path.name.startswith("step-") and path.suffix != ".part"
        ] == ["step-00000001"]
        training.save(writer, 3)
        writer.close()
        assert find_named(world, root)[0].state.step == 3


@pytest.mark.ranks(2, 4)
def test_a_damaged_newest_is_passed_over_by_all(comm: Any, shared_path: Path) -> None:
    with World(comm) as world:
        training = Training(world, f"n{comm.size}")
        writer = Writer(world, shared_path / "checkpoints", training.contents)
        for step in (1, 2):
            training.save(writer, step)
        writer.close()
        last = shared_path / "checkpoints" / "step-00000002" / shards.shard_name(comm.size - 1)
        if world.rank == 0:
            content = bytearray(last.read_bytes())
            content[-5] ^= 4
            last.write_bytes(content)
        comm.Barrier()
        found, warnings = find_newest(world, shared_path)
        assert found is not None and found.state.step == 1
        assert len(warnings) == 1 and last.name in warnings[0]
        assert comm.allgather(warnings) == [warnings] * comm.size
        with pytest.raises(InputError, match=f"no checkpoint is whole.*\n.*{last.name}") as told:
            find_named(world, last.parent)
        assert told.value.everywhere
        with pytest.raises(GridnnError, match="no checkpoint"):
            find_named(world, shared_path / "nowhere")
        assert find_newest(world, shared_path / "nowhere") == (None, [])
