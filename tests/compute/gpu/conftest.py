"""Kernels on the CPU, in every order of blocks and threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support import shim

Launch = Callable[..., shim.Module]


@pytest.fixture(params=shim.ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    return str(request.param)


@pytest.fixture
def module(order: str) -> Launch:
    """Return a function that compiles a file of kernels for a dtype."""

    def compiled(name: str, dtype: Any = np.float64, **words: Any) -> shim.Module:
        return shim.Module(name, dtype, order, **words)

    return compiled


def near(found: Any, wanted: Any, bounds: tuple[float, float]) -> None:
    """Hold an array to another, within a relative and an absolute bound."""
    np.testing.assert_allclose(found, wanted, rtol=bounds[0], atol=bounds[1])
