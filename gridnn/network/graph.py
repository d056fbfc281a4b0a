"""Networks: directed acyclic graphs of layers, and the builder that writes them.

net = Builder("small", (1, 8, 8))
x = net.conv(net.input, 16, 3, pad=1)
x = net.relu(net.batch_norm(x))
x = net.linear(net.flatten(x), 10)
network = net.done(net.cross_entropy(x))
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gridnn.errors import InputError
from gridnn.geometry.window import TransposedWindow, Upsampling, Window
from gridnn.network import spec as s

INPUT = "input"
Ints = int | Sequence[int]
Pads = int | Sequence[int | Sequence[int]]


@dataclass(frozen=True)
class Node:
    """A layer in its network: a unique name, what it computes, the names of its inputs.

    `shared` names the layer whose weights this one uses too; empty where it has its own.
    """

    name: str
    spec: s.LayerSpec
    inputs: tuple[str, ...]
    shared: str = ""


@dataclass(frozen=True)
class Network:
    """A network: nodes in topological order, the last one the loss.

    With heads (`network.heads`) there are losses before it, of stages; what is told of a network is of its last.
    """

    name: str
    input_shape: s.Shape
    nodes: tuple[Node, ...]

    @cached_property
    def shapes(self) -> dict[str, s.Shape]:
        """Output shape of one sample, by node name, the input included."""
        shapes = {INPUT: self.input_shape}
        for node in self.nodes:
            shapes[node.name] = s.out_shape(node.spec, tuple(shapes[i] for i in node.inputs), node.name)
        return shapes

    @property
    def loss(self) -> Node:
        """The loss node."""
        return self.nodes[-1]

    @property
    def output(self) -> str:
        """Name of the node that the loss judges."""
        return self.loss.inputs[0]

    @cached_property
    def tied(self) -> dict[str, str]:
        """The layer whose weights they use, by name of those that share: all of them must have one scheme."""
        return {n.name: n.shared for n in self.nodes if n.shared}

    @cached_property
    def digest(self) -> str:
        """A short hash of everything that defines the network: plans carry it."""
        return hashlib.blake2b(repr((self.input_shape, self.nodes)).encode(), digest_size=8).hexdigest()


def check_runs(network: Network) -> None:
    """Refuse a network that is a description for the planner: recurrent layers, weights shared by layers.

    Raises
    ------
    InputError
    """
    found = [n for n in network.nodes if isinstance(n.spec, s.SEQUENCES) or n.shared]
    if found:
        what = "shares weights" if found[0].shared else f"is {s.kind(found[0].spec)}"
        raise InputError(
            f"network {network.name} is a description for planning only: {len(found)} of its layers cannot be executed "
            f"(the first, {found[0].name}, {what}); plan it, or train another network"
        )


class Builder:
    """Writes a `Network` layer by layer; every method returns the new layer's name.

    Numbers given for kernels, strides, pads and dilations hold for all space dims; a sequence gives one per
    dim, and a pad may be a (low, high) pair per dim.
    """

    def __init__(self, name: str, input_shape: Sequence[int]) -> None:
        self.name, self.input = name, INPUT
        self.shapes: dict[str, s.Shape] = {INPUT: tuple(input_shape)}
        self.nodes: list[Node] = []

    def add_layer(
        self, spec: s.LayerSpec, inputs: Sequence[str], name: str | None = None, shared: str = ""
    ) -> str:
        """Append a layer; without a name it is called after its kind and a number.

        `shared` names an earlier layer, whose weights it uses.
        """
        word = s.kind(spec).replace(" ", "_").replace("-", "_")
        name = name or f"{word}{1 + sum(s.kind(n.spec) == s.kind(spec) for n in self.nodes)}"
        if name in self.shapes:
            raise InputError(f"layer {name}: the name is taken; names are unique")
        if missing := [i for i in inputs if i not in self.shapes]:
            raise InputError(f"layer {name}: input {missing[0]} does not exist (yet)")
        if shared:
            self._check_shared(name, spec, inputs, shared)
        self.shapes[name] = s.out_shape(spec, tuple(self.shapes[i] for i in inputs), name)
        self.nodes.append(Node(name, spec, tuple(inputs), shared))
        return name

    def _check_shared(self, name: str, spec: s.LayerSpec, inputs: Sequence[str], shared: str) -> None:
        owner = next((n for n in self.nodes if n.name == shared), None)
        if owner is None or owner.shared:
            raise InputError(
                f"layer {name}: {shared}, whose weights it shares, is no earlier layer with its own"
            )
        mine, theirs = (self.shapes[i][0] for i in (inputs[0], owner.inputs[0]))
        if (_weights(spec), mine) != (_weights(owner.spec), theirs):
            raise InputError(f"layer {name}: the weights of {shared} are of another kind or shape")

    def _dims(self, x: str) -> int:
        if x not in self.shapes:
            raise InputError(f"layer {x} does not exist (yet); add it before it is used")
        return len(self.shapes[x]) - 1

    def _windows(
        self, x: str, kernel: Ints, stride: Ints, pad: Pads, dilation: Ints
    ) -> list[tuple[int, int, int, int, int]]:
        dims = self._dims(x)
        pads = [
            p if isinstance(p, Sequence) else (p, p)
            for p in (pad if isinstance(pad, Sequence) else [pad] * dims)
        ]
        columns = (
            _each(kernel, dims),
            _each(stride, dims),
            [p[0] for p in pads],
            [p[1] for p in pads],
            _each(dilation, dims),
        )
        if any(len(c) != dims for c in columns):
            raise InputError(f"input {x} has {dims} space dims; give one number, or one per dim")
        return list(zip(*columns, strict=True))

    def conv(
        self, x: str, out: int, kernel: Ints, stride: Ints = 1, pad: Pads = 0, dilation: Ints = 1, groups: int = 1,
        bias: bool = True, start: str = "he_uniform", name: str | None = None,
    ) -> str:  # fmt: skip
        """Append a convolution; its weights start as `start` says, ``he_uniform`` or ``zeros``."""
        if start not in ("he_uniform", "zeros"):
            raise InputError(f'weights cannot start as "{start}"; use he_uniform or zeros')
        windows = tuple(Window(*w) for w in self._windows(x, kernel, stride, pad, dilation))
        return self.add_layer(s.Conv(out, windows, groups, bias, start), [x], name)

    def conv_transpose(
        self, x: str, out: int, kernel: Ints, stride: Ints = 1, pad: Pads = 0, dilation: Ints = 1, out_pad: Ints = 0,
        bias: bool = True, name: str | None = None,
    ) -> str:  # fmt: skip
        """Append a transposed convolution."""
        rows = self._windows(x, kernel, stride, pad, dilation)
        extra = _each(out_pad, len(rows))
        if len(extra) != len(rows):
            raise InputError(f"input {x} has {len(rows)} space dims; give one out_pad, or one per dim")
        windows = tuple(TransposedWindow(*w, out_pad=e) for w, e in zip(rows, extra, strict=True))
        return self.add_layer(s.ConvTranspose(out, windows, bias), [x], name)

    def pool(
        self, x: str, how: str, kernel: Ints, stride: Ints | None = None, pad: Pads = 0, count_pad: bool = True,
        name: str | None = None,
    ) -> str:  # fmt: skip
        """Append a max or average pool; the stride is the kernel unless given."""
        windows = tuple(
            Window(*w) for w in self._windows(x, kernel, kernel if stride is None else stride, pad, 1)
        )
        return self.add_layer(s.Pool(how, windows, count_pad), [x], name)

    def max_pool(
        self, x: str, kernel: Ints, stride: Ints | None = None, pad: Pads = 0, name: str | None = None
    ) -> str:
        """Append a max pool."""
        return self.pool(x, "max", kernel, stride, pad, name=name)

    def upsample(self, x: str, factor: Ints = 2, how: str = "nearest", name: str | None = None) -> str:
        """Append an upsampling, ``nearest`` or ``linear``."""
        if how not in ("nearest", "linear"):
            raise InputError(f'upsampling "{how}" is not known; use nearest or linear')
        factors = _each(factor, self._dims(x))
        return self.add_layer(s.Upsample(tuple(Upsampling(f, how == "linear") for f in factors)), [x], name)

    def linear(self, x: str, out: int, bias: bool = True, name: str | None = None) -> str:
        """Append a fully connected layer."""
        return self.add_layer(s.Linear(out, bias), [x], name)

    def batch_norm(self, x: str, eps: float = 1e-5, momentum: float = 0.1, name: str | None = None) -> str:
        """Append a batch normalisation."""
        return self.add_layer(s.BatchNorm(eps, momentum), [x], name)

    def layer_norm(self, x: str, eps: float = 1e-5, name: str | None = None) -> str:
        """Append a layer normalisation."""
        return self.add_layer(s.LayerNorm(eps), [x], name)

    def activation(self, x: str, function: str = "relu", name: str | None = None) -> str:
        """Append an elementwise function."""
        if function not in s.ACTIVATIONS:
            raise InputError(f'activation "{function}" is not known; use one of {", ".join(s.ACTIVATIONS)}')
        return self.add_layer(s.Activation(function), [x], name)

    def relu(self, x: str, name: str | None = None) -> str:
        """Append a ReLU."""
        return self.activation(x, "relu", name)

    def dropout(self, x: str, rate: float = 0.5, name: str | None = None) -> str:
        """Append a dropout."""
        return self.add_layer(s.Dropout(rate), [x], name)

    def global_pool(self, x: str, how: str = "average", name: str | None = None) -> str:
        """Append a global pool: (C, *space) to (C,)."""
        return self.add_layer(s.GlobalPool(how), [x], name)

    def flatten(self, x: str, name: str | None = None) -> str:
        """Append a flatten; features pass unchanged."""
        return x if self._dims(x) == 0 else self.add_layer(s.Flatten(), [x], name)

    def add(self, *inputs: str, name: str | None = None) -> str:
        """Append a sum."""
        return self.add_layer(s.Add(), inputs, name)

    def concat(self, *inputs: str, name: str | None = None) -> str:
        """Append a concatenation along channels."""
        return self.add_layer(s.Concat(), inputs, name)

    def cross_entropy(self, x: str, smoothing: float = 0.0) -> str:
        """Append softmax and cross-entropy, the loss."""
        return self.add_layer(s.SoftmaxCrossEntropy(smoothing), [x], "loss")

    def squared_error(self, x: str) -> str:
        """Append the mean squared error, the loss."""
        return self.add_layer(s.MeanSquaredError(), [x], "loss")

    def done(self, loss: str) -> Network:
        """Return the finished network, whose last layer is `loss`.

        Raises
        ------
        InputError
            If the last layer is not a loss, or some layer is used by none.
        """
        used = {i for n in self.nodes for i in n.inputs} | {loss}
        if not self.nodes or self.nodes[-1].name != loss or not isinstance(self.nodes[-1].spec, s.LOSSES):
            raise InputError(f"network {self.name}: the last layer must be the loss")
        if idle := [n.name for n in self.nodes if n.name not in used]:
            raise InputError(f"network {self.name}: nothing uses layer {idle[0]}; remove it or use it")
        return Network(self.name, self.shapes[INPUT], tuple(self.nodes))


def _weights(spec: s.LayerSpec) -> tuple[object, ...]:
    """Return what, beside the channels of its input, gives the weights of a layer their shapes."""
    kernels = tuple(getattr(w, "kernel", 0) for w in getattr(spec, "windows", ()))
    words = ("out", "hidden", "vocabulary", "groups", "bias")
    return (type(spec), kernels, *(getattr(spec, word, None) for word in words))


def _each(value: Ints, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)
