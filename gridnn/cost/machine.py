"""Machines: how long a message, a byte, a product and an element take.  Data files, not constants in code."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files

from gridnn.errors import InputError


@dataclass(frozen=True)
class Machine:
    """Rates of one rank: latency and inverse bandwidth as in Gholami et al. 2018, section 2.1, but per byte."""

    name: str
    alpha_s: float
    beta_s_per_byte: float
    flops_per_s: float
    touch_s_per_element: float


def load_machine(name: str = "laptop") -> Machine:
    """Return a machine shipped with gridnn.

    Raises
    ------
    InputError
        If there is no such machine, or its file has other keys than a machine.
    """
    folder = files("gridnn.cost") / "machines"
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))
        raise InputError(f'machine "{name}" is not known; known: {", ".join(known)}')
    table = tomllib.loads(path.read_text())
    wanted = {f.name for f in fields(Machine)}
    if set(table) != wanted:
        raise InputError(f"machine file {name}.toml: needs the keys {sorted(wanted)}, has {sorted(table)}")
    return Machine(**table)
