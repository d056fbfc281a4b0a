"""Figures of two papers, recomputed: Gholami et al. 2018, Figs 6 to 10, and the traffic of Jia et al. 2018 (OptCNN).

    seconds    ##                           a panel: one batch B on P processes, a bar for every Pr x Pc
    of an      ##  2.1x (5.0x)              ## computation, // sums of gradients over Pc, .. all else, over Pr
    epoch      //  ..  ..                   the mark: how many times faster than the first bar is the best one
            1xP ...         PrxPc           (in brackets, its communication alone)

What is computed, and how the variants differ, is in `gridnn.cost.paper`; here it becomes tables and charts.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from gridnn.analysis.chart import Bars, Lines, Series
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.paper.figures import Bar, Panel, figure
from gridnn.cost.paper.optcnn import STRATEGIES, optcnn_alexnet, optcnn_bytes
from gridnn.cost.paper.variants import AS_USED
from gridnn.network.graph import Network
from gridnn.network.zoo import build

OPTCNN_GPUS = (1, 2, 4, 8, 16)
GIB = 2**30

_COLUMNS = (
    Column("figure", about="panel of the figure"),
    Column("B", "count", about="samples in a step"),
    Column("P", "count", about="processes"),
    Column("parts", "count", about="processes that share an image in the convolutions"),
    Column("Pr", "count", about="processes that share the weights of a fully connected layer"),
    Column("Pc", "count", about="processes that share the batch"),
    Column("compute_s", "s", "compute", "computation of an epoch"),
    Column("batch_comm_s", "s", "batch", "sums of gradients over the batch"),
    Column("model_comm_s", "s", "model", "all other communication, halos too"),
    Column("comm_s", "s", "communication", "both together"),
    Column("hidden_s", "s", "hidden", "communication behind computation"),
    Column("total_s", "s", "total", "compute and communication, less what is hidden"),
    Column("speedup", "ratio", "speed-up", "of the total, over the first bar of the panel"),
    Column(
        "comm_speedup", "ratio", "of comm.", "of the communication that is not hidden, over the first bar"
    ),
    Column("best", about="the least total of its panel"),
)
_ABOUT = {
    6: "One grid Pr x Pc for every layer.",
    7: "Convolutions on 1 x P, fully connected layers on Pr x Pc.",
    8: "As Fig. 7d, with communication behind computation.",
    9: "Four samples a process; convolutions on 1 x P, fully connected layers on Pr x Pc.",
    10: "More processes than samples: images in parts in the convolutions, fully connected layers on Pr x Pc.",
}
_VARIANT_NOTES = {
    "as-used": "as-used: what the printed bars were drawn with, found from the bars of Figs 6 and 7, which it meets to "
    "1 % or a pixel. Those of Figs 8 to 10 follow from it; no printed bar was held against them. The equations as "
    "printed are the variant literal.",
    "literal": "literal: the equations as printed, 6e9 bytes/s, computation by Fig. 4. They do not give the printed "
    "bars: Eq. 8 is best on 4 x 128 where Fig. 6d shows 16 x 32. The variant as-used meets them.",
}
_OPTCNN_NOTES = (
    "Jia et al. print no formula; this one is read from their bars. Data meets those of AlexNet on 2 to 16 GPUs to "
    "0.1 %; those of VGG-16 hold 0.3 % fewer weights than the network has.",
    "owt of AlexNet: its bars hold the inputs of fc6 and of no other layer; the formula, which VGG-16's bars follow, "
    "is 1.16, 1.26, 1.37 and 1.47 times as much on 2, 4, 8 and 16 GPUs. Unexplained.",
    "model: the bars grow with P, fetching whole inputs grows with P squared: for AlexNet 1.04, 2.09, 4.17 and 8.35 "
    "times the bars on 2, 4, 8 and 16 GPUs. Unexplained.",
)


def paper(number: int, variant: str = AS_USED.name) -> Table:
    """Return the bars of a figure of Gholami et al. 2018: seconds of an epoch of AlexNet on Cori.

    Parameters
    ----------
    number : int
        6 to 10.
    variant : str
        ``as-used``, what the printed bars were drawn with, or ``literal``, the equations as printed.

    Raises
    ------
    InputError
        If there is no such figure or variant.
    """
    rows = [_row(panel, bar) for panel in figure(number, variant) for bar in panel.bars]
    title = f"Gholami et al. 2018, Fig. {number}, {variant}: AlexNet on Cori, seconds of an epoch"
    return Table(title, _COLUMNS, tuple(rows), None, (_ABOUT[number], _VARIANT_NOTES[variant]))


def panels(table: Table) -> tuple[Table, ...]:
    """Return the bars of `paper` for people: a table a panel, the best grid marked as in the paper."""
    found = []
    records = table.records()
    for name, rows in _grouped(records, "figure"):
        hidden = any(row["hidden_s"] for row in rows)
        keys = ["compute_s", "batch_comm_s", "model_comm_s", *(["hidden_s"] if hidden else []), "total_s",
                "speedup", "comm_speedup"]  # fmt: skip
        columns = (
            Column("Pr x Pc"),
            *(c for key in keys for c in _COLUMNS if c.key == key),
            Column("mark", head=" "),
        )
        body = tuple(
            (
                f"{row['Pr']} x {row['Pc']}",
                *(row[key] for key in keys),
                ("best " * bool(row["best"])) + _mark(row),
            )
            for row in rows
        )
        found.append(Table(_panel_title(name, rows[0]), columns, body))
    return (*found[:-1], Table(found[-1].title, found[-1].columns, found[-1].rows, None, table.notes))


def paper_charts(table: Table) -> tuple[Bars, ...]:
    """Return the bars of `paper` as charts, one a panel; their heights are the totals."""
    charts = []
    for name, rows in _grouped(table.records(), "figure"):

        def series(title: str, *keys: str, less: str = "", rows: list[dict[str, Cell]] = rows) -> Series:
            return Series(
                title,
                tuple(sum(_number(r[k]) for k in keys) - (_number(r[less]) if less else 0) for r in rows),
            )

        parts = [series("compute", "compute_s")]
        if any(row["hidden_s"] for row in rows):
            parts += [series("visible communication", "comm_s", less="hidden_s")]
        else:
            parts += [
                series("model communication", "model_comm_s"),
                series("batch communication", "batch_comm_s"),
            ]
        x = tuple(f"{row['Pr']} x {row['Pc']}" for row in rows)
        marks = tuple(_mark(row) for row in rows)
        charts.append(
            Bars(
                _panel_title(name, rows[0]),
                "Pr x Pc",
                "seconds of an epoch",
                x,
                tuple(parts),
                marks,
                table.notes[0],
            )
        )
    return tuple(charts)


def optcnn() -> Table:
    """Return what a step moves under the baselines of Jia et al. 2018, Fig. 8: GiB over all GPUs, 32 samples each.

    AlexNet is theirs, of 12544 features before the first fully connected layer; the others are those of the zoo.
    """
    networks: dict[str, Callable[[], Network]] = {
        "AlexNet": optcnn_alexnet,
        "VGG-16": lambda: build("vgg16", (3, 224, 224), 1000),
        "Inception-v3": lambda: build("inception-v3", (3, 299, 299), 1000),
    }
    columns = (
        Column("net"), Column("gpus", "count", "GPUs"), Column("strategy"),
        Column("GiB_per_step", about="bytes over all GPUs, in 2^30"),
    )  # fmt: skip
    rows = [
        (name, gpus, strategy, optcnn_bytes(network, gpus, strategy) / GIB)
        for name, network in ((name, made()) for name, made in networks.items())
        for gpus in OPTCNN_GPUS
        for strategy in STRATEGIES
    ]
    title = "Jia et al. 2018 (OptCNN), Fig. 8: GiB moved in a step of 32 samples a GPU, all GPUs together"
    return Table(title, columns, tuple(rows), None, _OPTCNN_NOTES)


def optcnn_panels(table: Table) -> tuple[Table, ...]:
    """Return `optcnn` for people: a table a network, strategies side by side."""
    columns = (Column("gpus", "count", "GPUs"), *(Column(strategy) for strategy in STRATEGIES))
    found = []
    for name, rows in _grouped(table.records(), "net"):
        body = [
            (gpus, *(f"{_number(row['GiB_per_step']):.4f}" for row in of))
            for gpus, of in _grouped(rows, "gpus")
        ]
        found.append(Table(f"{name}: GiB a step", columns, tuple(body)))
    return (*found[:-1], Table(found[-1].title, columns, found[-1].rows, None, table.notes))


def optcnn_charts(table: Table) -> tuple[Lines, ...]:
    """Return `optcnn` as charts, one a network."""
    charts = []
    for name, rows in _grouped(table.records(), "net"):
        lines = tuple(
            Series(s, tuple(_number(row["GiB_per_step"]) * GIB for row in rows if row["strategy"] == s))
            for s in STRATEGIES
        )
        x = tuple(float(gpus) for gpus in OPTCNN_GPUS)
        charts.append(Lines(f"{name}: traffic of a step", "GPUs", "bytes of a step", x, lines,
                            caption="All GPUs together, 32 samples a GPU (Jia et al. 2018, Fig. 8)."))  # fmt: skip
    return tuple(charts)


def _row(panel: Panel, bar: Bar) -> tuple[Cell, ...]:
    return (
        panel.figure, panel.batch, panel.procs, panel.parts, bar.pr, bar.pc, bar.compute_s, bar.batch_comm_s,
        bar.model_comm_s, bar.comm_s, bar.hidden_s, bar.total_s, bar.speedup, bar.comm_speedup, bar is panel.best,
    )  # fmt: skip


def _grouped(rows: list[dict[str, Cell]], key: str) -> list[tuple[Cell, list[dict[str, Cell]]]]:
    return [(name, list(of)) for name, of in groupby(rows, key=lambda row: row[key])]


def _panel_title(name: Cell, row: dict[str, Cell]) -> str:
    parts = f", images in {row['parts']} parts" if row["parts"] != 1 else ""
    return f"Fig. {name}: B = {row['B']:,}, P = {row['P']:,}{parts}"


def _mark(row: dict[str, Cell]) -> str:
    """Return what the paper writes above the best bar; where the first is the best there is nothing to write."""
    if not row["best"] or row["speedup"] == 1:
        return ""
    return f"{row['speedup']:.1f}x ({row['comm_speedup']:.1f}x)"


def _number(cell: Cell) -> float:
    assert isinstance(cell, int | float)
    return cell
