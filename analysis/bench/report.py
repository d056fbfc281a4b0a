"""What a benchmark says: the machine, tables, geometric means; on the console at once, and in a dated file."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from rounds import Worker

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")


class Report:
    """Lines of Markdown, printed as they come and written to a file as far as they have come.

    Parameters
    ----------
    title
        First line, before the date.
    out
        The file, or None for the console only.
    """

    def __init__(self, title: str, out: Path | None) -> None:
        self.out, self.lines = out, list[str]()
        self.say(f"# {title}, {date.today()}\n")

    def say(self, *lines: str) -> None:
        """Add lines."""
        self.lines += lines
        print(*lines, sep="\n", flush=True)
        if self.out is not None:
            self.out.write_text("\n".join(self.lines) + "\n")

    def machine(self, workers: Iterable[Worker]) -> None:
        """Say where this runs and what computes."""
        self.say(f"Machine: {cpu()}; load {os.getloadavg()[0]:.1f} at the start; commit {commit()}.\n")
        told = set()
        for worker in workers:
            answer = worker.ask("versions")
            line = "; ".join((answer["versions"], *answer["with"]))
            if line not in told:
                self.say(f"- {line}")
            told.add(line)
        self.say("")

    def head(self, words: Sequence[str]) -> None:
        """Add the head of a table."""
        self.row(words)
        self.say("|" + "---|" * len(words))

    def row(self, cells: Sequence[str]) -> None:
        """Add a row of a table."""
        self.say("| " + " | ".join(cells) + " |")


def cpu() -> str:
    """Return model, cores and vector flags of this machine's processors, as far as Linux tells."""
    told: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        word, _, value = line.partition(":")
        told.setdefault(word.strip(), value.strip())
    model, known = (
        told.get("model name", "unknown processor"),
        told.get("flags", told.get("Features", "")).split(),
    )
    family = f"family {told['cpu family']} model {told['model']}, " if "cpu family" in told else ""
    flags = " ".join(flag for flag in FLAGS if flag in known)
    return f"{model} ({family}{len(os.sched_getaffinity(0))} cores; {flags})"


def commit() -> str:
    """Return the commit of this checkout, with a plus where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean, not a number of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def ms(seconds: float | None) -> str:
    """Return seconds as milliseconds with three digits or more; a dash for None."""
    if seconds is None:
        return "-"
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.0f} %"


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all comparisons take."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--torch", required=True, metavar="PYTHON", help="an interpreter that has PyTorch")
    found.add_argument("--rounds", type=int, default=3, help="turns of each side (3)")
    found.add_argument("--out", type=Path, metavar="FILE.md", help="write the result there too")
    return found
