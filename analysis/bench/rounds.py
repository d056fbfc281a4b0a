"""Workers that take turns: what is compared runs interleaved, round by round, because machines are shared and drift.

    round 1    ours      default   channels-last
    round 2              default   channels-last   ours          who is first changes
    round 3                        channels-last   ours   default

Each worker is a process (or the ranks of a job) that answers one line at a time, see `peer/serve.py`; while one
computes, the others wait in a read.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any

Answer = dict[str, Any]
SETTLE_S = 0.02
"""Pause before a turn, in which the threads of the last one stop spinning."""


class Worker:
    """A side of the comparison at work in other processes; a context manager that ends them.

    Parameters
    ----------
    label
        Name in tables and errors.
    processes
        The ranks, or a launcher of them; the first one answers on its standard output.
    lines
        What each rank reads, rank 0 first.
    """

    def __init__(
        self, label: str, processes: Sequence[subprocess.Popen[str]], lines: Sequence[IO[str]]
    ) -> None:
        self.label, self.processes, self.lines = label, list(processes), list(lines)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self.lines:
            line.close()
        for process in self.processes:
            try:
                process.wait(0.1 if kind else 20)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()

    def ask(self, do: str, **what: Any) -> Answer:
        """Ask all ranks, wait for the answer of rank 0.

        Raises
        ------
        RuntimeError
            If the worker failed or ended; its standard error says more.
        """
        for line in self.lines:
            line.write(json.dumps({"do": do, **what}) + "\n")
            line.flush()
        answers = self.processes[0].stdout
        assert answers is not None, f"{self.label}: standard output must be a pipe"
        said = answers.readline()
        if not said:
            raise RuntimeError(f"{self.label}: ended while it was asked to {do}")
        answer: Answer = json.loads(said)
        if "error" in answer:
            raise RuntimeError(f"{self.label}: {do}: {answer['error']}")
        return answer


def take_turns(
    workers: Sequence[Worker], rounds: int, turn: Callable[[Worker], Answer]
) -> dict[str, list[Answer]]:
    """Return the answers of `rounds` turns of each worker, by label."""
    answers: dict[str, list[Answer]] = {worker.label: [] for worker in workers}
    for each in range(rounds):
        first = each % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            time.sleep(SETTLE_S)
            answers[worker.label].append(turn(worker))
    return answers


def medians_s(answers: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, float]]:
    """Return the median over rounds of every part's seconds, by label and part."""
    return {
        label: {part: statistics.median(a["seconds"][part] for a in of) for part in of[0]["seconds"]}
        for label, of in answers.items()
    }


def peak_flops_per_s(workers: Sequence[Worker], rounds: int = 2) -> float:
    """Return the speed of the fastest large matrix product that any of the workers makes."""
    answers = take_turns(workers, rounds, lambda worker: worker.ask("product"))
    return max(float(a["flops_per_s"]) for of in answers.values() for a in of)


def worst_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the largest difference of two lists of numbers, as a share of the largest of theirs."""
    scale = max(map(abs, theirs)) or 1.0
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / scale
