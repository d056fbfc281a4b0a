"""A gridnn network as JSON, for a peer that knows nothing of gridnn; `peer/network.py` reads it.

Every layer becomes a flat record: name, kind, inputs, names of its weights and of those that decay, and the numbers of
its spec with windows spread into one list per word (kernel, stride, pad_lo, ...).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import spec as s
from gridnn.network.graph import Network, Node
from gridnn.network.placement import place

Record = dict[str, Any]
WINDOWED = {s.Conv: "conv", s.ConvTranspose: "transposed conv", s.Pool: "pool", s.GlobalPool: "global pool"}


def exported(network: Network) -> list[Record]:
    """Return the records of all layers, in topological order, the loss last."""
    return [record(network, node) for node in network.nodes]


def record(network: Network, node: Node) -> Record:
    """Return one layer's record."""
    shapes = [(1, *network.shapes[name]) for name in node.inputs]
    placed = place(node.spec, tuple(shapes), (1, *network.shapes[node.name]), Scheme(GridShape()))
    found: Record = {
        "name": node.name,
        "kind": WINDOWED.get(type(node.spec)) or s.kind(node.spec),
        "inputs": list(node.inputs),
        "weights": [p.name for p in placed.parameters],
        "decay": [p.name for p in placed.parameters if p.decay],
    }
    for field in fields(node.spec):
        value = getattr(node.spec, field.name)
        if field.name == "windows":
            found |= {word.name: [getattr(w, word.name) for w in value] for word in fields(value[0])}
        elif field.name != "name":  # an activation's name is its kind
            found[field.name] = value
    if isinstance(node.spec, s.Upsample):
        found["linear"] = node.spec.windows[0].linear
    return found
