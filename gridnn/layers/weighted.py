"""What convolution, transposed convolution and linear share: Y~ settles, then the bias and a ReLU; and the reverse.

forward    Y = relu(settle Y~ + b)     the bias is cut like Y at rest, so it is added once, after the sum over c
backward   dY = dY [Y > 0],  db = sum dY,  dY~ = spread dY

Where nothing is owed, bias and ReLU are the kernel's last touch on each tile (`epilogue`).
"""

from __future__ import annotations

from typing import TypedDict

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.layers.base import Layer, Parameter


class Epilogue(TypedDict):
    """What a kernel does to its output before it leaves the registers."""

    bias: Array | None
    relu: bool


class Weighted(Layer):
    """A layer with a weight and perhaps a bias."""

    KEEPS = ("_x", "_y")

    @property
    def epilogue(self) -> Epilogue:
        """Bias and ReLU, where the output is at rest as computed."""
        return {"bias": self._bias, "relu": self.rectified} if self.settled else {"bias": None, "relu": False}

    def recall(self, inputs: list[Pending]) -> None:
        """Keep the input: the output is computed only where backward masks by it, or a sum is part of it."""
        if self.masks or not self.settled:
            self.forward(inputs, True)
        else:
            self._x = inputs[0].wait()
            self._y: Array | None = None

    def finish(self, raw: Array) -> Array:
        """Return the output at rest from the output as computed with `epilogue`."""
        y = raw
        if not self.settled:
            y = self.compute.pointwise.add_bias(
                self.engine, self.settle(raw), self._bias, relu=self.rectified
            )
        self._y = y if self.masks else None
        return y

    def begin(self, dy: Array) -> Array:
        """Add the bias's gradient; return the gradient of the output as computed."""
        y, self._y = self._y, None
        if "bias" in self.parameters:
            dy = self.compute.pointwise.bias_gradient(self.engine, dy, self.parameters["bias"].grad, y)
        elif y is not None:
            dy = self.compute.pointwise.activate_backward(self.engine, "relu", y, dy)
        return self.spread(dy)

    def first(self, weight: Parameter) -> bool:
        """Return whether this is the step's first gradient of a weight, and note that it is made."""
        fresh, weight.fresh = weight.fresh, False
        return fresh

    @property
    def _bias(self) -> Array | None:
        return self.parameters["bias"].value if "bias" in self.parameters else None
