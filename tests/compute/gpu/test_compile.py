"""Every kernel goes through the compiler that CuPy calls (NVRTC), for every generation of devices, without a device."""

from __future__ import annotations

import io
import re

import pytest

from gridnn.compute.gpu.source import kernels_of, names, read_source

core = pytest.importorskip(
    "cuda.core", reason="cuda-core is not there; with it kernels are compiled for devices"
)
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
REGISTERS = 128
"""The most a thread may take: two blocks of 256 threads fit a multiprocessor."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", names())
def test_it_compiles_and_spills_nothing(name: str, architecture: str) -> None:
    for real in ("float", "double"):
        log = io.StringIO()
        options = core.ProgramOptions(
            arch=architecture, std="c++17", define_macro=[("REAL", real)], ptxas_options=["-v"]
        )
        made = core.Program(read_source(name), "c++", options).compile("cubin", logs=log)
        said = log.getvalue()
        assert len(made.code) > 0
        for kernel in kernels_of(read_source(name)):
            found = re.search(rf"'{kernel.name}' for '{architecture}a?'(.*?)Used (\d+) registers", said, re.S)
            assert found is not None, said
            assert "0 bytes spill stores, 0 bytes spill loads" in found[1], (
                f"{kernel.name} of {real}: {found[1]}"
            )
            assert int(found[2]) <= REGISTERS, f"{kernel.name} of {real} takes {found[2]} registers"
