"""Which provider computes a shape: by a short measurement that is kept, or by rule.

    measured   the first call of a shape runs every candidate once or twice and keeps the fastest     (a run's default)
    fixed      a rule of the shape: the same on every machine and in every run

A choice is known by what was asked (pass, shapes, window), not by where the arrays lie.  A candidate that cannot take
particular arrays says so, and the first candidate, which can take any, computes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

Candidate = Callable[[], bool | None]  # False: not these arrays
Mode = Literal["measured", "fixed"]

LONG_S = 0.02
"""A first run longer than this is measured well enough; a shorter one is repeated, for it also warms up."""


class Choice:
    """What was chosen so far in a process.

    Parameters
    ----------
    mode
        "measured" or "fixed".
    known
        Choices of earlier runs on this machine, by `str` of the key.
    prefer
        With "fixed": this candidate wherever it is one, before the rule.
    """

    def __init__(
        self, mode: Mode = "fixed", known: Mapping[str, str] | None = None, prefer: str | None = None
    ) -> None:
        self.mode, self.known, self.prefer = mode, dict(known or {}), prefer
        self.made: dict[str, str] = {}
        self._names: dict[object, str] = {}

    def run(self, key: object, candidates: Mapping[str, Candidate], rule: str) -> None:
        """Compute by the chosen candidate.

        Parameters
        ----------
        key
            What was asked; hashable, with a `str` that tells shapes apart.
        candidates
            The first takes any arrays.  Each may run more than once, and the last run's result stays.
        rule
            What a fixed choice takes.
        """
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = self._decide(str(key), candidates, rule)
        if name not in candidates or candidates[name]() is False:
            next(iter(candidates.values()))()

    def _decide(self, key: str, candidates: Mapping[str, Candidate], rule: str) -> str:
        if self.mode == "fixed" or len(candidates) == 1:
            return next(
                name for name in (self.prefer, rule, *candidates) if name is not None and name in candidates
            )
        if self.known.get(key) in candidates:
            return self.known[key]
        seconds = {name: _measure(candidate) for name, candidate in candidates.items()}
        self.made[key] = min(seconds, key=seconds.__getitem__)
        return self.made[key]


def _measure(candidate: Candidate) -> float:
    """Return the seconds of a candidate, infinite if it cannot."""
    best = float("inf")
    for _ in range(3):
        started_s = time.perf_counter()
        if candidate() is False:
            return float("inf")
        spent_s = time.perf_counter() - started_s
        best = min(best, spent_s)
        if spent_s > LONG_S:
            break
    return best


def read_choices(path: Path, machine: str) -> dict[str, str]:
    """Return the choices kept for a machine; none if the file is missing or is not one of ours."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))[machine]
        return {str(key): str(name) for key, name in kept.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_choices(path: Path, machine: str, made: Mapping[str, str]) -> None:
    """Add choices to the file, whole or not at all; a folder that cannot be written loses nothing but time."""
    if not made:
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept = kept if isinstance(kept, dict) else {}
    except (OSError, ValueError):
        kept = {}
    earlier = kept.get(machine)
    kept[machine] = {**(earlier if isinstance(earlier, dict) else {}), **made}
    fresh = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(kept, indent=1, sort_keys=True), encoding="utf-8")
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
