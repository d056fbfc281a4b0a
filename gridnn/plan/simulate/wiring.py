"""Which operations the program of a network has: its layers, and relays where one output has several readers.

Layers that want an output in one layout share an edge in a run: it is carried once, and the sum of their gradients
comes back once.  Whether they do depends on the schemes of all of them, so they meet at a relay behind the producer:

    pool -> relay -> 1x1 conv -> concat        relay: points that take no time, one for each rank of each
                  -> 3x3 conv ->               layout that somebody wants

The configuration of a relay is that of all who read there, as one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.network import spec as s
from gridnn.network.fusion import HOSTS
from gridnn.network.graph import INPUT, Network


class Use(NamedTuple):
    """A reader of an output, and which of its inputs that is."""

    reader: int
    number: int


@dataclass(frozen=True)
class Wiring:
    """Which operations a network has.

    Attributes
    ----------
    operations
        Node and whether it is the relay behind the node, in program order.
    at, relay
        Operation of each node, and of the relay behind it; -1 where there is none.
    uses
        Readers of each node's output.
    """

    operations: tuple[tuple[int, bool], ...]
    at: tuple[int, ...]
    relay: tuple[int, ...]
    uses: tuple[tuple[Use, ...], ...]

    def readers(self, node: int) -> tuple[int, ...]:
        """Return the distinct nodes that read a node's output."""
        return tuple(dict.fromkeys(use.reader for use in self.uses[node]))

    def configuration(self, operation: int, picks: Sequence[int], choices: Sequence[int]) -> int:
        """Return the configuration of an operation when node `i` has pick `picks[i]` of `choices[i]`."""
        node, is_relay = self.operations[operation]
        found = picks[node]
        if is_relay:
            found = 0
            for reader in self.readers(node):
                found = found * choices[reader] + picks[reader]
        return found

    def picked(self, node: int, configuration: int, choices: Sequence[int]) -> dict[int, int]:
        """Return the picks of the readers at a node's relay from its configuration."""
        found = {}
        for reader in reversed(self.readers(node)):
            configuration, found[reader] = divmod(configuration, choices[reader])
        return found

    def change(self, nodes: Sequence[int], picks: Sequence[int], choices: Sequence[int]) -> dict[int, int]:
        """Return the configurations of all operations that the picks of some nodes decide, `picks` being all picks."""
        above = {
            p
            for p, uses in enumerate(self.uses)
            if self.relay[p] >= 0 and any(u.reader in nodes for u in uses)
        }
        operations = [*(self.at[node] for node in nodes), *(self.relay[p] for p in above)]
        return {x: self.configuration(x, picks, choices) for x in operations}


def wiring_of(network: Network) -> Wiring:
    """Return the operations of a network."""
    index = {node.name: i for i, node in enumerate(network.nodes)}
    uses: list[list[Use]] = [[] for _ in index]
    for i, node in enumerate(network.nodes):
        for number, name in enumerate(node.inputs):
            if name != INPUT:
                uses[index[name]].append(Use(i, number))
    operations = [(i, r) for i in range(len(uses)) for r in (False, True)[: 1 + (len(uses[i]) > 1)]]
    place_of = {operation: at for at, operation in enumerate(operations)}
    return Wiring(
        tuple(operations),
        tuple(place_of[i, False] for i in range(len(uses))),
        tuple(place_of.get((i, True), -1) for i in range(len(uses))),
        tuple(map(tuple, uses)),
    )


def absorbed_by(network: Network) -> dict[int, int]:
    """Return the layer that computes each ReLU, where both stand on one scheme; see `network.fusion`."""
    found, wiring = dict[int, int](), wiring_of(network)
    for host, (node, uses) in enumerate(zip(network.nodes, wiring.uses, strict=True)):
        spec = network.nodes[uses[0].reader].spec if len(uses) == 1 else None
        if isinstance(node.spec, HOSTS) and isinstance(spec, s.Activation) and spec.name == "relu":
            found[uses[0].reader] = host
    return found
