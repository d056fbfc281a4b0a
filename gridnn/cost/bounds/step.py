"""Lower bounds of a training step of a layer: three products of the same three arrays.

| product      | reads       | adds to  | a rank that makes the same multiplications in all three moves           |
|--------------|-------------|----------|--------------------------------------------------------------------------|
| Y  = W X     | W, X        | Y        | its face of W in, of dW out   (the all-reduce over n: both halves)       |
| dX = W^T dY  | W, dY       | dX       | its face of X in, of dX out                                              |
| dW = dY X^T  | dY, X       | dW       | its face of Y out, of dY in                                              |

With B the bound of one product (`matmul.moved_words`), and everything at rest in one copy before and after:

| bound     | words | holds for                                                                                    |
|-----------|-------|----------------------------------------------------------------------------------------------|
| `product` | 3 B   | three products each made on its own: a library call each, nothing kept from one to the next  |
| `step`    | 2 B   | operands kept, a rank makes the same multiplications in all three: every plan of gridnn      |
| `any`     | 1.5 B | operands kept, any multiplications: with M moved in and C moved out, the three products one  |
|           |       | by one move at most 2 M + C, hence 3 B <= 2 M + C and M + C >= 1.5 B + C / 2                 |

A first layer reads its X from the data, nobody moves it, and makes no dX: two products in which X costs nothing.  Its
bound is 0: cut by k alone it moves nothing.  All are our conclusions from the bound of one product; see
docs/decisions/0042.
"""

from __future__ import annotations

from typing import NamedTuple

from gridnn.cost.bounds.matmul import Product, Triple, memory_words, moved_words, regime


class StepBound(NamedTuple):
    """Elements that some rank must move in a step; the table above says of which algorithms.

    `memory` follows from `matmul.memory_words`, None where no memory is given.
    """

    regime: str
    product: float
    step: float
    any: float
    memory: float | None


def step_bound(
    product: Product, procs: int, *, first: bool = False, shares: bool = False, memory: float | None = None
) -> StepBound:
    """Return the bounds of a step of a layer.

    Parameters
    ----------
    procs
        Ranks that share the layer's multiplications equally.
    first
        The layer reads the input of the network.
    shares
        Its weights belong to another layer, which moves them.
    memory
        Elements that a rank can hold.
    """
    counts: Triple = (0.0 if shares else 1.0, 0.0 if first else 1.0, 1.0)
    once = moved_words(product, procs, counts)
    small = None
    if memory is not None:
        # Backward begins when forward is over, so what two of the products move adds up; the third may be made
        # together with the second.  One process has nobody to send to, and what is read again is not moved.
        small = 0.0 if procs == 1 or first or shares else 2 * memory_words(product, procs, memory)
    return StepBound(
        regime(product, procs), (2 if first else 3) * once, 2 * once, (2 if first else 1.5) * once, small
    )
