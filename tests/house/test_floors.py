"""The floors of the house: which room may import which, who speaks to the world, how long a file is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gridnn"

# What each room may import besides itself and errors; the table of the design, row by row.
FLOORS = {
    "geometry": set(),
    "network": {"geometry"},
    "cost": {"geometry", "network"},
    "plan": {"geometry", "network", "cost"},
    "compute": {"geometry"},
    "comm": {"geometry", "compute"},
    "layers": {"geometry", "network", "compute", "comm"},
    "train": {"geometry", "network", "cost", "plan", "compute", "comm", "layers"},
    # The commands that think: no MPI, no kernels.  Those that run are the porch of train.
    # Of checkpoints they read what needs neither, and of the guards of ranks what these say.
    "commands": {"geometry", "network", "cost", "plan", "analysis", "train.checkpoint", "train.guard"},
    # Of runs it reads what they leave behind.
    "analysis": {"geometry", "network", "cost", "plan", "train.record", "train.spans"},
}
# Libraries that only one room may name.
OWNERS = {"mpi4py": "comm", "cupy": "compute", "numba": "compute"}
PORCH = {"cli.py", "train/console.py"}
# comm/agree.py has the last word of a rank, just before Abort.
SPEAKS = {*PORCH, "comm/agree.py", "train/launch.py"}
READS_ENVIRONMENT = {*PORCH, "train/launch.py", "train/guard.py", "comm/world.py"}
SPEAK_UP_LINES, SPLIT_LINES = 400, 600
# Places that exist only where gridnn was written; in two parts, so that this file does not name them.
PRIVATE = re.compile(r"\.\./" + r"shared\b|(?<![\w.])/" + r"work/|\." + r"library/")
TEXT = {".py", ".md", ".toml", ".sh", ".cu", ".cuh", ".yaml", ".yml", ""}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, the lazy and the type-checking ones too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *filter(None, [node.module])))
            # `from gridnn import comm` imports a room, `from gridnn.comm import x` does not need x.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def places(path: Path, wanted: tuple[str, ...]) -> list[str]:
    """Where a file names one of the dotted names `wanted`."""
    nodes = ast.walk(ast.parse(path.read_text()))
    named = [node for node in nodes if isinstance(node, (ast.Name, ast.Attribute))]
    return [f"{path.relative_to(ROOT)}:{node.lineno}" for node in named if ast.unparse(node) in wanted]


def test_imports_go_down_only() -> None:
    wrong = []
    for path in SOURCES:
        room = path.relative_to(PACKAGE).parts[0]
        for line, name in imports(path):
            parts = name.split(".")
            if room in FLOORS and parts[0] == "gridnn":
                allowed = parts[1:2] and not {room, "errors", "__version__", *FLOORS[room]}.isdisjoint(
                    {parts[1], ".".join(parts[1:3])}
                )
            else:
                allowed = OWNERS.get(parts[0], room) == room
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


def test_every_room_has_a_row() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(FLOORS)
    assert {"geometry", "network", "compute", "comm", "layers", "train"} <= rooms


def test_only_the_porch_prints() -> None:
    indoors = [path for path in SOURCES if str(path.relative_to(PACKAGE)) not in SPEAKS]
    indoors = [path for path in indoors if path.name != "__main__.py"]
    assert not [place for path in indoors for place in places(path, ("print", "sys.stdout", "sys.stderr"))]


def test_only_the_doors_read_the_environment() -> None:
    indoors = [path for path in SOURCES if str(path.relative_to(PACKAGE)) not in READS_ENVIRONMENT]
    assert not [place for path in indoors for place in places(path, ("os.environ", "os.getenv", "environ"))]


@pytest.mark.parametrize("folder", ["gridnn", "tests"])
def test_files_are_short(folder: str) -> None:
    lines = {path.relative_to(ROOT): path.read_text().count("\n") for path in (ROOT / folder).rglob("*.py")}
    assert not {str(path): count for path, count in lines.items() if count > SPLIT_LINES}
    long = {str(path): count for path, count in lines.items() if count > SPEAK_UP_LINES}
    # Speaking up means here: a decision that names the file says why it stays whole.
    spoken = "\n".join(path.read_text() for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert not {path: count for path, count in long.items() if path not in spoken}


def test_no_file_names_a_private_place() -> None:
    folders = [ROOT / name for name in ("gridnn", "tests", "docs", "scripts", "examples", "kernels", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.glob("*.*"))
    files += [ROOT / "Makefile"]
    texts = [path for path in files if path.is_file() and path.suffix in TEXT]
    assert len(texts) > 30
    assert not [str(path) for path in texts if PRIVATE.search(path.read_text(errors="replace"))]
