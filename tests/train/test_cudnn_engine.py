"""The engine of a run with a cuDNN made of paper: what is asked for, what is kept, and what all ranks know."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.compute.gpu.cudnn_engine import CudnnEngine, open_engine
from gridnn.compute.gpu.room import Room
from gridnn.errors import InputError
from gridnn.train import engine as opening
from gridnn.train.config import load_config
from tests.support.paper_cudnn import PaperCudnn


def gone(name: str) -> Any:
    raise ModuleNotFoundError(f"No module named '{name}'")


def installed(monkeypatch: pytest.MonkeyPatch, here: bool = True) -> PaperCudnn:
    """Let a run find a device, and a cuDNN or none."""
    paper = PaperCudnn()
    load = paper.load if here else gone
    monkeypatch.setattr(opening, "open_device", lambda rank, limit: (paper.device, Room("a device", 1 << 30)))
    monkeypatch.setattr(opening, "open_gpu_engine", partial(open_engine, load=load, stream=paper.stream))
    return paper


def opened(world: World, kept: Path | None, *words: str) -> Any:
    config = load_config(None, ["compute.device=gpu", *words])
    return opening.engine_of(world, config, 1, kept, {"MPI_LOCALRANKID": str(world.rank)})


@pytest.mark.ranks(1)
def test_what_is_asked_for(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    with World(comm) as world:
        for words, cudnn, measured, deterministic in (
            ((), True, True, True),
            (("compute.conv=own",), False, None, None),
            (("compute.conv=cudnn",), True, False, True),
            (("compute.choice=fixed",), True, False, True),
            (("compute.deterministic=false",), True, True, False),
        ):
            engine = opened(world, None, *words)
            said = opening.words(world, engine, load_config(None, ["compute.device=gpu"]).compute, 1)
            assert isinstance(engine, CudnnEngine) == cudnn == ("cuDNN 9.13.0" in said[0])
            if isinstance(engine, CudnnEngine):
                ways = engine.convolutions
                assert (ways.measured, ways.deterministic) == (measured, deterministic)


@pytest.mark.ranks(2)
def test_all_ranks_know_the_same_choices(comm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two that differ the first rank's is kept; a rank that cannot read the file knows it as well."""
    installed(monkeypatch)
    kept = Path(comm.bcast(str(tmp_path))) / "choices.json"
    with World(comm) as world:
        engine = opened(world, kept)
        engine.convolutions.made |= {
            "a shape": ("own", "cudnn")[world.rank],
            f"of rank {world.rank}": "cudnn",
        }
        opening.keep_choices(world, engine, 1, kept)
        world.comm.Barrier()
        both = {"a shape": "own", "of rank 0": "cudnn", "of rank 1": "cudnn"}
        assert opened(world, kept).convolutions.known == both
        assert opened(world, kept if world.rank == 1 else None).convolutions.known == both
        assert opened(world, kept, "compute.choice=fixed").convolutions.known == {}
        assert opened(world, kept, "compute.precision=tf32").convolutions.known == {}, (
            "measured in another precision"
        )


@pytest.mark.ranks(2)
def test_one_rank_without_cudnn(comm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its kernels compute there, and nobody waits; asked for, all ranks hear of it."""
    installed(monkeypatch, here=comm.rank == 0)
    kept = Path(comm.bcast(str(tmp_path))) / "choices.json"
    with World(comm) as world:
        engine = opened(world, kept)
        assert isinstance(engine, CudnnEngine) == (comm.rank == 0)
        opening.keep_choices(world, engine, 1, kept)
        with pytest.raises(InputError, match=r'"cudnn" needs cuDNN.*\(rank 1 only\)') as caught:
            opened(world, kept, "compute.conv=cudnn")
        assert caught.value.everywhere


@pytest.mark.ranks(1)
def test_cudnn_on_a_processor(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused where it is the processor that is asked for, told where "auto" finds no device."""
    with pytest.raises(InputError, match=r'conv = "cudnn" is of GPUs, but compute\.device = "cpu"; take'):
        load_config(None, ["compute.conv=cudnn"])

    def none(rank: int, limit: float | None) -> Any:
        raise InputError("none here")

    monkeypatch.setattr(opening, "open_device", none)
    config = load_config(None, ["compute.conv=cudnn", "compute.device=auto"])
    with World(comm) as world:
        engine = opening.engine_of(world, config, 1, None, {})
        assert opening.CUDNN_UNUSED in opening.words(world, engine, config.compute, 1)
