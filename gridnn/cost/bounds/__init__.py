"""The least that must be moved: communication lower bounds of a layer, and what a placed layer moves beside them.

| file     | holds                                                                                      |
|----------|--------------------------------------------------------------------------------------------|
| `matmul` | a product of two arrays, the least faces of its multiplications, the bounds of one product |
| `conv`   | layers as products: what of an input a window reads, and how often                         |
| `step`   | the three products of a training step, with and without reuse of what lies there           |
| `moved`  | what a plan moves for a layer, rank by rank; the best grid of a layer alone                |

What is cited, what is derived here, and what could not be checked is in docs/decisions/0042.
"""
