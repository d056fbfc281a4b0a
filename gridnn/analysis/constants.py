"""The constants of a machine that a fit may change, each with the machine on which it costs some times as much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.machine import Machine

Floats = NDArray[np.float64]


class Constant(NamedTuple):
    """A constant of a machine: its name, its value, and the machine on which it costs some times as much."""

    name: str
    value: float
    dearer: Callable[[Machine, float], Machine]
    rate: bool = False  # a rate, which is divided where seconds are multiplied


def arithmetic_constants(machine: Machine) -> list[Constant]:
    """Return what the passes of layers hang on; a constant of nothing has no multiple."""

    def slower(m: Machine, f: float) -> Machine:
        return replace(m, flops_per_s=m.flops_per_s / f)

    found = [
        Constant("flops_per_s", machine.flops_per_s, slower, rate=True),
        Constant("touch_s_per_element", machine.touch_s_per_element,
                 lambda m, f: replace(m, touch_s_per_element=m.touch_s_per_element * f)),
        Constant("layer_s", machine.layer_s, lambda m, f: replace(m, layer_s=m.layer_s * f)),
    ]  # fmt: skip
    return [c for c in found if c.value > 0]


def movement_constants(machine: Machine) -> list[Constant]:
    """Return what movements hang on: alpha and beta of every level."""
    return [
        Constant(f"{level.name} {key}", getattr(level, key), _of_level(at, key))
        for at, level in enumerate(machine.levels) for key in ("alpha_s", "beta_s_per_byte")
        if getattr(level, key) > 0
    ]  # fmt: skip


def _of_level(at: int, key: str) -> Callable[[Machine, float], Machine]:
    def dearer(machine: Machine, factor: float) -> Machine:
        levels = list(machine.levels)
        levels[at] = replace(levels[at], **{key: getattr(levels[at], key) * factor})
        return replace(machine, levels=tuple(levels))

    return dearer


def dearer_machine(machine: Machine, constants: Sequence[Constant], factors: Floats) -> Machine:
    """Return the machine on which each constant costs so many times as much."""
    for constant, factor in zip(constants, factors.tolist(), strict=True):
        machine = constant.dearer(machine, factor)
    return machine


def identity(machine: Machine) -> object:
    """Return what makes two machines one: all but the text of where they come from."""
    return (
        machine.flops_per_s, machine.touch_s_per_element, machine.layer_s, machine.levels,
        tuple(sorted(machine.algorithms.items())), None if machine.profile is None else machine.name,
    )  # fmt: skip
