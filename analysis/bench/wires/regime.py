"""The regime of the paper on other hosts: links as slow beside the computation as 512 processes of Cori were.

|                             | Gholami et al. 2018, Fig. 7d, 10a | here                                         |
|-----------------------------|-----------------------------------|----------------------------------------------|
| pure batch, P, B            | 512, 2048; 512, 512               | hosts, batch                                 |
| computation of a step       | their bars                        | measured: every host its share, none talking |
| communication of a step     | 2 (P-1)/P abs(W) at 6 GiB/s       | 2 (P-1)/P abs(W) at the rate that is chosen  |
| communication / computation | 1.99; 2.61                        | the same, which gives the rate               |

The bytes are those that the formulas of a run say and its ledger counts.  Latency is left out: some rounds of 50 us
beside seconds.  The plans to be measured stand here, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gridnn.cost.paper.figures import figure7, figure10
from gridnn.cost.traffic import predict_step
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape
from gridnn.network.graph import Network
from gridnn.network.placed import place_network
from gridnn.plan.baselines import fully_connected
from gridnn.plan.plan import uniform_plan

BATCH, AUTO = "batch", "auto"
"""The plan that all are held against, and the one that is searched for."""


@dataclass(frozen=True)
class Case:
    """A plan to measure: its name and its grids, those of layers not named under ``*``."""

    name: str
    grids: Mapping[str, str]


def paper_ratio(batch: int = 2048, procs: int = 512) -> float:
    """Return communication / computation of pure batch in Figs. 7 and 10a of Gholami et al. 2018.

    Raises
    ------
    InputError
        If the figures have no such panel.
    """
    panels = (
        *figure7(),
        figure10()[0],
    )  # further ones of Fig. 10 have no pure batch: more processes than samples
    for panel in panels:
        if (panel.batch, panel.procs) == (batch, procs):
            first = panel.bars[0]
            return first.comm_s / first.compute_s
    known = ", ".join(f"{panel.batch} on {panel.procs}" for panel in panels)
    raise InputError(f"Figs. 7 and 10a have no batch {batch} on {procs} processes; they have {known}")


def batch_bytes(network: Network, batch: int, procs: int, itemsize: int = 4) -> int:
    """Return the bytes that the busiest rank of pure batch receives in a step."""
    plan = uniform_plan(network, GridShape.parse(f"n{procs}"), batch, procs, "pure batch")
    placed = place_network(network, plan.schemes, batch, procs)
    return max(predict_step(placed, rank, itemsize).received_bytes for rank in range(procs))


def link_mbit(received_bytes: float, compute_s: float, ratio: float) -> float:
    """Return the rate of a link, in Mbit/s, on which those bytes take `ratio` times as long as the computation.

    Raises
    ------
    InputError
        If there is nothing to send, or no computation to hold it against.
    """
    if received_bytes <= 0 or compute_s <= 0 or ratio <= 0:
        raise InputError(
            f"{received_bytes:g} bytes beside {compute_s:g} s of computation and a ratio of {ratio:g}: no rate of a "
            "link follows; all three must be above 0"
        )
    return 8e-6 * received_bytes / (ratio * compute_s)


def cases(network: Network, procs: int) -> list[Case]:
    """Return the plans for a network on `procs` hosts; ``auto`` is not among them.

    Convolutions (and all that is no fully connected layer) are named first, fully connected layers second.

    Raises
    ------
    InputError
        If `procs` is neither 2 nor a multiple of 4.
    """
    if procs != 2 and (procs < 4 or procs % 4):
        raise InputError(f"{procs} hosts: the plans cut in halves and quarters; use 2, 4 or 8")
    late = [node.name for node in network.nodes if node.name in fully_connected(network)]
    heavy = [name for name in late if name.startswith(("fc", "linear"))]
    whole, half = procs, procs // 2

    def split(name: str, first: str, second: str, **own: str) -> Case:
        return Case(name, {"*": first, **dict.fromkeys(late, second), **own})

    found = [
        Case(BATCH, {"*": f"n{whole}"}),
        Case("model", {"*": f"k{whole}"}),
        Case(f"uniform h{whole}", {"*": f"h{whole}"}),
        split("owt", f"n{whole}", f"k{whole}"),
        split(f"fc c{whole}", f"n{whole}", f"c{whole}"),
        split(f"h{whole}, fc k{whole}", f"h{whole}", f"k{whole}"),
        split(
            "fc k, c in turn", f"n{whole}", f"k{whole}", **{heavy[1]: f"c{whole}"} if len(heavy) > 1 else {}
        ),
    ]
    if half > 1:
        found += [
            Case(f"uniform n{half} k2", {"*": f"n{half} k2"}),
            Case(f"uniform n{half} h2", {"*": f"n{half} h2"}),
            split(f"fc n{half} k2", f"n{whole}", f"n{half} k2"),
            split(f"fc k{half} c2", f"n{whole}", f"k{half} c2"),
            split(f"n{half} h2, fc k{whole}", f"n{half} h2", f"k{whole}"),
            split(f"n{half} k2, fc k{whole}", f"n{half} k2", f"k{whole}"),
        ]
    if half > 2:
        found.append(Case(f"uniform n2 k{half}", {"*": f"n2 k{half}"}))
        found.append(split(f"fc n2 k{half}", f"n{whole}", f"n2 k{half}"))
    if heavy:
        found.append(split("last fc n", f"n{whole}", f"k{whole}", **{heavy[-1]: f"n{whole}"}))
    return found
