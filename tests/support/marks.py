"""Reading the marker `ranks` of a collected test."""

from __future__ import annotations

from typing import Any

import pytest


def ranks_of(item: pytest.Item) -> int:
    """Ranks a test needs; 0 for a test without the marker."""
    callspec: Any = getattr(item, "callspec", None)
    if callspec is None or item.get_closest_marker("ranks") is None:
        return 0
    return int(callspec.params.get("ranks", 0))


def timeout_of(item: pytest.Item) -> float:
    """Seconds a marked test may take: its own timeout=, else --ranks-timeout."""
    mark = item.get_closest_marker("ranks")
    default = item.config.getoption("ranks_timeout")
    return float(mark.kwargs.get("timeout", default) if mark else default)
