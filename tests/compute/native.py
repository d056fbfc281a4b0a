"""What tests of the compiled kernels share: the libraries to test, and blocks in the layouts kernels meet.

    native    what `load` chooses on this machine
    wide      the same sources with 64-byte vectors, on a machine with AVX2 alone: the code of AVX-512

A test takes its library by `@each_library` and `lib = library(which)`; it is skipped where none can be had.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gridnn.compute.cpu.native.library import Library, load

Array = NDArray[Any]

IDS = ("native", "wide")
LAYOUTS = ("dense", "margin", "slice")

each_library = pytest.mark.parametrize("which", IDS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_thread_count = pytest.mark.parametrize("threads", [1, 2])


@functools.cache
def _builder() -> ModuleType:
    """The module kernels/build.py, which is part of no package."""
    path = Path(__file__).resolve().parents[2] / "kernels" / "build.py"
    spec = importlib.util.spec_from_file_location("build_kernels", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _found(which: str) -> tuple[Library | None, str]:
    """A library, or why there is none; the wide one is compiled once a session."""
    if which == "native":
        return load(), "the kernels were not compiled: run kernels/build.py"
    narrow = load()
    if narrow is None or narrow.plain("instruction_set")() < 1:
        return None, "the wide kernels are compiled for AVX2"
    if shutil.which("gcc") is None:
        return None, "no C compiler for the wide kernels"
    folder = Path(tempfile.mkdtemp(prefix="gridnn-wide-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (path,) = _builder().build(folder, "gcc", flags={"generic": ["-mavx2", "-mfma", "-DVB=64"]})
    return Library(path), ""


def library(which: str, threads: int = 1) -> Library:
    """Return a library of `IDS` that uses so many threads; the test is skipped where it cannot be had."""
    lib, reason = _found(which)
    if lib is None:
        pytest.skip(reason)
    lib.set_threads(threads)
    return lib


def libraries() -> list[tuple[str, Library]]:
    """Return every library that can be had here, with its id."""
    return [(which, lib) for which in IDS for lib in [_found(which)[0]] if lib is not None]


def place(values: Array, layout: str) -> Array:
    """Return values (N, C, *S) in channels-last memory of one of `LAYOUTS`, surrounded by NaN where not dense.

    margin : the middle of a buffer with two more positions on each side of every spatial dim
    slice : the middle channels of a buffer with three more on either side
    """
    n, c, *space = values.shape
    edge, more = (2 if layout == "margin" else 0), (3 if layout == "slice" else 0)
    buffer = np.full((n, *(s + 2 * edge for s in space), c + 2 * more), np.nan, values.dtype)
    inner = buffer[:, *(slice(edge, edge + s) for s in space), more : more + c]
    inner[...] = np.moveaxis(values, 1, -1)
    return np.moveaxis(inner, -1, 1)


def untouched(x: Array) -> bool:
    """Whether all of the buffer around a block of `place` is still NaN."""
    whole = x.base if x.base is not None else x
    while whole.base is not None:
        whole = whole.base
    return int(np.isnan(whole).sum()) - int(np.isnan(x).sum()) == whole.size - x.size
