"""Hosts of scripts/virtual_cluster for a measurement: up, programs on them with time limits, counters, always down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
COMMAND = ROOT / "scripts" / "virtual_cluster"


class Failed(Exception):
    """A program ended badly or not in time; the message holds its last lines."""


@dataclass(frozen=True)
class Hosts:
    """A cluster that is up.

    Attributes
    ----------
    env
        What all programs have in their environment beside this process's own.
    """

    folder: Path
    count: int
    env: Mapping[str, str]

    def ranks(self, words: Sequence[str], limit_s: float, **env: str) -> str:
        """Run an MPI program with a rank on each host; returns what it said.

        Raises
        ------
        Failed
        """
        return run([*self._words("run"), "-n", str(self.count), *words], limit_s, {**self.env, **env})

    def each(self, words: Sequence[str], envs: Sequence[Mapping[str, str]], limit_s: float) -> list[str]:
        """Run a program on every host at once, each with its own environment; returns what each said.

        Raises
        ------
        Failed
            As soon as one is known to have failed; the others are ended.
        """
        started = [
            _start([*self._words("exec"), str(host), *(word.replace("{host}", str(host)) for word in words)],
                   {**self.env, **env})
            for host, env in enumerate(envs)
        ]  # fmt: skip
        try:
            return [_end(process, limit_s) for process in started]
        finally:
            for process in started:
                _kill(process)

    def sent_bytes(self) -> list[int]:
        """Return what the interface of every host has sent so far."""
        counters: dict[str, Any] = json.loads(run([*self._words("stats"), "--json"], 60.0, self.env))
        return [int(interface["sent_bytes"]) for interface in counters["interfaces"]]

    def _words(self, verb: str) -> list[str]:
        return [sys.executable, str(COMMAND), verb, "--dir", str(self.folder)]


@contextmanager
def up(
    folder: Path, count: int, mbit: float, delay_us: float, env: Mapping[str, str], minutes: float
) -> Iterator[Hosts]:
    """Start hosts; they end with the block, and by themselves after so many minutes.

    Raises
    ------
    Failed
        If there can be none here.
    """
    hosts = Hosts(folder, count, env)
    links = ["--mbit", f"{mbit:.4g}", "--delay-us", f"{delay_us:g}", "--minutes", f"{minutes:g}"]
    run([*hosts._words("up"), str(count), *links], 120.0, env)
    try:
        yield hosts
    finally:
        with contextlib.suppress(Failed):
            run(hosts._words("down"), 120.0, env)


def run(words: Sequence[str], limit_s: float, env: Mapping[str, str]) -> str:
    """Run a program; returns what it said.

    Raises
    ------
    Failed
    """
    process = _start(words, env)
    try:
        return _end(process, limit_s)
    finally:
        _kill(process)


def _start(words: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(words), cwd=ROOT, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def _end(process: subprocess.Popen[str], limit_s: float) -> str:
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise Failed(f"not done after {limit_s:.0f} s: {_told(process.args)}") from None
    if process.returncode:
        lines = "\n".join(said.strip().splitlines()[-8:])
        raise Failed(f"exit code {process.returncode}: {_told(process.args)}\n{lines}")
    return said


def _kill(process: subprocess.Popen[str]) -> None:
    """End a program, if it has not ended, and all it started: asked first, so that launchers end their ranks."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10.0)
        with contextlib.suppress(ProcessLookupError):  # what does not listen, or was left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _told(words: Any) -> str:
    return " ".join(map(str, words)) if isinstance(words, list) else str(words)
