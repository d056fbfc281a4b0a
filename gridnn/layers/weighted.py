"""What convolution, transposed convolution and linear share: Y~ settles, then the bias; and the reverse.

forward    Y = settle Y~ + b      the bias is cut like Y at rest, so it is added once, after the sum over c
backward   db = sum dY,  dY~ = spread dY
"""

from __future__ import annotations

from gridnn.comm.world import Array
from gridnn.compute.cpu import conv
from gridnn.layers.base import Layer


class Weighted(Layer):
    """A layer with a weight and perhaps a bias."""

    def finish(self, raw: Array) -> Array:
        """Return the output at rest from the output as computed."""
        y = self.settle(raw)
        return conv.add_bias(y, self.parameters["bias"].value) if "bias" in self.parameters else y

    def begin(self, dy: Array) -> Array:
        """Add the bias's gradient; return the gradient of the output as computed."""
        if "bias" in self.parameters:
            self.parameters["bias"].grad += conv.bias_gradient(dy)
        return self.spread(dy)
