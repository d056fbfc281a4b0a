"""Virtual hosts for tests: a cluster of `scripts/virtual_cluster` in a folder of its own, gone with the test.

    with cluster(tmp_path / "hosts", 4, "--mbit", "100") as folder:
        call(folder, "run", sys.executable, "-m", "gridnn.train")

Programs of a cluster are found here by what their environment says, without help of what is tested.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.launch import ROOT, environment, mpiexec

COMMAND = ROOT / "scripts" / "virtual_cluster"


@functools.cache
def why_not() -> str:
    """Why there can be no virtual hosts here; empty if there can."""
    done = subprocess.run([sys.executable, COMMAND, "check"], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise AssertionError(done.stdout + done.stderr)  # broken, which is no reason to skip
    return done.stderr.strip().removeprefix("error: ")


def call(
    folder: Path,
    verb: str,
    *words: str,
    cwd: Path | None = None,
    extra_env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run a command of `scripts/virtual_cluster` on the cluster of a folder."""
    return subprocess.run(
        [sys.executable, COMMAND, verb, "--dir", folder, *words],
        cwd=cwd, env=variables(extra_env), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip


def variables(extra_env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: no outer launcher, and the mpiexec of this Python."""
    try:
        ours = {"MPIEXEC": mpiexec()}
    except FileNotFoundError:  # most commands need none
        ours = {}
    return environment(1, {**ours, **(extra_env or {})})


@contextmanager
def cluster(folder: Path, hosts: int, *words: str) -> Iterator[Path]:
    """A cluster that is up; skips the test where there can be none."""
    if reason := why_not():
        pytest.skip(f"no virtual hosts: {reason}")
    done = call(folder, "up", str(hosts), "--minutes", "10", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield folder
    finally:
        call(folder, "down")


def stats(folder: Path) -> dict[str, Any]:
    """The counters of the links."""
    done = call(folder, "stats", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sent_bytes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[int]:
    """What each host's interface sent between two looks."""
    pairs = zip(before["interfaces"], after["interfaces"], strict=True)
    return [late["sent_bytes"] - early["sent_bytes"] for early, late in pairs]


def programs(folder: Path) -> list[str]:
    """The command lines of all processes that have to do with the cluster of a folder."""
    name, found = os.fsencode(folder), []
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal() or place.name == str(os.getpid()):
            continue
        try:
            line = (place / "cmdline").read_bytes()
            if name in line or b"GRIDNN_VIRTUAL_CLUSTER=" + name + b":" in (place / "environ").read_bytes():
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has just ended
            continue
    return found
