"""Parameter updates in one pass over memory, by the compiled kernels or the reference.

The rules and their arguments are those of `gridnn.compute.cpu.reference.update`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native import update as native
from gridnn.compute.cpu.reference import update as reference

lars_rate, sgd_form = reference.lars_rate, reference.sgd_form


class Rules(NamedTuple):
    """The update rules: each takes flat arrays of weights, gradient and state, and changes weights and state."""

    sgd: Callable[..., None]
    adam: Callable[..., None]
    adamw: Callable[..., None]
    lars: Callable[..., None]


def rules(engine: Engine | None, dtype: DTypeLike) -> Rules:
    """Return the rules for arrays of a dtype; without an engine the reference's."""
    lib = None if engine is None else engine.library(np.dtype(dtype))
    if lib is None:
        return Rules(reference.sgd, reference.adam, reference.adamw, reference.lars)
    return Rules(*(partial(rule, lib) for rule in (native.sgd, native.adam, native.adamw, native.lars)))
