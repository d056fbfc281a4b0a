"""All of a checkpoint in one process: what it holds, whether it is whole, its arrays without their cuts.

None of it needs MPI or the run's plan: the index says where everything is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import InputError
from gridnn.geometry.interval import local_slices, whole_box
from gridnn.network.graph import Network
from gridnn.network.heads import is_head
from gridnn.network.source import open_network, read_source
from gridnn.train.checkpoint.contents import stored_extents
from gridnn.train.checkpoint.index import Piece, Stored
from gridnn.train.checkpoint.read import Checkpoint, look_at
from gridnn.train.checkpoint.shards import open_shard, safetensors_of

Array = NDArray[Any]


def nbytes(array: Stored) -> int:
    """Return the bytes of an array."""
    return prod(array.shape) * np.dtype(array.dtype).itemsize


def wrong_in(folder: Path) -> list[str]:
    """Return all that is wrong with a checkpoint: files, and whether the pieces of each array tile it."""
    found, wrong = look_at(folder)
    if found is None or wrong:
        return wrong
    shards: dict[str, Callable[[str], Array]] = {}
    for name, array in found.index.arrays.items():
        if words := _wrong_tiling(array):
            wrong.append(f"{name}: {words}")
        for piece in array.pieces:
            try:
                if piece.file not in shards:
                    shards[piece.file] = open_shard(folder / piece.file)
                wrong += _wrong_tensor(shards[piece.file](piece.key), array, piece)
            except InputError as error:
                wrong.append(str(error))
    return wrong


def _wrong_tensor(tensor: Array, array: Stored, piece: Piece) -> list[str]:
    wanted = stored_extents(piece.box), array.dtype
    if (tensor.shape, tensor.dtype.name) == wanted:
        return []
    return [
        f"{piece.file}: {piece.key} is {tensor.dtype.name} {tensor.shape}, the index says {wanted[1]} {wanted[0]}"
    ]


def _wrong_tiling(array: Stored) -> str | None:
    """Say how often boxes cover an array, where that is not exactly once.

    Elements between two neighbouring edges of boxes have the same cover, so one element stands for them.
    """
    if any(
        not 0 <= i.start <= i.stop <= extent
        for piece in array.pieces
        for i, extent in zip(piece.box, array.shape, strict=True)
    ):
        return "a piece lies outside of it"
    edges = [
        sorted({0, extent, *(edge for piece in array.pieces for edge in piece.box[d])})
        for d, extent in enumerate(array.shape)
    ]
    cover = np.zeros([len(of_dim) - 1 for of_dim in edges], int)
    for piece in array.pieces:
        at = [
            slice(*(np.searchsorted(of_dim, edge) for edge in i))
            for of_dim, i in zip(edges, piece.box, strict=True)
        ]
        cover[tuple(at)] += 1
    if (cover == 1).all():
        return None
    return "some elements are in no piece" if (cover == 0).any() else "some elements are in several pieces"


def read_whole(checkpoint: Checkpoint, name: str) -> Array:
    """Return an array, whole, in C order.

    Raises
    ------
    InputError
        If its pieces do not cover it.
    """
    stored = checkpoint.index.arrays[name]
    out = np.empty(stored.shape, stored.dtype)
    box = whole_box(stored.shape)
    checkpoint.fill(name, box, out[local_slices(box, box)])
    return out


def trained(checkpoint: Checkpoint) -> dict[str, Array]:
    """Return weights and running statistics, whole, by their names in the network: what inference needs.

    Heads, which only training has, are left out.
    """
    local = plan_of(checkpoint).get("schedule") == "local"
    found = {}
    for name in checkpoint.index.arrays:
        kind, _, of = name.partition("/")
        if kind in ("weights", "statistics") and not (local and is_head(of.rpartition(".")[0])):
            found[of] = read_whole(checkpoint, name)
    return found


def as_safetensors(checkpoint: Checkpoint) -> bytes:
    """Return weights and running statistics as the content of a safetensors file."""
    about = {"step": str(checkpoint.state.step), "network": str(plan_of(checkpoint).get("network", ""))}
    return safetensors_of(trained(checkpoint), about)


def plan_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the table of the plan that the checkpoint was made on; an empty one where it says none."""
    try:
        table = json.loads(checkpoint.state.plan)
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}


def network_of(checkpoint: Checkpoint) -> Network:
    """Return the network whose weights a checkpoint holds.

    Raises
    ------
    InputError
        If its plan does not say where the network comes from, or that is another network by now.
    """
    table = plan_of(checkpoint)
    if "model" not in table:
        raise InputError(
            f"checkpoint {checkpoint.folder} does not say what its network is: its plan has no model"
        )
    network = open_network(read_source(table["model"]))
    if table.get("digest", network.digest) != network.digest:
        raise InputError(
            f"checkpoint {checkpoint.folder} is of network {table.get('network')} ({table['digest']}), but "
            f"{table['model']} is {network.digest} now; use the gridnn it was made with"
        )
    return network
