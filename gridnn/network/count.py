"""Counts of a network: weights, activations, floating point operations, as integers per sample and layer.

All are by the definition and not by an implementation: a Winograd or FFT convolution does less.
"""

from __future__ import annotations

from math import prod

from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import spec as s
from gridnn.network.graph import Network
from gridnn.network.placement import Placement, place


def parameter_counts(network: Network) -> dict[str, int]:
    """Return the number of weights of every layer, biases and norms included, 0 where it has none of its own."""
    placed = _alone(network)
    return {
        node.name: 0 if node.shared else sum(prod(p.shape) for p in placed[node.name].parameters)
        for node in network.nodes
    }


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

    Only convolutions, linear layers, LSTM and attention multiply and add; biases and all other layers, whose time
    is that of their memory traffic, count 0.
    """
    placed = _alone(network)
    return {n.name: 2 * multiply_adds(n.spec, placed[n.name], 0) for n in network.nodes}


def flop_count(network: Network) -> int:
    """Return the forward operations of a network for one sample."""
    return sum(flop_counts(network).values())


def multiply_adds(spec: s.LayerSpec, placement: Placement, rank: int) -> int:
    """Return the multiply-adds of one forward pass of a layer on one rank: those of its boxes."""
    y, x = placement.raw.block_shape(rank), placement.needs[0].block_shape(rank)
    if isinstance(
        spec, s.Conv
    ):  # a block of a grouped convolution may hold more channels than an output reads
        channels = x[1] if spec.groups == 1 else placement.needs[0].shape[1] // spec.groups
        return prod(y) * channels * prod(w.kernel for w in spec.windows)
    if isinstance(spec, s.ConvTranspose):  # every input element is spread over a kernel of outputs
        return prod(x) * y[1] * prod(w.kernel for w in spec.windows)
    if isinstance(spec, s.Linear):
        return prod(y) * x[1]
    if isinstance(spec, s.LSTM):  # four gates of the features and of the hidden state, every step
        return 4 * x[2] * y[0] * y[1] * (x[1] + spec.hidden)
    if isinstance(spec, s.Attention):  # products of queries and keys, then the mean of the keys
        return 2 * prod(y) * placement.needs[1].shape[2]
    return 0


def _alone(network: Network) -> dict[str, Placement]:
    """Return every layer on one rank with one sample."""
    shapes = {name: (1, *shape) for name, shape in network.shapes.items()}
    return {
        n.name: place(n.spec, tuple(shapes[i] for i in n.inputs), shapes[n.name], Scheme(GridShape()))
        for n in network.nodes
    }
