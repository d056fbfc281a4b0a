"""Pinned memory that messages are staged in: whose it is, when it is lent again, how much there may be."""

from __future__ import annotations

import weakref

import numpy as np

from gridnn.comm.staging import Staging
from gridnn.comm.world import Array


class Pins:
    """Pinned memory as NumPy has it of CuPy: arrays that do not own what they are of."""

    def __init__(self, most_bytes: int = 1 << 20) -> None:
        self.made, self.waits = list[weakref.ref[Array]](), 0
        self.staging = Staging(self.pinned, self.idle, most_bytes)

    def pinned(self, nbytes: int) -> Array:
        found = np.frombuffer(bytearray(nbytes), np.uint8)
        self.made.append(weakref.ref(found))
        return found

    def idle(self) -> None:
        self.waits += 1
        self.staging.waited()

    @property
    def alive(self) -> int:
        return sum(made() is not None for made in self.made)


def test_a_part_of_a_part_gives_back_the_whole() -> None:
    pins = Pins()
    lent = pins.staging.lend(100, "float64", at_once=True)
    assert lent.shape == (100,) and lent.dtype == np.float64 and pins.staging.nbytes == 1024
    pins.staging.release([np.zeros(3), lent.reshape(10, 10)[3:, 2:].T, lent])
    assert pins.staging.lent == 0
    again = pins.staging.lend(200, "float32", at_once=True)  # as many bytes, or less
    assert np.shares_memory(again, lent) and pins.alive == 1 and pins.waits == 0
    assert pins.staging.lend(0, "float32", at_once=True).size == 0 and pins.staging.lent == 1


def test_mpi_gets_what_the_device_does_not_read() -> None:
    """The device gets the other; where it reads all of a size the host waits, and not before there are two."""
    pins = Pins()
    staging = pins.staging
    one, two = (staging.lend(64, "float64", at_once=True) for _ in range(2))
    staging.reads(one[:3])
    staging.release([one, two])
    assert np.shares_memory(staging.lend(64, "float64", at_once=False), one)
    assert np.shares_memory(staging.lend(64, "float64", at_once=True), two)
    staging.reads(two)
    staging.release([two])
    three = staging.lend(64, "float64", at_once=True)
    assert pins.alive == 3 and pins.waits == 0 and not np.shares_memory(three, two)
    staging.reads(three)
    staging.release([three])
    assert np.shares_memory(staging.lend(64, "float64", at_once=True), two) and pins.waits == 1
    assert np.shares_memory(staging.lend(64, "float64", at_once=True), three) and pins.waits == 1
    assert pins.alive == 3


def test_what_is_pinned_is_bounded() -> None:
    """What nobody uses makes room; where all is used memory is as any other, and not kept."""
    pins = Pins(4096)
    staging = pins.staging
    lent = [staging.lend(2048, "uint8", at_once=True) for _ in range(3)]
    assert staging.nbytes == 4096 and staging.lent == 2 and pins.alive == 2
    staging.release([lent.pop()])
    assert staging.lent == 2, "it was not pinned"
    staging.reads(lent[0])
    staging.release(lent)
    del lent
    big = staging.lend(4096, "uint8", at_once=True)
    assert staging.lent == 0 and staging.nbytes == 2048, "the device still reads the other half"
    pins.idle()
    big = staging.lend(4096, "uint8", at_once=True)
    assert staging.lent == 1 and staging.nbytes == 4096 and pins.alive == 1
    staging.release([big])
    assert staging.lend(4096, "uint8", at_once=True).ctypes.data == big.ctypes.data


def test_what_is_pinned_is_let_go_of_at_the_end() -> None:
    pins = Pins()
    for reads in (False, True):
        lent = [pins.staging.lend(1 << at, "uint8", at_once=True) for at in range(8, 14)]
        if reads:
            pins.staging.reads(lent[0])
        pins.staging.release(lent)
        del lent
        assert pins.alive == 6 and pins.staging.nbytes > 0
        pins.staging.close()
        assert pins.alive == pins.staging.nbytes == 0 and pins.waits == int(reads)
