"""Compiled kernels that do not fit what calls them are left aside."""

from __future__ import annotations

import pytest

from gridnn.compute.cpu.native import library

from . import native


def test_kernels_built_for_other_callers_are_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once `update_sgd` took a number more, and every step was wrong until somebody built the kernels again."""
    if library.load() is None:
        pytest.skip("the kernels were not compiled: run kernels/build.py")
    assert native._builder().interface() == library._INTERFACE
    monkeypatch.setattr(library, "_INTERFACE", library._INTERFACE ^ 1)
    assert library.load() is None
