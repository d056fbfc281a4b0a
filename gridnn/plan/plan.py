"""Plans: a scheme for every layer, in a file that people can read, write and compare.

{
  "format": "gridnn-plan", "version": 1,
  "network": "digits-cnn", "digest": "5c1f...",      (optional: refuses another network)
  "procs": 4, "batch": 64,                           (optional: refuses another number of processes)
  "layers": {
    "*":     "n4",                                   (every layer not named)
    "conv1": "h2 w2",
    "fc1":   "k2 @2"                                 (grid k2 on the ranks from 2 on)
  },
  "predicted": { ... }                               (for readers; a run predicts anew)
}
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Network

FORMAT, VERSION = "gridnn-plan", 1
KEYS = {"format", "version", "network", "digest", "procs", "batch", "origin", "layers", "predicted"}


@dataclass(frozen=True)
class Plan:
    """A scheme for every layer of a network, and where the choice came from."""

    network: str
    digest: str
    procs: int
    batch: int
    schemes: Mapping[str, Scheme]
    origin: str
    predicted: Mapping[str, float | int | str] = field(default_factory=dict)

    def dumps(self) -> str:
        """Return the plan as the text of a plan file, one line a layer."""
        table = {
            "format": FORMAT, "version": VERSION, "network": self.network, "digest": self.digest, "procs": self.procs,
            "batch": self.batch, "origin": self.origin, "layers": {n: str(s) for n, s in self.schemes.items()},
            "predicted": dict(self.predicted),
        }  # fmt: skip
        return json.dumps(table, indent=2) + "\n"

    @property
    def summary(self) -> str:
        """The grid if it is the same for all layers, otherwise how many there are."""
        grids = dict.fromkeys(map(str, self.schemes.values()))
        return next(iter(grids)) if len(grids) == 1 else f"{len(grids)} grids"


def uniform_plan(network: Network, grid: GridShape, batch: int, procs: int, origin: str) -> Plan:
    """Return the plan that gives every layer the same grid."""
    schemes = {node.name: Scheme(grid) for node in network.nodes}
    return Plan(network.name, network.digest, procs, batch, schemes, origin)


def read_plan(path: Path, network: Network, batch: int, procs: int) -> Plan:
    """Read a plan file for a network on `procs` processes.

    Raises
    ------
    InputError
        If the file cannot be read, is not a plan, or is a plan for something else.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"plan file {path} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"plan file {path} is not JSON: {error}") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise InputError(f'plan file {path} is not a plan: it needs "format": "{FORMAT}" at the top')
    if table.get("version") != VERSION:
        raise InputError(
            f"plan file {path} has version {table.get('version')!r}; this gridnn reads version {VERSION}"
        )
    if unknown := sorted(set(table) - KEYS):
        raise InputError(f"plan file {path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(KEYS))}")
    for key, mine, what in (("digest", network.digest, "network"), ("procs", procs, "number of processes")):
        if table.get(key, mine) != mine:
            given = f"{table.get('network', 'another')} ({table[key]})" if key == "digest" else table[key]
            have = f"{network.name} ({mine})" if key == "digest" else mine
            raise InputError(
                f"plan file {path} is for another {what}: it says {given}, the run has {have}; "
                f"make a new plan, or remove {key!r} from the file to use its grids all the same"
            )
    return Plan(
        network.name,
        network.digest,
        procs,
        batch,
        _schemes(path, table.get("layers"), network),
        f"file {path.name}",
    )


def _schemes(path: Path, layers: object, network: Network) -> dict[str, Scheme]:
    names = [node.name for node in network.nodes]
    if not isinstance(layers, dict) or not all(isinstance(v, str) for v in layers.values()):
        raise InputError(
            f'plan file {path}: "layers" must be a table of layer names and grids such as "n2 k2"'
        )
    for name in layers:
        if name != "*" and name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; its layers are {', '.join(names)}"
            raise InputError(f"plan file {path}: network {network.name} has no layer {name!r}{hint}")
    if missing := [name for name in names if name not in layers and "*" not in layers]:
        raise InputError(
            f'plan file {path}: layer {missing[0]} has no grid; add it, or "*" for all layers not named'
        )
    return {name: parse_scheme(str(layers.get(name, layers.get("*")))) for name in names}


def parse_scheme(text: str) -> Scheme:
    """Read a scheme such as ``"n2 k2"`` or ``"k2 @2"`` (from rank 2 on)."""
    grid, at, first = text.partition("@")
    if at and not first.strip().isdigit():
        raise InputError(f'scheme "{text}": after @ stands the first rank, such as "k2 @2"')
    return Scheme(GridShape.parse(grid), int(first) if at else 0)
