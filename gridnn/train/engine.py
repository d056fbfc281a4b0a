"""The engine of a run: the kernels this machine has, what is said about them, and the choices that are kept.

what is missing    what computes instead           said once, by rank 0
own kernels        oneDNN, and NumPy for the rest  how to compile them
oneDNN             own kernels                     how to install it
bfloat16           nothing: asked for, it is an    what is needed
                   error, on all ranks
TF32 of a device   nothing, as of bfloat16         what is needed
a device, where    the processor, in float32       that "tf32" is not used
it is "auto"
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from gridnn.comm.cuda_aware import Means, choose_transport
from gridnn.comm.transport import Aware, Staged
from gridnn.comm.world import World, device_support
from gridnn.compute.cpu.choice import Choice, read_choices, write_choices
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.cpu.native.library import load
from gridnn.compute.cpu.onednn.library import Library, find
from gridnn.compute.cpu.onednn.precision import BFLOAT16, FLOAT32, has_bfloat16
from gridnn.compute.gpu.device import Device, open_device
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.errors import InputError
from gridnn.train.sections import ComputeSection, Config

NO_KERNELS = (
    "WARNING: gridnn was installed without its compiled kernels, so NumPy computes, many times slower.  Install a C "
    "compiler (gcc) and gridnn again:  pip install --force-reinstall --no-deps --no-cache-dir gridnn  (in a checkout: "
    "make kernels)"
)
NO_ONEDNN = (
    "oneDNN was not found; own kernels compute alone.  Some convolutions are faster with it:  pip install "
    '"gridnn[cpu]",  or name one: compute.onednn = "/path/of/libdnnl.so.3"'
)
TF32_UNUSED = (
    'compute.precision = "tf32" is of GPUs, and compute.device = "auto" found none: the processor computes in '
    "float32"
)
BFLOAT16_AVAILABLE = 'bfloat16 products are available to training in float32: compute.precision = "bfloat16"'


def open_engine(world: World, config: ComputeSection, threads: int, kept: Path | None) -> CpuEngine:
    """Return the engine of a rank on the host's processor.

    Parameters
    ----------
    threads
        Of this rank.
    kept
        The file of choices made in earlier runs, or None.

    Raises
    ------
    InputError
        When `compute.onednn` names what cannot be used, or `compute.precision` asks for what is not here.
    """
    native = None if config.engine == "numpy" else load()
    engine = CpuEngine(native, world.memory, _onednn(config))
    known = read_choices(kept, machine(engine, threads)) if kept and config.choice == "measured" else {}
    # The rule knows float32 kernels only, and would leave the precision that was asked for unused.
    prefer = "onednn" if config.precision == "bfloat16" else None
    engine.choice = Choice(config.choice, known, prefer)
    engine.set_threads(threads)
    return engine


def engine_of(
    world: World, config: Config, threads: int, kept: Path | None, environment: Mapping[str, str]
) -> CpuEngine | GpuEngine:  # fmt: skip
    """Return the engine of a rank where it is asked to compute; a device's takes over the world's arrays.  Collective.

    Raises
    ------
    InputError
        As `open_engine`; where a device was asked for and there is none, it cannot compute in `compute.precision`, or
        messages cannot go as `comm.transport` asks.
    """
    compute = config.compute
    device, missing = (None, None) if compute.device == "cpu" else _device(world)
    has = Means("", "" if device is None else device.name, device_support(environment))
    ranks = world.comm.allgather(has)
    if missing is not None and compute.device == "gpu":  # it says more than what others see of it
        raise missing
    choice = choose_transport(config.comm.transport, ranks, compute.device)
    if device is None or choice.device == "cpu":
        return open_engine(world, compute, threads, kept)
    if compute.precision == "bfloat16":  # with "auto": what it finds is not known before
        raise InputError(
            f'compute.precision = "bfloat16" is not there yet for a GPU, and compute.device = "{compute.device}" found '
            f'{device.name}; take compute.device = "cpu", or compute.precision = "tf32" or "float32"'
        )
    engine = GpuEngine(device, compute.precision)
    transport = Aware if choice.transport == "cuda-mpi" else Staged
    world.memory, world.transport = engine.memory, transport(world.memory, engine)
    return engine


def _device(world: World) -> tuple[Device | None, InputError | None]:
    """Return the device of a rank, those of a host in turn, or why there is none.  Collective."""
    at = world.rank_on_host()
    try:
        return open_device(at), None
    except InputError as error:
        return None, error


def _onednn(config: ComputeSection) -> Library | None:
    """Return oneDNN as it is asked for, or None."""
    if config.engine != "auto":
        return None
    if config.precision != "bfloat16":  # "tf32" comes here where "auto" found no device
        return find(config.onednn, FLOAT32)
    onednn = find(config.onednn, BFLOAT16)
    needed = 'compute.precision = "bfloat16" needs oneDNN and a processor with AVX512-BF16 or AMX-BF16'
    other = 'or take compute.precision = "float32"'
    if onednn is None:
        raise InputError(
            f'{needed}; oneDNN was not found.  Install it:  pip install "gridnn[cpu]",  or name one in '
            f"compute.onednn, {other}"
        )
    if not has_bfloat16(onednn):
        raise InputError(
            f"{needed}; oneDNN {'.'.join(map(str, onednn.version))} uses neither on {_processor()}.  Take another "
            f"machine, {other}"
        )
    return onednn


def machine(engine: CpuEngine, threads: int) -> str:
    """Return what a measured choice holds for: processor, kernels, threads."""
    return f"{_processor()}, {engine.name}, {threads} threads"


def words(world: World, engine: CpuEngine | GpuEngine, config: ComputeSection, threads: int) -> list[str]:
    """Return what rank 0 says about the engines of all ranks.  Collective."""
    if isinstance(engine, GpuEngine):
        names = world.comm.allgather(engine.name)
        how = (
            "handed to MPI on the device" if isinstance(world.transport, Aware) else "staged through the host"
        )
        return [f"device: {' | '.join(sorted(set(names)))}; messages {how}"]
    able = engine.onednn is not None and has_bfloat16(engine.onednn)
    told = world.comm.allgather((engine.name, able))
    names = [name for name, _ in told]
    different = sorted(set(names))
    said = [
        f"kernels: {' | '.join(different)}; {threads} thread{'s' * (threads > 1)} a rank, choice {config.choice}"
    ]
    if config.engine != "numpy" and any("native" not in name for name in names):
        said.append(NO_KERNELS)
    if config.engine == "auto" and any("oneDNN" not in name for name in names):
        said.append(NO_ONEDNN)
    if config.precision == "float32" and all(able for _, able in told):
        said.append(BFLOAT16_AVAILABLE)
    if config.precision == "tf32":
        said.append(TF32_UNUSED)
    return said


def keep_choices(world: World, engine: CpuEngine | GpuEngine, threads: int, kept: Path | None) -> None:
    """Write the choices of all ranks to the file, by rank 0.  Collective."""
    if isinstance(engine, GpuEngine):  # it has nothing to choose from yet
        return
    made = world.comm.gather((machine(engine, threads), engine.choice.made))
    if made is not None and kept is not None:
        for name, choices in made:
            write_choices(kept, name, choices)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
