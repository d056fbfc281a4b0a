"""Which blocks are measured: those of real networks, cut as plans cut them.

A layer of a network becomes several blocks, the largest that a rank has on these grids (P ranks of the job):

    n P       a share of the batch          most plans
    n 4P, n 16P                             the same on more ranks, and where time is what does not shrink
    n P h 4   ... and of the rows           domain parallel
    n P k 4   ... and of the results        model parallel
    k P, c P  all of the batch              model parallel alone
    h P       all of the batch              domain parallel alone
    n P/2 k 2, n P/2 h 2, n P/2 c 2         uniform grids of few ranks

Families (kernel and stride) take turns, so that whatever time there is leaves every family with some blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from math import log, prod
from typing import NamedTuple

import numpy as np

from gridnn.cost.profile import BlockShape, work_of
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import Interval
from gridnn.geometry.window import Window
from gridnn.layers.kinds import KINDS
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.graph import INPUT, Network, Node
from gridnn.network.placed import PlacedLayer, PlacedNetwork
from gridnn.network.placement import place

SPREAD = (("resnet20", 64), ("alexnet", 16), ("resnet50", 8), ("inception_v3", 8))
"""Networks measured when none is named, and samples a rank."""


class Block(NamedTuple):
    """A layer as if it were all there is: its kind, and the shapes of its inputs, batch first."""

    spec: s.LayerSpec
    inputs: tuple[tuple[int, ...], ...]

    @property
    def placed(self) -> PlacedNetwork:
        """The layer on one process, a network of its own."""
        batch, features = self.inputs[0][0], [shape[1:] for shape in self.inputs]
        found = s.out_shape(self.spec, tuple(features), "block")
        scheme, node = Scheme(GridShape()), Node("block", self.spec, (INPUT,) * len(features))
        layer = PlacedLayer(node, scheme, place(self.spec, self.inputs, (batch, *found), scheme), ())
        return PlacedNetwork(Network("block", features[0], (node,)), batch, 1, (layer,), ())

    @property
    def shape(self) -> BlockShape:
        """What a profile calls it."""
        placement = self.placed.layers[0].placement
        return BlockShape(placement.needs[0].shape, placement.raw.shape)

    @property
    def family(self) -> str:
        """What it is compared with."""
        return work_of(self.spec, *(np.array([shape]) for shape in self.shape)).family

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and their gradients in float32."""
        return 8 * (sum(prod(shape) for shape in self.inputs) + prod(self.shape.y))


def blocks_of(jobs: Sequence[tuple[Network, int]], procs: int, most_bytes: int) -> list[Block]:
    """Return the different blocks of some networks' layers, families and in them cuts taking turns.

    Parameters
    ----------
    jobs
        Networks and their batches.
    procs
        Ranks of the job.
    most_bytes
        Of a block; what is larger is left out.
    """
    cuts: list[Mapping[str, int]] = [
        {"n": procs}, {"n": 4 * procs}, {"n": procs, "h": 4}, {"n": procs, "k": 4}, {"n": 16 * procs},
        {"k": procs}, {"c": procs}, {"h": procs},
        *({"n": procs // 2, axis: 2} for axis in "khc" if procs > 2 and procs % 2 == 0),
    ]  # fmt: skip
    families: dict[str, list[list[Block]]] = {}
    for at, cut in enumerate(cuts):
        for network, batch in jobs:
            shapes = {name: (batch, *shape) for name, shape in network.shapes.items()}
            for node in network.nodes:
                if type(node.spec) not in KINDS and not isinstance(node.spec, s.GlobalPool):
                    continue  # a description for the planner only
                block = _cut(node.spec, tuple(shapes[i] for i in node.inputs), cut)
                if block is not None and block.nbytes <= most_bytes:
                    families.setdefault(block.family, [[] for _ in cuts])[at].append(block)
    return _take_turns(
        [_unlike(_take_turns([_rotated(b, i) for i, b in enumerate(f)])) for f in families.values()]
    )


def _cut(spec: s.LayerSpec, inputs: tuple[tuple[int, ...], ...], cut: Mapping[str, int]) -> Block | None:
    """Return the largest block of a layer on a grid; None where the grid cannot cut it so."""
    n, k, c, h = (cut.get(axis, 1) for axis in "nkch")
    channels = c
    if isinstance(spec, s.Conv) and spec.groups > 1:
        if c > 1 or spec.groups % k:
            return None
        spec, channels = replace(spec, out=spec.out // k, groups=spec.groups // k), k
    elif isinstance(spec, s.Conv | s.ConvTranspose | s.Linear):
        spec = replace(spec, out=_largest(spec.out, k), bias=True)
    elif c > 1:
        return None  # as k
    else:
        channels = k
    made = []
    for batch, width, *space in inputs:
        if batch < n or width < channels or (h > 1 and (not space or space[0] < h)):
            return None
        rows = [_largest(space[0], h), *space[1:]] if space else []
        made.append((_largest(batch, n), _largest(width, channels), *rows))
    try:
        s.out_shape(spec, tuple(shape[1:] for shape in made), "block")
    except InputError:  # a block smaller than the window
        return None
    return Block(replace(spec, start="he_uniform") if isinstance(spec, s.Conv) else spec, tuple(made))


def _largest(extent: int, parts: int) -> int:
    return Interval(0, extent).block(parts, 0).size


def _rotated(blocks: list[Block], turns: int) -> list[Block]:
    """Begin elsewhere for every cut, so that the first blocks are of different layers."""
    start = turns * len(blocks) // 3 % len(blocks) if blocks else 0
    return blocks[start:] + blocks[:start]


def _unlike(blocks: Sequence[Block]) -> list[Block]:
    """Leave out blocks that are all but the same as one before them: every extent within a half."""
    kept: list[tuple[Block, tuple[float, ...]]] = []
    for block in blocks:
        (n, k, *space), c = block.shape.y, block.shape.x[1]
        size = tuple(map(log, (n, k, c, prod(space))))
        if all(any(abs(a - b) > log(1.5) for a, b in zip(size, other, strict=True)) for _, other in kept):
            kept.append((block, size))
    return [block for block, _ in kept]


def _take_turns(rows: Sequence[Sequence[Block]]) -> list[Block]:
    """Return the first of every row, then the second of every row, and so on."""
    return [block for turn in zip_longest(*rows) for block in turn if block is not None]


def tiny_blocks() -> list[Block]:
    """Return blocks with next to no work: their time is what a pass takes however small it is."""
    picture = (1, 4, 4, 4)
    three, two = Window(3, 1, 1, 1), Window(2, 2)
    return [
        Block(s.Conv(4, (three, three)), (picture,)),
        Block(s.Linear(4), ((1, 4),)),
        Block(s.Pool("max", (two, two)), (picture,)),
        Block(s.BatchNorm(), (picture,)),
        Block(s.Activation(), (picture,)),
        Block(s.Add(), (picture, picture)),
    ]


def jobs_of(name: str | None, batch: int, procs: int, quick: bool) -> list[tuple[Network, int]]:
    """Return the network asked for with its batch, or a spread of networks.

    Raises
    ------
    InputError
        If there is no such network.
    """
    if name is not None:
        return [(zoo.usual(name), batch)]
    share = 4 if quick else 1
    return [(zoo.usual(n), samples // share * procs) for n, samples in SPREAD]
