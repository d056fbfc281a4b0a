"""The constants of a machine as a table: what every number of a page rests on.

constant                value         unit        what it is
flops_per_s             3.1e12        flop/s      ...
network: alpha_s        2e-06         s           ...
"""

from __future__ import annotations

from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.machine import Machine

_RATES = (
    ("flops_per_s", "flop/s", "operations of matrix products, a rank"),
    ("touch_s_per_element", "s", "an elementwise layer reads or writes an element"),
    ("layer_s", "s", "every pass of a layer, however small"),
    ("memory_bytes", "bytes", "memory of a rank"),
)
_LEVELS = (
    ("ranks", "ranks", "ranks in one unit of the level; 0: no limit"),
    ("alpha_s", "s", "an empty message"),
    ("beta_s_per_byte", "s/byte", "a byte in one stream"),
    ("links", "streams", "streams out of a unit of the level below; 0: one for each rank"),
)


def machine_table(machine: Machine) -> Table:
    """Return the constants of a machine."""
    rows: list[tuple[Cell, ...]] = [(key, getattr(machine, key), unit, about) for key, unit, about in _RATES]
    for level in machine.levels:
        rows += [(f"{level.name}: {key}", getattr(level, key), unit, about) for key, unit, about in _LEVELS]
    rows += [(name, how, "", "algorithm of the collective") for name, how in machine.algorithms.items()]
    columns = (
        Column("constant"), Column("value"), Column("unit"), Column("about", head="what it is"),
    )  # fmt: skip
    notes = [f"source: {machine.source}", f"date: {machine.date}"]
    if machine.profile is not None:
        notes.append(
            "layers that were measured on it take their measured seconds; the rates are for all others"
        )
    return Table(f"Constants of {machine.name}", columns, tuple(rows), notes=tuple(notes))
