"""Plans by closed forms: Eq. 9 of Gholami et al. 2018 for what moves, the largest block for what is computed.

Nothing is listed, neither ranks nor blocks, so that a million processes take as long as eight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from gridnn.analysis.cost import LayerCost, PlanCost, kept_bytes
from gridnn.cost.compute import masked_seconds, pass_seconds
from gridnn.cost.machine import Machine
from gridnn.cost.paper.gholami import Link, Terms, moved_bytes, seconds
from gridnn.cost.profile import PASSES
from gridnn.geometry.grid import AXES, SPACE, GridShape, Scheme
from gridnn.geometry.interval import volume
from gridnn.network.fusion import absorbable
from gridnn.network.graph import Node
from gridnn.network.placed import PlacedLayer, check_scheme
from gridnn.network.placement import place
from gridnn.plan.explain.equations import paper_terms
from gridnn.plan.job import Job


def by_equations(job: Job, schemes: Mapping[str, Scheme]) -> PlanCost:
    """Return the cost of a plan by Eq. 9 of Gholami et al. 2018: any number of processes.

    Computing is that of the largest block.  Layers without weights move nothing here.

    Raises
    ------
    InputError
        For networks that are not convolutions and linear layers, grids that cut model and domain of a layer at once.
    """
    terms, link = paper_terms(job, schemes), outermost(job.machine)
    own: dict[str, Terms] = {}
    for term in terms:
        own[term.layer] = (*own.get(term.layer, ()), term)
    fused = absorbable(job.network)
    found = []
    for node in job.network.nodes:
        check_scheme(node.name, schemes[node.name], job.per_pass, job.procs)
        layer = _largest(job, node, schemes[node.name])
        seconds_of = [pass_seconds(layer, 0, job.machine, p) for p in PASSES]
        if node.name in fused:
            seconds_of = [masked_seconds(layer, 0, job.machine)]
        compute_s = job.passes * sum(seconds_of)
        elements = sum(volume(p.layout.box(0)) for p in layer.placement.parameters)
        compute_s += elements * (2 + job.states) * job.machine.touch_s_per_element
        parameters, kept = elements * (2 + job.states) * job.itemsize, kept_bytes(layer, 0, job.itemsize)
        mine = own.get(node.name, ())
        moved = _equation_bytes(mine)
        found.append(
            LayerCost(
                node.name, compute_s, seconds(mine, link), seconds(mine, link, "batch_sum"), moved,
                sum(moved.values()), parameters, kept, parameters + kept,
            )
        )  # fmt: skip
    return PlanCost(tuple(found), None, sum(x.memory_bytes for x in found), "equations")


def outermost(machine: Machine) -> Link:
    """Return the latency and the bandwidth of a machine's outermost links, all that the equations know."""
    return Link(machine.levels[-1].alpha_s, machine.levels[-1].beta_s_per_byte)


def _equation_bytes(terms: Terms) -> dict[str, int]:
    """Return bytes by collective: an all-reduce of dX is a gather and a scatter in a run."""
    half = moved_bytes(terms, "model_sum") / 2
    found = {
        "halo": moved_bytes(terms, "halo_forward", "halo_backward"),
        "allgather": moved_bytes(terms, "model_gather") + half,
        "reduce_scatter": half,
        "allreduce": moved_bytes(terms, "batch_sum"),
    }
    return {collective: round(count) for collective, count in found.items()}


def _largest(job: Job, node: Node, scheme: Scheme) -> PlacedLayer:
    """Return a layer with the blocks of its first rank, which are the largest, on a grid that can be listed.

    The batch is cut beforehand; an axis longer than what it cuts leaves blocks of one.
    """
    shapes, grid = job.network.shapes, scheme.grid
    most = max(max(shapes[name], default=1) for name in (*node.inputs, node.name))
    # A space axis that a layer lacks cuts its batch.
    lacking = [a for a in SPACE if len(shapes[node.inputs[0]]) <= len(AXES) - AXES.index(a)]
    ways = grid["n"] * prod(grid[a] for a in lacking)
    batch = -(-job.per_pass // ways)
    sizes = {a: 1 if a == "n" or a in lacking else min(grid[a], most) for a in AXES}
    small = Scheme(GridShape.of(**sizes))
    inputs = tuple((batch, *shapes[name]) for name in node.inputs)
    placement = place(node.spec, inputs, (batch, *shapes[node.name]), small)
    return PlacedLayer(node, small, replace(placement, parameters=()) if node.shared else placement, ())
