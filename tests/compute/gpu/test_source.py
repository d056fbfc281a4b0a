"""Kernels as text: found, read, and given what they declare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.gpu.source import Kernel, Parameter, kernels_of, names, pack, read_source

F4 = np.dtype(np.float32)


def test_every_file_has_kernels_and_a_head() -> None:
    assert len(names()) >= 6
    for name in names():
        text = read_source(name)
        assert kernels_of(text) and "#include" not in text, name
        assert text.count("typedef REAL real;") == 1
        for word in ("Memory ", "Threads ", "Types ", "Caller ", "Reference ", "Source "):
            assert f"// {word}" in text, f"{name}.cu says nothing of {word}"


def test_parameters_are_those_declared() -> None:
    (found,) = kernels_of(
        'extern "C" __global__ void f(const real* x,  // what is read\n'
        "  Window w, long long n, real s, unsigned char* y) {"
    )
    kinds = ["pointer", "Window", "long long", "real", "pointer"]
    assert found.name == "f" and [p.kind for p in found.parameters] == kinds
    assert [p.name for p in found.parameters] == ["x", "w", "n", "s", "y"]
    with pytest.raises(FileNotFoundError, match=r"no kernels/nothing\.cu"):
        read_source("nothing")


def test_scalars_have_the_declared_width() -> None:
    kernel = Kernel("f", (Parameter("x", "pointer"), Parameter("n", "long long"), Parameter("s", "real")))
    x = np.zeros(3)
    packed = pack(kernel, [x, 7, 2], F4)
    assert packed[0] is x and [a.dtype for a in packed[1:]] == [np.int64, np.float32]
    assert pack(kernel, [None, 7, 2], F4)[0] == 0 and pack(kernel, [None, 7, 2], F4)[0].nbytes == 8


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ([1, 2], TypeError, "takes 3 arguments, 2 are given"),
        ([4, 1, 1.0], TypeError, "x is a pointer, 4 is given"),
        ([None, 1 << 31, 1.0], OverflowError, "n = 2147483648 does not fit a int"),
        ([None, 1.5, 1.0], OverflowError, "n = 1.5 does not fit"),
        ([None, np.zeros(2), 1.0], TypeError, "n is a number"),
    ],
)
def test_what_a_kernel_cannot_read_is_refused(
    arguments: list[Any], error: type[Exception], words: str
) -> None:
    kernel = Kernel("f", (Parameter("x", "pointer"), Parameter("n", "int"), Parameter("s", "real")))
    with pytest.raises(error, match=words):
        pack(kernel, arguments, F4)
