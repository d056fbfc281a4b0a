"""Which provider computes a shape: by a short measurement that is kept, or by rule.

    measured   the first call of a shape runs every provider some times, in turns, keeps the fastest  (a run's default)
    fixed      a rule of the shape: the same on every machine and in every run

A choice is known by what was asked (pass, shapes, window), not by where the arrays lie.  A provider is made for the
shapes once: what follows from them is not found again in every call.  One that cannot take particular arrays says so,
and the next is asked; the last takes any.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

Provider = Callable[..., bool | None]  # False: not these arrays
Mode = Literal["measured", "fixed"]

TURNS, ENOUGH_S = 8, 0.1
"""Runs of a provider at most; after two of each, so many seconds in all are enough."""
SLOWER, HOPELESS, LONG_S = 1.5, 4.0, 0.1
"""A provider this many times as slow as the fastest has lost; after its first run, which also warms up, only where it
is so many times as slow and took so many seconds."""


class Choice:
    """What was chosen so far in a process.

    Parameters
    ----------
    mode
        "measured" or "fixed".
    known
        Choices of earlier runs on this machine, by `str` of the key.
    prefer
        With "fixed": this provider wherever it is able, before the rule.
    clock
        Seconds.
    """

    def __init__(
        self, mode: Mode = "fixed", known: Mapping[str, str] | None = None, prefer: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self.mode, self.known, self.prefer, self._clock = mode, dict(known or {}), prefer, clock
        self.made: dict[str, str] = {}
        self._chosen: dict[object, tuple[Provider, ...]] = {}

    def run(
        self, key: object, providers: Callable[..., Mapping[str, Provider]], asked: tuple[object, ...],
        arguments: tuple[object, ...], trial: Callable[[], tuple[object, ...]] | None = None,
    ) -> None:  # fmt: skip
        """Compute by the chosen provider.

        Parameters
        ----------
        key
            What was asked; hashable, with a `str` that tells shapes apart.
        providers
            Makes who can compute this shape from `asked`, by name, best by rule first; called at the first call only.
            One that is tried may run more than once; the last run's result stays.
        arguments
            Of the provider.
        trial
            Gives those to try with, where a second run with `arguments` would change the result.
        """
        chosen = self._chosen.get(key)
        if chosen is None:
            given = arguments if trial is None else trial()
            chosen = self._chosen[key] = self._decide(str(key), providers(*asked), given)
        for provider in chosen:
            if provider(*arguments) is not False:
                return

    def _decide(
        self, key: str, able: Mapping[str, Provider], arguments: tuple[object, ...]
    ) -> tuple[Provider, ...]:
        """Return whom to ask, in this order."""
        first, wanted = next(iter(able)), self.prefer if self.mode == "fixed" else self.known.get(key)
        if wanted is not None and wanted in able:
            first = wanted
        elif self.mode == "measured" and len(able) > 1:
            first = self.made[key] = self._fastest(able, arguments)
        return (able[first], *(provider for name, provider in able.items() if name != first))

    def _fastest(self, able: Mapping[str, Provider], arguments: tuple[object, ...]) -> str:
        """Return who had the shortest run; in turns, so that what slows the machine for a while slows all of them."""
        best, begun_s = dict.fromkeys(able, float("inf")), self._clock()
        racing = list(able)
        for turn in range(TURNS):
            for name in racing:
                started_s = self._clock()
                if able[name](*arguments) is not False:
                    best[name] = min(best[name], self._clock() - started_s)
            least_s = min(best.values())
            if turn:
                racing = [name for name in racing if best[name] <= SLOWER * least_s]
            else:
                racing = [name for name in racing if best[name] <= max(HOPELESS * least_s, LONG_S)]
            if len(racing) < 2 or (turn and self._clock() - begun_s >= ENOUGH_S):
                break
        return min(best, key=best.__getitem__)


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
