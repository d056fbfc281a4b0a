"""Counts of a network: weights, activations, floating point operations, as integers per sample and layer.

All are by the definition and not by an implementation: a Winograd or FFT convolution does less.
"""

from __future__ import annotations

from math import prod

from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import spec as s
from gridnn.network.graph import Network, Node
from gridnn.network.placement import place


def parameter_counts(network: Network) -> dict[str, int]:
    """Return the number of weights of every layer, biases and norms included, 0 where it has none."""
    alone = Scheme(GridShape())
    shapes = {name: (1, *shape) for name, shape in network.shapes.items()}
    counts = {}
    for node in network.nodes:
        placed = place(node.spec, tuple(shapes[i] for i in node.inputs), shapes[node.name], alone)
        counts[node.name] = sum(prod(p.shape) for p in placed.parameters)
    return counts


def parameter_count(network: Network) -> int:
    """Return the number of weights of a network."""
    return sum(parameter_counts(network).values())


def activation_counts(network: Network) -> dict[str, int]:
    """Return the number of output elements of every layer for one sample; the loss has none."""
    return {n.name: prod(network.shapes[n.name]) for n in network.nodes[:-1]}


def activation_count(network: Network) -> int:
    """Return the number of elements of all layer outputs for one sample, the input not included."""
    return sum(activation_counts(network).values())


def flop_counts(network: Network) -> dict[str, int]:
    """Return the forward operations of every layer for one sample: two a multiply-add.

    Only convolutions and linear layers multiply and add; biases and all other layers, whose time is that of
    their memory traffic, count 0.
    """
    return {n.name: 2 * _multiply_adds(network, n) for n in network.nodes}


def flop_count(network: Network) -> int:
    """Return the forward operations of a network for one sample."""
    return sum(flop_counts(network).values())


def _multiply_adds(network: Network, node: Node) -> int:
    x, y, spec = network.shapes[node.inputs[0]], network.shapes[node.name], node.spec
    if isinstance(spec, s.Conv):
        return prod(y) * (x[0] // spec.groups) * prod(w.kernel for w in spec.windows)
    if isinstance(spec, s.ConvTranspose):  # every input element is spread over a kernel of outputs
        return prod(x) * y[0] * prod(w.kernel for w in spec.windows)
    return prod(x) * prod(y) if isinstance(spec, s.Linear) else 0
