"""What a device of the tests writes down while it captures a graph, and does when the graph is launched.

memory made before     written down by its address: gone by the time of a launch, the launch is an error
memory made meanwhile  the graph's; it has no content until a launch
results                not there: NumPy is asked for shapes only, and what it computed is spoiled
numbers, structures    as they were at capture, in every launch: CUDA keeps what a kernel is given by value
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tests.support.shim import ShimError

Plain = np.ndarray[Any, Any]
_now: list[Record] = []


class Place(NamedTuple):
    """A view of an array's memory that does not keep it."""

    owner: weakref.ref[Plain]
    low: int
    nbytes: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


class Record:
    """What is captured.

    Attributes
    ----------
    calls
        What a launch does, in its order.
    kept
        Memory that was made meanwhile.
    cuts
        How often something was put between two parts of the graph.
    """

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.kept: list[Plain] = []
        self.cuts = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that was made meanwhile."""
        return sum(memory.nbytes for memory in self.kept)

    def write(self, function: Callable[..., Any], arguments: Any, words: Any = None) -> None:
        """Write a call down; arrays among its arguments by their places."""
        told = frozen((tuple(arguments), dict(words or {})))

        def again() -> None:
            given, named = thawed(told)
            function(*given, **named)

        self.calls.append(again)

    def perform(self, function: Callable[..., Any], arguments: Any, words: Any) -> Any:
        """Write down a call of NumPy's that gives new arrays, and return these, without content; views are made."""
        told = frozen((tuple(arguments), dict(words)))
        given, named = as_numpy(tuple(arguments)), as_numpy(dict(words))
        with np.errstate(all="ignore"):  # what it computes with is no content
            found = function(*given, **named)
        inputs = [a for a in leaves((given, named)) if isinstance(a, np.ndarray)]
        if all(_is_view(each, inputs) for each in leaves(found)):
            return found
        made = [np.asarray(each) for each in leaves(found)]
        self.kept += [_spoiled(each) for each in made]

        def again() -> None:
            given, named = thawed(told)
            for array, value in zip(made, leaves(function(*given, **named)), strict=True):
                array[...] = value

        self.calls.append(again)
        return type(found)(made) if isinstance(found, tuple | list) else made[0]


def current() -> Record | None:
    """Return what is being captured."""
    return _now[-1] if _now else None


def begin() -> Record:
    """Capture from now on."""
    assert not _now, "a capture within a capture"
    _now.append(Record())
    return _now[-1]


def end() -> None:
    """Capture no more."""
    _now.pop()


def owner_of(array: Plain) -> Plain:
    """Return the array whose memory a view is of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def frozen(value: Any) -> Any:
    """Return arguments with a place for each array, and copies of structures."""
    if isinstance(value, np.ndarray):
        if value.dtype.names:  # a structure
            return value.copy()
        low, high = byte_bounds(value)
        at = value.ctypes.data
        return Place(
            weakref.ref(owner_of(value)), low, high - low, at - low, value.shape, value.strides, value.dtype
        )
    if isinstance(value, tuple | list):
        return type(value)(frozen(each) for each in value)
    return {k: frozen(v) for k, v in value.items()} if isinstance(value, dict) else value


def thawed(value: Any) -> Any:
    """Return what was frozen, with arrays on the memory of the places."""
    if isinstance(value, Place):
        if value.owner() is None:
            raise ShimError(f"a graph has the address of an array {value.shape} that nobody keeps")
        if not value.nbytes:
            return np.empty(value.shape, value.dtype)
        memory: Any = (ctypes.c_ubyte * value.nbytes).from_address(value.low)
        return np.ndarray(value.shape, value.dtype, memory, value.offset, value.strides)
    if isinstance(value, tuple | list):
        return type(value)(thawed(each) for each in value)
    return {k: thawed(v) for k, v in value.items()} if isinstance(value, dict) else value


def as_numpy(value: Any) -> Any:
    """Return arguments with arrays as NumPy knows them."""
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        return type(value)(as_numpy(each) for each in value)
    return {k: as_numpy(v) for k, v in value.items()} if isinstance(value, dict) else value


def leaves(value: Any) -> Iterator[Any]:
    """Yield what is in tuples, lists and dictionaries."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, dict):
        yield from leaves(tuple(value.values()))
    else:
        yield value


def _is_view(value: Any, inputs: list[Plain]) -> bool:
    return isinstance(value, np.ndarray) and any(np.may_share_memory(value, each) for each in inputs)


def _spoiled(array: Plain) -> Plain:
    """Return whose memory a new array is, which holds nothing from now on."""
    memory = owner_of(array)
    ctypes.memset(memory.ctypes.data, 0xFF, memory.nbytes)
    return memory
