"""Resize and Upsample: which of ONNX's many ways to choose source pixels are gridnn's, for integer factors.

Output o reads, at factor f, what `coordinate_transformation_mode` says, rounded by `nearest_mode`:

| gridnn  | coordinate                                   | is ONNX's                                               |
|---------|----------------------------------------------|---------------------------------------------------------|
| nearest | floor(o / f)                                 | asymmetric + floor; half_pixel (any) + any round_...;   |
|         |                                              | asymmetric + round_prefer_floor up to f = 2;            |
|         |                                              | tf_half_pixel_for_nn + floor                            |
| linear  | (o + 1/2) / f - 1/2, clamped                 | half_pixel, pytorch_half_pixel, half_pixel_symmetric    |

Half-pixel coordinates are at most (f - 1) / 2f < 1/2 from the pixel they belong to, so every rounding finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridnn.geometry.window import Upsampling
from gridnn.network import spec as s
from gridnn.network.onnx.fold import numbers
from gridnn.network.onnx.state import Array, Inputs, State, constant, plain
from gridnn.network.onnx.values import Constant, Operator, Unsupported

HALF = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")


def resize(state: State, op: Operator, inputs: Inputs) -> Array:
    """Add an upsampling; factors of 1 add nothing."""
    x = plain(inputs)
    old = op.op == "Upsample" or state.opset < 11  # floor(o / f), and scales as the second input
    factors = _factors(op, inputs, x, old)
    if all(f == 1 for f in factors):
        return x
    if state.is_pooled(x):
        raise state.needs_space()
    linear = op.attributes.get("mode", "nearest") != "nearest"
    _check_mode(op.attributes, old, max(factors))
    return state.layer(op, s.Upsample(tuple(Upsampling(f, linear) for f in factors)), [x])


def _factors(op: Operator, inputs: Inputs, x: Array, old: bool) -> list[int]:
    """Return the factor of every space dim, from scales or from sizes."""
    full, at = (1, *x.shape), 1 if old else 2
    axes = [a % len(full) for a in op.attributes.get("axes", range(len(full)))]
    given = inputs[at] if len(inputs) > at else None
    scales = op.attributes.get("scales")
    if scales is None and isinstance(given, Constant) and given.shape != (0,):
        scales = numbers(given)
    if scales is None:
        sizes = numbers(constant(inputs, at if old else 3, "size"))
        # The size of the batch is that of the input, whatever it is.
        rows = zip(axes, sizes, strict=False)
        scales = [n / full[a] if a and isinstance(n, int | float) else 1 if not a else n for a, n in rows]
    by_dim = [1, *[1] * len(x.shape)] if len(scales) == len(axes) else []
    for axis, scale in zip(axes, scales, strict=False):
        if not isinstance(scale, int | float) or scale < 1 or scale != int(scale) or not by_dim:
            raise Unsupported(f"by {tuple(scales)}, which are not integers for {len(full)} dims")
        by_dim[axis] = int(scale)
    if by_dim[:2] != [1, 1]:
        raise Unsupported(f"by {tuple(scales)}, in other dims than space")
    return by_dim[2:]


def _check_mode(attributes: Mapping[str, Any], old: bool, factor: int) -> None:
    """Refuse coordinates that are not those of gridnn."""
    mode = attributes.get("mode", "nearest")
    where = attributes.get("coordinate_transformation_mode", "half_pixel")
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    if old:
        where, rounding = "asymmetric", "floor"
    if mode == "nearest":
        fits = (
            (
                where == "asymmetric"
                and (rounding == "floor" or (rounding == "round_prefer_floor" and factor < 3))
            )
            or (where in HALF and rounding.startswith("round_"))
            or (where == "tf_half_pixel_for_nn" and rounding == "floor")
        )
        how = f"{mode}, {where}, {rounding}"
    else:
        fits, how = mode == "linear" and where in HALF, f"{mode}, {where}"
    if not fits:
        raise Unsupported(f"in mode {how}, by {factor}")
