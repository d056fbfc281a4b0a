"""The table of Gholami et al. 2018 (SPAA, arXiv 1712.04432): a network as the numbers that its equations take.

A layer is the product Y_i = W_i X_i; a column of X_i and Y_i is one sample (section 2).  AlexNet in two groups:

| layer | X           | Y          | d_{i-1} | d_i    | weights |
|-------|-------------|------------|---------|--------|---------|
| conv1 | 3, 227x227  | 96, 55x55  | 154587  | 290400 | 34848   |
| ...   |             |            |         |        |         |
| fc8   | 4096        | 1000       | 4096    | 1000   | 4096000 |

Only layers with weights have a row.  d_i is the output of the product itself: ReLU and pools come after it, so
that the d_{i-1} of a row may be less than the d_i of the row above (conv1 gives 290400, conv2 takes 69984).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import spec as s
from gridnn.network.graph import Network, Node
from gridnn.network.placement import place

WEIGHTED = (s.Conv, s.ConvTranspose, s.Linear)


@dataclass(frozen=True)
class PaperLayer:
    """A row of the table; sizes are words of one sample.

    Attributes
    ----------
    kind : str
        ``conv`` or ``fc``.
    d_in, d_out : int
        d_{i-1} and d_i.
    weights : int
        |W_i| without biases, a grouped convolution by what it holds.
    kernel, stride : tuple of int
        Of the window, height first; empty for fc.
    x_channels, y_channels, next_channels : int
        X_C, Y_C, and X_C of the layer that follows.
    x_space, y_space, next_space : tuple of int
        Extents, height first; empty for fc.
    """

    name: str
    kind: str
    d_in: int
    d_out: int
    weights: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    x_channels: int
    x_space: tuple[int, ...]
    y_channels: int
    y_space: tuple[int, ...]
    next_channels: int
    next_space: tuple[int, ...]

    @property
    def x_width(self) -> int:
        """X_W: every space extent but the height, which the domain cuts (two of them in 3-D, none in 1-D)."""
        return prod(self.x_space[1:])

    @property
    def y_width(self) -> int:
        """Y_W, of the output itself."""
        return prod(self.y_space[1:])

    @property
    def next_width(self) -> int:
        """X_W of the layer that follows: after pools, before a flatten."""
        return prod(self.next_space[1:])

    @property
    def eq2_width(self) -> int:
        """Y_W as Eq. 2 has it, floor(X_W / s): 56 for AlexNet's conv1, whose output is 55 wide."""
        return prod(x // by for x, by in zip(self.x_space[1:], self.stride[1:], strict=True))

    @property
    def eq2_weights(self) -> int:
        """|W_i| as Eq. 2 has it, kh kw X_C Y_C: groups are not known there."""
        return prod(self.kernel) * self.x_channels * self.y_channels


def paper_layers(network: Network) -> tuple[PaperLayer, ...]:
    """Return the rows of a network, in the order of its layers.

    Raises
    ------
    InputError
        If no layer has weights, so that every equation would be an empty sum, or some layer with weights is no
        product Y = W X: the paper says that recurrent networks fit, but not how.
    """
    for node in network.nodes:
        if isinstance(node.spec, s.LSTM | s.Embedding):
            raise InputError(
                f"layer {node.name}: the equations of Gholami et al. know convolutions and linear layers, "
                f"not {s.kind(node.spec)}; price the network with a machine instead"
            )
    first_user: dict[str, Node] = {}
    for node in network.nodes:
        for name in node.inputs:
            first_user.setdefault(name, node)
    rows = tuple(_row(network, n, first_user) for n in network.nodes if isinstance(n.spec, WEIGHTED))
    if not rows:
        raise InputError(
            f"network {network.name}: no layer has weights; the equations need convolutions or linear layers"
        )
    return rows


def eq5_ratio(layer: PaperLayer, batch: int) -> float:
    """Words that pure batch moves over words that pure model moves (Gholami et al. 2018, Eq. 5).

    2 kh kw X_C / (3 B Y_H Y_W) as printed, and 2 |W_i| / (3 B d_i) for fc, which it is an instance of.
    """
    return crossover_batch(layer) / batch


def crossover_batch(layer: PaperLayer) -> float:
    """Batch above which pure batch moves less than pure model (Gholami et al. 2018, Eq. 5 solved for B).

    A grouped convolution holds 1/groups of Eq. 2's weights, and its true crossover is 1/groups of this one.
    The paper's own "B <= 12" for 3x3 on 13 x 13 x 384 is 13.6 by its equation.
    """
    return 2 * layer.eq2_weights / (3 * layer.d_out)


def _row(network: Network, node: Node, first_user: dict[str, Node]) -> PaperLayer:
    spec, x, y = node.spec, network.shapes[node.inputs[0]], network.shapes[node.name]
    placed = place(spec, ((1, *x),), (1, *y), Scheme(GridShape()))
    windows = spec.windows if isinstance(spec, s.Conv | s.ConvTranspose) else ()
    after = _next_input(network, node.name, first_user)
    return PaperLayer(
        name=node.name,
        kind="conv" if windows else "fc",
        d_in=prod(x),
        d_out=prod(y),
        weights=sum(prod(p.shape) for p in placed.parameters if p.name == "weight"),
        kernel=tuple(w.kernel for w in windows),
        stride=tuple(w.stride for w in windows),
        x_channels=x[0],
        x_space=x[1:],
        y_channels=y[0],
        y_space=y[1:],
        next_channels=after[0],
        next_space=after[1:],
    )


def _next_input(network: Network, name: str, first_user: dict[str, Node]) -> s.Shape:
    """Return X^{i+1}: what the next layer with weights reads, while it still has its space.

    The paper's networks are chains; of several users the first is followed.
    """
    shape = network.shapes[name]
    while name in first_user:
        node = first_user[name]
        out = network.shapes[node.name]
        if isinstance(node.spec, WEIGHTED) or len(out) != len(shape):
            break
        name, shape = node.name, out
    return shape
