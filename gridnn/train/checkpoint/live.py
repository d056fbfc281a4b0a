"""The arrays of a model and its optimizer, as a checkpoint wants them and gets them back.

| array                         | where it lives       | who writes it         | who reads it             |
|-------------------------------|----------------------|-----------------------|--------------------------|
| weights/fc1.weight            | buckets of the arena | a run of its bucket   | every rank with a block  |
| optimizer/velocity/fc1.weight | optimizer, by piece  | the same run          | who updates that piece   |
| statistics/bn1.mean           | the layer            | a run of its channels | every rank with channels |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import empty
from gridnn.geometry.interval import Interval, volume
from gridnn.layers.arena import Arena
from gridnn.layers.base import Layer
from gridnn.layers.norm import BatchNormalisation
from gridnn.network.placed import PlacedNetwork
from gridnn.train.checkpoint.contents import Contents
from gridnn.train.checkpoint.read import Checkpoint
from gridnn.train.optimizer import Optimizer, kinds
from gridnn.train.sections import TrainSection

Array = NDArray[Any]


def contents_of(placed: PlacedNetwork, config: TrainSection) -> Contents:
    """Return what a checkpoint of a run holds."""
    return Contents(placed, config.dtype, kinds(config), config.bucket_bytes)


def values_of(
    contents: Contents, rank: int, arena: Arena, layers: Sequence[Layer], optimizer: Optimizer
) -> list[Array | None]:
    """Return the values of each of a rank's parts; None for zeros: a state not yet made.

    They are flat views of what lives on the host, and copies of what lives on a device.
    """
    found: dict[str, Array] = {f"weights/{s.entry.name}": s.value for s in arena.counted_once()}
    for name, of_piece in optimizer.state_arrays().items():
        found.update({f"optimizer/{kind}/{name}": array for kind, array in of_piece.items()})
    for layer in layers:
        if isinstance(layer, BatchNormalisation) and rank in layer.scheme.ranks:
            found.update(
                {f"statistics/{layer.name}.{what}": array for what, array in layer.statistics().items()}
            )
    values: list[Array | None] = []
    for part in contents.parts(rank):
        array = found.get(part.name)
        # What lies on a rank is its run already, or all of its block.
        whole = array is not None and array.size != part.run.size
        value = array[slice(*part.run)] if whole and array is not None else array
        values.append(value if value is None or arena.engine is None else arena.engine.give(value))
    return values


def restore(
    checkpoint: Checkpoint,
    contents: Contents,
    rank: int,
    arena: Arena,
    layers: Sequence[Layer],
    optimizer: Optimizer,
) -> None:
    """Fill a model and its optimizer from a checkpoint of any plan; each rank reads what it has a place for.

    Raises
    ------
    InputError
        If the checkpoint is of another network, optimizer or type.
    """
    checkpoint.expect(contents.arrays())
    for of_layer in arena.parameters.values():
        for parameter in of_layer.values():
            box = parameter.spec.layout.box(rank)
            with _on_host(arena, parameter.value) as value:
                checkpoint.fill(f"weights/{parameter.name}", box, value)
    for layer in layers:
        if isinstance(layer, BatchNormalisation) and rank in layer.scheme.ranks:
            box = layer.placed.placement.parameters[0].layout.box(rank)
            for what, array in layer.statistics().items():
                with _on_host(arena, array) as statistic:
                    checkpoint.fill(f"statistics/{layer.name}.{what}", box, statistic)
    _restore_state(checkpoint, contents, rank, arena, optimizer)


def _restore_state(
    checkpoint: Checkpoint, contents: Contents, rank: int, arena: Arena, optimizer: Optimizer
) -> None:
    """Read the optimizer's state of the pieces that this rank updates: whole blocks, or its runs of them."""
    runs = {part.name: part.run for part in contents.parts(rank)}
    shares = {share.entry.name: share for share in arena.shares()}
    # Zeros of no memory: the optimizer makes its own arrays of them, which are then read into, without a second copy.
    zeros = {name: np.broadcast_to(s.value.dtype.type(0), s.value.size) for name, s in shares.items()}
    optimizer.restore(
        {name: dict.fromkeys(contents.kinds, zero) for name, zero in zeros.items()}, checkpoint.state.updates
    )
    for name, of_piece in optimizer.state_arrays().items():
        share = shares[name]
        box = share.entry.parameter.layout.box(rank)
        whole = Interval(0, volume(box))
        run = whole if share.value.size == whole.size else runs[f"weights/{name}"]
        for kind, array in of_piece.items():
            with _on_host(arena, array) as state:
                checkpoint.fill_run(f"optimizer/{kind}/{name}", box, run, state)


@contextmanager
def _on_host(arena: Arena, array: Array) -> Iterator[Array]:
    """Give an array to be filled: itself, or where it is on a device one of the host that is copied there."""
    engine = arena.engine
    if engine is None or not engine.holds(array):
        yield array
        return
    host = empty(array.shape, array.dtype)
    yield host
    array[...] = engine.take(host)
