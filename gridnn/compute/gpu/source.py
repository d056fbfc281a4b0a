"""Kernels as text: where they are, what they are called, and what they must be given.

    extern "C" __global__ void relu(const real* x, real* y, long long count)
        -> Kernel("relu", (Parameter("x", "pointer"), Parameter("y", "pointer"), Parameter("count", "long long")))

CUDA reads as many bytes of an argument as the kernel declares and asks nothing, so each scalar is cast to its declared
type here, once (`pack`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gridnn.compute.storage import wide_of

HERE = Path(__file__).resolve()
# In a wheel beside the package's rooms, in a clone beside the package.
_FOLDERS = (HERE.parents[2] / "kernels", HERE.parents[3] / "kernels")
_KERNEL = re.compile(r'extern "C" __global__ (?:__launch_bounds__\([^)]*\) )?void (\w+)\(([^)]*)\)')
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.M)
_COMMENT = re.compile(r"//[^\n]*")
SCALARS: Mapping[str, type[np.generic]] = {
    "int": np.int32, "unsigned": np.uint32, "long long": np.int64, "unsigned long long": np.uint64,
    "float": np.float32, "double": np.float64, "unsigned char": np.uint8,
}  # fmt: skip
"""Types of scalar parameters; `wide` and `real` are what the kernel computes in, all others are structures."""


class Parameter(NamedTuple):
    """A parameter of a kernel; `kind` is "pointer", a key of `SCALARS`, "wide", "real" or the name of a structure."""

    name: str
    kind: str


class Kernel(NamedTuple):
    """A kernel's name and parameters."""

    name: str
    parameters: tuple[Parameter, ...]


@cache
def read_source(name: str) -> str:
    """Return the text of kernels/<name>.cu with what it includes put in its place."""
    folder = next((f for f in _FOLDERS if (f / f"{name}.cu").exists()), None)
    if folder is None:
        raise FileNotFoundError(
            f"no kernels/{name}.cu beside {HERE.parents[2]}; the installation is not whole"
        )
    seen = set[str]()

    def text(file: str) -> str:
        return _INCLUDE.sub(included, (folder / file).read_text(encoding="utf-8"))

    def included(found: re.Match[str]) -> str:
        file = found[1]
        fresh = file not in seen
        seen.add(file)
        return text(file).replace("#pragma once", "") if fresh else ""

    return text(f"{name}.cu")


def names() -> list[str]:
    """Return the names of all files of kernels."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.cu")})


def kernels_of(text: str) -> list[Kernel]:
    """Return the kernels of a source."""
    found = []
    for name, words in _KERNEL.findall(_COMMENT.sub("", text)):
        found.append(Kernel(name, tuple(_parameter(word) for word in words.split(",") if word.strip())))
    return found


def pack(kernel: Kernel, arguments: Sequence[Any], real: np.dtype[Any]) -> list[Any]:
    """Return arguments as a kernel reads them: scalars of the declared types, arrays and structures as they are.

    Parameters
    ----------
    real
        The dtype the source was compiled for; numbers are given to it in `wide_of` that.

    Raises
    ------
    TypeError, OverflowError
        If there are too many or too few, a scalar is no number or does not fit, or a pointer is a number.
    """
    if len(arguments) != len(kernel.parameters):
        raise TypeError(f"{kernel.name} takes {len(kernel.parameters)} arguments, {len(arguments)} are given")
    return [_cast(kernel.name, p, a, real) for p, a in zip(kernel.parameters, arguments, strict=True)]


def _parameter(words: str) -> Parameter:
    kind, name = words.replace("const ", "").strip().rsplit(None, 1)
    return Parameter(name.lstrip("*"), "pointer" if "*" in words else kind)


def _cast(kernel: str, parameter: Parameter, value: Any, real: np.dtype[Any]) -> Any:
    name, kind = parameter
    number = isinstance(value, bool | int | float | np.number | np.bool_)
    scalar = wide_of(real).type if kind in ("wide", "real") else SCALARS.get(kind)
    if scalar is None:
        if number:
            raise TypeError(f"{kernel}: {name} is a {kind}, {value!r} is given")
        return np.uint64(0) if value is None and kind == "pointer" else value
    if not number:
        raise TypeError(f"{kernel}: {name} is a number ({kind}), a {type(value).__name__} is given")
    if np.issubdtype(scalar, np.integer):
        whole, limits = int(value), np.iinfo(scalar)
        if whole != value or not limits.min <= whole <= limits.max:
            raise OverflowError(f"{kernel}: {name} = {value} does not fit a {kind}")
        return scalar(whole)
    return scalar(value)
