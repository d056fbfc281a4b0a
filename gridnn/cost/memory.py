"""Memory a rank needs for a step: parameters, optimizer state, and the arrays alive at the worst moment.

Arrays live from the layer that makes them to the last that reads them, and a layer keeps for backward:

| layer                    | keeps                                                    |
|--------------------------|----------------------------------------------------------|
| conv, linear             | its input as it arrived; its output if it is rectified   |
| batch norm, layer norm   | its input; its output if it is rectified                 |
| activation               | its output (its input for silu and gelu)                 |
| max pool, dropout        | a byte an output element; the mask                       |
| LSTM, attention          | its inputs; gates and cells of every step; the shares    |
| add                      | its output if it is rectified                            |
| loss                     | the logits                                               |

An embedding reads words, which have no gradient, and weights that layers share are the first one's.
The forward pass and then the backward pass are walked in the order of a run, taking and giving.  Left out: messages
of edges, workspaces of kernels, the input and target batches, and vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.geometry.interval import volume
from gridnn.geometry.layout import Layout
from gridnn.geometry.traffic import Widths, widths_of
from gridnn.network import spec as s
from gridnn.network.fusion import absorbed, passing
from gridnn.network.graph import INPUT
from gridnn.network.placed import Edge, PlacedLayer, PlacedNetwork

KEEP_INPUTS = (s.Conv, s.ConvTranspose, s.Linear, s.BatchNorm, s.LayerNorm, s.LSTM, s.Attention)
"""Kinds whose backward pass reads what the forward pass read."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one rank.

    Attributes
    ----------
    parameters_bytes : int
        Values and gradients, and copies of the values in the type of activations where that is another.
    state_bytes : int
        State of the optimizer.
    arrays_bytes : int
        Activations and gradients alive at the worst moment of a step.
    """

    parameters_bytes: int
    state_bytes: int
    arrays_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.parameters_bytes + self.state_bytes + self.arrays_bytes


class Moment(NamedTuple):
    """The worst moment of a step on a rank: where the walk was, and whose arrays are alive.

    Parameters
    ----------
    layer, direction : str
        What was worked for: forward or backward of a layer.
    arrays : mapping of str to int
        Bytes alive then, by the layer that made them, the largest first; together `MemoryUse.arrays_bytes`.
    """

    layer: str
    direction: str
    arrays: Mapping[str, int]


class _Heap:
    """Sizes of live arrays by who holds them."""

    at = "", ""
    """Layer and direction that the walk works for."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.holders: dict[str, set[str]] = {}
        self.held: dict[str, set[str]] = defaultdict(set)  # holder -> arrays
        self.live = self.peak = 0

    def take(self, array: str, size: int, *holders: str) -> None:
        for before in self.holders.get(array, ()):
            self.held[before].discard(array)
        self.live += size - self.sizes.get(array, 0)
        self.sizes[array], self.holders[array] = size, set(holders)
        for holder in holders:
            self.held[holder].add(array)
        self.peak = max(self.peak, self.live)

    def hold(self, array: str, holder: str) -> None:
        if array in self.holders:
            self.holders[array].add(holder)
            self.held[holder].add(array)

    def give(self, holder: str, arrays: Iterable[str] | None = None) -> None:
        mine = self.held[holder]
        for array in list(mine) if arrays is None else mine.intersection(arrays):
            mine.discard(array)
            self.holders[array].discard(holder)
            if not self.holders[array]:
                self.live -= self.sizes.pop(array)
                del self.holders[array]


class _Watched(_Heap):
    """A heap that writes down who made what, the first time that so many bytes are alive."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.makers = most, dict[str, str]()
        self.moment: Moment | None = None

    def take(self, array: str, size: int, *holders: str) -> None:
        super().take(array, size, *holders)
        self.makers[array] = self.at[0]
        if self.moment is None and self.live >= self.most:
            alive: dict[str, int] = defaultdict(int)
            for each, count in self.sizes.items():
                alive[self.makers[each]] += count
            self.moment = Moment(*self.at, dict(sorted(alive.items(), key=lambda item: -item[1])))


def predict_memory(placed: PlacedNetwork, rank: int, itemsize: int | Widths, states: int) -> MemoryUse:
    """Return what a step takes of a rank's memory.

    Parameters
    ----------
    itemsize
        Bytes of an element, the same for all or by what they are for.
    states
        Arrays of optimizer state a parameter (0 plain SGD, 1 momentum, 2 Adam), uncut.
    """
    elements = sum(volume(p.layout.box(rank)) for layer in placed.layers for p in layer.placement.parameters)
    widths = widths_of(itemsize)
    walk = _Walk(placed, rank, itemsize)
    walk.forward()
    walk.backward()
    wide = elements * widths.parameter
    # Products multiply by a copy of the values where activations are of another type.
    copies = 0 if widths.activation == widths.parameter else elements * widths.activation
    return MemoryUse(2 * wide + copies, states * wide, walk.heap.peak)


def worst_moment(placed: PlacedNetwork, rank: int, itemsize: int | Widths) -> Moment:
    """Return when a step has most arrays alive on a rank, and whose they are: for words about `predict_memory`."""
    walk = _Walk(placed, rank, itemsize)
    walk.forward()
    walk.backward()
    told = _Watched(walk.heap.peak)
    again = _Walk(placed, rank, itemsize, told)
    again.forward()
    again.backward()
    return told.moment or Moment("", "", {})


class _Walk:
    """A step of one rank: which array each edge and each gradient is."""

    def __init__(
        self, placed: PlacedNetwork, rank: int, itemsize: int | Widths, heap: _Heap | None = None
    ) -> None:
        widths = widths_of(itemsize)
        self.placed, self.rank, self.itemsize = placed, rank, widths.activation
        # Of a term of a sum, and of the message that it is packed into.
        self.terms = widths.activation + widths.parameter
        self.absorbed, self.passing = absorbed(placed), passing(placed)
        self.hosts = set(self.absorbed.values())
        self.heap = heap or _Heap()
        self.outputs: dict[str, str] = {}  # layer -> array
        self.users: dict[str, list[int]] = defaultdict(list)  # layer -> edges that leave it
        for number, edge in enumerate(placed.edges):
            self.users[edge.producer].append(number)
        order = {layer.node.name: at for at, layer in enumerate(placed.layers)}
        self.last = {
            producer: max((placed.edges[e].users[-1] for e in edges), key=order.__getitem__)
            for producer, edges in self.users.items()
        }

    def forward(self) -> None:
        for layer in self.placed.layers:
            name, spec = layer.node.name, layer.node.spec
            self.heap.at = name, "forward"
            arrived = [self._arrive(e, self.placed.edges[e]) for e in layer.edges]
            keeps = self._keeps(spec, name)
            if keeps == "x":
                for array in arrived:
                    self.heap.hold(array, name)
            if name in self.passing or isinstance(spec, (s.SoftmaxCrossEntropy, s.MeanSquaredError)):
                self.outputs[name] = arrived[0]
                self.heap.hold(arrived[0], f"out {name}")
                if name not in self.absorbed:
                    self.heap.hold(arrived[0], name)
            else:
                self.outputs[name] = name
                if layer.settle.kind != "none":
                    raw = self._size(layer.placement.raw) // self.itemsize
                    self.heap.take(f"raw {name}", raw * self.terms, "now")
                self.heap.take(name, self._output(layer), f"out {name}")
            if keeps == "y" or (name in self.hosts):
                self.heap.hold(name, name)
            if isinstance(spec, s.Pool) and spec.how == "max":
                self.heap.take(f"saved {name}", self._size(layer.placement.out) // self.itemsize, name)
            if isinstance(spec, s.Dropout):
                self.heap.take(f"mask {name}", self._size(layer.placement.out), name)
            for at, kept in enumerate(layer.placement.kept):
                self.heap.take(f"kept {name} {at}", self._size(kept), name)
            if name not in self.users:
                self.heap.give(f"out {name}")
            self.heap.give("now")
            for e in layer.edges:
                self._leave(e, name)

    def backward(self) -> None:
        coming: dict[int, str] = {}  # edge -> gradient on its way to the producer
        for layer in reversed(self.placed.layers):
            name, out = layer.node.name, self._size(layer.placement.out)
            self.heap.at = name, "backward"
            parts = []
            for i in self.users.get(name, ()):
                if i in coming:
                    parts.append(coming.pop(i))
                    self.heap.hold(parts[-1], "now")
                    self.heap.give(f"gradient {i}", parts[-1:])
            dy = parts[0] if parts else ""
            if len(parts) > 1:
                dy = f"sum {name}"
                self.heap.take(dy, out, "now")
                self.heap.give("now", parts)
            if name in self.hosts and not isinstance(layer.node.spec, s.BatchNorm):
                self.heap.take(f"masked {name}", out, "now")
                dy = f"masked {name}"
            if layer.settle.kind != "none":
                self.heap.take(f"spread {name}", self._size(layer.placement.raw), "now")
            passes = name in self.absorbed or isinstance(layer.node.spec, s.Add)
            for e in layer.edges:
                if self.placed.edges[e].producer == INPUT or isinstance(layer.node.spec, s.Embedding):
                    continue
                dx = dy if passes else f"dx {name} {e}"
                if not passes:
                    self.heap.take(dx, self._size(self.placed.edges[e].need), "now")
                if e in coming:  # of an earlier user: their sum is a third array
                    self.heap.take(f"both {name} {e}", self._size(self.placed.edges[e].need), "now")
                    self.heap.give(f"gradient {e}", [coming[e]])
                    dx = f"both {name} {e}"
                coming[e] = dx
                self.heap.hold(dx, f"gradient {e}")
            self.heap.give(name)
            self.heap.give("now")

    def _keeps(self, spec: s.LayerSpec, name: str) -> str:
        if isinstance(spec, KEEP_INPUTS):
            return "x"
        if isinstance(spec, s.Activation) and name not in self.absorbed:
            return "x" if spec.name in ("silu", "gelu") else "y"
        return ""

    def _output(self, layer: PlacedLayer) -> int:
        """Bytes of an output: with the margin that a halo is put around it."""
        name = layer.node.name
        readers = [name, *(relu for relu, host in self.absorbed.items() if host == name)]
        edges = (self.placed.edges[i] for i in sorted(i for r in readers for i in self.users.get(r, ())))
        margins = [self._size(e.need) for e in edges if e.exchange is not None and e.exchange.kind == "halo"]
        return max([self._size(layer.placement.out), *margins[:1]])

    def _arrive(self, number: int, edge: Edge) -> str:
        if edge.exchange is None:
            return INPUT
        made = self.outputs[edge.producer]
        if edge.exchange.kind in ("none", "halo"):  # read where it lies
            self.heap.hold(made, f"edge {number}")
            return made
        if f"edge {number}" not in self.heap.sizes:
            self.heap.take(f"edge {number}", self._size(edge.need), f"edge {number}")
        return f"edge {number}"

    def _leave(self, number: int, user: str) -> None:
        """Let go of what a layer has read."""
        edge = self.placed.edges[number]
        if edge.users[-1] == user:
            self.heap.give(f"edge {number}")
            if edge.producer != INPUT and self.last[edge.producer] == user:
                self.heap.give(f"out {edge.producer}")

    def _size(self, layout: Layout) -> int:
        return volume(layout.box(self.rank)) * self.itemsize
