"""Which provider computes a shape: by a short measurement that is kept, or by rule.

    measured   the first call of a shape runs every provider once or twice and keeps the fastest     (a run's default)
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
        With "fixed": this provider wherever it is able, before the rule.
    """

    def __init__(
        self, mode: Mode = "fixed", known: Mapping[str, str] | None = None, prefer: str | None = None
    ) -> None:
        self.mode, self.known, self.prefer = mode, dict(known or {}), prefer
        self.made: dict[str, str] = {}
        self._chosen: dict[object, tuple[Provider, ...]] = {}

    def run(
        self, key: object, providers: Callable[..., Mapping[str, Provider]], asked: tuple[object, ...],
        arguments: tuple[object, ...],
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
        """
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = self._chosen[key] = self._decide(str(key), providers(*asked), arguments)
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
            seconds = {name: _measure(provider, arguments) for name, provider in able.items()}
            first = self.made[key] = min(seconds, key=seconds.__getitem__)
        return (able[first], *(provider for name, provider in able.items() if name != first))


def _measure(provider: Provider, arguments: tuple[object, ...]) -> float:
    """Return the seconds of a provider, infinite if it cannot."""
    best = float("inf")
    for _ in range(3):
        started_s = time.perf_counter()
        if provider(*arguments) is False:
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
