"""Trips through memory that are saved: a ReLU in the layer before it, a halo around the output it belongs to.

    forward    the producer rectifies what it writes; the ReLU passes it on
    backward   the ReLU passes dY on; the producer reads it masked by Y > 0
               on another scheme, or in another stage: the ReLU masks, so the producer need not keep or remake Y

Every number stays what it was: the same operations on the same elements, without a second pass.

An output that a halo is put around is written into the middle of a buffer with room for it (`margins`).
"""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.comm.mover import Route
from gridnn.layers.base import Layer
from gridnn.layers.conv import Convolution
from gridnn.layers.norm import BatchNormalisation, LayerNormalisation
from gridnn.layers.pointwise import ActivationLayer, Addition, Concatenation, Upsampling
from gridnn.layers.pool import Pooling
from gridnn.network.fusion import absorbable, absorbed
from gridnn.network.placed import PlacedNetwork

WRITERS = (
    Convolution, BatchNormalisation, LayerNormalisation, Addition, Pooling, ActivationLayer, Concatenation, Upsampling,
)  # fmt: skip


def fuse(placed: PlacedNetwork, layers: Sequence[Layer]) -> None:
    """Let the layers that can take over the ReLU behind them do so."""
    by_name, whole = {layer.name: layer for layer in layers}, absorbed(placed)
    for relu, host in absorbable(placed.network).items():
        taken = by_name[relu]
        assert isinstance(taken, ActivationLayer)
        by_name[host].rectified, taken.absorbed = True, relu in whole
        by_name[host].masks, taken.masks = taken.absorbed, not taken.absorbed


def margins(placed: PlacedNetwork, layers: Sequence[Layer], paths: Sequence[Route | None]) -> dict[str, int]:
    """Return for each layer that can write into a margin buffer the halo edge whose buffer it is."""
    by_name, found = {layer.name: layer for layer in layers}, dict[str, int]()
    for i, (edge, path) in enumerate(zip(placed.edges, paths, strict=True)):
        if path is None or path.kind != "halo" or not path.around:
            continue
        writer = by_name[edge.producer]
        if isinstance(writer, ActivationLayer) and writer.absorbed:  # it passes on what its host wrote
            writer = by_name[writer.placed.node.inputs[0]]
        settled = not isinstance(writer, Convolution) or writer.settled
        if isinstance(writer, WRITERS) and settled:
            found.setdefault(writer.name, i)
    return found
