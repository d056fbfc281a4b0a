"""Trips through memory that are saved: a ReLU in the layer before it, a halo around the output it belongs to.

    forward    the producer rectifies what it writes; the ReLU passes it on
    backward   the ReLU passes dY on; the producer reads it masked by Y > 0
               on another scheme, or in another stage: the ReLU masks, so the producer need not keep or remake Y

Every number stays what it was: the same operations on the same elements, without a second pass.

An output that a halo is put around is written into the middle of a buffer with room for it (`margins`).  A producer has
one such buffer.  Halos of its other edges are read where they are received, where all who read them can; else the own
block is copied beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.comm.mover import Route
from gridnn.layers.base import Layer
from gridnn.layers.conv import Convolution, TransposedConvolution, reads_parts
from gridnn.layers.norm import BatchNormalisation, LayerNormalisation
from gridnn.layers.pointwise import ActivationLayer, Addition, Concatenation, Upsampling
from gridnn.layers.pool import Pooling
from gridnn.network.fusion import absorbable, absorbed
from gridnn.network.placed import PlacedNetwork

WRITERS = (
    Convolution, BatchNormalisation, LayerNormalisation, Addition, Pooling, ActivationLayer, Concatenation, Upsampling,
)  # fmt: skip
READERS = (Convolution, TransposedConvolution)


def fuse(placed: PlacedNetwork, layers: Sequence[Layer]) -> None:
    """Let the layers that can take over the ReLU behind them do so."""
    by_name, whole = {layer.name: layer for layer in layers}, absorbed(placed)
    for relu, host in absorbable(placed.network).items():
        taken = by_name[relu]
        assert isinstance(taken, ActivationLayer)
        by_name[host].rectified, taken.absorbed = True, relu in whole
        by_name[host].masks, taken.masks = taken.absorbed, not taken.absorbed


def margins(placed: PlacedNetwork, layers: Sequence[Layer], paths: Sequence[Route | None]) -> dict[str, int]:
    """Return for each layer that can write into a margin buffer the halo edge whose buffer it is.

    The paths of other edges are told whether what arrives is read where it lies (`Route.apart`).
    """
    by_name, found = {layer.name: layer for layer in layers}, dict[str, int]()
    halos = {i: p for i, p in enumerate(paths) if p is not None and p.kind == "halo"}
    readable = {i for i, path in halos.items() if path.sides is not None and _reads_parts(layers, i)}
    for i in sorted(halos, key=readable.__contains__):  # the buffer is for who cannot do without it
        writer = by_name[placed.edges[i].producer]
        if isinstance(writer, ActivationLayer):
            if writer.absorbed:  # it passes on what its host wrote
                writer = by_name[writer.placed.node.inputs[0]]
            elif writer.masks and i in readable:  # it passes on what arrived, and need not write at all
                continue
        settled = not isinstance(writer, Convolution) or writer.settled
        if halos[i].around and isinstance(writer, WRITERS) and settled:
            found.setdefault(writer.name, i)
    for i in readable.difference(found.values()):
        halos[i].apart = True
    return found


def _reads_parts(layers: Sequence[Layer], edge: int) -> bool:
    """Return whether all who read an edge take its own block and halos apart."""
    readers = [layer for layer in layers if edge in layer.placed.edges]
    return all(isinstance(layer, READERS) and reads_parts(layer.engine) for layer in readers)
