"""Elementwise nonlinearities and their derivatives (NumPy, SciPy).

    name      y                   dy/dx                        backward needs
    relu      max(x, 0)           1 where y > 0                y
    tanh      tanh x              1 - y^2                      y
    sigmoid   1 / (1 + e^-x)      y (1 - y)                    y
    silu      x s, s = sigmoid    s (1 + x (1 - s))            x
    gelu      x P, P = normal     P + x p, p = its density     x
              distribution

What backward needs is what a layer has to keep between the passes; y is often kept
by the next layer anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt
from types import MappingProxyType
from typing import Literal

import numpy as np
from scipy import special

from gridnn.compute.cpu.reference.window import Array


@dataclass(frozen=True)
class Activation:
    """One nonlinearity: its value, its gradient from what was kept, and which of x, y that is."""

    value: Callable[[Array], Array]
    gradient: Callable[[Array, Array], Array]  # (kept, dy) -> dx
    keeps: Literal["x", "y"]


def _relu(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0))


def _relu_gradient(y: Array, dy: Array) -> Array:
    # A product with the mask is ten times faster than a choice; an infinite dy turns into NaN.
    return np.asarray(dy * (y > 0))


def _tanh_gradient(y: Array, dy: Array) -> Array:
    return np.asarray(dy * (1 - y * y))


def _sigmoid_gradient(y: Array, dy: Array) -> Array:
    return np.asarray(dy * (y * (1 - y)))


def _silu(x: Array) -> Array:
    return np.asarray(x * special.expit(x))


def _silu_gradient(x: Array, dy: Array) -> Array:
    s = special.expit(x)
    return np.asarray(dy * (s * (1 + x * (1 - s))))


def _gelu(x: Array) -> Array:
    # The distribution itself, not (1 + erf) / 2, keeps the small values of the left tail.
    return np.asarray(x * special.ndtr(x))


def _gelu_gradient(x: Array, dy: Array) -> Array:
    density = np.exp(-0.5 * x * x) * (1 / sqrt(2 * pi))
    return np.asarray(dy * (special.ndtr(x) + x * density))


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "relu": Activation(_relu, _relu_gradient, "y"),
        "tanh": Activation(np.tanh, _tanh_gradient, "y"),
        "sigmoid": Activation(special.expit, _sigmoid_gradient, "y"),
        "silu": Activation(_silu, _silu_gradient, "x"),
        "gelu": Activation(_gelu, _gelu_gradient, "x"),
    }
)

FORWARD_KEEPS: Mapping[str, Literal["x", "y"]] = MappingProxyType(
    {name: activation.keeps for name, activation in ACTIVATIONS.items()}
)


def forward(name: str, x: Array) -> Array:
    """The nonlinearity of that name, elementwise; any shape, dtype of x."""
    return ACTIVATIONS[name].value(x)


def backward(name: str, x: Array | None, y: Array | None, dy: Array) -> Array:
    """Gradient by x; only the array that `FORWARD_KEEPS` names is read, the other may be None."""
    activation = ACTIVATIONS[name]
    kept = x if activation.keeps == "x" else y
    assert kept is not None, f"backward of {name} needs {activation.keeps}"
    return activation.gradient(kept, dy)
