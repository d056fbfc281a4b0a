"""Random numbers that belong to global indices, so that no grid can change them.

Every element of a global array owns one 64-bit number of a Philox stream.  Who
asks for it, in which block, on how many processes, does not matter::

    global array, C order      0  1  2  3 | 4  5  6  7 | 8  9 10 11 | 12 ...
    Philox counter             `--- 0 --' | `--- 1 --' | `--- 2 ---' | `- 3 ..
    key                        blake2b(seed, step, stream name), 128 bits

Element i is output i % 4 of counter i // 4.  A block is a *box* of the global
array, in general many short contiguous runs:

    . . . . . . . .        A run costs one jump of the counter, worth about as much as
    . . # # # . . .        `_JUMP` numbers.  When the runs are short it is cheaper to
    . . # # # . . .        generate everything from the first to the last # and keep
    . . . . . . . .        only the box; `_split` chooses, the numbers are the same.

Source: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray
from scipy.special import ndtri

from gridnn.errors import InputError

Box = Sequence[tuple[int, int]]

# The price of one jump in numbers generated, and the most numbers held at once.
# Both only trade time against memory: the values never depend on them.
_JUMP = 1_000
_CHUNK = 1 << 20


def box_uniform(seed: int, stream: str, shape: Sequence[int], box: Box, step: int = 0) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) of one box of a global array.

    Parameters
    ----------
    seed, stream, step
        Name the global array: the run's seed, what the numbers are for ("init:conv1.weight",
        "dropout:drop3"), and which of them in time.
    shape
        Global extents; element i in C order is a function of (seed, stream, step, i) only.
    box
        (start, stop) for every dim, global indices within `shape`; may be empty.

    Returns
    -------
    float64 array of the box's extents, multiples of 2^-53.
    """
    extents = _checked_extents(shape, box)
    out = np.empty(extents, np.float64)
    if out.size == 0:
        return out
    strides = _strides(shape)
    generator = _Stream(seed, stream, step)
    level = _split(extents, strides)
    for outer in product(*(range(extent) for extent in extents[:level])):
        target = out[(*outer, ...)]  # type: ignore[arg-type]  # a view, also of a scalar
        first = sum((box[d][0] + i) * strides[d] for d, i in enumerate(outer))
        first += sum(box[d][0] * strides[d] for d in range(level, len(extents)))
        for rows, start, inner in _pieces(target.shape, strides[level:], first):
            span = 1 + _reach(inner, strides[level:])
            line = generator.uniform(start, span)
            # The box inside its enclosing run is a strided view of it.
            steps = [8 * stride for stride in strides[level:]]
            target[rows] = as_strided(line, inner, steps, writeable=False)
    return out


def box_normal(seed: int, stream: str, shape: Sequence[int], box: Box, step: int = 0) -> NDArray[np.float64]:
    """Standard normal numbers of one box of a global array, by inversion of `box_uniform`.

    One uniform makes one normal, element by element, so the box cannot matter.  The largest
    magnitude is about 8.3, from uniforms 2^-54 (in place of 0) and 1 - 2^-53.
    """
    uniform = box_uniform(seed, stream, shape, box, step)
    np.maximum(uniform, 2.0**-54, out=uniform)
    return np.asarray(ndtri(uniform), dtype=np.float64)


class Draw(NamedTuple):
    """What a dropout mask is drawn for: a box of an array of `shape`, in one pass of a run."""

    seed: int
    stream: str
    shape: tuple[int, ...]
    box: Box
    step: int
    rate: float


def dropout_mask(
    seed: int, stream: str, shape: Sequence[int], box: Box, step: int, p: float, dtype: DTypeLike
) -> NDArray[np.generic]:
    """The factors of dropout for one box: 0 with probability `p`, else 1 / (1 - p)."""
    if not 0.0 <= p < 1.0:
        raise InputError(f"dropout probability {p} is not in [0, 1); 0 keeps everything, 0.5 is usual")
    keep = box_uniform(seed, stream, shape, box, step) >= p
    scaled: NDArray[np.generic] = keep.astype(dtype) * np.asarray(1.0 / (1.0 - p), dtype)
    return scaled


def integers(seed: int, stream: str, n: int, low: int, high: int, step: int = 0) -> NDArray[np.int64]:
    """`n` integers in [low, high), one for each global index (of a sample, say).

    `high - low` must stay far below 2^53, where the bias of scaling a uniform is not visible.
    """
    if high <= low:
        raise InputError(f"no integer lies in [{low}, {high}); give low < high")
    uniform = box_uniform(seed, stream, (n,), ((0, n),), step)
    return low + np.floor(uniform * (high - low)).astype(np.int64)


def permutation(seed: int, stream: str, n: int, step: int = 0) -> NDArray[np.int64]:
    """A permutation of range(n), the same on every process that asks.

    It is the order of n uniforms; the stable sort settles ties (one in 2^53 / n^2) the same way
    everywhere.
    """
    keys = box_uniform(seed, stream, (n,), ((0, n),), step)
    return np.argsort(keys, kind="stable").astype(np.int64)


def initial(
    kind: str,
    seed: int,
    name: str,
    shape: Sequence[int],
    box: Box,
    fan_in: int,
    fan_out: int,
    dtype: DTypeLike,
) -> NDArray[np.generic]:
    """One box of a parameter's first value, drawn in float64 and then rounded to `dtype`.

    Parameters
    ----------
    kind
        "zeros", "ones", or a distribution of `INITIALISERS`.
    name
        The parameter's global name, which is its stream.
    fan_in, fan_out
        Products that enter one output, and outputs that one input enters (whole, not the block's).

    References
    ----------
    he: He et al. 2015, eq. 10; glorot: Glorot and Bengio 2010, eq. 16; lecun: LeCun et al. 1998, sec. 4.6.
    """
    if kind in ("zeros", "ones"):
        extents = _checked_extents(shape, box)
        return np.zeros(extents, dtype) if kind == "zeros" else np.ones(extents, dtype)
    if kind not in INITIALISERS:
        known = ", ".join(["zeros", "ones", *INITIALISERS])
        raise InputError(f"initialiser {kind!r} of {name} is not known; use one of {known}")
    # A fan of 0 belongs to a parameter with no elements: any finite spread will do.
    variance = INITIALISERS[kind](max(1, fan_in), max(1, fan_out))
    if kind.endswith("_normal"):
        values = box_normal(seed, f"init:{name}", shape, box) * math.sqrt(variance)
    else:  # uniform in [-b, b) has variance b^2 / 3
        bound = math.sqrt(3.0 * variance)
        values = box_uniform(seed, f"init:{name}", shape, box) * (2.0 * bound) - bound
    return values.astype(dtype)


# Initialiser -> variance of the weights, from (fan_in, fan_out).
INITIALISERS: dict[str, Callable[[int, int], float]] = {
    "he_uniform": lambda fan_in, _: 2.0 / fan_in,
    "he_normal": lambda fan_in, _: 2.0 / fan_in,
    "glorot_uniform": lambda fan_in, fan_out: 2.0 / (fan_in + fan_out),
    "glorot_normal": lambda fan_in, fan_out: 2.0 / (fan_in + fan_out),
    "lecun_uniform": lambda fan_in, _: 1.0 / fan_in,
    "lecun_normal": lambda fan_in, _: 1.0 / fan_in,
    # Bound 1 / sqrt(fan_in): the usual start of a bias that is not zero.
    "bias_uniform": lambda fan_in, _: 1.0 / (3.0 * fan_in),
}


class _Stream:
    """One Philox stream that is read at any element."""

    def __init__(self, seed: int, stream: str, step: int) -> None:
        text = f"{seed}|{step}|{stream}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=16, person=b"gridnn").digest(), "little")
        self._philox = np.random.Philox(key=key, counter=0)
        self._generator = np.random.Generator(self._philox)
        self._counter = 0

    def uniform(self, start: int, count: int) -> NDArray[np.float64]:
        """Elements start .. start + count of the stream."""
        counter, skipped = divmod(start, 4)
        # Moving the counter is 5 times cheaper than a new generator; it also drops what is
        # left of the last four outputs.  Backwards is the same sum modulo 2^256.
        self._philox.advance(counter - self._counter)
        line = self._generator.random(skipped + count)
        self._counter = counter - (-(skipped + count) // 4)
        return line[skipped:]


def _strides(shape: Sequence[int]) -> list[int]:
    """Elements between neighbours of each dim in C order."""
    strides = [1] * len(shape)
    for d in range(len(shape) - 2, -1, -1):
        strides[d] = strides[d + 1] * shape[d + 1]
    return strides


def _reach(extents: Sequence[int], strides: Sequence[int]) -> int:
    """From the first element of a box to its last, in elements of the global array."""
    return sum((extent - 1) * stride for extent, stride in zip(extents, strides, strict=True))


def _split(extents: tuple[int, ...], strides: list[int]) -> int:
    """The dim from which on everything is generated in one enclosing run; dims before it are looped."""

    def price(level: int) -> int:
        return math.prod(extents[:level]) * (_JUMP + _reach(extents[level:], strides[level:]))

    return min(range(max(1, len(extents))), key=price)


def _pieces(
    extents: tuple[int, ...], strides: list[int], first: int
) -> Iterator[tuple[slice | tuple[()], int, tuple[int, ...]]]:
    """An enclosing run in pieces of at most `_CHUNK` numbers: rows of its first dim, start, extents."""
    if not extents:  # the box of a scalar
        yield (), first, ()
        return
    rows = max(1, _CHUNK // max(1, strides[0]))
    for row in range(0, extents[0], rows):
        count = min(rows, extents[0] - row)
        yield slice(row, row + count), first + row * strides[0], (count, *extents[1:])


def _checked_extents(shape: Sequence[int], box: Box) -> tuple[int, ...]:
    assert len(box) == len(shape), f"box {box} and shape {shape} differ in rank"
    for (start, stop), extent in zip(box, shape, strict=True):
        assert 0 <= start <= stop <= extent, f"box {box} leaves the array of shape {shape}"
    return tuple(stop - start for start, stop in box)
