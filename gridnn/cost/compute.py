"""The arithmetic of a layer on one rank: operations and elements touched, from its boxes, and their seconds.

Seconds were measured with arrays of one width, and a job may have another (`Machine.at`).  What of them scales by
``width of the job / width of what was measured``, of activations but where it says otherwise:

| seconds of                                   | by rates                   | by the profile           |
|----------------------------------------------|----------------------------|--------------------------|
| a pass at least (`layer_s`)                  | as measured                | as measured              |
| a product                                    | as measured                | as measured, all of it   |
| elements that a product's pass touches       | by width                   | in the product           |
| layers without weights                       | by width                   | above `layer_s` by width |
| the update                                   | by the width of parameters |                          |

Assumed is that what has no product waits for memory: half of the bytes take half of the time.  That holds for large
blocks; small ones, and kernels that wait for their arithmetic (gelu, softmax), gain less than is told.  How much faster
a product is in another precision nobody knows who has not measured it, so it stays; `Machine.mismatch` says so.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.machine import Machine
from gridnn.cost.profile import BlockShape, Pass
from gridnn.geometry.interval import extents_of, volume
from gridnn.network import spec as s
from gridnn.network.count import multiply_adds
from gridnn.network.graph import INPUT
from gridnn.network.placed import PlacedLayer

Floats = NDArray[np.float64]
WEIGHTED = (s.Conv, s.ConvTranspose, s.Linear, s.LSTM)
"""Kinds with a product of inputs and weights, and so three products a step."""


class Work(NamedTuple):
    """Floating-point operations of matrix products, and elements read or written by the rest."""

    product_flops: int
    touched: int


def forward_work(layer: PlacedLayer, rank: int) -> Work:
    """Return the work of one forward pass of one layer on one rank.

    A multiply-add is two operations; the backward pass of a weighted layer is two more such products
    (Gholami et al. 2018, section 2: three products a layer), that of any other about the same again.
    """
    spec, place = layer.node.spec, layer.placement
    out, product_flops = volume(place.raw.box(rank)), 2 * multiply_adds(spec, place, rank)
    if isinstance(spec, WEIGHTED):
        return Work(product_flops, out + sum(volume(kept.box(rank)) for kept in place.kept))
    taps = prod(w.kernel for w in spec.windows) if isinstance(spec, s.Pool) else 1
    return Work(product_flops, taps * out + sum(volume(need.box(rank)) for need in place.needs))


def pass_seconds(layer: PlacedLayer, rank: int, machine: Machine, pass_: Pass) -> float:
    """Return the seconds of one pass of a layer on a rank; 0 on ranks outside its scheme.

    | pass      | weighted layers                           | all others                          |
    |-----------|-------------------------------------------|-------------------------------------|
    | forward   | product, output written                   | inputs read, output written         |
    | data      | product, output's gradient read           | the same; none where there is no dX |
    | weights   | product                                   | none                                |

    What the machine's profile has measured comes from there, the rest from its rates and `layer_s`.  A layer that
    reads only the input of the network makes no gradient by it.
    """
    if rank not in layer.scheme.ranks or (pass_ == "weights" and not isinstance(layer.node.spec, WEIGHTED)):
        return 0.0
    if pass_ == "data" and all(name == INPUT for name in layer.node.inputs):
        return 0.0
    if machine.profile is not None:
        need, raw = layer.placement.needs[0].box(rank), layer.placement.raw.box(rank)
        measured = machine.profile.seconds(
            layer.node.spec, pass_, BlockShape(extents_of(need), extents_of(raw))
        )
        if measured is not None:
            return float(at_width(machine, layer.node.spec, np.asarray(measured)))
    work = forward_work(layer, rank)
    return work_seconds(machine, Work(work.product_flops, 0 if pass_ == "weights" else work.touched))


def masked_seconds(layer: PlacedLayer, rank: int, machine: Machine) -> float:
    """Return what a ReLU costs that the layer before it rectifies for: its gradient is masked in a pass over it.

    Forward it costs nothing, on the way out of the product; backward what its own layer takes, but for calling it.
    """
    return max(0.0, pass_seconds(layer, rank, machine, "data") - machine.layer_s)


def work_seconds(machine: Machine, work: Work) -> float:
    """Return the seconds of one pass by the machine's rates."""
    product_s = work.product_flops / machine.flops_per_s
    touched_s = work.touched * machine.touch_s_per_element * machine.narrower(machine.element_bytes)
    return machine.layer_s + product_s + touched_s


def at_width(machine: Machine, spec: s.LayerSpec, measured_s: Floats) -> Floats:
    """Return what a profile's seconds of passes of a layer are at the width of the job's activations.

    Parameters
    ----------
    measured_s
        As the machine's profile tells them; an empty block takes none.
    """
    assert machine.profile is not None
    factor = machine.narrower(machine.profile.element_bytes)
    if factor == 1 or isinstance(spec, WEIGHTED):
        return measured_s
    calls_s = np.minimum(measured_s, machine.layer_s)
    return np.asarray(calls_s + (measured_s - calls_s) * factor)
