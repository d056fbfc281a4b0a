"""Parameter updates on a device: the rules of `gridnn.compute.gpu.update`, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import update as cpu
from gridnn.compute.gpu import update as gpu
from gridnn.errors import InputError
from tests.compute.gpu.calls import CPU, Calls

WORDS: list[tuple[str, int, dict[str, Any]]] = [
    ("sgd", 0, {"lr": 0.1}),
    ("sgd", 1, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "grad_scale": 0.5}),
    ("sgd", 1, {"lr": 0.1, "momentum": 0.9, "carried": 0.7, "spike": 2.0, "weight_decay": 1e-2}),
    ("adam", 2, {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1}),
    ("adamw", 2, {"lr": 0.01, "weight_decay": 0.1, "grad_scale": 0.5}),
    ("adamw", 2, {"lr": 0.01}),
    ("lars", 1, {"lr": 0.1, "rate": 0.02, "momentum": 0.9, "weight_decay": 1e-2, "grad_scale": 2.0}),
]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
@pytest.mark.parametrize("size", [0, 1, 700])
@pytest.mark.parametrize(("rule", "states", "words"), WORDS)
def test_rules(order: str, rule: str, states: int, words: dict[str, Any], size: int, dtype: Any) -> None:
    calls, rng = Calls(order), np.random.default_rng(3)
    arrays = [rng.standard_normal(size).astype(dtype) for _ in range(2)]
    arrays += [rng.uniform(0.1, 1, size).astype(dtype) for _ in range(states)]
    mine = [calls.plain(a) for a in arrays]
    nothing = [None] if rule == "sgd" and not states else []
    for step in (1, 2, 3):
        more = {"step": step} if "adam" in rule else {}
        getattr(cpu.rules(CPU, dtype), rule)(*arrays, *nothing, **words, **more)
        getattr(gpu.rules(calls.engine, dtype), rule)(*mine, *nothing, **words, **more)
    for found, wanted in zip(mine, arrays, strict=True):
        calls.held(found, wanted)


@DTYPES
@pytest.mark.parametrize(("rule", "states", "words"), WORDS)
def test_factors_on_the_device(order: str, rule: str, states: int, words: dict[str, Any], dtype: Any) -> None:
    """They are read there at every launch, and are the same numbers as those that the host gives."""
    calls, rng = Calls(order), np.random.default_rng(8)
    arrays = [rng.uniform(0.1, 1, 300).astype(dtype) for _ in range(2 + states)]
    whole, parts = [calls.plain(a) for a in arrays], [calls.plain(a) for a in arrays]
    nothing = [None] if rule == "sgd" and not states else []
    told = calls.plain(np.zeros(3))
    for step in (1, 2, 3):
        more = {"step": step} if "adam" in rule else {}
        numbers = {"grad_scale": 0.5 / step} | ({"rate": 0.02 * step} if rule == "lars" else {})
        told[...] = calls.plain(np.array([numbers["grad_scale"], numbers.get("rate", np.nan), np.nan]))
        places = {name: told[at : at + 1] for at, name in enumerate(numbers)}
        getattr(gpu.rules(calls.engine, dtype), rule)(*whole, *nothing, **words | numbers, **more)
        getattr(gpu.rules(calls.engine, dtype), rule)(*parts, *nothing, **words | places, **more)
    for found, wanted in zip(parts, whole, strict=True):
        calls.same(found, wanted.view(np.ndarray))
    with pytest.raises(AssertionError, match="one float64"):
        gpu.rules(calls.engine, dtype).sgd(parts[0], parts[1], None, lr=0.1, grad_scale=told)


def test_a_piece_cut_in_two_gives_what_the_whole_gives(order: str) -> None:
    calls, rng = Calls(order), np.random.default_rng(4)
    arrays = [rng.standard_normal(301).astype(np.float32) ** 2 for _ in range(4)]
    whole, parts = [calls.plain(a) for a in arrays], [calls.plain(a) for a in arrays]
    rule = gpu.rules(calls.engine, np.float32).adam
    rule(*whole, step=1, lr=0.1)
    for part in (slice(0, 100), slice(100, 301)):
        rule(*(a[part] for a in parts), step=1, lr=0.1)
    for found, wanted in zip(parts, whole, strict=True):
        calls.same(found, wanted.view(np.ndarray))


def test_arrays_that_differ_are_refused(order: str) -> None:
    calls = Calls(order)
    sgd, w = gpu.rules(calls.engine, np.float64).sgd, calls.plain(np.ones(6))
    for other in (np.ones(5), np.ones(6, np.float32), np.ones((2, 3))):
        with pytest.raises(AssertionError):
            sgd(w, calls.plain(other), None, lr=0.1)
    with pytest.raises(AssertionError, match="contiguous"):
        sgd(w[::2], w[:3], None, lr=0.1)


def test_other_types_have_no_rules(order: str) -> None:
    with pytest.raises(InputError, match="float16"):
        gpu.rules(Calls(order).engine, np.float16)


def test_the_rate_of_lars_is_the_reference(order: str) -> None:
    assert gpu.lars_rate is cpu.lars_rate
