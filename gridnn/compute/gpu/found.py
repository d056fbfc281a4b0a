"""The GPUs of a process: which there are, which one it takes, and what libraries it has for them.

    launcher          local rank      device                      where there are 2 devices
    environment ----> 0 1 2 3  -----> local rank modulo devices   0 1 0 1: ranks that share one take turns
                      before MPI starts, for a CUDA-aware MPI settles on the device it finds

CuPy is imported when something is asked of it and not before; where it is missing, or finds no driver, the answer says
so and nothing is raised.  ``CUDA_VISIBLE_DEVICES`` is CuPy's to respect: devices are numbered as it shows them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from gridnn.errors import InputError

LOCAL_RANK_VARIABLES = (
    "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID",
    "SLURM_LOCALID",
)  # fmt: skip
"""What launchers call the number of a rank on its host: MPICH and Intel MPI, Open MPI, MVAPICH, HPE, Slurm.

Slurm's is last: it also stands, as 0, in a batch script that starts another launcher.
"""
PROOF = 'extern "C" __global__ void nothing() {}'
"""A kernel."""
Load = Callable[[str], Any]


class Device(NamedTuple):
    """A GPU.

    Parameters
    ----------
    number : int
        As CuPy numbers it in this process.
    name : str
    identity : str
        The same in all processes of a host, different for two devices: its address on the bus and its UUID, of which
        slices of one device have one each.
    memory_bytes : int
    capability : str
        Compute capability, such as "9.0".
    """

    number: int
    name: str
    identity: str
    memory_bytes: int
    capability: str


class Found(NamedTuple):
    """What a process can compute on, besides its cores.

    Parameters
    ----------
    devices : tuple of Device
    missing : str
        Why there is none, and what to try; "" where there are some.
    cupy : str
        Its version, "" where it is missing.
    driver, runtime : int
        CUDA's versions, 12080 for 12.8; 0 where unknown.
    nccl : int
        The version that CuPy loads, 22707 for 2.27.7; 0 where there is none.
    """

    devices: tuple[Device, ...] = ()
    missing: str = ""
    cupy: str = ""
    driver: int = 0
    runtime: int = 0
    nccl: int = 0


def local_rank(environment: Mapping[str, str]) -> int | None:
    """Return the number of this rank on its host, None where no launcher says it."""
    return next(
        (int(environment[n]) for n in LOCAL_RANK_VARIABLES if environment.get(n, "").isdecimal()), None
    )


def device_of(local_rank: int, devices: int) -> int | None:
    """Return the index of the device that a rank takes; None where there is none.

    More ranks than devices share them in turn.  Where the launcher shows every rank one device, that is device 0.
    """
    return local_rank % devices if devices else None


def find_devices(load: Load = import_module) -> Found:
    """Return what GPUs and libraries this process has.  Makes no context: it costs no memory of a device.

    Parameters
    ----------
    load
        Imports a module.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that are not here: that is what is found out
            cupy = load("cupy")
            runtime, nccl = cupy.cuda.runtime, _nccl(load)
    except ImportError as error:
        return Found(missing=f'CuPy cannot be imported ({_line(error)}); pip install "gridnn[gpu]"')
    except Exception as error:  # a driver and a library that do not go together can fail in any way
        return Found(missing=f"CuPy fails while it is imported ({_line(error)})")
    found = Found(cupy=str(cupy.__version__), nccl=nccl)
    try:
        found = found._replace(driver=runtime.driverGetVersion(), runtime=runtime.runtimeGetVersion())
        devices = tuple(_device(runtime, number) for number in range(runtime.getDeviceCount()))
    except Exception as error:  # CuPy's own classes, which cannot be named without it
        return found._replace(missing=f"CuPy finds no GPU that it can use ({_line(error)})")
    return found._replace(devices=devices, missing="" if devices else "CuPy sees no GPU")


def bind(index: int, load: Load = import_module) -> tuple[int, int]:
    """Make a device this process's own, for CuPy and for an MPI that starts later.

    Returns
    -------
    tuple of int
        Bytes that are free on it, and all of its bytes.
    """
    device = load("cupy").cuda.Device(index)
    device.use()
    free, total = device.mem_info
    return int(free), int(total)


def prove(load: Load = import_module) -> None:
    """Let the device of this process do what every step does: a kernel of ours, one of CuPy's, a product of cuBLAS.

    CuPy brings neither a compiler nor headers nor cuBLAS along and asks for each when it is needed, in the midst of a
    first step.  cuBLAS also takes memory of its own, which is there before arrays are.

    Raises
    ------
    InputError
        If one of them is missing, or too new for the driver.
    """
    try:
        cupy = load("cupy")
        nothing = cupy.RawModule(code=PROOF, options=("-std=c++17",)).get_function("nothing")
        nothing((1,), (1,), ())
        cupy.empty(1, "f").fill(1)  # not 0, which is no kernel
        cupy.cuda.get_cublas_handle()
        cupy.cuda.get_current_stream().synchronize()
    except Exception as error:  # of CuPy, the compiler, the loader
        raise InputError(
            f"a device is here, and CuPy cannot compute on it: {_line(error)}; it needs the compiler, headers and "
            'cuBLAS of CUDA, no newer than the driver: pip install "cupy-cuda13x[ctk]" (for CUDA 12 '
            "cupy-cuda12x[ctk]), or name a toolkit (CUDA_PATH); or take --device cpu"
        ) from error


def _device(runtime: Any, number: int) -> Device:
    told = runtime.getDeviceProperties(number)
    name = told["name"]
    return Device(
        number=number,
        name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
        # Both: CuPy may hand over a UUID that ends at its first zero byte.
        identity=f"{runtime.deviceGetPCIBusId(number)} {bytes(told.get('uuid') or b'').hex()}".strip(),
        memory_bytes=int(told["totalGlobalMem"]),
        capability=f"{told['major']}.{told['minor']}",
    )


def _nccl(load: Load) -> int:
    try:
        nccl = load("cupy.cuda.nccl")
        return int(nccl.get_version()) if nccl.available else 0
    except Exception:  # the library is missing, or too old for its wrapper
        return 0


def _line(error: Exception) -> str:
    """Return the first line of an error that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
