"""Measured seconds of layers on one machine, and what lies between the measured blocks.

Blocks are compared within a family: a kind of layer with its kernel and stride.  A block that holds one group of a
grouped convolution is of the family without groups: kernels see no difference.  For each family and pass

    fit          seconds ~ overhead + flops * a + elements * b        no coefficient negative, relative errors
    correction   measured / fit at every measured block

    seconds |             o         o  measured
            |        x  /           x  asked for: the fit there, times the mean correction of the nearest blocks
            |   o     /                (logarithms, weighted by inverse squared distance in log N, space, C, K)
            |      /  o
            +------------- size

so at a measured block the answer is what was measured, and nowhere is the rate further from the fitted one than that
of some measured block.  Between a measured block that fits into the one asked for and one that it fits into, the answer
lies between their seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import InputError
from gridnn.network import spec as s

VERSION = 1
PRECISIONS = {"float32": 4, "tf32": 4, "bf16": 2, "bfloat16": 4}
"""Bytes of an element of the arrays between layers in each `compute.precision` of a run."""
Pass = Literal["forward", "data", "weights"]
PASSES: tuple[Pass, ...] = ("forward", "data", "weights")
Floats = NDArray[np.float64]

_NEAREST = 8
"""Blocks whose corrections are averaged."""
_SAME = 1e-18
"""Squared logarithmic distance of blocks that are one."""


class BlockShape(NamedTuple):
    """Array shapes of a layer on one rank, batch first: (N, C, *S) in, (N, K, *O) out.

    `x` is what the rank needs of the (first) input, halo included; `y` its output as computed, before it settles.
    """

    x: tuple[int, ...]
    y: tuple[int, ...]


class Work(NamedTuple):
    """What passes over some blocks are compared by, one row a block.

    `family`; floating-point operations and elements read or written (blocks,); where the blocks lie among others of
    the family: logarithms of N, output space, C and K (blocks, 4).
    """

    family: str
    flops: Floats
    elements: Floats
    where: Floats


def work_of(layer: s.LayerSpec, x: NDArray[np.integer[Any]], y: NDArray[np.integer[Any]]) -> Work:
    """Return the work of one pass of a layer over blocks (that of its three passes is alike).

    Parameters
    ----------
    x, y : (blocks, dims)
        Shapes as in `BlockShape`.  Of a grouped convolution a block may hold a part of the groups: those of its
        output channels.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    ins, outs, c, k = x.prod(axis=1), y.prod(axis=1), x[:, 1], y[:, 1]
    where = np.log(np.maximum(1, np.stack([y[:, 0], y[:, 2:].prod(axis=1), c, k], axis=1)))
    kernel, stride = _window(layer)
    taps, none = float(prod(kernel)), np.zeros(len(x))
    family = s.kind(layer) + (f" {_times(kernel)}" if kernel else "")
    family += f" /{_times(stride)}" if any(step > 1 for step in stride) else ""
    if isinstance(layer, s.Concat):  # the first input says nothing of the others
        return Work(family, none, 2 * outs, where)
    if isinstance(layer, s.Linear):
        return Work(family, 2 * x[:, 0] * c * k, ins + outs + c * k, where)
    if isinstance(layer, s.ConvTranspose):
        return Work(family, 2 * ins * k * taps, ins + outs + c * k * taps, where)
    if isinstance(layer, s.Conv):
        here = np.maximum(1, np.rint(layer.groups * k / layer.out))
        family += f", {int(c[0] / here[0])} channels a group" if layer.groups > 1 else ""
        return Work(family, 2 * outs * (c / here) * taps, ins + outs + k * (c / here) * taps, where)
    return Work(family, none, ins + outs, where)


@dataclass(frozen=True)
class Sample:
    """A measured block; `weights_s` is 0 where a layer has no product of its own for its weights' gradient."""

    family: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    flops: int
    elements: int
    forward_s: float
    data_s: float
    weights_s: float

    def seconds(self, pass_: Pass) -> float:
        """Return the seconds of a pass."""
        return {"forward": self.forward_s, "data": self.data_s, "weights": self.weights_s}[pass_]


@dataclass(frozen=True)
class Profile:
    """Measured blocks, where they come from (machine, kernels, threads), when, and in which of `PRECISIONS`."""

    source: str
    date: str
    samples: tuple[Sample, ...]
    precision: str = "float32"

    @property
    def element_bytes(self) -> int:
        """Of the arrays between layers that were measured."""
        return PRECISIONS[self.precision]

    def seconds(self, layer: s.LayerSpec, pass_: Pass, block: BlockShape) -> float | None:
        """Return the seconds of one pass of a layer over a block; None if its family was not measured.

        Parameters
        ----------
        pass_
            "forward", "data" (the gradient by the input) or "weights" (that by the weights).
        """
        found = self.seconds_of_blocks(layer, pass_, np.array([block.x]), np.array([block.y]))
        return None if found is None else float(found[0])

    def seconds_of_blocks(
        self, layer: s.LayerSpec, pass_: Pass, x: NDArray[np.integer[Any]], y: NDArray[np.integer[Any]]
    ) -> Floats | None:
        """Return the same for many blocks of one layer at once: (blocks,); an empty block takes no time.

        Parameters
        ----------
        x, y : (blocks, dims)
            Shapes as in `BlockShape`.
        """
        found = self._of_family(layer, pass_, x, y)
        if not isinstance(layer, s.Conv) or layer.groups == 1:
            return found
        one = np.rint(layer.groups * y[:, 1] / layer.out) <= 1
        plain = self._of_family(replace(layer, groups=1), pass_, x[one], y[one]) if one.any() else None
        if plain is not None and (found is not None or one.all()):
            found = np.zeros(len(x)) if found is None else found
            found[one] = plain
        return found

    def _of_family(
        self, layer: s.LayerSpec, pass_: Pass, x: NDArray[np.integer[Any]], y: NDArray[np.integer[Any]]
    ) -> Floats | None:
        work = work_of(layer, x, y)
        curve = self._curves.get((work.family, pass_))
        return None if curve is None else np.where(y.prod(axis=1) > 0, curve.at(work), 0.0)

    @cached_property
    def families(self) -> tuple[str, ...]:
        """What was measured, such as "conv 3x3 /2"."""
        return tuple(dict.fromkeys(sample.family for sample in self.samples))

    @cached_property
    def _curves(self) -> Mapping[tuple[str, Pass], _Curve]:
        by_family: dict[str, list[Sample]] = {}
        for sample in self.samples:
            by_family.setdefault(sample.family, []).append(sample)
        return {(name, p): _Curve(found, p) for name, found in by_family.items() for p in PASSES}


class _Curve:
    """The seconds of one pass of one family over all blocks."""

    def __init__(self, samples: list[Sample], pass_: Pass) -> None:
        samples = [sample for sample in samples if sample.seconds(pass_)]
        self._never = not samples  # the family has no such pass
        if self._never:
            return
        self._seconds = np.array([sample.seconds(pass_) for sample in samples])
        self._where = np.log([_extents(sample) for sample in samples])
        columns = np.array([(sample.flops, sample.elements, 1.0) for sample in samples])
        self._fit = nonnegative_fit(columns, self._seconds)
        self._log_correction = np.log(self._seconds / (columns @ self._fit))

    def at(self, work: Work) -> Floats:
        if self._never:
            return np.zeros(len(work.flops))
        steps = work.where[:, None] - self._where  # (blocks, samples, 4)
        squared = np.einsum("bsi,bsi->bs", steps, steps)
        nearest = np.argsort(squared, axis=1, kind="stable")[:, :_NEAREST]
        near = np.maximum(np.take_along_axis(squared, nearest, 1), _SAME)  # so near a block, it alone counts
        weights = 1 / near
        log_correction = (weights * self._log_correction[nearest]).sum(axis=1) / weights.sum(axis=1)
        fitted = self._fit[0] * work.flops + self._fit[1] * work.elements + self._fit[2]
        between = self._between(fitted * np.exp(log_correction), steps)
        first = nearest[:, 0]
        return np.where(near[:, 0] <= _SAME, self._seconds[first], between)

    def _between(self, seconds: Floats, steps: Floats) -> Floats:
        """Hold answers between measured blocks that are smaller and larger in every coordinate."""
        slack = 1e-9
        least = np.where((steps >= -slack).all(axis=2), self._seconds, 0.0).max(axis=1)
        most = np.where((steps <= slack).all(axis=2), self._seconds, np.inf).min(axis=1)
        # Where a smaller block took longer than a larger one, neither is a bound.
        return np.where(least <= most, np.clip(seconds, least, np.maximum(least, most)), seconds)


def nonnegative_fit(columns: Floats, seconds: Floats) -> Floats:
    """Return coefficients >= 0 with the least sum of squares of ``(columns @ coefficients - seconds) / seconds``.

    Every set of columns is tried (there are two or three), so the optimum is exact; of sets that are as good the
    smallest and first is taken, which keeps a fit to few points from inventing terms.

    Parameters
    ----------
    columns : (points, terms)
    seconds : (points,)
        Above 0.
    """
    relative = columns / seconds[:, None]
    scale = np.abs(relative).max(axis=0)
    relative = relative / np.where(scale > 0, scale, 1)
    best, least = np.zeros(columns.shape[1]), math.inf
    for count in range(1, columns.shape[1] + 1):
        for chosen in combinations(range(columns.shape[1]), count):
            part, _, rank, _ = np.linalg.lstsq(relative[:, chosen], np.ones(len(seconds)))
            error = float(np.sum((relative[:, chosen] @ part - 1) ** 2))
            if rank == count and (part > 0).all() and error < least - 1e-12:
                best, least = np.zeros(columns.shape[1]), error
                best[list(chosen)] = part
    return best / np.where(scale > 0, scale, 1)


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises
    ------
    InputError
        If the file is missing, is not a profile of this version, or holds numbers that cannot be.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"profile {path}: cannot be read ({error.strerror}); name a file that can") from None
    except ValueError as error:
        raise InputError(f"profile {path}: is not JSON ({error}); measure again: gridnn calibrate") from None
    if not isinstance(table, dict) or table.get("version") != VERSION:
        version = table.get("version") if isinstance(table, dict) else None
        raise InputError(
            f"profile {path}: version {version}, this gridnn reads {VERSION}; measure again: gridnn calibrate"
        )
    precision = table.get("precision", "float32")  # what gridnn measured in before it wrote one
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(
            f"profile {path}: precision {precision!r} is not one of {', '.join(PRECISIONS)}; measure again: gridnn "
            "calibrate --precision"
        )
    try:
        return Profile(
            str(table["source"]),
            str(table["date"]),
            tuple(_sample(row) for row in table["layers"]),
            precision,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"profile {path}: {type(error).__name__} {error}; a layer needs family, x, y, flops, elements, forward_s, "
            "data_s, weights_s, none negative, forward_s above 0"
        ) from None


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile as JSON, one measured block a line."""
    rows = ",\n".join("  " + json.dumps(asdict(sample)) for sample in profile.samples)
    head = f'"version": {VERSION}'
    for key in ("source", "date", "precision"):
        head += f",\n {json.dumps(key)}: {json.dumps(getattr(profile, key))}"
    path.write_text(f'{{{head},\n "layers": [\n{rows}\n ]}}\n', encoding="utf-8")


def _sample(row: Mapping[str, Any]) -> Sample:
    x, y = (tuple(int(extent) for extent in row[name]) for name in ("x", "y"))
    if min(len(x), len(y)) < 2 or min(*x, *y) < 1:
        raise ValueError(f"block {list(x)} to {list(y)}")
    sizes = [int(row[name]) for name in ("flops", "elements")]
    seconds = [float(row[f"{pass_}_s"]) for pass_ in PASSES]
    if min(sizes) < 0 or not all(math.isfinite(value) and value >= 0 for value in seconds) or seconds[0] == 0:
        raise ValueError(f"sizes {sizes}, seconds {seconds}")
    return Sample(str(row["family"]), x, y, sizes[0], sizes[1], *seconds)


def _extents(sample: Sample) -> tuple[int, int, int, int]:
    """Return N, output space, C and K of a measured block."""
    return sample.y[0], prod(sample.y[2:]), sample.x[1], sample.y[1]


def _window(layer: s.LayerSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return kernel and stride; empty where a layer has none."""
    if isinstance(layer, s.Conv | s.ConvTranspose | s.Pool):
        return tuple(w.kernel for w in layer.windows), tuple(w.stride for w in layer.windows)
    return (tuple(w.factor for w in layer.windows) if isinstance(layer, s.Upsample) else ()), ()


def _times(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
