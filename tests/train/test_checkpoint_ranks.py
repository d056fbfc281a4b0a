"""Journeys of real ranks: what any plan wrote is read by 1 to 4 of them, and what they write one process reads."""

from __future__ import annotations

from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.train.checkpoint.find import find_named
from gridnn.train.checkpoint.index import State
from gridnn.train.checkpoint.read import open_checkpoint
from gridnn.train.checkpoint.whole import read_whole, wrong_in
from gridnn.train.checkpoint.write import Writer
from tests.train.checkpoints import CONFIG, PLANS, advance, ranks_of, small, truth

CUT = CONFIG.model_copy(update={"cut_optimizer": True})


@pytest.mark.ranks(1, 2, 3, 4)
def test_real_ranks_read_what_any_plan_wrote(comm: Any, shared_path: Path) -> None:
    plans = [schemes for procs, schemes in PLANS if procs == comm.size]
    assert plans
    with World(comm) as world:
        for source, (procs, schemes) in enumerate(PLANS):
            if world.rank == 0:
                writers = ranks_of(small(), procs, schemes, CUT if source % 2 else CONFIG)
                advance(writers, seed=source)
                writers.write(shared_path / str(source), step=1)
            comm.Barrier()
            for number, target in enumerate(plans):
                got, wanted = (
                    ranks_of(small(), comm.size, target, CUT if number else CONFIG) for _ in range(2)
                )
                advance(wanted, seed=source)
                checkpoint, warnings = find_named(world, shared_path / str(source))
                got.restore(checkpoint, only=world.rank)
                assert not warnings and got.bits(world.rank) == wanted.bits(world.rank)


@pytest.mark.ranks(1, 2, 3, 4)
def test_what_real_ranks_write_is_whole(comm: Any, shared_path: Path) -> None:
    step = count(1)
    with World(comm) as world:
        for procs, schemes in PLANS:
            if procs != comm.size:
                continue
            for config, behind in product((CONFIG, CUT), (True, False)):
                ranks, number = ranks_of(small(), procs, schemes, config), next(step)
                advance(ranks, seed=number)
                writer = Writer(world, shared_path / "c", ranks.contents, keep=9, behind=behind)
                assert (writer.nbytes > 0) == behind
                writer.save(ranks.values(world.rank), State(number, 0, 17, 3, ranks.plan, ""))
                writer.close()
                if world.rank == 0:
                    folder = shared_path / "c" / f"step-{number:08d}"
                    assert wrong_in(folder) == []
                    found, wanted = open_checkpoint(folder), truth(ranks.contents, seed=number)
                    assert found.index.ranks == comm.size and set(found.index.arrays) == set(wanted)
                    for name, array in wanted.items():
                        assert read_whole(found, name).tobytes() == array.tobytes(), name
                comm.Barrier()
