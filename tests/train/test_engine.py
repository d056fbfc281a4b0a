"""The engine of a run: what is missing is said once with the way to get it, what was chosen is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridnn.comm.agree import agreed
from gridnn.comm.world import World
from gridnn.compute.cpu.onednn.library import find
from gridnn.compute.cpu.onednn.precision import BFLOAT16, FLOAT32
from gridnn.errors import InputError
from gridnn.train import engine as opening
from gridnn.train.config import load_config
from gridnn.train.sections import ComputeSection

IN_BFLOAT16 = ComputeSection(precision="bfloat16", choice="fixed")
needs_onednn = pytest.mark.skipif(find() is None, reason="no libdnnl.so.3 here")


@pytest.mark.ranks(1, 2)
def test_numpy_is_said_to_compute(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "load", lambda: None)
    monkeypatch.setattr(opening, "find", lambda path, operands: None)
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


@pytest.mark.ranks(2)
@needs_onednn
def test_one_rank_without_bfloat16_is_an_error_of_all(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "has_bfloat16", lambda found: comm.rank == 0)
    wanted = r"AVX512-BF16 or AMX-BF16; oneDNN 3.* uses neither.*precision = \"float32\" \(rank 1 only\)"
    with World(comm) as world, pytest.raises(InputError, match=wanted), agreed(world):
        opening.open_engine(world, IN_BFLOAT16, 1, None)


@pytest.mark.ranks(1)
def test_bfloat16_needs_onednn(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find", lambda path, operands: None)
    wanted = r"needs oneDNN and a processor.*was not found.*gridnn\[cpu\]"
    with World(comm) as world, pytest.raises(InputError, match=wanted):
        opening.open_engine(world, IN_BFLOAT16, 1, None)


@pytest.mark.ranks(1)
@needs_onednn
def test_bfloat16_is_offered_used_and_told_apart(
    comm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the processor has it: said when it is not used, and measurements of the one are not taken for the other."""
    kept, plain = tmp_path / "choices.json", ComputeSection()
    with World(comm) as world:
        for able in (False, True):
            monkeypatch.setattr(opening, "has_bfloat16", lambda found, able=able: able)
            usual = opening.open_engine(world, plain, 1, kept)
            assert (opening.BFLOAT16_AVAILABLE in opening.words(world, usual, plain, 1)) == able
        assert usual.onednn is not None and usual.onednn.operands == FLOAT32
        usual.choice.made["a shape"] = "direct"
        opening.keep_choices(world, usual, 1, kept)
        measured = ComputeSection(precision="bfloat16")
        engine = opening.open_engine(world, measured, 1, kept)
        said = opening.words(world, engine, measured, 1)
        assert engine.onednn is not None and engine.onednn.operands == BFLOAT16
        assert "(bfloat16)" in said[0] and opening.BFLOAT16_AVAILABLE not in said
        assert engine.choice.known == {} and opening.machine(usual, 1) != opening.machine(engine, 1)
        assert opening.open_engine(world, plain, 1, kept).choice.known == {"a shape": "direct"}
        assert opening.open_engine(world, IN_BFLOAT16, 1, None).choice.prefer == "onednn"


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ("train.dtype=float64", r'needs train.dtype = "float32", not "float64"'),
        ("compute.engine=native", r'compute.engine = "native" leaves it out'),
        ("compute.engine=numpy", r'compute.engine = "numpy" leaves it out'),
    ],
)
def test_bfloat16_that_nothing_computes_is_refused(other: str, wanted: str) -> None:
    assert load_config(None, ["compute.precision=bfloat16"]).compute.precision == "bfloat16"
    with pytest.raises(InputError, match=wanted):
        load_config(None, ["compute.precision=bfloat16", other])


def test_processor_is_named_in_the_key() -> None:
    assert opening._processor()
