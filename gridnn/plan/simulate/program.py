"""Programs: what the simulator is told of a network on a machine; costs only, no layers, no grids.

An operation in one of its configurations is a list of parts, each on a device; data flow between the parts of
operations, over links, which are devices too.  One step of one operation:

    inputs --> forward --> [after_forward] --> outputs        [ ] groups: sums or gathers among its parts, if any
    gradients of the outputs --> [before_backward] --> backward --> gradients of the inputs
                                                       backward --> [gradients] --> update

Everything is in nanoseconds, as integers, so that two simulations can be equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = Sequence[int] | NDArray[np.int64]
"""A short row of integers."""

LOCAL = -1
"""The link of a pair whose data need not be carried: both parts are on one device."""


@dataclass(frozen=True, eq=False)
class Group:
    """A collective: all `sources` are awaited, then `links` are busy for `ns`, then all `targets` may go on.

    Parameters
    ----------
    sources, targets
        Parts, at least one of each; the same ones for a sum within an operation.
    links, ns
        A device and nanoseconds for each task of the collective: one a member, one a node, as the machine has it.
        May be empty: then it is a barrier.
    """

    sources: Ints
    targets: Ints
    links: Ints
    ns: Ints


@dataclass(frozen=True, eq=False)
class Flow:
    """What moves between the parts of two operations in one direction.

    Parameters
    ----------
    source, target
        Parts of each pair: where the data leave, where they are awaited.
    link, ns
        The device that carries a pair, and how long; `LOCAL` for a pair on one device, which only orders.
    groups
        Collectives beside the pairs.
    """

    source: Ints = ()
    target: Ints = ()
    link: Ints = ()
    ns: Ints = ()
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, eq=False)
class OperationCost:
    """An operation in one configuration.

    Parameters
    ----------
    device, forward_ns, backward_ns, update_ns
        One entry a part.  Updates are simulated where one takes time or gradients are summed.
    after_forward, before_backward
        Collectives between computing and passing on: the sum of owed outputs, the gather of their gradients.
    gradients
        Sums of weight gradients: begin when the backward of their sources has ended; updates of their targets wait.
    """

    device: Ints
    forward_ns: Ints
    backward_ns: Ints
    update_ns: Ints
    after_forward: tuple[Group, ...] = ()
    before_backward: tuple[Group, ...] = ()
    gradients: tuple[Group, ...] = ()


@dataclass(frozen=True, eq=False)
class EdgeCost:
    """An edge between two operations, each in one configuration.

    Parameters
    ----------
    forward
        From parts of the producer to parts of the consumer.
    backward
        From parts of the consumer (`source`) to parts of the producer (`target`).
    """

    forward: Flow
    backward: Flow = Flow()


@dataclass(frozen=True, eq=False)
class Program:
    """A network as the simulator sees it.

    Parameters
    ----------
    operations
        Names, in program order: every edge goes from an earlier to a later one.  Ties between tasks that become
        ready at once are served in this order, forward; in the reverse order, backward.
    choices
        How many configurations each operation has.
    edges
        Producer and consumer of each edge.
    devices
        Names of ranks and links; a device is known by its index here.
    operation
        Cost of operation `i` in configuration `a`: ``operation(i, a)``.  Must be a function: the same answer each time.
    edge
        Cost of edge `e` when its ends have configurations `a` and `b`: ``edge(e, a, b)``.
    backward
        False simulates the forward pass alone.
    """

    operations: tuple[str, ...]
    choices: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    devices: tuple[str, ...]
    operation: Callable[[int, int], OperationCost]
    edge: Callable[[int, int, int], EdgeCost]
    backward: bool = True

    def __post_init__(self) -> None:
        assert len(self.choices) == len(self.operations), "one number of choices for each operation"
        for i, j in self.edges:
            assert 0 <= i < j < len(self.operations), f"edge {i} to {j} does not follow the program"
