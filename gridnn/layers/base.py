"""What every layer has: its place, its parameters, and three verbs.

    forward(inputs, train) -> y     inputs arrive in the layouts of placement.needs, y is at rest
    backward(dy) -> [dx, ...]       dy is at rest, each dx in the layout of its need, owed where needs overlap
    weigh()                         gradients of the parameters, after `backward`, so that the dx are on their
                                    way while the weights' products are computed

A layer works on the ranks of its scheme only.  Inputs are never changed in place: they may be other layers'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from gridnn.comm.collectives import all_reduce
from gridnn.comm.mover import Pending, Route, start
from gridnn.comm.world import Array, World
from gridnn.compute.interface import Engine, subjects_of
from gridnn.compute.storage import wide_of
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.interval import Box, extents_of
from gridnn.geometry.traffic import Key
from gridnn.network import placement
from gridnn.network.placed import PlacedLayer

Stowed = dict[str, Any]
"""What a layer keeps of one pass."""


@dataclass
class Parameter:
    """A rank's block of a parameter: views of value and gradient in the arena.

    Attributes
    ----------
    fresh : bool
        True until this step's first gradient, which replaces `grad` instead of being added to it.
    copy : array or None
        The value in the type of activations, where that is another (`Arena.round`).
    """

    name: str
    spec: placement.Parameter
    value: Array
    grad: Array
    fresh: bool = False
    copy: Array | None = None

    @property
    def factor(self) -> Array:
        """What products multiply by: the value in the type of activations."""
        return self.value if self.copy is None else self.copy


class Layer:
    """A layer on its grid, as one rank sees it.

    Parameters
    ----------
    dtype
        Of activations and their gradients; that of parameters may be wider (`gridnn.compute.storage`).
    """

    KEEPS: ClassVar[tuple[str, ...]] = ()  # attributes that hold what a forward leaves for its backward
    wants_dx = True  # False where the input is data: nobody asks for its gradient
    rectified = False  # True where the output is that of the ReLU behind this layer (see fuse)
    masks = False  # True where backward masks dY by what the layer before the ReLU rectified

    def __init__(
        self,
        world: World,
        placed: PlacedLayer,
        dtype: DTypeLike,
        parameters: dict[str, Parameter],
        engine: Engine,
    ) -> None:
        self.world, self.placed, self.dtype, self.parameters = world, placed, np.dtype(dtype), parameters
        self.engine, self.compute = engine, subjects_of(engine)
        self.name, self.scheme = placed.node.name, placed.scheme
        self.needs: list[Box] = [need.box(world.rank) for need in placed.placement.needs]
        self.out: Box = placed.placement.out.box(world.rank)
        self.into: Array | None = (
            None  # where the next output goes: the middle of a margin buffer (set by the model)
        )
        self._groups: dict[tuple[str, ...], tuple[tuple[int, ...], str]] = {}
        self._out_shape = extents_of(self.out)
        self.raw: Box = placed.placement.raw.box(world.rank)

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the block of the output at rest."""
        raise AssertionError(f"{self.name}: a layer computes its own forward")

    def backward(self, dy: Array) -> list[Array]:
        """Return the gradient by each input, in the layout of its need."""
        raise AssertionError(f"{self.name}: a layer computes its own backward")

    def recall(self, inputs: list[Pending]) -> None:
        """Keep what backward needs of a forward whose output nobody wants: a pass that is made again has sent it."""
        self.forward(inputs, True)

    def stow(self) -> Stowed:
        """Take out what the last forward left for its backward, so that another pass can come between."""
        mine = self.__dict__
        return {name: mine.pop(name) for name in self.KEEPS if name in mine}

    def fetch(self, stowed: Stowed) -> None:
        """Put back what `stow` took out."""
        self.__dict__.update(stowed)

    def weigh(self) -> None:
        """Add the gradients of the parameters to `Parameter.grad`; most layers have none left to add."""

    @cached_property
    def _settling(self) -> Route:
        return Route(self.placed.settle, self.world.rank)

    @cached_property
    def _spreading(self) -> Route:
        return Route(self.placed.settle.transpose(), self.world.rank)

    def output(self) -> Array:
        """Return the array for the output at rest: where the next layer wants it, or a new one."""
        into, self.into = self.into, None
        return self.engine.memory.empty(self._out_shape, self.dtype) if into is None else into

    @cached_property
    def settled(self) -> bool:
        """Whether the output is at rest as computed."""
        return self._settling.stays

    def settle(self, raw: Array) -> Array:
        """Take the output as computed, a term of a sum, to rest."""
        raw = self.narrow(raw)
        if self.settled:
            return raw
        return start(
            self.world, self._settling, raw, self.key("forward", self.placed.settle), self.dtype
        ).wait()

    def spread(self, dy: Array) -> Array:
        """Take the gradient at rest to where the output was computed: the adjoint of `settle`."""
        if self.settled:
            return dy
        exchange = self.placed.settle.transpose()
        return start(self.world, self._spreading, dy, self.key("backward", exchange), self.dtype).wait()

    def narrow(self, array: Array) -> Array:
        """Return an array that was computed in another type in that of activations."""
        return in_type(self.engine, array, self.dtype)

    def widen(self, array: Array) -> Array:
        """Return an activation in the type that is computed in."""
        return in_type(self.engine, array, wide_of(self.dtype))

    def key(self, direction: str, exchange: Exchange) -> Key:
        """Return what an exchange of this layer is counted under."""
        return Key(self.name, direction, exchange.kind, " ".join(exchange.axes))

    def sum_over(self, axes: tuple[str, ...], array: Array, direction: str, how: str = "sum") -> Array:
        """Return the sum (or max, min) of an array over the ranks along `axes`."""
        found = self._groups.get(axes)
        if found is None:
            used = tuple(a for a in self.scheme.grid.used if a in axes)
            found = self._groups[axes] = (self.scheme.group(self.world.rank, used), " ".join(used))
        ranks, along = found
        if len(ranks) < 2:
            return array
        return all_reduce(self.world, ranks, array, Key(self.name, direction, "allreduce", along), how)


def in_type(engine: Engine, array: Array, dtype: DTypeLike) -> Array:
    """Return an array of an engine, or a copy of it, in a dtype."""
    if array.dtype == dtype:
        return array
    copy = engine.empty(array.shape, dtype)
    engine.copy(array, copy)
    return copy
