"""The engine of a run: what is missing is said once with the way to get it, what was chosen is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.errors import InputError
from gridnn.train import engine as opening
from gridnn.train.sections import ComputeSection


@pytest.mark.ranks(1, 2)
def test_numpy_is_said_to_compute(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "load", lambda: None)
    monkeypatch.setattr(opening, "find", lambda path: None)
    with World(comm) as world:
        config = ComputeSection()
        engine = opening.open_engine(world, config, 1, None)
        said = opening.words(world, engine, config, 1)
    assert said[0] == "kernels: numpy; 1 thread a rank, choice measured"
    assert "WARNING" in said[1] and "make kernels" in said[1] and "gcc" in said[1]
    assert 'pip install "gridnn[cpu]"' in said[2]
    assert len(said) == 3


@pytest.mark.ranks(2)
def test_one_rank_without_kernels_is_enough_to_warn(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if comm.rank == 1:
        monkeypatch.setattr(opening, "load", lambda: None)
    with World(comm) as world:
        config = ComputeSection(engine="native")
        said = opening.words(world, opening.open_engine(world, config, 1, None), config, 1)
    assert "native" in said[0] and "numpy" in said[0] and said[1].startswith("WARNING")


@pytest.mark.ranks(1)
def test_what_was_asked_for_is_not_missed(comm: Any) -> None:
    with World(comm) as world:
        config = ComputeSection(engine="numpy", choice="fixed")
        engine = opening.open_engine(world, config, 2, None)
        assert opening.words(world, engine, config, 2) == ["kernels: numpy; 2 threads a rank, choice fixed"]
        assert engine.native is None and engine.onednn is None and engine.memory is world.memory


@pytest.mark.ranks(1)
def test_a_wrong_path_is_refused(comm: Any, tmp_path: Path) -> None:
    with World(comm) as world, pytest.raises(InputError, match=r"no-such-prefix.*libdnnl\.so\.3"):
        opening.open_engine(world, ComputeSection(onednn=str(tmp_path / "no-such-prefix")), 1, None)


@pytest.mark.ranks(2)
def test_choices_of_all_ranks_are_kept(comm: Any, tmp_path: Path) -> None:
    kept = Path(comm.bcast(str(tmp_path))) / "choices.json"
    with World(comm) as world:
        config = ComputeSection()
        engine = opening.open_engine(world, config, 1, kept)
        engine.choice.made[f"of rank {world.rank}"] = "direct"
        opening.keep_choices(world, engine, 1, kept)
        world.comm.Barrier()
        again = opening.open_engine(world, config, 1, kept)
        assert again.choice.known == {"of rank 0": "direct", "of rank 1": "direct"}
        assert opening.open_engine(world, config, 3, kept).choice.known == {}, "another number of threads"
        fixed = ComputeSection(choice="fixed")
        assert opening.open_engine(world, fixed, 1, kept).choice.known == {}


def test_processor_is_named_in_the_key() -> None:
    assert opening._processor()
