"""What the tests of the GPU's modules share: both engines, arrays for each, and results held to each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.cpu.memory import zeros
from gridnn.compute.gpu.engine import Engine
from tests.support import shim
from tests.support.shim.device import DeviceArray, ShimDevice

Arrays = np.ndarray[Any, Any]
CPU = CpuEngine(None)
"""The reference computes."""
BOUNDS = {"d": (1e-11, 1e-12), "f": (2e-5, 2e-5)}
"""Relative and absolute, by the character of a dtype."""

SETTINGS = [("forward", False), ("reverse", False), ("shuffled", True)]
"""Orders of blocks and threads, and whether blocks of data have gaps: neither changes what the other finds."""


class Calls:
    """An engine of a device on the CPU, and arrays for it.

    Parameters
    ----------
    order
        In which blocks and threads run.
    gaps
        Blocks are the middle of larger ones, as in a buffer with margins.
    """

    def __init__(self, order: str, gaps: bool = False) -> None:
        self.device = ShimDevice(order)
        self.engine, self.gaps = Engine(self.device), gaps

    def block(self, array: Arrays) -> DeviceArray:
        """Return a copy of a block (N, C, *S) on the device."""
        found = self.place(array.shape, array.dtype)
        found[...] = self.engine.take(array)
        return found

    def place(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Return a block of 77s to be written."""
        margin = 1 if self.gaps else 0
        whole = self.engine.take(zeros([n + 2 * margin for n in shape], dtype) + np.dtype(dtype).type(77))
        self._within = tuple(slice(margin, margin + n) for n in shape)
        self._whole, found = whole, whole[self._within]
        assert isinstance(found, DeviceArray)
        return found

    def plain(self, array: Any) -> DeviceArray:
        """Return a copy of an array on the device, in the order of its dims."""
        return self.device.from_host(np.ascontiguousarray(array))

    def held(self, found: Any, wanted: Any, bounds: tuple[float, float] | None = None) -> None:
        """Hold a result to that of the reference: on the device, of its shape and dtype, without a wait."""
        assert self.device.waits == 0, "the host waited for the device"
        assert isinstance(found, DeviceArray), f"a {type(found).__name__} is not on the device"
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        rtol, atol = BOUNDS[wanted.dtype.char] if bounds is None else bounds
        np.testing.assert_allclose(found.view(np.ndarray), wanted, rtol=rtol, atol=atol)

    def same(self, found: Any, wanted: Any) -> None:
        """Hold a result to that of the reference, bit for bit."""
        self.held(found, wanted, (0, 0))

    def kept_margins(self) -> None:
        """Hold that of the last `place` nothing was written but the block."""
        outside = np.ones(self._whole.shape, bool)
        outside[self._within] = False
        assert (self._whole.view(np.ndarray)[outside] == 77).all()


def opened(setting: tuple[str, bool]) -> Iterator[Calls]:
    """Yield an engine for a test's calls, none of which may wait for the device."""
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    calls = Calls(*setting)
    yield calls
    assert calls.device.waits == 0
