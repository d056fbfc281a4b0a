"""Every kernel goes through the compiler that CuPy calls (NVRTC), for every generation of devices, without a device."""

from __future__ import annotations

import io
import re

import pytest

from gridnn.compute.gpu.pieces import PIECE, STRIDES
from gridnn.compute.gpu.pointwise import BLOCK
from gridnn.compute.gpu.pool import STRUCT as POOL
from gridnn.compute.gpu.source import SCALARS, kernels_of, names, read_source
from gridnn.compute.gpu.upsample import STRUCT as UPSAMPLE
from gridnn.compute.gpu.view import OUTPUT, SHAPE, VIEW

core = pytest.importorskip(
    "cuda.core", reason="cuda-core is not there; with it kernels are compiled for devices"
)
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
REGISTERS = 128
"""The most a thread may take: two blocks of 256 threads fit a multiprocessor."""
PLAIN = [[("REAL", "float")], [("REAL", "double")]]
NARROW = [("REAL", "bfloat16")]
"""What is compiled where an engine of "bf16" can be: on architectures with tensor cores for it."""
WIDE = {"update", "norm_statistics"}
"""Files that no activation goes through."""
DEFINED = {
    "conv_tensor": [
        *([("REAL", real)] for real in ("float", "bfloat16")),
        *([("REAL", real), ("COLUMNS", "64")] for real in ("float", "bfloat16")),
    ]
}
"""What is defined where it is not just float and double: on tensor cores TF32 and bfloat16, and narrow tiles."""
TENSOR_CORES = {"sm_80", "sm_90", "sm_100"}
"""Architectures with these instructions; on others the kernels compile to a trap."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", names())
def test_it_compiles_and_spills_nothing(name: str, architecture: str) -> None:
    narrow = [NARROW] if architecture in TENSOR_CORES and name not in WIDE else []
    for defined in DEFINED.get(name, PLAIN + narrow):
        log, real = io.StringIO(), defined[0][1]
        options = core.ProgramOptions(
            arch=architecture, std="c++17", define_macro=defined, ptxas_options=["-v"],
            ftz=True, device_as_default_execution_space=True,  # as CuPy asks for
        )  # fmt: skip
        made = core.Program(read_source(name), "c++", options).compile("cubin", logs=log)
        said = log.getvalue()
        assert len(made.code) > 0
        for kernel in kernels_of(read_source(name)):
            found = re.search(rf"'{kernel.name}' for '{architecture}a?'(.*?)Used (\d+) registers", said, re.S)
            assert found is not None, said
            assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found[1], (
                f"{kernel.name} of {real}: {found[1]}"
            )
            assert int(found[2]) <= REGISTERS, f"{kernel.name} of {real} takes {found[2]} registers"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("real", "kind"), [("float", "tf32"), ("bfloat16", "bf16")])
def test_products_are_made_by_tensor_cores(architecture: str, real: str, kind: str) -> None:
    """And what is multiplied is copied to shared memory asynchronously; elsewhere there is neither."""
    text = _ptx(read_source("conv_tensor"), architecture, real)
    there = architecture in TENSOR_CORES
    # Three kernels, 16 products each in two steps of what shared memory holds.
    shape = "m16n8k8" if kind == "tf32" else "m16n8k16"
    found = text.count(f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32")
    assert found == (3 * 2 * 16 if there else 0)
    assert ("cp.async.cg.shared.global" in text) == there
    assert ("trap;" in text) == (not there)


PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.[busf](\d+) [^\[,\s]+(?:\[(\d+)\])?")
STRUCTURES = {
    "View": VIEW, "Output": OUTPUT, "Shape": SHAPE, "Strides": STRIDES, "Window": POOL, "Rows": UPSAMPLE,
    "Block": BLOCK,
}  # fmt: skip
"""What kernels are given by value beside numbers, as Python has it."""
WIDTHS = {"pointer": 8, "real": 4, "wide": 4} | {kind: scalar().nbytes for kind, scalar in SCALARS.items()}
"""Bytes of the others, where `real` is float."""
MOST_BYTES = 4096
"""Of all parameters of a kernel."""


@pytest.mark.parametrize("name", names())
def test_arguments_have_the_bytes_that_a_device_reads(name: str) -> None:
    """CuPy hands over an address for each; how many bytes are read there, and how aligned, is the compiler's."""
    text = _ptx(read_source(name), "sm_90", "float")
    for kernel in kernels_of(read_source(name)):
        found = re.search(rf"\.entry {kernel.name}\((.*?)\)", text, re.S)
        assert found is not None
        read = [int(count or 1) * int(bits) // 8 for bits, count in PARAMETER.findall(found[1])]
        kinds = [p.kind for p in kernel.parameters]
        assert read == [STRUCTURES[k].itemsize if k in STRUCTURES else WIDTHS[k] for k in kinds], kernel.name
        assert sum(read) + 8 * len(read) <= MOST_BYTES  # whatever is left out between them


def test_pieces_of_halos_lie_as_a_device_reads_them() -> None:
    """They are an array there, no parameter."""
    assert PIECE.fields is not None
    told = [f"sizeof(Piece) == {PIECE.itemsize}", f"alignof(Piece) == {PIECE.alignment}"]
    told += [f"__builtin_offsetof(Piece, {name}) == {found[1]}" for name, found in PIECE.fields.items()]
    assert _ptx(read_source("halo") + "".join(f"static_assert({word});\n" for word in told), "sm_90", "float")


def _ptx(source: str, architecture: str, real: str) -> str:
    """Return the assembly of a source; `Program` asks for a driver before it gives any."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    words = [f"-arch={architecture.replace('sm', 'compute')}", "-std=c++17", f"-DREAL={real}", "-ftz=true"]
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"conv_tensor.cu", 0, [], [])
    (said,) = nvrtc.nvrtcCompileProgram(program, len(words), [word.encode() for word in words])
    assert said == nvrtc.nvrtcResult.NVRTC_SUCCESS
    _, size = nvrtc.nvrtcGetPTXSize(program)
    made: bytes = b" " * size
    nvrtc.nvrtcGetPTX(program, made)
    nvrtc.nvrtcDestroyProgram(program)
    return made.decode()
