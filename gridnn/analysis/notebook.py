"""The analysis tool for notebooks and scripts: functions of plain values that return plain tables.

    from gridnn.analysis import notebook as nb

    nb.grids("alexnet", batch=2048, procs=512).records()      a list of dictionaries
    pandas.DataFrame(nb.layers(...).records())                 a data frame
    nb.picture(grids_chart(nb.grids(...)))                     a picture; `figure` gives matplotlib's

The same numbers as ``gridnn analyze``, which is made of the same functions.  `docs/analysis.md` is a worked example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridnn.analysis.chart import Chart, Map
from gridnn.analysis.study import schemes_of, study
from gridnn.analysis.table import Table
from gridnn.cost.machine import Machine
from gridnn.network.graph import Network
from gridnn.network.source import Source

if TYPE_CHECKING:
    from gridnn.analysis.compare import Comparison

Net = str | Source | Network
MACHINE = "cori-knl"
DOUBLINGS = tuple(2**power for power in range(3, 13))
"""8 to 4096 processes."""


def layers(
    network: Net, *, batch: int, procs: int, grid: str = "data", machine: str | Machine = MACHINE
) -> Table:
    """Return what each layer computes, moves and keeps under one grid or strategy.

    Raises
    ------
    InputError
        If network, machine or grid cannot be, here as in all functions below.
    """
    from gridnn.analysis.layers import layers as answer

    job = study(network, batch, machine).job(procs)
    return answer(job, schemes_of(job, grid))


def bounds(
    network: Net, *, batch: int, procs: int, grid: str = "data", machine: str | Machine = MACHINE
) -> Table:
    """Return what each layer moves beside the least that must be moved."""
    from gridnn.analysis.bounds import bounds as answer

    job = study(network, batch, machine).job(procs)
    return answer(job, schemes_of(job, grid))


def grids(
    network: Net, *, batch: int, procs: int, cut: str = "all", machine: str | Machine = MACHINE
) -> Table:
    """Return all Pr x Pc of a number of processes, side by side (Gholami et al. 2018, Figs 6 and 7)."""
    from gridnn.analysis.grids import grids as answer

    return answer(study(network, batch, machine).job(procs), cut)


def scaling(
    network: Net, *, batch: int, procs: Sequence[int] = DOUBLINGS, mode: str = "strong",
    machine: str | Machine = MACHINE, **more: Any,
) -> Table:  # fmt: skip
    """Return seconds and efficiency over processes for every strategy."""
    from gridnn.analysis.scaling import scaling as answer

    return answer(study(network, batch, machine), procs, mode, **more)


def sensitivity(
    network: Net, *, batch: int, procs: int, over: str, machine: str | Machine = MACHINE, **more: Any
) -> Table:
    """Return what changes with alpha, beta, batch or image size."""
    from gridnn.analysis.sensitivity import sensitivity as answer

    source = None if isinstance(network, Network) else network  # images of other sizes need another network
    return answer(study(network, batch, machine), procs, over, source=source, **more)


def flip_map(
    network: Net, *, batch: int, procs: int, across: str = "beta", up: str = "alpha",
    machine: str | Machine = MACHINE, **more: Any,
) -> tuple[Table, Map]:  # fmt: skip
    """Return which strategy wins where, and the points at which that flips."""
    from gridnn.analysis.sensitivity import flip_map as answer

    source = None if isinstance(network, Network) else network
    return answer(study(network, batch, machine), procs, across, up, source=source, **more)


def pipeline(
    network: Net, *, batch: int, procs: int, passes: int = 1, stages: Sequence[int] = (),
    machine: str | Machine = MACHINE, **more: Any,
) -> Table:  # fmt: skip
    """Return pipelines: a row for each schedule and number of stages."""
    from gridnn.analysis.pipeline import pipeline as answer

    return answer(study(network, batch, machine, passes=passes).job(procs), stages=stages, **more)


def paper(figure: int, variant: str = "as-used") -> Table:
    """Return the bars of a figure, 6 to 10, of Gholami et al. 2018."""
    from gridnn.analysis.paper import paper as answer

    return answer(figure, variant)


def compare(runs: Sequence[str | Path], machine: Machine | None = None) -> Comparison:
    """Return predicted, counted and measured of the runs in some folders."""
    from gridnn.analysis.compare import compare as answer

    return answer([Path(run) for run in runs], machine)


def report(
    network: Net, *, batch: int, procs: int, grid: str = "dynamic", machine: str | Machine = MACHINE
) -> str:
    """Return one self-contained page, in HTML, of all questions."""
    from gridnn.analysis.report.contents import contents
    from gridnn.analysis.report.page import check_report, page

    check_report()
    return page(contents(study(network, batch, machine), procs, grid))


def figure(*charts: Chart) -> Any:
    """Return a matplotlib figure of charts, to be changed or saved."""
    from gridnn.analysis.draw import figure as drawn

    return drawn(charts)


@dataclass(frozen=True)
class Picture:
    """An SVG picture, which a notebook shows by itself."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


def picture(*charts: Chart) -> Picture:
    """Return a picture of charts."""
    from gridnn.analysis.draw import draw

    return Picture(draw(charts, "svg").decode())
