"""Compile the C of gridnn: the CPU kernels, and the event loop of the planner's simulator.

    python kernels/build.py [--into FOLDER] [--cc gcc]

    kernels/cpu     one shared library for each instruction set, chosen at run time; each source is compiled twice,
                    for float and for double
    kernels/plan    integers only: one library for all processors of a kind

The build of the package calls `build` and `build_plan` (see hatch_build.py); developers run this file after a change
in kernels.  Nothing but a C compiler with OpenMP is needed.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import shutil
import subprocess
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "gridnn" / "compute" / "cpu" / "native"
# A folder of its own: beside modules, tools that list a package would take the library for one.
PLAN_TARGET = HERE.parent / "gridnn" / "plan" / "simulate" / "compiled"
COMMON = ["-O3", "-std=gnu11", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
          "-ffp-contract=fast", "-Wall", "-Wno-psabi",
          "-Wno-maybe-uninitialized"]  # fmt: skip

PLAN = ["-O2", "-std=c11", "-fPIC", "-fvisibility=hidden", "-Wall"]

# The level's name is the file's; VB is set so that the widest code can be built for a lesser machine.
LEVELS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mtune=haswell"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mavx2",
        "-mprefer-vector-width=512",
    ],
}


class BuildError(Exception):
    """The compiler is missing or refused a source."""


def levels_of(machine: str) -> list[str]:
    """Return the instruction sets worth compiling for a kind of processor."""
    return ["generic", "avx2", "avx512"] if machine in ("x86_64", "AMD64") else ["generic"]


def library(folder: Path, level: str) -> Path:
    """Return the path of a level's library."""
    return folder / f"libgridnn-{level}.so"


def interface() -> int:
    """Return what callers pass to kernels as a number: a library built for others is left aside (library.py)."""
    for node in ast.parse((TARGET / "library.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KERNELS":
            return zlib.crc32(repr(sorted(ast.literal_eval(node.value).items())).encode()) & 0x7FFFFFFF
    raise BuildError(f"{TARGET / 'library.py'} has no table KERNELS")


def build(
    into: Path = TARGET, compiler: str | None = None, flags: dict[str, list[str]] | None = None
) -> list[Path]:
    """Compile every level's library into a folder.

    Parameters
    ----------
    flags
        Flags by level, for other levels than this processor's.

    Raises
    ------
    BuildError
    """
    cc = _compiler(compiler)
    wanted = flags or {level: LEVELS[level] for level in levels_of(platform.machine())}
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        jobs = [(level, source, bits) for level in wanted for source in sorted((HERE / "cpu").glob("*.c"))
                for bits in (32, 64)]  # fmt: skip
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: _compile(cc, wanted[job[0]], *job, Path(scratch)), jobs))
        for level in wanted:
            made = [str(o) for (of, _, _), o in zip(jobs, objects, strict=True) if of == level]
            # Under another name first: a process that has the old library loaded keeps it.
            fresh = library(into, level).with_suffix(".new")
            _run([cc, "-shared", "-fopenmp", *made, "-lm", "-o", str(fresh)])
            fresh.replace(library(into, level))
    return [library(into, level) for level in wanted]


def build_plan(into: Path = PLAN_TARGET, compiler: str | None = None) -> list[Path]:
    """Compile the planner's library into a folder.

    Raises
    ------
    BuildError
    """
    into.mkdir(parents=True, exist_ok=True)
    path = library(into, "plan")
    fresh = path.with_suffix(".new")
    sources = [str(source) for source in sorted((HERE / "plan").glob("*.c"))]
    _run([_compiler(compiler), *PLAN, "-shared", *sources, "-o", str(fresh)])
    fresh.replace(path)
    return [path]


def _compiler(given: str | None) -> str:
    cc = given or os.environ.get("CC") or "gcc"
    if shutil.which(cc) is None:
        raise BuildError(f"no C compiler: {cc} is not on PATH; install gcc, or name another by CC=")
    return cc


def _compile(cc: str, flags: list[str], level: str, source: Path, bits: int, scratch: Path) -> Path:
    target = scratch / f"{source.stem}-{level}-{bits}.o"
    defines = [f"-DREAL_BITS={bits}", f"-DINTERFACE={interface()}"]
    _run([cc, *COMMON, *flags, *defines, "-c", str(source), "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")
    if done.stderr:
        print(done.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, help="folder of the libraries (default: in the package)")
    parser.add_argument("--cc", help="C compiler (default: $CC or gcc)")
    given = parser.parse_args()
    for path in build(given.into or TARGET, given.cc) + build_plan(given.into or PLAN_TARGET, given.cc):
        print(path)
