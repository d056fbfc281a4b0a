"""Equations 3 to 9 of Gholami et al. 2018 (SPAA, arXiv 1712.04432), as printed: a step's communication.

P = Pr x Pc processes; Pc cuts the batch, Pr the model or the domain.  Layer i pays, by what Pr cuts:

| term           | over | messages        | words                        | model | domain |
|----------------|------|-----------------|------------------------------|-------|--------|
| model_gather   | Pr   | ceil(log2 Pr)   | B/Pc (Pr-1)/Pr d_i           | Eq. 3 |        |
| model_sum      | Pr   | 2 ceil(log2 Pr) | 2 B/Pc (Pr-1)/Pr d_i         | Eq. 3 |        |
| halo_forward   | Pr   | 1               | B/Pc X_W X_C floor(kh/2)     |       | Eq. 7  |
| halo_backward  | Pr   | 1               | B/Pc Y_W Y_C floor(kw/2)     |       | Eq. 7  |
| batch_sum      | Pc   | 2 ceil(log2 Pc) | 2 (Pc-1)/Pc abs(W_i)/Pr      | Eq. 4 |        |
| batch_sum      | P    | 2 ceil(log2 P)  | 2 (P-1)/P abs(W_i)           |       | Eq. 7  |
| redistribution | P    | ceil(log2 P)    | B (P-1)/P d_i                | Eq. 6, between grids |

Every function returns its terms one by one; `seconds` adds them up, alpha a message and beta a byte.  What the
equations leave out or get wrong is said where it happens; the exact traffic of a run is `gridnn.cost.traffic`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.cost.paper.table import PaperLayer
from gridnn.errors import InputError

# The paper counts words and never says how long one is; its figures fit words of four bytes.
WORD_BYTES = 4
TERMS = ("batch_sum", "model_gather", "model_sum", "halo_forward", "halo_backward", "redistribution")


@dataclass(frozen=True)
class Link:
    """Latency of a message and inverse bandwidth; the paper's network has no topology (section 2.1)."""

    alpha_s: float
    beta_s_per_byte: float


CORI = Link(2e-6, 1 / 6e9)  # Table 1: NERSC Cori, Knights Landing


class Term(NamedTuple):
    """One term of one layer: how many messages deep, how many bytes a process."""

    layer: str
    what: str
    messages: int
    bytes: float

    def seconds(self, link: Link) -> float:
        """Return alpha * messages + beta * bytes."""
        return self.messages * link.alpha_s + self.bytes * link.beta_s_per_byte


Terms = tuple[Term, ...]


@dataclass(frozen=True)
class PaperGrid:
    """Pr x Pc processes of a layer; `domain` says that Pr cuts the height of the images, not the weights."""

    pr: int
    pc: int
    domain: bool = False

    @property
    def procs(self) -> int:
        """P."""
        return self.pr * self.pc


@dataclass(frozen=True)
class Halo:
    """How halos are counted: rows of the input and of the output a step, and which output is meant.

    `output` is ``own`` (Y^i), ``next`` (X^{i+1}: they differ where a pool stands between) or ``eq2``
    (Y^i of the width of Eq. 2).  An inner strip really receives from both sides, and a height cut needs
    floor(kh/2) rows both ways, where the paper prints kw for the second; kernels of the paper are square.
    """

    x: int
    y: int
    output: str


EQ7_HALO = Halo(1, 1, "own")
EQ9_HALO = Halo(1, 1, "next")


def seconds(terms: Iterable[Term], link: Link, *what: str) -> float:
    """Return the seconds of all terms, or of those named."""
    return sum(t.seconds(link) for t in terms if not what or t.what in what)


def moved_bytes(terms: Iterable[Term], *what: str) -> float:
    """Return the bytes a process receives in all terms, or in those named."""
    return sum(t.bytes for t in terms if not what or t.what in what)


def eq3(layers: Sequence[PaperLayer], batch: int, procs: int) -> Terms:
    """Pure model: all-gather of Y forward, all-reduce of dX backward (Gholami et al. 2018, Eq. 3).

    Printed with 3 d_i.  The algorithm moves d_i and 2 d_{i-1}, and no dX of the first layer; it matters most
    where a pool or a flatten stands between (AlexNet's fc6 takes 9216 and gives 4096).
    """
    _check(batch, procs)
    return tuple(t for layer in layers for t in _model(layer, batch, procs))


def eq4(layers: Sequence[PaperLayer], procs: int) -> Terms:
    """Pure batch: all-reduce of dW (Gholami et al. 2018, Eq. 4); the batch size does not enter."""
    _check(1, procs)
    return tuple(_batch(layer, procs, 1) for layer in layers)


def eq6(layer: PaperLayer, samples: float, procs: int) -> Term:
    """Return the redistribution from a batch cut to a model cut over `procs` processes (Gholami et al. 2018, Eq. 6).

    The d_i printed is the output of the layer that changes; its input is what really moves.
    """
    size = samples * (procs - 1) / procs * layer.d_out * WORD_BYTES
    return Term(layer.name, "redistribution", _rounds(procs), size)


def eq7(layers: Sequence[PaperLayer], batch: int, procs: int) -> Terms:
    """Pure domain: halos of X forward and dY backward, all-reduce of dW (Gholami et al. 2018, Eq. 7).

    Raises
    ------
    InputError
        If a layer is fc: its window is the whole image.
    """
    _check(batch, procs)
    return tuple(t for layer in layers for t in _domain(layer, batch, PaperGrid(procs, 1, True), EQ7_HALO))


def eq8(layers: Sequence[PaperLayer], batch: int, pr: int, pc: int) -> Terms:
    """Model and batch together, one grid for all layers (Gholami et al. 2018, Eq. 8)."""
    _check(batch, pr, pc)
    return tuple(
        t for layer in layers for t in (*_model(layer, batch / pc, pr), _batch(layer, pc, pr))
    )  # fmt: skip


def eq9(layers: Sequence[PaperLayer], batch: int, pr: int, pc: int, domain: Collection[str] = ()) -> Terms:
    """Model, domain and batch together (Gholami et al. 2018, Eq. 9).

    Parameters
    ----------
    domain
        Names of the layers whose Pr cuts the domain, L_D; all others are L_M.
    """
    names = {layer.name for layer in layers}
    if unknown := sorted(set(domain) - names):
        raise InputError(f"domain: no layer {unknown[0]}; layers: {', '.join(sorted(names))}")
    return by_layer(layers, batch, {name: PaperGrid(pr, pc, name in domain) for name in names})


def by_layer(
    layers: Sequence[PaperLayer], batch: int, grids: Mapping[str, PaperGrid], halo: Halo = EQ9_HALO
) -> Terms:
    """Eq. 9 with a grid for each layer (Gholami et al. 2018, sections 2.4 and 3: Figs 7 and 10).

    Changing the grid between layers is free here, as the paper has it; `eq6` is what it costs.

    Raises
    ------
    InputError
        If a layer has no grid, a grid has no process, or an fc layer is cut by domain.
    """
    terms: list[Term] = []
    for layer in layers:
        if layer.name not in grids:
            raise InputError(f"layer {layer.name} has no grid; give one to each of {len(layers)} layers")
        grid = grids[layer.name]
        _check(batch, grid.pr, grid.pc)
        if grid.domain:
            terms += _domain(layer, batch, grid, halo)
        else:
            terms += (*_model(layer, batch / grid.pc, grid.pr), _batch(layer, grid.pc, grid.pr))
    return tuple(terms)


def _model(layer: PaperLayer, samples: float, pr: int) -> Terms:
    rounds, size = _rounds(pr), samples * (pr - 1) / pr * layer.d_out * WORD_BYTES
    return (
        Term(layer.name, "model_gather", rounds, size),
        Term(layer.name, "model_sum", 2 * rounds, 2 * size),
    )


def _batch(layer: PaperLayer, copies: int, pieces: int) -> Term:
    # A ring takes copies - 1 rounds to spread what it has summed; the paper takes the logarithm all the same.
    size = 2 * (copies - 1) / copies * layer.weights / pieces * WORD_BYTES
    return Term(layer.name, "batch_sum", 2 * _rounds(copies), size)


def _domain(layer: PaperLayer, batch: int, grid: PaperGrid, halo: Halo) -> Terms:
    if layer.kind != "conv":
        raise InputError(f"layer {layer.name}: domain needs a convolution, it is {layer.kind}; cut its model")
    # As printed a halo costs as much in one piece as in two; one piece has no neighbour.
    if grid.pr == 1:
        return (_batch(layer, grid.pc, 1),)
    width, channels = {
        "own": (layer.y_width, layer.y_channels),
        "next": (layer.next_width, layer.next_channels),
        "eq2": (layer.eq2_width, layer.y_channels),
    }[halo.output]
    samples, (kh, kw) = batch / grid.pc, (layer.kernel[0], layer.kernel[-1])
    x_bytes = samples * layer.x_width * layer.x_channels * (kh // 2) * WORD_BYTES
    y_bytes = samples * width * channels * (kw // 2) * WORD_BYTES
    return (
        Term(layer.name, "halo_forward", halo.x, halo.x * x_bytes),
        Term(layer.name, "halo_backward", halo.y, halo.y * y_bytes),
        _batch(layer, grid.procs, 1),
    )


def _rounds(procs: int) -> int:
    """Return ceil(log2(procs))."""
    return (procs - 1).bit_length()


def _check(batch: int, *procs: int) -> None:
    if batch < 1 or min(procs) < 1:
        raise InputError(f"batch {batch} on {' x '.join(map(str, procs))} processes; give at least 1 of each")
