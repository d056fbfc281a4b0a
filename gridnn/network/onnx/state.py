"""The network so far while an ONNX file is read: arrays by their layers, names, weights that are used twice.

A global pool makes features ``(C,)`` of ``(C, *space)``, ONNX keeps space of extent 1.  An `Array` has the shape that
the file's operators see; the layer behind it may have features only, and a window of 1 on it is a linear layer:

    GlobalAveragePool (C, 1, 1) -- Conv 1 x 1 (K, 1, 1) -- Flatten (K,)      file
    global pool       (C,)      -- linear     (K,)                           gridnn
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from gridnn.network import spec as s
from gridnn.network.graph import INPUT, Builder
from gridnn.network.onnx.values import Constant, Operator, Unsupported
from gridnn.network.onnx.windows import Pads


@dataclass(frozen=True)
class Array:
    """An array of the network: the layer that makes it, its shape for one sample, zeros to be put around it."""

    layer: str
    shape: tuple[int, ...]
    pads: Pads = ()


Value = Array | Constant
Inputs = Sequence[Value | None]


class State:
    """A network being built from a file.

    Parameters
    ----------
    batch
        The batch that the file fixes, or None.
    uses
        How often each value of the file is read.
    pools_keep_space
        Make windows of global pools, which keep space of extent 1; what comes after them may need it.
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], opset: int, batch: int | None, uses: Mapping[str, int], *,
        pools_keep_space: bool,
    ) -> None:  # fmt: skip
        self.net, self.opset, self.batch = Builder(name, shape), opset, batch
        self.uses, self.pools_keep_space = uses, pools_keep_space
        self.wants_space = False  # an operator was refused because a global pool left it no space
        self._owners: dict[tuple[object, ...], str] = {}

    def layer(
        self, op: Operator, spec: s.LayerSpec, inputs: Sequence[Array], shape: tuple[int, ...] | None = None,
        weight: Constant | None = None,
    ) -> Array:  # fmt: skip
        """Add a layer for an operator.

        Parameters
        ----------
        shape
            Of the output as the file sees it; by default that of the layer.
        weight
            The array of the file that it multiplies with: layers that have the same one share it.
        """
        names, shared = [x.layer for x in inputs], ""
        if weight is not None and weight.key:
            made = getattr(spec, "out", 0), getattr(spec, "bias", None), getattr(spec, "groups", 1)
            channels = self.net.shapes[names[0]][0]
            shared = self._owners.get((weight.key, type(spec), channels, made), "")
        name = self.net.add_layer(spec, names, self._name(op), shared)
        if weight is not None and weight.key and not shared:
            self._owners[weight.key, type(spec), channels, made] = name
        return Array(name, self.net.shapes[name] if shape is None else shape)

    def flat(self, op: Operator, x: Array) -> Array:
        """Return an array as features."""
        if len(self.net.shapes[x.layer]) == 1:
            return Array(x.layer, (prod(x.shape),))
        return self.layer(op, s.Flatten(), [x])

    def is_pooled(self, x: Array) -> bool:
        """True when a global pool has left features only, where the file sees space of extent 1."""
        return len(self.net.shapes[x.layer]) < len(x.shape)

    def is_rectified(self, x: Array) -> bool:
        """True when no element can be negative."""
        return self.spec(x) == s.Activation("relu")

    def spec(self, x: Array) -> s.LayerSpec | None:
        """Return what the layer of an array computes; None for the input."""
        return next((n.spec for n in self.net.nodes if n.name == x.layer), None)

    def needs_space(self) -> Unsupported:
        """Return the refusal of an operator that works on space, of which a global pool left none."""
        self.wants_space = True
        return Unsupported("on space after a global pool")

    def _name(self, op: Operator) -> str | None:
        """Return a name for the layer of an operator: its own made unique, None where it has none."""
        name = "_".join(op.name.split()).strip("/")
        if not name:
            return None
        taken, number = {*self.net.shapes, INPUT, "loss"}, 2
        unique = name
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        return unique


Convert = Callable[[State, Operator, Inputs], Array]


def array(inputs: Inputs, at: int = 0) -> Array:
    """Return an input that is an array of the network."""
    found = inputs[at] if at < len(inputs) else None
    if not isinstance(found, Array):
        raise Unsupported(f"whose input {at + 1} is constant")
    return found


def constant(inputs: Inputs, at: int, what: str) -> Constant:
    """Return an input that must be constant."""
    found = inputs[at] if at < len(inputs) else None
    if not isinstance(found, Constant):
        raise Unsupported(f"whose {what} is not constant")
    return found


def plain(inputs: Inputs, at: int = 0) -> Array:
    """Return an array that no padding waits for."""
    found = array(inputs, at)
    if found.pads:
        raise Unsupported("of a padded input")
    return found
