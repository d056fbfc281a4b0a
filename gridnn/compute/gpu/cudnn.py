"""cuDNN through its own Python frontend (nvidia-cudnn-frontend, `import cudnn`): is it here, and its handle.

    package      brings                        without it
    frontend     graphs and plans, in Python   own kernels compute
    backend      libcudnn.so.9, the kernels    the same

Neither is needed: where one is missing, own kernels compute every convolution.  (Where PyTorch is installed, frontends
of these versions import it, too.)  What a plan may do to numbers is said by notes that cuDNN puts on its engines:

| note                         | what it does                              | forbidden                            |
|------------------------------|-------------------------------------------|--------------------------------------|
| DOWN_CONVERT_INPUTS          | rounds factors to 16 bits                 | always                               |
| REDUCED_PRECISION_REDUCTION  | sums in less than float32                 | always                               |
| FFT, large Winograd tiles    | rounding errors grow with the tile        | always                               |
| WINOGRAD                     | rounds transformed factors once more      | for bfloat16                         |
| TENSOR_CORE                  | float32 factors rounded to TF32           | for float32, unless the engine's     |
|                              |                                           | precision is "tf32"                  |
| NONDETERMINISTIC             | another order of sums every time          | unless it was allowed                |

Source: NVIDIA, cuDNN backend API, cudnnBackendNumericalNote_t; what PyTorch forbids for the same reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from gridnn.compute.gpu.cudnn_graph import WRITES, Asked, Plan, framed, planned
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.found import Load

ALIGNMENT = 16
"""Bytes: what addresses are a multiple of, as cuDNN supposes of every tensor."""
NEVER = (
    "DOWN_CONVERT_INPUTS",
    "REDUCED_PRECISION_REDUCTION",
    "FFT",
    "WINOGRAD_TILE_6x6",
    "WINOGRAD_TILE_13x13",
)
"""Notes that no plan may have."""
INSTALL = 'pip install "gridnn[cudnn]"'


class Found(NamedTuple):
    """What there is of cuDNN.

    Parameters
    ----------
    frontend, backend : str
        Versions, such as "1.18.0" and "9.13.0"; "" where it is missing.
    missing : str
        Why it cannot be used, and what to try; "" where it can.
    """

    frontend: str = ""
    backend: str = ""
    missing: str = ""


def find_cudnn(load: Load = import_module) -> Found:
    """Return what there is of cuDNN.  Loads its library, and makes no context of a device.

    Parameters
    ----------
    load
        Imports a module.
    """
    try:
        cudnn = load("cudnn")
    except ImportError as error:
        return Found(missing=f"its frontend cannot be imported ({error}); {INSTALL}")
    except Exception as error:  # a library that is not whole can fail in any way
        return Found(missing=f"its frontend fails while it is imported ({error})")
    frontend = str(getattr(cudnn, "__version__", "of an unknown version"))
    try:
        backend = str(cudnn.backend_version_string())
    except Exception as error:  # the frontend's own classes
        return Found(frontend, missing=f"its frontend finds no libcudnn ({error}); {INSTALL}")
    return Found(frontend, backend)


def forbidden(dtype: str, precision: str, deterministic: bool) -> tuple[str, ...]:
    """Return the notes that a plan must not have.

    Parameters
    ----------
    dtype
        Of the factors, by NumPy's name.
    precision
        Of the engine.
    """
    found: tuple[str, ...] = NEVER
    if dtype == "bfloat16":
        found += ("WINOGRAD",)
    elif precision != "tf32":
        found += ("TENSOR_CORE",)
    return (*found, "NONDETERMINISTIC") if deterministic else found


class Library:
    """cuDNN on the device of this process: a handle, and plans.

    Parameters
    ----------
    stream
        Returns the address of the stream that CuPy launches on now; None asks CuPy.
    load
        Imports a module.

    Attributes
    ----------
    found : Found
        Versions.
    errors : tuple
        What the frontend raises where cuDNN cannot do something.

    Raises
    ------
    Exception
        The frontend's own, if it gets no handle: a library that is not whole, or too old a driver.
    """

    def __init__(
        self, found: Found, stream: Callable[[], int] | None = None, load: Load = import_module
    ) -> None:
        self.found, self._load = found, load
        self._stream = stream or self._current_stream
        self._cudnn = load("cudnn")
        self.errors = (self._cudnn.cudnnGraphNotSupportedError, RuntimeError, ValueError)
        self._handle: Any = self._cudnn.create_handle()  # of the device that is current in this process
        self._at: int | None = None

    def plan(self, asked: Asked) -> tuple[Plan | None, str]:
        """Return a plan for a pass, or None and why there is none.

        Where cuDNN has no plan that adds the bias and rectifies as well, it is one for the convolution alone; where it
        has none for unequal pads, one for an x with zeros around it.
        """
        why, (equal, frame) = "", framed(asked)
        ways: dict[Asked, tuple[tuple[int, int], ...]] = {asked: (), asked.bare: ()}
        if equal != asked and any(map(any, frame)):
            ways |= {equal: frame, equal.bare: frame}
        for each, around in ways.items():
            try:
                found = planned(self._cudnn, self._handle, each)
            except self.errors as error:
                why = why or said(error)
            else:
                whole = (each.bias, each.relu) == (asked.bias, asked.relu)
                return found._replace(whole=whole, frame=around), ""
        return None, why

    def execute(self, engine: Engine, plan: Plan, asked: Asked, arrays: Mapping[str, Array]) -> None:
        """Start a plan on CuPy's current stream.

        Parameters
        ----------
        arrays
            By the names of `asked`.  Weights and biases lie in memory one behind the other, wherever that is: what is
            not aligned is copied.
        """
        stream = self._stream()
        if stream != self._at:
            self._cudnn.set_stream(handle=self._handle, stream=stream)
            self._at = stream
        device, written = engine.device, WRITES[asked.kind]
        given = {name: arrays[name] for name in plan.tensors}
        x, middle = given["x"], None
        if plan.frame:
            given["x"], middle = _framed(engine, x, plan.frame, written != "x")
        held = {name: array if _aligned(engine, array) else _copy(engine, array, name != written)
                for name, array in given.items()}  # fmt: skip
        workspace = engine.empty((max(plan.workspace_bytes, 1),), np.uint8)
        pointers = {plan.tensors[name]: device.address(array) for name, array in held.items()}
        plan.graph.execute(pointers, device.address(workspace), handle=self._handle)
        if held[written] is not given[written]:
            engine.copy(held[written], given[written])
        if middle is not None and written == "x":
            engine.copy(middle, x)

    def _current_stream(self) -> int:
        return int(self._load("cupy").cuda.get_current_stream().ptr)


def said(error: Exception) -> str:
    """Return the first line of an error: hundreds may follow, some for each engine."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _aligned(engine: Engine, array: Array) -> bool:
    return engine.device.address(array) % ALIGNMENT == 0


def _copy(engine: Engine, array: Array, content: bool) -> Array:
    """Return memory for an array that is aligned, with its content or any."""
    found = engine.empty(array.shape, array.dtype)
    if content:
        engine.copy(array, found)
    return found


def _framed(
    engine: Engine, x: Array, frame: tuple[tuple[int, int], ...], content: bool
) -> tuple[Array, Array]:  # fmt: skip
    """Return an array with zeros around a copy of x, or for one of its shape to be written, and its middle."""
    sides = frame[len(frame) - len(x.shape) + 2 :]  # of one spatial dim cuDNN was told two
    space = [extent + lo + hi for extent, (lo, hi) in zip(x.shape[2:], sides, strict=True)]
    found = (engine.memory.zeros if content else engine.empty)((*x.shape[:2], *space), x.dtype)
    inside = [slice(lo, lo + extent) for extent, (lo, _) in zip(x.shape[2:], sides, strict=True)]
    middle = found[(slice(None), slice(None), *inside)]
    if content:
        engine.copy(x, middle)
    return found, middle
