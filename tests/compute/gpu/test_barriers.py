"""Every barrier of a kernel is left out by some test, which must notice; a new one that no test leaves out fails here.

for number in range(shim.barriers("sums")):                    all of a file's, or as many as range says
    kernels = shim.Module("sums", ..., without=number)
    assert ...
LOST = {"the barrier": ("__syncthreads();", ";"), ...}         one, by a table that the test goes through
@pytest.mark.parametrize("what", LOST)
def test_...: shim.Module("conv_tensor", ..., text=text.replace(*LOST[what])); assert ...
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridnn.compute.gpu.source import names, read_source
from tests.support import shim

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[2] / "kernels"
WAITS = re.compile(r"\b__sync\w*|\bbar\.\w+|\bm?barrier\w*|\bcooperative_groups\b|\.sync\(")
"""However threads can wait for each other, in words of CUDA and of PTX."""
INCLUDED = re.compile(r'^#include "(\w+\.cuh)"$', re.M)
WAITING = [name for name in names() if WAITS.search(re.sub(r"//[^\n]*", "", read_source(name)))]


def left_out(tests: str) -> Counter[str]:
    """Return how many barriers of each file the tests of a module leave out, one at a time."""
    tree, found = ast.parse(tests), Counter[str]()
    for test in tree.body:
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            for name, count in [*_by_number(test), *_by_text(tree, test)]:
                found[name] = max(found[name], count)
    return found


def _by_number(test: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    """Yield files, and how many of their first barriers a test leaves out in a loop with an assertion."""
    for loop in ast.walk(test):
        if not isinstance(loop, ast.For) or not any(isinstance(node, ast.Assert) for node in ast.walk(loop)):
            continue
        for name, words in _modules(loop):
            if "without" in words and ast.unparse(words["without"]) == ast.unparse(loop.target):
                several = ast.unparse(loop.iter)
                if several == f"range(shim.barriers({name!r}))":
                    yield name, shim.barriers(name)
                elif told := re.fullmatch(r"range\((\d+)\)", several):
                    yield name, int(told[1])


def _by_text(tree: ast.Module, test: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    """Yield files whose one barrier a test leaves out by a table that it is parametrized by."""
    through = {
        node.id for mark in test.decorator_list for node in ast.walk(mark) if isinstance(node, ast.Name)
    }
    for table in tree.body:
        if not isinstance(table, ast.Assign) or not isinstance(table.value, ast.Dict):
            continue
        of = ast.unparse(table.targets[0])
        pairs = [ast.unparse(value) for value in table.value.values]
        if of in through and "('__syncthreads();', ';')" in pairs:
            for name, words in _modules(test):
                if "text" in words and f".replace(*{of}[" in ast.unparse(words["text"]):
                    yield name, 1


def _modules(within: ast.AST) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Yield the files that are compiled, and with which words."""
    for call in ast.walk(within):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "shim.Module" and call.args:
            (file, *_), words = call.args, {word.arg: word.value for word in call.keywords if word.arg}
            if isinstance(file, ast.Constant) and isinstance(file.value, str):
                yield file.value, words


def test_what_is_left_out_is_seen() -> None:
    loop = 'def test_it():\n for n in range({}):\n  k = shim.Module("sums", float, without={})\n  {}\n'
    assert left_out(loop.format('shim.barriers("sums")', "n", "assert not k")) == {
        "sums": shim.barriers("sums")
    }
    assert left_out(loop.format("3", "n", "assert not k")) == {"sums": 3}
    for lost in ((3, "n", "k"), (3, "None", "assert k"), ('shim.barriers("norm")', "n", "assert k")):
        assert not left_out(loop.format(*lost))
    assert not left_out(loop.format("3", "n", "assert k").replace("test_it", "helper"))
    table = (
        'LOST = {{"b": ({!r}, ";")}}\n@pytest.mark.parametrize("b", {})\n'
        'def test_it(b):\n k = shim.Module("conv_tensor", text=text.replace(*LOST[b]))\n'
    )
    assert left_out(table.format("__syncthreads();", "LOST")) == {"conv_tensor": 1}
    assert not left_out(table.format("wait();", "LOST")) and not left_out(
        table.format("__syncthreads();", "[]")
    )


def test_some_files_have_barriers() -> None:
    assert {"conv", "conv_tensor", "layer_norm", "norm", "sums"} <= set(WAITING)


@pytest.mark.parametrize("name", WAITING)
def test_each_barrier_is_left_out_by_a_test(name: str) -> None:
    found = Counter[str]()
    for path in HERE.glob("test_*.py"):
        if path != Path(__file__).resolve():
            found |= left_out(path.read_text(encoding="utf-8"))
    assert found[name] >= shim.barriers(name) > 0, (
        f"kernels/{name}.cu has {shim.barriers(name)} barriers, with those of its headers, and tests leave out "
        f"{found[name]}: write one that goes through range(shim.barriers({name!r})), as test_sums.py has it"
    )


@pytest.mark.parametrize("name", names())
def test_threads_wait_only_in_words_that_can_be_left_out(name: str) -> None:
    """The shim leaves out what it knows: `__syncthreads();` and `__syncwarp(...);`."""
    words = WAITS.findall(re.sub(r"//[^\n]*", "", read_source(name)))
    assert len(words) == shim.barriers(name), f"threads of kernels/{name}.cu wait by {sorted(set(words))}"


def test_every_header_belongs_to_a_kernel() -> None:
    """Whose text is looked at above."""
    found = {header for name in names() for header in INCLUDED.findall((KERNELS / f"{name}.cu").read_text())}
    todo = list(found)
    while todo:
        new = set(INCLUDED.findall((KERNELS / todo.pop()).read_text())) - found
        found |= new
        todo += new
    assert found == {path.name for path in KERNELS.glob("*.cuh")}
