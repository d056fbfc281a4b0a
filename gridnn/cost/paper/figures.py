"""Figures 6 to 10 of Gholami et al. 2018: seconds of an epoch of AlexNet on grids Pr x Pc of Cori.

| figure | panels (B, P)                                        | conv on         | fc on   |
|--------|------------------------------------------------------|-----------------|---------|
| 6      | (2048, 8), (2048, 32), (2048, 128), (2048, 512)      | Pr x Pc         | Pr x Pc |
| 7      | the same                                             | 1 x P           | Pr x Pc |
| 8      | (2048, 512), communication behind computation        | 1 x P           | Pr x Pc |
| 9      | (512, 128), (2048, 512), (8192, 2048), (32768, 8192) | 1 x P           | Pr x Pc |
| 10     | (512, 512), (512, 1024), (512, 2048), (512, 4096)    | parts x P/parts | Pr x Pc |

In Fig. 10 images are cut in 1, 2, 4 and 8 parts; the text calls panels b to d "c-d".  The caption of Fig. 9 says
one grid for all layers; its text and bars say fc only (9b is 7d again).  Bars of Figs 8 to 10 were not digitised:
they come out of what fits Figs 6 and 7, and nothing here holds them to the printed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from gridnn.cost.paper.gholami import TERMS, PaperGrid, Terms, by_layer, eq6, seconds
from gridnn.cost.paper.table import PaperLayer, paper_layers
from gridnn.cost.paper.variants import AS_USED, Variant, compute_s, epoch_s, find_variant, hidden_s
from gridnn.errors import InputError
from gridnn.network.zoo.alexnet import alexnet

LARGEST_PR = 128  # no panel shows more, times the parts of an image in Fig. 10
MODEL_TERMS = tuple(what for what in TERMS if what != "batch_sum")


@dataclass(frozen=True)
class Bar:
    """A bar: the grid of the fc layers, and seconds of an epoch.

    `batch_comm_s` is gradient sums, `model_comm_s` all other communication (halos too), `comm_s` both;
    `total_s` is compute_s + comm_s - hidden_s.  `speedup` and `comm_speedup` (of the communication that is
    not hidden) are over the first bar of the panel: pure batch, in Fig. 10 the fewest pieces of fc.
    """

    pr: int
    pc: int
    compute_s: float
    batch_comm_s: float
    model_comm_s: float
    comm_s: float
    hidden_s: float
    total_s: float
    speedup: float
    comm_speedup: float


@dataclass(frozen=True)
class Panel:
    """One chart of a figure: its name (``6d``), batch, processes, parts of an image, bars by Pr."""

    figure: str
    batch: int
    procs: int
    parts: int
    bars: tuple[Bar, ...]

    @property
    def best(self) -> Bar:
        """The bar of the least total."""
        return min(self.bars, key=lambda b: b.total_s)


class _Sheet(NamedTuple):
    """What a panel is drawn from."""

    figure: str
    batch: int
    procs: int
    parts: int = 1


# A layer's grid, given Pr of the fc layers.
_Grids = Callable[[_Sheet, PaperLayer, int], PaperGrid]


def paper_alexnet() -> tuple[PaperLayer, ...]:
    """AlexNet as the paper has it: in two groups (61M weights), images of 227 x 227."""
    return paper_layers(alexnet((3, 227, 227), 1000))


def figure6(variant: Variant = AS_USED) -> tuple[Panel, ...]:
    """One grid for every layer (Gholami et al. 2018, Fig. 6, Eq. 8)."""

    def same(sheet: _Sheet, layer: PaperLayer, pr: int) -> PaperGrid:
        return PaperGrid(pr, sheet.procs // pr, variant.conv_by_domain and layer.kind == "conv")

    return _draw(variant, [_Sheet(f"6{a}", 2048, p) for a, p in _lettered(8, 32, 128, 512)], same)


def figure7(variant: Variant = AS_USED) -> tuple[Panel, ...]:
    """Convolutions by batch, fc on Pr x Pc (Gholami et al. 2018, Fig. 7, Eq. 8)."""
    sheets = [_Sheet(f"7{a}", 2048, p) for a, p in _lettered(8, 32, 128, 512)]
    return _draw(variant, sheets, _conv_in_parts)


def figure8(variant: Variant = AS_USED) -> tuple[Panel, ...]:
    """Fig. 7d with communication behind computation (Gholami et al. 2018, Fig. 8)."""
    return _draw(variant, [_Sheet("8", 2048, 512)], _conv_in_parts, overlap=True)


def figure9(variant: Variant = AS_USED) -> tuple[Panel, ...]:
    """Weak scaling, four samples a process, as Fig. 7 (Gholami et al. 2018, Fig. 9)."""
    sheets = [_Sheet(f"9{a}", 4 * p, p) for a, p in _lettered(128, 512, 2048, 8192)]
    return _draw(variant, sheets, _conv_in_parts)


def figure10(variant: Variant = AS_USED) -> tuple[Panel, ...]:
    """More processes than samples: images in parts, fc on Pr x Pc (Gholami et al. 2018, Fig. 10, Eq. 9)."""
    sheets = [_Sheet(f"10{a}", 512, 512 * parts, parts) for a, parts in _lettered(1, 2, 4, 8)]
    return _draw(variant, sheets, _conv_in_parts)


FIGURES = (figure6, figure7, figure8, figure9, figure10)


def figure(number: int, variant: str = AS_USED.name) -> tuple[Panel, ...]:
    """Return the panels of a figure, 6 to 10, in a variant, ``as-used`` or ``literal``.

    Raises
    ------
    InputError
        If there is no such figure or variant.
    """
    if not 6 <= number <= 10:
        raise InputError(f"figure {number} of Gholami et al. has no such bars; use 6, 7, 8, 9 or 10")
    return FIGURES[number - 6](find_variant(variant))


def _lettered(*numbers: int) -> list[tuple[str, int]]:
    return list(zip("abcd", numbers, strict=False))


def _conv_in_parts(sheet: _Sheet, layer: PaperLayer, pr: int) -> PaperGrid:
    """Convolutions over the parts of an image and otherwise by batch, fc on Pr x Pc."""
    if layer.kind == "conv":
        return PaperGrid(sheet.parts, sheet.procs // sheet.parts, domain=True)
    return PaperGrid(pr, sheet.procs // pr)


def _draw(variant: Variant, sheets: list[_Sheet], grids: _Grids, overlap: bool = False) -> tuple[Panel, ...]:
    layers = paper_alexnet()
    return tuple(_panel(variant, sheet, layers, grids, overlap) for sheet in sheets)


def _panel(
    variant: Variant, sheet: _Sheet, layers: tuple[PaperLayer, ...], grids: _Grids, overlap: bool
) -> Panel:
    compute, pr = compute_s(variant, sheet.batch, sheet.procs), sheet.parts
    bars: list[Bar] = []
    while pr <= min(sheet.procs, LARGEST_PR * sheet.parts):
        terms = _step(variant, sheet, layers, {layer.name: grids(sheet, layer, pr) for layer in layers})
        batch_comm = epoch_s(seconds(terms, variant.link, "batch_sum"), sheet.batch)
        model_comm = epoch_s(seconds(terms, variant.link, *MODEL_TERMS), sheet.batch)
        comm = batch_comm + model_comm
        hidden = hidden_s(variant, compute, batch_comm, model_comm) if overlap else 0.0
        total = compute + comm - hidden
        bars.append(
            Bar(pr, sheet.procs // pr, compute, batch_comm, model_comm, comm, hidden, total, 1.0, 1.0)
        )
        pr *= 2
    return Panel(*sheet, tuple(_against(bars[0], bar) for bar in bars))


def _against(first: Bar, bar: Bar) -> Bar:
    visible, first_visible = bar.comm_s - bar.hidden_s, first.comm_s - first.hidden_s
    return replace(bar, speedup=first.total_s / bar.total_s, comm_speedup=first_visible / visible)


def _step(
    variant: Variant, sheet: _Sheet, layers: tuple[PaperLayer, ...], grids: dict[str, PaperGrid]
) -> Terms:
    """Return the communication of a step: Eq. 9 by layers, and Eq. 6 into the first fc layer."""
    terms = by_layer(layers, sheet.batch, grids, variant.halo)
    if variant.redistribute:
        fc = next(layer for layer in layers if layer.kind == "fc")
        terms += (eq6(fc, sheet.batch / grids[fc.name].pc, grids[fc.name].pr),)
    return terms
