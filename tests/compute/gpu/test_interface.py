"""The modules of a GPU offer what those of the CPU offer, in the same words."""

from __future__ import annotations

from importlib import import_module
from inspect import getmembers, isfunction, signature
from types import FunctionType, ModuleType
from typing import Any

import pytest

from gridnn.compute.interface import Subjects

SUBJECTS = sorted(Subjects.__annotations__)


def module(place: str, subject: str) -> ModuleType:
    return import_module(f"gridnn.compute.{place}.{subject}")


def functions(of: ModuleType) -> dict[str, FunctionType]:
    """Return the public functions that a module defines."""
    found = getmembers(of, isfunction)
    return {name: f for name, f in found if f.__module__ == of.__name__ and not name.startswith("_")}


def words(function: FunctionType) -> list[tuple[str, Any, Any]]:
    """Return names, kinds and defaults of a function's parameters."""
    return [(p.name, p.kind, p.default) for p in signature(function).parameters.values()]


CALLS = [(subject, name) for subject in SUBJECTS for name in functions(module("cpu", subject))]


@pytest.mark.parametrize(("subject", "name"), CALLS)
def test_every_function_of_the_cpu_is_there(subject: str, name: str) -> None:
    here = functions(module("gpu", subject))
    assert name in here, f"gridnn.compute.gpu.{subject} has no {name}; layers ask either"
    assert words(here[name]) == words(functions(module("cpu", subject))[name])


def test_subjects_are_all_and_have_functions() -> None:
    wanted = {"conv", "layer_norm", "linear", "norm", "pointwise", "pool", "softmax", "update", "upsample"}
    assert wanted == set(SUBJECTS)
    assert {subject for subject, _ in CALLS} == set(SUBJECTS)


def test_what_nonlinearities_keep_is_the_same() -> None:
    assert module("gpu", "pointwise").KEEPS == module("cpu", "pointwise").KEEPS
