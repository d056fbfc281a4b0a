"""Kernels of kernels/*.cu on the CPU: what a device would run, compiled by g++ and run by fibers.

    kernels/halo.cu --g++ with cuda.h before it--> halo-....so --ctypes--> the same launches, on NumPy arrays

`cuda.h` has the words of CUDA, `block.h` says who runs when and what is an error, `fibers.h` switches stacks.  Blocks
and threads can be taken forward, in reverse and shuffled: results must not differ.  A barrier can be left out, which
some test must notice.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.gpu.source import Kernel, kernels_of, pack, read_source

HERE = Path(__file__).resolve().parent
ORDERS = ("forward", "reverse", "shuffled")
CXX = shutil.which("g++")
FLAGS = ["-std=gnu++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Werror", "-Wno-unused-function",
         "-Wno-unknown-pragmas", "-Wno-unused-variable", "-Wno-maybe-uninitialized", "-march=native"]  # fmt: skip
DYNAMIC_BYTES = 48 << 10
"""Of shared memory, the most that a launch is given which has not asked for more before."""
_REAL = {"f": "float", "d": "double", "E": "bfloat16", "H": "bfloat16"}
_BARRIER = re.compile(r"__syncthreads\(\);|__syncwarp\([^)]*\);")
_BOUND = re.compile(r"__launch_bounds__\((\d+)[^)]*\) void (\w+)\(")
_DYNAMIC = re.compile(r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\[\];")


class ShimError(Exception):
    """What a GPU would answer with wrong numbers, an illegal access, or silence."""


class Module:
    """The kernels of a file.

    Parameters
    ----------
    name
        Of the file, without its ending.
    dtype
        What `real` is; of bfloat16, its 16 bits.
    order
        One of `ORDERS`.
    without
        Number of the barrier to leave out.
    text
        The source, if it is not a file's.
    """

    def __init__(
        self, name: str, dtype: DTypeLike = np.float32, order: str = "forward", without: int | None = None,
        seed: int = 0, text: str | None = None,
    ) -> None:  # fmt: skip
        text = read_source(name) if text is None else text
        if without is not None:
            at = list(_BARRIER.finditer(text))[without]
            text = f"{text[: at.start()]};{text[at.end() :]}"
        self.kernels = {kernel.name: kernel for kernel in kernels_of(text)}
        self.bounds = {name: int(threads) for threads, name in _BOUND.findall(text)}
        self.dtype, self.order, self.seed = np.dtype(dtype), ORDERS.index(order), seed
        self._library = ctypes.CDLL(str(_compiled(name, text, _REAL[self.dtype.char])))
        self._library.shim_message.restype = ctypes.c_char_p

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        arguments
            Arrays, whose address is given, None for no address, numbers, and size-one structures.

        Raises
        ------
        ShimError
            For what would be wrong on a device.
        """
        threads, most = prod(block), self.bounds.get(kernel)
        if most is not None and threads > most:
            raise ShimError(f"{kernel}: a block of {threads} threads, its launch bounds are {most}")
        held = [_held(a) for a in pack(self.kernels[kernel], arguments, self.dtype)]
        pointers = (ctypes.c_void_p * len(held))(*(a.ctypes.data for a in held))
        widths = (ctypes.c_int * len(held))(*(a.nbytes for a in held))
        three = [(ctypes.c_uint * 3)(*(*size, 1, 1)[:3]) for size in (grid, block)]
        call = getattr(self._library, f"shim_call_{kernel}")
        if call(*three, ctypes.c_uint(shared_bytes), pointers, widths, len(held), self.order, self.seed):
            raise ShimError(f"{kernel}: {self._library.shim_message().decode()}")


def barriers(name: str) -> int:
    """Return how many barriers a file has."""
    return len(_BARRIER.findall(read_source(name)))


def _held(argument: Any) -> np.ndarray[Any, Any]:
    """Return an array that holds what a kernel is given."""
    if isinstance(argument, np.ndarray) and argument.dtype.names is None:
        return np.array([argument.ctypes.data], dtype=np.uint64)
    if isinstance(argument, np.generic | np.ndarray):
        return np.atleast_1d(np.asarray(argument))
    raise ShimError(f"argument {argument!r} has no width; give a NumPy scalar")


@cache
def _compiled(name: str, text: str, real: str) -> Path:
    """Return the library of a file, compiled unless it was."""
    if CXX is None:
        raise ShimError("g++ is not there")
    dynamic = _DYNAMIC.search(text)
    lines = [f'#line 1 "{name}.cu"', text]
    where = "nullptr, 0"
    if dynamic is not None:
        kind, word = dynamic.groups()
        lines.append(f"thread_local {kind} {word}[{DYNAMIC_BYTES} / sizeof({kind})];")
        where = f"reinterpret_cast<unsigned char*>({word}), sizeof({word})"
    lines += [_entry(kernel, where) for kernel in kernels_of(text)]
    code = "\n".join(lines)
    defined = [f"-DREAL={real}", f"-DFLUSH={int(real != 'double')}"]
    flags = [*FLAGS, *defined, *os.environ.get("SHIM_CXXFLAGS", "").split()]
    headers = "".join((HERE / h).read_text() for h in ("cuda.h", "block.h", "fibers.h"))
    key = hashlib.blake2b("\0".join([code, headers, *flags]).encode(), digest_size=10).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"gridnn-shim-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{name}-{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, made = Path(work) / f"{name}.cpp", Path(work) / "made.so"
            source.write_text(code)
            words = [
                CXX,
                *flags,
                "-include",
                str(HERE / "cuda.h"),
                "-I",
                str(HERE),
                str(source),
                "-o",
                str(made),
            ]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ShimError(f"{name}.cu does not compile for the CPU:\n{done.stderr}")
            os.replace(made, library)  # others may be at it, too
    return library


def _entry(kernel: Kernel, dynamic: str) -> str:
    return f"""
extern "C" __attribute__((visibility("default"))) int shim_call_{kernel.name}(
    const unsigned* grid, const unsigned* block, unsigned dynamic_bytes, void** arguments, const int* widths, int count,
    int order, unsigned seed) {{
    return shim::launch(
        &::{kernel.name}, {{grid, block, dynamic_bytes, arguments, widths, count, order, seed, {dynamic}}});
}}"""
