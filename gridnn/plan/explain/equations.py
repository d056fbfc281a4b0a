"""A plan by the equations of Gholami et al. 2018 as printed, beside what it really moves.

The equations know convolutions and linear layers, one latency and one bandwidth, and a Pr that cuts either the
model (here `k`, or `c`) or the domain.  What they leave out: an inner strip has two halos, dX is d_{i-1} long,
pools and norms move too, and a change of grid between layers costs.
"""

from __future__ import annotations

from collections.abc import Mapping

from gridnn.cost.paper.gholami import TERMS, Link, PaperGrid, Terms, by_layer, moved_bytes, seconds
from gridnn.cost.paper.table import paper_layers
from gridnn.cost.price import price_plan
from gridnn.errors import InputError
from gridnn.geometry.grid import SPACE, Scheme
from gridnn.network.placed import place_network
from gridnn.plan.explain.tell import bytes_text, time_text
from gridnn.plan.job import Job
from gridnn.plan.outcome import PLACED


def paper_terms(job: Job, schemes: Mapping[str, Scheme]) -> Terms:
    """Return the terms of Eq. 9 with a grid of its own for every layer, a step of all passes as one.

    Raises
    ------
    InputError
        For a network without products, or a grid that cuts model and domain at once.
    """
    layers, grids = paper_layers(job.network), dict[str, PaperGrid]()
    for layer in layers:
        grid = schemes[layer.name].grid
        model, domain = grid["k"] * grid["c"], grid.rows // (grid["k"] * grid["c"])
        if model > 1 and domain > 1:
            raise InputError(
                f"layer {layer.name} on {schemes[layer.name]}: the equations have a Pr that cuts the model or the "
                f"domain, not both; leave out k and c, or {' '.join(SPACE)}"
            )
        grids[layer.name] = PaperGrid(grid.rows, grid.columns, domain > 1)
    return by_layer(layers, job.batch, grids)


def equation_lines(job: Job, schemes: Mapping[str, Scheme]) -> list[str]:
    """Return a table: each weighted layer by the equations' terms, and by exact traffic where that can be counted."""
    terms, level = paper_terms(job, schemes), job.machine.levels[-1]
    link = Link(level.alpha_s, level.beta_s_per_byte)
    exact: dict[str, tuple[int, float]] = {}
    if job.procs <= PLACED:
        price = price_plan(
            place_network(job.network, schemes, job.per_pass, job.procs),
            job.machine,
            job.itemsize,
            job.passes,
        )
        exact = {
            x.name: (sum(m.received_bytes for m in x.movements), sum(m.seconds for m in x.movements))
            for x in price.layers
        }
    used = [what for what in TERMS if any(t.what == what and t.bytes for t in terms)]
    heads = [f"{'Eq. 9, bytes':16}", f"{'grid':12}", *(f"{what.replace('_', ' '):>14}" for what in used)]
    lines = ["".join([*heads, f"{'all':>11}{'seconds':>10}{'exact':>11}{'seconds':>10}"])]
    for name in dict.fromkeys(t.layer for t in terms):
        own = [t for t in terms if t.layer == name]
        cells = [f"{bytes_text(round(moved_bytes(own, what))):>14}" for what in used]
        found = exact.get(name)
        counted = f"{bytes_text(found[0]):>11}{time_text(found[1]):>10}" if found else f"{'-':>11}{'-':>10}"
        total = f"{bytes_text(round(moved_bytes(own))):>11}{time_text(seconds(own, link)):>10}"
        lines.append("".join([f"{name[:15]:16}{str(schemes[name])[:11]:12}", *cells, total, counted]))
    cells = [f"{bytes_text(round(moved_bytes(terms, what))):>14}" for what in used]
    total = f"{bytes_text(round(moved_bytes(terms))):>11}{time_text(seconds(terms, link)):>10}"
    every = f"{bytes_text(sum(b for b, _ in exact.values())):>11}{time_text(sum(x for _, x in exact.values())):>10}"
    lines.append("".join([f"{'all':28}", *cells, total, every if exact else f"{'-':>11}{'-':>10}"]))
    lines.append(
        f"(equations: words of 4 bytes, alpha {level.alpha_s:.2g} s and {1 / level.beta_s_per_byte / 1e9:.3g} GB/s of "
        f'level "{level.name}"; exact: all layers, each its busiest rank, on all levels)'
    )
    return lines
