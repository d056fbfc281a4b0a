"""Where a rank waits for its device: comm does on behalf of messages, in one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

COMM = Path(__file__).resolve().parents[2] / "gridnn" / "comm"
WAITS = {"synchronize", "to_host", "give", "read_later"}
"""What a host waits for its device in, or will."""
MAY = {"transport.py OnDevice._computed_so_far"}
TRIES = {"trial.py", "attempts.py", "handed.py", "neighbours.py", "probe.py"}
"""What tries before a run, or in its place, whether messages arrive; nothing that a step needs."""


def waiting(text: str) -> Iterator[str]:
    """Yield the functions of a file that name what a host waits in, each with its class."""

    def within(node: ast.AST, name: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
            inner = f"{name}.{child.name}".lstrip(".") if named else name  # type: ignore[attr-defined]
            if isinstance(child, ast.Attribute) and child.attr in WAITS:
                yield name
            yield from within(child, inner)

    yield from within(ast.parse(text), "")


def test_a_rank_waits_for_its_device_in_one_place() -> None:
    texts = {path.name: path.read_text() for path in COMM.glob("*.py") if path.name not in TRIES}
    assert {f"{file} {name}" for file, text in texts.items() for name in waiting(text)} == MAY
    tries = "|".join(file.removesuffix(".py") for file in TRIES)
    for file, text in texts.items():
        assert not re.search(rf"^\s*(from|import) gridnn\.comm\.({tries})\b", text, re.M), (
            f"{file} needs a trial"
        )
    assert list(waiting("class A:\n def f(self):\n  return partial(self.engine.synchronize)")) == ["A.f"]
