"""The engine of a run: what is missing is said once with the way to get it, what was chosen is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridnn.comm.agree import agreed
from gridnn.comm.transport import Aware, Staged
from gridnn.comm.world import World
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.cpu.onednn.library import find
from gridnn.compute.cpu.onednn.precision import BFLOAT16, FLOAT32
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.compute.gpu.found import Device as FoundDevice
from gridnn.compute.gpu.found import Found
from gridnn.compute.gpu.room import Room
from gridnn.errors import InputError
from gridnn.geometry.traffic import Widths
from gridnn.train import engine as opening
from gridnn.train.choose import widths
from gridnn.train.config import load_config
from gridnn.train.sections import ComputeSection, Config
from tests.support.shim.device import ShimDevice

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


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (("tf32", "cpu"), r'"tf32" is of a GPU.*compute\.device = "cpu"; take compute\.device = "gpu", or'),
        (
            ("bfloat16", "gpu"),
            r"\"bfloat16\" is oneDNN's, but compute\.device = \"gpu\"; take \"bf16\", \"tf32\", \"float32\"",
        ),
    ],
)
def test_a_precision_that_the_device_has_not_is_refused(settings: tuple[str, str], wanted: str) -> None:
    precision, device = settings
    with pytest.raises(InputError, match=wanted):
        load_config(None, [f"compute.precision={precision}", f"compute.device={device}"])
    for other in ("auto", {"cpu": "gpu", "gpu": "cpu"}[device]):
        words = [f"compute.precision={precision}", f"compute.device={other}"]
        assert load_config(None, words).compute.precision == precision


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_activations_are_narrow_on_a_device_only(device: str) -> None:
    """What moves and what fits is predicted before anybody looks for a device: so "auto" is refused, too."""
    words = ["compute.precision=bf16"]
    with pytest.raises(
        InputError, match=rf'"bf16" stores.*compute\.device = "{device}"; take.*"gpu", or.*"bfloat16"'
    ):
        load_config(None, [*words, f"compute.device={device}"])
    assert widths(load_config(None, [*words, "compute.device=gpu"])) == Widths(2, 4)
    assert widths(load_config(None, ["train.dtype=float64"])) == Widths(8, 8)
    with pytest.raises(InputError, match=r'"bf16" needs train\.dtype = "float32"'):
        load_config(None, [*words, "compute.device=gpu", "train.dtype=float64"])


def asking(device: str, precision: str = "float32", transport: str = "auto") -> Config:
    """A configuration that asks for these."""
    words = [f"compute.device={device}", f"compute.precision={precision}", f"comm.transport={transport}"]
    return load_config(None, words)


def opened(rank: int, limit: float | None = None) -> tuple[ShimDevice, Room]:
    """What stands for `open_device` here."""
    return ShimDevice(), Room("a device", 1 << 30)


def asked_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float | None]]:
    """Ranks and limits that a device will be asked for with."""
    found: list[tuple[int, float | None]] = []

    def noted(rank: int, limit: float | None) -> tuple[ShimDevice, Room]:
        found.append((rank, limit))
        return opened(rank)

    monkeypatch.setattr(opening, "open_device", noted)
    return found


@pytest.mark.ranks(2)
def test_transports_are_asked_for(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "open_device", opened)
    environment = {"MPI_LOCALRANKID": str(comm.rank)}
    for transport, kind in (("auto", Staged), ("staged", Staged), ("cuda-mpi", Aware)):
        with World(comm) as world:
            engine = opening.engine_of(world, asking("gpu", transport=transport), 1, None, environment)
            assert type(world.transport) is kind and world.memory is engine.memory
            (said,) = opening.words(world, engine, asking("gpu").compute, 1)
            assert f"; transport {'cuda-mpi' if kind is Aware else 'staged'}: " in said
            assert ("it was asked for" in said) == (transport != "auto")
    with World(comm) as world, pytest.raises(InputError, match="transport cuda-mpi needs a GPU"):
        opening.engine_of(world, asking("cpu", transport="cuda-mpi"), 1, None, {})


@pytest.mark.ranks(2)
@pytest.mark.parametrize("device", ["gpu", "auto"])
def test_one_rank_without_a_device(comm: Any, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Asked for, all ranks hear of it; left to the run, all compute on their processors."""

    def first_only(rank: int, limit: float | None) -> tuple[ShimDevice, Room]:
        if rank:
            raise InputError("none here")
        return opened(rank)

    monkeypatch.setattr(opening, "open_device", first_only)
    with World(comm) as world:
        if device == "auto":
            assert isinstance(opening.engine_of(world, asking(device), 1, None, {}), CpuEngine)
            return
        with pytest.raises(InputError, match=r"none here \(rank 1 only\)") as caught:
            opening.engine_of(world, asking(device), 1, None, {})
        assert caught.value.everywhere


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (("0", "1"), ""),
        ((None, None), "too late"),
        (("1", "1"), "rank 0 has another number"),
        (("1", "0"), "2 ranks"),
    ],
)
def test_the_launcher_says_who_takes_which(
    comm: Any, monkeypatch: pytest.MonkeyPatch, numbers: tuple[str | None, str | None], told: str
) -> None:
    """Its number decides; where it says none, or another than MPI counts on this host, that is told."""
    taken = asked_of(monkeypatch)
    mine = numbers[comm.rank]
    with World(comm) as world:
        environment = {} if mine is None else {"SLURM_LOCALID": mine}
        engine = opening.engine_of(world, asking("gpu"), 1, None, environment)
        said = opening.words(world, engine, asking("gpu").compute, 1)
    assert taken == [(comm.rank if mine is None else int(mine), None)]
    assert [told in line for line in said[1:]] == [True] * bool(told)
    assert any("WARNING" in line for line in said) == (told not in ("", "too late"))


@pytest.mark.ranks(1)
def test_a_limit_of_memory(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked of the device; of a processor it is none, and that is said."""
    asked = asked_of(monkeypatch)
    with World(comm) as world:
        config = load_config(None, ["compute.device=gpu", "compute.memory_limit=0.25"])
        assert isinstance(opening.engine_of(world, config, 1, None, {}), GpuEngine) and asked == [(0, 0.25)]

    def none(rank: int, limit: float | None) -> tuple[ShimDevice, Room]:
        raise InputError("none here")

    monkeypatch.setattr(opening, "open_device", none)
    with World(comm) as world:
        for where in ("auto", "cpu"):
            config = load_config(None, [f"compute.device={where}", "compute.memory_limit=20e9"])
            engine = opening.engine_of(world, config, 1, None, {})
            assert opening.words(world, engine, config.compute, 1)[-1] == opening.LIMIT_UNUSED
    for words, wanted in (
        (["compute.memory_limit=80", "compute.device=gpu"], r"= 80.* is neither a share.*0\.5 or 20e9"),
        (["compute.memory_limit=0", "compute.device=gpu"], r"compute\.memory_limit: needs a number above 0"),
    ):
        with pytest.raises(InputError, match=wanted):
            load_config(None, words)


@pytest.mark.ranks(1)
@pytest.mark.parametrize("device", ["gpu", "auto"])
def test_tf32_goes_to_the_device(comm: Any, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(opening, "open_device", opened)
    for precision in ("float32", "tf32", *["bf16"] * (device == "gpu")):
        config = asking(device, precision)
        with World(comm) as world:
            engine = opening.engine_of(world, config, 1, None, {})
            (said,) = opening.words(world, engine, config.compute, 1)
        assert isinstance(engine, GpuEngine) and engine.precision == precision
        assert ("in TF32" in said, "in BF16" in said) == (precision == "tf32", precision == "bf16")


@pytest.mark.ranks(1)
def test_tf32_needs_a_device_that_has_it(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ShimDevice(capability=(7, 5)), Room("old", 1 << 30)
    monkeypatch.setattr(opening, "open_device", lambda rank, limit: old)
    wanted = r"capability 8\.0 or later; fibers \(forward\) has 7\.5\..*compute\.precision = \"float32\""
    with World(comm) as world:
        with pytest.raises(InputError, match=wanted):
            opening.engine_of(world, asking("auto", "tf32"), 1, None, {})
        assert isinstance(opening.engine_of(world, asking("gpu"), 1, None, {}), GpuEngine)


@pytest.mark.ranks(1)
def test_where_auto_leaves_a_precision(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a device TF32 is float32, and that is said; with one bfloat16 is refused."""

    def none(rank: int, limit: float | None) -> tuple[ShimDevice, Room]:
        raise InputError("none here")

    monkeypatch.setattr(opening, "open_device", none)
    with World(comm) as world:
        config = asking("auto", "tf32")
        engine = opening.engine_of(world, config, 1, None, {})
        assert isinstance(engine, CpuEngine) and engine.choice.prefer is None
        assert engine.onednn is None or engine.onednn.operands == FLOAT32
        assert opening.words(world, engine, config.compute, 1)[-1] == opening.TF32_UNUSED
        monkeypatch.setattr(opening, "open_device", opened)
        with pytest.raises(InputError, match=r'"auto" found fibers.*take compute\.device = "cpu"'):
            opening.engine_of(world, asking("auto", "bfloat16"), 1, None, {})


@pytest.mark.ranks(2)
def test_a_device_that_nothing_can_compute_on_is_not_passed_over_in_silence(
    comm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With "auto" all ranks take the processor, and rank 0 says what is wrong where; no device at all is no fault."""
    for here in (1, 0):

        def broken(rank: int, limit: float | None) -> tuple[ShimDevice, Room]:
            raise InputError("a device is here, and CuPy cannot compute on it: no compiler")

        device = Found(devices=(FoundDevice(0, "some", "id", 1 << 30, "9.0"),) * (here and comm.rank))
        monkeypatch.setattr(opening, "open_device", broken)
        monkeypatch.setattr(opening, "find_devices", lambda device=device: device)
        with World(comm) as world:
            engine = opening.engine_of(world, asking("auto"), 1, None, {})
            assert isinstance(engine, CpuEngine)
            said = opening.words(world, engine, asking("auto").compute, 1)
        faults = [words for words in said if words.startswith("WARNING: a device is here")]
        assert len(faults) == here


def test_processor_is_named_in_the_key() -> None:
    assert opening._processor()
