"""How long the planner takes: exact layer-wise searches, and simulations of what they find.

    python analysis/bench/search.py [--machine p100-cluster] [--out FILE.md]

Seconds of the wall, one process, the network in memory.  `search` is a method's own time, cost tables included.  The
ceiling of a search is to price all pairs of candidates: given where that fits, as `all pairs`.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from gridnn.cost.machine import load_machine
from gridnn.network import zoo
from gridnn.plan.baselines import candidates
from gridnn.plan.exact.eliminate import cheapest
from gridnn.plan.job import Job
from gridnn.plan.problem import Problem
from gridnn.plan.search import MATRIX_CHOICES, Found, search
from gridnn.plan.simulate.build import simulate_plan
from gridnn.plan.simulate.simulator import Simulator
from gridnn.plan.space import space

NETWORKS, PROCS = ("vgg16", "resnet101", "inception_v3"), (4, 16, 64, 1024, 16384, 65536)
SIMULATED = 64


def all_pairs(job: Job) -> float:
    """Return the seconds of a search that prices all pairs of candidates."""
    started_s = time.perf_counter()
    plans = [plan for several in candidates(job).values() for plan in several]
    extra = {node.name: [plan[node.name] for plan in plans] for node in job.network.nodes}
    cheapest(Problem(job, space(job, extra=extra)).graph)
    return time.perf_counter() - started_s


def row(name: str, procs: int, machine: str) -> str:
    """Search and simulate one network; returns a row of the table."""
    job = Job(zoo.usual(name), load_machine(machine), procs, 32 * procs)
    found: Found = search(job)
    ceiling = f"{all_pairs(job):.2f}" if procs <= SIMULATED else "-"
    simulated = "-"
    if procs == SIMULATED:
        started_s = time.perf_counter()
        first = simulate_plan(job, found.schemes)
        whole_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        Simulator(first.program, first.choice, segments=first.segments)
        again_s = time.perf_counter() - started_s
        simulated = f"{first.work[0]} tasks: {whole_s:.2f} s with all costs, {again_s:.3f} s again"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    proof = (
        "proved"
        if found.lower_s >= found.step_s * (1 - 1e-9)
        else f"gap {found.step_s - found.lower_s:.2g} s"
    )
    gain = min(found.baselines.values()) / found.step_s
    return (
        f"| {name} | {procs} | {found.search_s:.2f} | {ceiling} | {found.candidates} | {found.priced} | {found.core} | "
        f"{proof} | {gain:.3f} | {simulated} | {peak:.1f} |"
    )


def main() -> None:
    """Print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--machine", default="p100-cluster")
    words.add_argument("--out", type=Path)
    given = words.parse_args()
    lines = [
        f"machine {given.machine}, batch 32 a process; all pairs are priced up to {MATRIX_CHOICES} candidates a layer",
        "",
        "| network | P | search s | all pairs s | candidates | priced in pairs | core | optimum | best baseline / found"
        " | simulated | peak GiB so far |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for procs in PROCS:
        for name in NETWORKS:
            lines.append(row(name, procs, given.machine))
            print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
