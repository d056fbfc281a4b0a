"""Errors of one rank reach all; a stuck rank is ended by the watchdog."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from gridnn.comm.agree import agreed
from gridnn.comm.world import World, check_singletons
from gridnn.errors import InputError, RunError
from tests.support.launch import run_ranks


@pytest.mark.ranks(3)
def test_an_error_of_one_rank_is_raised_on_all(comm: Any) -> None:
    with World(comm) as world:
        with pytest.raises(InputError, match=r"no file x \(rank 1 only\)") as caught, agreed(world):
            if world.rank == 1:
                raise InputError("no file x")
        assert caught.value.everywhere
        with pytest.raises(RunError, match=r"^same$"), agreed(world):
            raise RunError("same")
        with agreed(world):
            pass


def test_singletons_are_refused() -> None:
    for variable in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        with pytest.raises(InputError, match=f"{variable}.*--mpi=pmi2"):
            check_singletons({variable: "4"}, 1)
    check_singletons({"PMI_SIZE": "4", "SLURM_STEP_NUM_TASKS": "4"}, 4)
    check_singletons({"SLURM_STEP_NUM_TASKS": "1"}, 1)


STUCK = """
import time
from gridnn.comm.agree import Watchdog
from gridnn.comm.world import World, world_comm
world = World(world_comm())
with Watchdog(world, 1.0, lambda line: print(line, flush=True)):
    if world.rank == 0:
        world.comm.recv(source=1)
    time.sleep(60)
"""


def test_a_stuck_rank_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    start_s = time.monotonic()
    done = run_ranks(2, [str(script)], timeout_s=50)
    assert done.returncode != 0 and time.monotonic() - start_s < 20
    assert "no step ended for 1 s" in done.stdout and "comm.timeout_s" in done.stdout
