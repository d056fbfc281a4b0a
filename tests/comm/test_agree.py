"""Errors of one rank reach all."""

from __future__ import annotations

from typing import Any

import pytest

from gridnn.comm.agree import agreed
from gridnn.comm.world import World, check_singletons
from gridnn.errors import InputError, RunError


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
