"""Checkpoints without MPI: the ranks of a plan one after another, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gridnn.comm.patience import Patience
from gridnn.comm.sums import Sums
from gridnn.compute.cpu.engine import Engine
from gridnn.geometry.grid import Scheme
from gridnn.geometry.interval import volume
from gridnn.layers.arena import Arena
from gridnn.layers.norm import BatchNormalisation
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.plan.plan import Plan, parse_scheme
from gridnn.train.checkpoint.contents import Contents, norms
from gridnn.train.checkpoint.folders import part_name, steps_in
from gridnn.train.checkpoint.index import Index, State
from gridnn.train.checkpoint.live import restore, values_of
from gridnn.train.checkpoint.read import Checkpoint
from gridnn.train.checkpoint.save import Snapshot, arrays_in, commit_part, write_part
from gridnn.train.checkpoint.shards import FileFacts
from gridnn.train.optimizer import Optimizer, Piece
from gridnn.train.sections import TrainSection

BATCH, BUCKET_BYTES = 6, 300
CONFIG = TrainSection(optimizer="adam", dtype="float32", bucket_bytes=BUCKET_BYTES)


def small() -> Network:
    """A network with every kind of array: windows, features, batch and layer norms, extents that do not divide."""
    net = Builder("small", (3, 7, 5))
    x = net.relu(net.batch_norm(net.conv(net.input, 5, 3, pad=1, name="conv1"), name="bn1"))
    x = net.layer_norm(net.conv(x, 4, (1, 2), bias=False, name="conv2"), name="ln")
    x = net.batch_norm(net.linear(net.flatten(x), 7, name="fc1"), name="bn2")
    return net.done(net.cross_entropy(net.linear(net.relu(x), 5, name="fc2")))


# Eight plans over 1, 2, 3, 4 and 6 ranks: uniform, mixed, on some ranks only, more ranks than channels.
PLANS: list[tuple[int, Mapping[str, str]]] = [
    (1, {"*": "1"}),
    (2, {"*": "n2"}),
    (2, {"*": "k2", "conv1": "h2"}),
    (3, {"*": "n3", "fc1": "k3", "fc2": "c2 @1"}),
    (4, {"*": "n2 k2", "conv2": "h2 w2"}),
    (4, {"*": "k4", "fc1": "c4", "bn2": "k2 n2", "ln": "w4"}),
    (6, {"*": "n3 k2", "conv1": "k6", "bn1": "h3 w2", "fc2": "k3 @2"}),
    (6, {"*": "n6", "fc1": "k2 c3", "bn2": "c2 n3"}),
]


@dataclass
class Ranks:
    """All ranks of a plan: what each holds, as after some steps."""

    contents: Contents
    arenas: list[Arena]
    layers: list[list[Any]]
    optimizers: list[Optimizer]
    plan: str

    def write(self, root: Path, step: int, *, loss: float | None = None, keep: int = 3, best: bool = True,
              word: str = "word") -> Path:  # fmt: skip
        """Write a checkpoint, rank after rank."""
        files: dict[str, FileFacts] = {}
        for rank in reversed(range(self.contents.placed.procs)):
            snapshot = Snapshot(self.contents, rank)
            snapshot.take(self.values(rank))
            snapshot.copy()
            state = (
                State(step, 1, self.optimizers[rank].updates, 3, self.plan, "", loss) if rank == 0 else None
            )
            files |= write_part(root, step, word, rank, snapshot, state)
        index = Index(step, self.contents.placed.procs, arrays_in(self.contents), files)
        return commit_part(root / part_name(step, word), index, word, keep, best)

    def values(self, rank: int) -> list[Any]:
        """Return what a rank writes."""
        return values_of(self.contents, rank, self.arenas[rank], self.layers[rank], self.optimizers[rank])

    def restore(self, checkpoint: Checkpoint, only: int | None = None) -> None:
        """Fill every rank from a checkpoint, or only one."""
        for rank in range(self.contents.placed.procs) if only is None else (only,):
            arena, layers, optimizer = self.arenas[rank], self.layers[rank], self.optimizers[rank]
            restore(checkpoint, self.contents, rank, arena, layers, optimizer)

    def bits(self, rank: int) -> dict[str, bytes]:
        """Return everything that a rank holds, by name: weights, statistics, state, and the number of updates."""
        found = {
            f"weights/{p.name}": p.value.tobytes()
            for of_layer in self.arenas[rank].parameters.values()
            for p in of_layer.values()
        }
        for layer in self.layers[rank]:
            if rank in layer.scheme.ranks:
                found |= {
                    f"{layer.name}.{what}": array.tobytes() for what, array in layer.statistics().items()
                }
        for name, of_piece in self.optimizers[rank].state_arrays().items():
            found |= {f"{kind}/{name}": array.tobytes() for kind, array in of_piece.items()}
        return found | {"updates": str(self.optimizers[rank].updates).encode()}


def ranks_of(
    network: Network, procs: int, schemes: Mapping[str, str], config: TrainSection = CONFIG
) -> Ranks:
    """Return the ranks of a plan, with weights as they start, statistics as they start and no state yet."""
    given = {n.name: parse_scheme(schemes.get(n.name, schemes["*"])) for n in network.nodes}
    placed = place_network(network, given, BATCH, procs)
    contents = Contents(
        placed, config.dtype, ("m", "v") if config.optimizer == "adam" else ("velocity",), config.bucket_bytes
    )
    arenas, layers = [], []
    for rank in range(procs):
        world: Any = SimpleNamespace(rank=rank, size=procs, sums=Sums(Patience()))
        arenas.append(Arena(world, placed, config.dtype, config.bucket_bytes, config.cut_optimizer))
        engine = Engine(None)
        layers.append([BatchNormalisation(world, p, config.dtype, {}, engine) for p in norms(placed)])
    plan = Plan(network.name, network.digest, procs, BATCH, given, "test").dumps()
    return Ranks(contents, arenas, layers, [Optimizer(config) for _ in range(procs)], plan)


def advance(ranks: Ranks, seed: int) -> None:
    """Give every array values that belong to global indices, as training does: the same on every plan."""
    whole = truth(ranks.contents, seed)
    for rank, (arena, layers, optimizer) in enumerate(
        zip(ranks.arenas, ranks.layers, ranks.optimizers, strict=True)
    ):
        for of_layer in arena.parameters.values():
            for p in of_layer.values():
                box = p.spec.layout.box(rank)
                p.value[...] = whole[f"weights/{p.name}"][tuple(slice(*i) for i in box)]
        for layer in layers:
            if rank in layer.scheme.ranks:
                box = layer.placed.placement.parameters[0].layout.box(rank)
                for what in ("mean", "variance"):
                    setattr(layer, what, whole[f"statistics/{layer.name}.{what}"][slice(*box[0])].copy())
        blocks = {p.name: p for of_layer in arena.parameters.values() for p in of_layer.values()}
        state = {}
        for share in arena.shares():
            block = blocks[share.entry.name]
            box = block.spec.layout.box(rank)
            at = (share.value.ctypes.data - block.value.ctypes.data) // share.value.itemsize
            assert 0 <= at <= volume(box) - share.value.size
            kinds = {}
            for kind in ranks.contents.kinds:
                mine = np.empty_like(block.value)  # keeps the order of memory
                mine[...] = whole[f"optimizer/{kind}/{share.entry.name}"][tuple(slice(*i) for i in box)]
                kinds[kind] = mine.ravel(order="K")[at : at + share.value.size]
            state[share.entry.name] = kinds
        optimizer.restore(state, updates=17)


def truth(contents: Contents, seed: int) -> dict[str, Any]:
    """Return the whole arrays that `advance` cuts up."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype(dtype)
        for name, (shape, dtype) in sorted(contents.arrays().items())
    }


def pieces(arena: Arena, index: int = 0) -> list[Piece]:
    """Return what an optimizer would update."""
    return [Piece(s.entry.name, s.value, s.grad, True, index) for s in arena.shares()]


def two_steps(root: Path) -> Path:
    """Write steps 10 and 20 of four ranks into a folder of checkpoints, and return it."""
    ranks = ranks_of(small(), *PLANS[4])
    for step in (10, 20):
        advance(ranks, step)
        ranks.write(root, step)
    return root


def write_one(root: Path, step: int, loss: float | None, keep: int, best: bool = True) -> list[int]:
    """Write a checkpoint of one rank and return the steps that are there then, newest first."""
    ranks_of(small(), 1, {"*": "1"}).write(root, step, loss=loss, keep=keep, best=best)
    assert (root / "latest").read_text() == f"step-{step:08d}\n"
    assert not list(root.glob("*.part"))
    return [int(path.name[5:]) for path in steps_in(root)]


__all__ = [
    "PLANS",
    "Ranks",
    "Scheme",
    "advance",
    "pieces",
    "ranks_of",
    "small",
    "truth",
    "two_steps",
    "write_one",
]
