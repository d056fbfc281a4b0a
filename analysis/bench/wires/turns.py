"""Turns: all plans and PyTorch once, then all of them again, so that a machine that grows busy is so for everyone.

    turn 1    batch  batch apart  model  uniform ...  auto  auto apart  PyTorch
    turn 2    batch  batch apart  model  uniform ...  auto  auto apart  PyTorch
                       medians over the steps of all turns

"Apart" is a run with nothing hidden.  What fails is said and left out; a plan that failed once has fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import runs
from hidden import Hidden, hidden_halos, hidden_sums
from hosts import Failed, Hosts
from outcome import Outcome, Peer
from regime import AUTO, BATCH, Case, cases
from runs import Setting

T = TypeVar("T")
Say = Callable[[str], None]
APART = (BATCH, "owt", AUTO, "h")
"""Plans, by the start of their names, that also run apart."""
LAYOUTS = ("default", "channels_last")


@dataclass
class Turns:
    """What the turns found, by plan or layout in the order of the first turn."""

    plans: dict[str, Outcome] = field(default_factory=dict)
    apart: dict[str, Outcome] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)

    @property
    def hidden(self) -> dict[str, tuple[Hidden, Hidden]]:
        """What each plan that also ran apart hides of sums and halos."""
        pairs = {name: (self.plans[name].visible, found.visible) for name, found in self.apart.items()}
        return {name: (hidden_sums(*pair), hidden_halos(*pair)) for name, pair in pairs.items()}

    @property
    def ratio(self) -> float | None:
        """Communication / all else of pure batch, as it was when nothing was hidden; None if that did not run."""
        found = self.apart.get(BATCH)
        return None if found is None else found.visible.sums_s / (found.measured_s - found.visible.sums_s)


def chosen(
    hosts: Hosts, setting: Setting, machine: Path, names: Sequence[str] | None, say: Say
) -> list[Case]:
    """Return the plans to measure: those named, or all; the searched one last."""
    todo = [case for case in cases(setting.network, hosts.count) if not names or case.name in names]
    if not names or AUTO in names:
        found = tried(say, AUTO, runs.searched, hosts, setting, machine)
        todo += [] if found is None else [found]
    return todo


def take_turns(
    hosts: Hosts, setting: Setting, machine: Path, todo: Sequence[Case], turns: int, apart: bool,
    python: str | None, say: Say, progress: Say,
) -> Turns:  # fmt: skip
    """Measure plans, and PyTorch where `python` has it, so many times.

    Parameters
    ----------
    apart
        Run those of `APART` a second time in each turn.
    say, progress
        What belongs to the result; how far it is.
    """
    all_of = Turns()
    for turn in range(turns):
        for case in todo:
            found = tried(say, case.name, runs.measure, hosts, setting, case, machine, turn)
            if found is None:
                continue
            progress(f"{case.name}: {found.measured_s:.3f} s, predicted {found.predicted_s:.3f} s")
            _add(all_of.plans, case.name, found)
            if apart and case.name.startswith(APART):
                name = f"{case.name} apart"
                found = tried(say, name, runs.measure, hosts, setting, case, machine, turn, False)
                if found is not None:
                    progress(f"{name}: {found.measured_s:.3f} s")
                    _add(all_of.apart, case.name, found)
        for layout in LAYOUTS if python is not None else ():
            name = f"PyTorch, {layout}"
            peer = tried(say, name, runs.torch_steps, hosts, setting, python, layout)
            if peer is not None:
                progress(f"{name}: {peer.measured_s:.3f} s")
                _add(all_of.peers, layout, peer)
    return all_of


def tried(say: Say, name: str, act: Callable[..., T], *arguments: Any) -> T | None:
    """Return what `act` returns; if it fails, None, and say so."""
    try:
        return act(*arguments)
    except Failed as failed:
        say(f"\n{name}: **failed**, {failed}")
        return None


def _add(found: dict[str, Any], name: str, more: Any) -> None:
    found[name] = found[name] + more if name in found else more
