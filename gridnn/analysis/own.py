"""Plans of one's own in a scaling study: one for its own number of processes, or a grid that grows with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gridnn.analysis.parts import gather, parts
from gridnn.analysis.strategies import HEADS, Choice
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.placed import check_scheme
from gridnn.plan.job import Job
from gridnn.plan.plan import Plan
from gridnn.plan.space import degrees

UserPlans = Mapping[str, Plan | str]
"""Plans by name: a plan for its own number of processes, or a grid such as "k4" whose `n` grows with them."""


def check_plans(own: UserPlans, names: Sequence[str], jobs: Sequence[Job]) -> None:
    """Refuse plans that have no row, or a strategy's name."""
    for name, plan in own.items():
        if name in names or name in HEADS.values():
            raise InputError(f'plan "{name}" has the name of a strategy; give it another')
        if isinstance(plan, Plan):
            if all((plan.procs, plan.batch) != (job.procs, job.batch) for job in jobs):
                asked = ", ".join(f"{job.procs} (batch {job.batch})" for job in jobs[:6])
                raise InputError(
                    f'plan "{name}" is for {plan.procs} processes and a batch of {plan.batch}; asked for are {asked}'
                    f"{', ...' if len(jobs) > 6 else ''}: add its processes, or take its batch"
                )
        elif (grid := GridShape.parse(plan))["n"] > 1:
            raise InputError(f'grid "{plan}": its n is what grows with the processes; leave n{grid["n"]} out')
        elif all(job.procs % grid.size for job in jobs):
            raise InputError(f'grid "{plan}": {grid.size} divides none of the processes asked for')


def own_choice(job: Job, name: str, plan: Plan | str) -> Choice | None:
    """Return a user's plan for a job; None where it has none."""
    if isinstance(plan, Plan):
        if (plan.procs, plan.batch) != (job.procs, job.batch):
            return None
        sizes = {layer: scheme.grid.sizes for layer, scheme in plan.schemes.items()}
    else:
        shape = GridShape.parse(plan)
        if job.procs % shape.size:
            return None
        rows = max(d for d in degrees(job.procs) if d <= min(job.per_pass, job.procs // shape.size))
        grid = replace(shape, sizes=(rows, *shape.sizes[1:]))
        sizes = {node.name: grid.sizes for node in job.network.nodes}
        for layer in sizes:
            check_scheme(layer, Scheme(grid), job.per_pass, job.procs)
    return Choice(name, sizes, parts(job, gather(job, [sizes])))
