"""The engine of a run: the kernels this machine has, what is said about them, and the choices that are kept.

what is missing    what computes instead           said once, by rank 0
own kernels        oneDNN, and NumPy for the rest  how to compile them
oneDNN             own kernels                     how to install it
bfloat16           nothing: asked for, it is an    what is needed
                   error, on all ranks
TF32, BF16 of a    nothing, as of bfloat16         what is needed
device
cuDNN              own kernels of the device       nothing; asked for, it is an error
a device, where    the processor, in float32,      that "tf32" or a limit is not used; what is wrong,
it is "auto"       without a limit of memory       where there is one on which CuPy cannot compute

A rank's device is that of its number on its host (`compute.gpu.found`): as the launcher says it, and then it was taken
before MPI started (`launch.take_device`); else as MPI counts.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from gridnn.comm.agree import agreed
from gridnn.comm.cuda_aware import Choice as Way
from gridnn.comm.cuda_aware import Means, choose_transport
from gridnn.comm.nccl import open_nccl
from gridnn.comm.transport import Aware, Direct, Staged
from gridnn.comm.trial import instead, tried
from gridnn.comm.world import World, device_support
from gridnn.compute.cpu.choice import Choice, read_choices, write_choices
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.cpu.memory import Memory
from gridnn.compute.cpu.native.library import load
from gridnn.compute.cpu.onednn.library import Library, find
from gridnn.compute.cpu.onednn.precision import BFLOAT16, FLOAT32, has_bfloat16
from gridnn.compute.gpu.cudnn_engine import CudnnEngine
from gridnn.compute.gpu.cudnn_engine import open_engine as open_gpu_engine
from gridnn.compute.gpu.device import Device, open_device
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.compute.gpu.found import find_devices, local_rank
from gridnn.compute.gpu.room import Room
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
GRAPHS_UNUSED = 'compute.graphs = "on" is of GPUs, and the processor computes here, as without'
LIMIT_UNUSED = "compute.memory_limit is of GPUs, and the processor computes here: it takes what it needs"
CUDNN_UNUSED = (
    'compute.conv = "cudnn" is of GPUs, and the processor computes here: it has convolutions of its own'
)
LATE = (
    "no launcher says the number of a rank on its host, so devices were taken after MPI started, as MPI counts: too "
    "late for an MPI that takes device memory (gridnn doctor says whether this one does)"
)
PATIENT = "; ranks share cores, and sleep while they wait"
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
        On all ranks, as `open_engine`; where a device was asked for and there is none, it cannot compute in
        `compute.precision`, or messages cannot go as `comm.transport` asks.
    """
    compute, found, missing, host = config.compute, None, None, world.memory
    said = at = None
    if compute.device != "cpu":
        said, at = local_rank(environment), world.rank_on_host()
        try:
            found = open_device(at if said is None else said, compute.memory_limit)
        except InputError as error:
            missing = error
    device, nccl = ("", 0) if found is None else (found[1].identity or found[0].name, find_devices().nccl)
    means = Means(platform.node(), device, device_support(environment), nccl)
    broken = str(missing) if missing is not None and find_devices().devices else ""
    told = world.comm.allgather((means, said, at))
    useless = world.comm.allgather(broken)
    with agreed(world):
        if missing is not None and compute.device == "gpu":  # it says more than what others see of it
            raise missing
    with agreed(world):
        way = choose_transport(config.comm.transport, [means for means, _, _ in told], compute.device)
        if found is None or way.device == "cpu":
            processor = open_engine(world, compute, threads, kept)
            processor.said = tuple(f"WARNING: {words}" for words in dict.fromkeys(useless) if words)
            return processor
        engine = _on_device(world, config, *found, way, _numbers([(said, at) for _, said, at in told]))
    if way.transport == "nccl":
        _hand_on(world, engine, host, config.comm.transport)
    if compute.choice == "measured":
        _know_choices(world, engine, kept)
    return engine


def _on_device(
    world: World, config: Config, device: Device, room: Room, way: Way, said: Sequence[str]
) -> GpuEngine:  # fmt: skip
    """Return the engine of a device, from which the world's arrays come from now on."""
    compute = config.compute
    if compute.precision == "bfloat16":  # with "auto": what it finds is not known before
        raise InputError(
            f'compute.precision = "bfloat16" is oneDNN\'s, and compute.device = "{compute.device}" found '
            f'{device.name}; take compute.device = "cpu", or "gpu" with compute.precision = "bf16", "tf32" or "float32"'
        )
    engine = open_gpu_engine(
        device, compute.precision, room, compute.conv, measured=compute.choice == "measured",
        deterministic=compute.deterministic,
    )  # fmt: skip
    transport = Aware if way.transport == "cuda-mpi" else Staged
    world.memory, world.transport = engine.memory, transport(world.memory, engine)
    world.also_close(world.transport.close)
    engine.said, device.graphs = (f"transport {way.transport}: {way.why}", *said), compute.graphs
    return engine


def _hand_on(world: World, engine: GpuEngine, host: Memory, asked: str) -> None:
    """Let devices hand messages to each other, if a trial says that they can.  Collective.

    Parameters
    ----------
    host
        Memory of the host.
    asked
        The transport that the user asked for; with "auto" messages go by the host where NCCL fails.

    Raises
    ------
    InputError
        On all ranks, where NCCL was asked for and does not work.
    """
    with agreed(world):
        nccl = open_nccl(engine.device)
    wrong = tried(world, engine.device, nccl) if world.size > 1 else ""
    if not wrong:
        world.transport = Direct(host, engine, nccl)
        return
    way = instead(asked, wrong)
    engine.said = (f"transport {way.transport}: {way.why}", *engine.said[1:])


def _know_choices(world: World, engine: GpuEngine, kept: Path | None) -> None:
    """Give ranks of one kind of device the same choices of earlier runs, whatever file each can read.  Collective."""
    mine = engine.machine if isinstance(engine, CudnnEngine) else ""
    told = world.comm.allgather((mine, read_choices(kept, mine) if kept and mine else {}))
    if isinstance(engine, CudnnEngine):
        for name, known in reversed(told):  # of two that differ, the first rank's
            engine.convolutions.known |= known if name == mine else {}


def _numbers(told: Sequence[tuple[int | None, int | None]]) -> tuple[str, ...]:
    """Return what is said of ranks' numbers on their hosts: the launcher's, and those that MPI counts."""
    if len(told) == 1:
        return ()
    without = [rank for rank, (said, _) in enumerate(told) if said is None]
    others = [rank for rank, (said, at) in enumerate(told) if said is not None and said != at]
    found = (LATE,) * bool(without)
    if others:
        rank = others[0]
        said, at = told[rank]
        many = f"{len(others)} ranks have" if len(others) > 1 else f"rank {rank} has"
        example = f"rank {rank} is number {said} there, and number {at} by MPI's count"
        found += (
            f"WARNING: {many} another number on the host by the launcher's variables, which devices are taken by, than "
            f"by MPI ({example}): ranks may share a device while another is idle.  Start ranks with one launcher only "
            "(a variable of the batch job may hide that of mpiexec); gridnn doctor shows who takes which",
        )
    return found


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
        devices = " | ".join(sorted(set(world.comm.allgather(engine.name))))
        return ["; ".join((f"device: {devices}", *engine.said[:1])), *engine.said[1:]]
    able = engine.onednn is not None and has_bfloat16(engine.onednn)
    told = world.comm.allgather((engine.name, able))
    names = [name for name, _ in told]
    different = sorted(set(names))
    said = [
        f"kernels: {' | '.join(different)}; {threads} thread{'s' * (threads > 1)} a rank, choice {config.choice}"
        + PATIENT * world.patience.on
    ]
    if config.engine != "numpy" and any("native" not in name for name in names):
        said.append(NO_KERNELS)
    if config.engine == "auto" and any("oneDNN" not in name for name in names):
        said.append(NO_ONEDNN)
    if config.precision == "float32" and all(able for _, able in told):
        said.append(BFLOAT16_AVAILABLE)
    if config.precision == "tf32":
        said.append(TF32_UNUSED)
    if config.conv == "cudnn":
        said.append(CUDNN_UNUSED)
    if config.graphs == "on":
        said.append(GRAPHS_UNUSED)
    if config.memory_limit is not None:
        said.append(LIMIT_UNUSED)
    return [*said, *engine.said]


def keep_choices(world: World, engine: CpuEngine | GpuEngine, threads: int, kept: Path | None) -> None:
    """Write the choices of all ranks to the file, by rank 0.  Collective."""
    mine: tuple[str, Mapping[str, str]] = ("", {})  # of own kernels of a GPU, which have no choice
    if isinstance(engine, CudnnEngine):
        mine = engine.machine, engine.convolutions.made
    elif isinstance(engine, CpuEngine):
        mine = machine(engine, threads), engine.choice.made
    made = world.comm.gather(mine)
    if made is not None and kept is not None:
        for name, choices in reversed(made):  # of two that differ, the first rank's
            write_choices(kept, name, choices)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
