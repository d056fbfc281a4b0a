"""The compiled updates against the NumPy reference, and cut at odd places against themselves, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.native import update as compiled
from gridnn.compute.cpu.reference import update

from . import native
from .native import Array, each_dtype, each_library

# Rule, number of state arrays, its arguments.  A large eps keeps float32 well conditioned where v is small.
ADAM = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-2}
RULES: list[tuple[str, int, dict[str, Any]]] = [
    ("sgd", 0, {"lr": 0.1}),
    ("sgd", 0, {"lr": 0.1, "weight_decay": 0.1, "grad_scale": 0.5}),
    ("sgd", 1, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (
        "sgd",
        1,
        {"lr": 0.1, "momentum": 0.9, "carried": 0.7, "spike": 2.0, "weight_decay": 0.01, "grad_scale": 0.3},
    ),
    ("adam", 2, ADAM),
    ("adam", 2, {**ADAM, "weight_decay": 0.1, "grad_scale": 0.3}),
    ("adamw", 2, {**ADAM, "weight_decay": 0.1, "grad_scale": 0.3}),
    ("lars", 1, {"lr": 2.0, "rate": 0.02, "momentum": 0.9, "weight_decay": 0.01, "grad_scale": 0.5}),
]
each_rule = pytest.mark.parametrize(("name", "states", "arguments"), RULES)
STEPS = 4


def problem(size: int, dtype: Any, states: int) -> tuple[Array, list[Array], list[Array | None]]:
    """Weights, the gradients of some steps, and zero states (None where a rule may go without)."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal(size).astype(dtype)
    gradients = [rng.standard_normal(size).astype(dtype) for _ in range(STEPS)]
    return w, gradients, [np.zeros(size, dtype) for _ in range(states)] or [None]


def numbered(name: str, arguments: dict[str, Any], step: int) -> dict[str, Any]:
    """The arguments of one step: Adam counts them."""
    return {**arguments, "step": step} if name.startswith("adam") else arguments


@each_library
@each_dtype
@each_rule
@pytest.mark.parametrize("size", [0, 1, 7, 64, 20_003])
@pytest.mark.parametrize("threads", [1, 2])
def test_rules(
    which: str, dtype: Any, name: str, states: int, arguments: dict[str, Any], size: int, threads: int
) -> None:
    lib = native.library(which, threads)
    w, gradients, state = problem(size, dtype, states)
    exact, exact_state = w.astype(float), [None if s is None else s.astype(float) for s in state]
    reference: Callable[..., None] = getattr(update, name)
    for step, g in enumerate(gradients, 1):
        before = g.copy()
        getattr(compiled, name)(lib, w, g, *state, **numbered(name, arguments, step))
        reference(exact, g.astype(float), *exact_state, **numbered(name, arguments, step))
        np.testing.assert_array_equal(g, before)
    tolerance = 32 * np.finfo(dtype).eps
    np.testing.assert_allclose(w, exact, rtol=tolerance, atol=tolerance)
    for found, wanted in zip(state, exact_state, strict=True):
        if found is not None and wanted is not None:
            np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@each_library
@each_dtype
@each_rule
def test_a_cut_changes_no_bit(
    which: str, dtype: Any, name: str, states: int, arguments: dict[str, Any]
) -> None:
    """The whole with two threads, and the same numbers in pieces that end anywhere in a vector."""
    size, rule = 20_003, getattr(compiled, name)
    whole, gradients, state = problem(size, dtype, states)
    w, _, pieces = problem(size, dtype, states)
    cuts = [0, 1, 2, 5, 12, 27, 58, 121, 1003, 1004, 9999, 20_000, size]
    for step, g in enumerate(gradients, 1):
        rule(native.library(which, 2), whole, g, *state, **numbered(name, arguments, step))
        for a, b in pairwise(cuts):
            parts = [None if s is None else s[a:b] for s in pieces]
            rule(native.library(which, 1), w[a:b], g[a:b], *parts, **numbered(name, arguments, step))
    np.testing.assert_array_equal(w, whole)
    for one, other in zip(pieces, state, strict=True):
        np.testing.assert_array_equal(one, other)


@each_library
def test_arrays_that_differ_are_refused(which: str) -> None:
    lib, w = native.library(which), np.zeros(4)
    for g in (np.zeros(3), np.zeros(4, np.float32), np.zeros((2, 2))):
        with pytest.raises(AssertionError, match="differ"):
            compiled.sgd(lib, w, g, None, lr=0.1)
    with pytest.raises(AssertionError, match="contiguous"):
        compiled.sgd(lib, w, np.zeros(8)[::2], None, lr=0.1)
