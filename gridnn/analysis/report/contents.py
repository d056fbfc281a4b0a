"""What stands on the page of one study: every question of the analysis tool, asked for one network and P.

| section       | parts                                   | made by                         |
|---------------|-----------------------------------------|---------------------------------|
| network       | picture                                 | `plan.explain`                  |
| grids         | bars                                    | `grids`                         |
| scaling       | strong, weak                            | `scaling`                       |
| sensitivity   | map, alpha, beta, batch                 | `sensitivity`, `flip_map`       |
| layers        | table                                   | `layers`                        |
| bounds        | table                                   | `bounds`                        |
| step          | timeline                                | `plan.simulate`, by `step`      |
| machine       | table                                   | the machine file                |

Parts know nothing of each other, so they can be made in several processes; searches take most of the time.  While
this one searches for the plan of the page, another scales; then that takes the longest part that is left, this the
shortest:

    this one     search ------------ | layers | network | grids | map -- | beta --
    another      strong ------- | weak ------ | batch ------ | alpha -- |

A part that has no answer for a job (no Pr x Pc fits, too many processes to simulate) leaves the reason in its section:
the rest of the page is as good as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gridnn import __version__
from gridnn.analysis.report.machine import machine_table
from gridnn.analysis.report.sections import Contents, Section
from gridnn.analysis.report.step import PLACES, simulated_step
from gridnn.analysis.report.summary import answers
from gridnn.analysis.several import asked_of, processes
from gridnn.analysis.study import STRATEGIES, Study, schemes_of
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.plan.explain.picture import picture
from gridnn.plan.explain.tell import time_text
from gridnn.plan.explain.why import explain
from gridnn.plan.job import Job
from gridnn.plan.outcome import outcome
from gridnn.plan.search import MODEL_ERROR, search

FEWEST, MOST = 8, 4096
"""Processes between which the scaling study doubles and halves those of the page."""
FEW = 6
"""Points of a weak scaling study that are enough."""
MANY_LAYERS = 30
"""Layers above which a search takes seconds, and the scaling study has fewer points."""
FACTORS = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
"""Times alpha, beta and batch; `gridnn analyze sensitivity` has more of them."""
TITLES = {
    "network": "The network and its grids", "grids": "All grids side by side", "scaling": "Scaling",
    "sensitivity": "Sensitivity", "layers": "Layer by layer", "bounds": "Beside the least that must move",
    "step": "One step on the clock", "machine": "The machine", "assumptions": "What these numbers assume",
}  # fmt: skip
"""Sections in the order of the page."""


@dataclass(frozen=True)
class Asked:
    """What a page is asked for; plain values, so that other processes can be told.

    Attributes
    ----------
    counts
        Processes of the scaling study.
    name, schemes
        The plan that is shown layer by layer; "" and nothing for parts that ask about none.
    best
        The plan that was searched for; nothing before it is known.
    """

    study: Study
    procs: int
    counts: tuple[int, ...]
    name: str = ""
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    best: Mapping[str, Scheme] = field(default_factory=dict)

    @property
    def job(self) -> Job:
        """The job of the page."""
        return self.study.job(self.procs)


def contents(
    study: Study, procs: int, grid: str = "dynamic", *, plan: tuple[str, Mapping[str, Scheme]] | None = None,
    over: Sequence[int] = (), command: str = "", workers: int = 1,
) -> Contents:  # fmt: skip
    """Return what stands on the page of a study.

    Parameters
    ----------
    grid
        The plan shown layer by layer: a grid for all, or a strategy.
    plan
        One that was read from a file, and its name, instead.
    over
        Processes of the scaling study; left out, `doublings` of `procs`, of large networks every other one.
    command
        The command line that makes the page again.
    workers
        Processes that make it; with several, a script that calls this must be importable without running.

    Raises
    ------
    InputError
        If the grid does not fit, or the job cannot be.
    """
    job = study.job(procs)
    if plan is None and grid != "dynamic":
        plan = grid, schemes_of(job, grid)
    asked = Asked(study, procs, tuple(over) or _counts(job))
    with processes(workers - 1) as pool:
        order = [name for name in _ORDER if name in PARTS]
        known = {name: asked_of(pool, _part, name, asked) for name in order if name in _AT_ONCE}
        best = search(job, "dynamic")
        name, schemes = plan or (grid, best.schemes)
        shown = replace(asked, name=name, schemes=schemes, best=best.schemes)
        known |= {name: asked_of(pool, _part, name, shown) for name in order if name not in _AT_ONCE}
        result = outcome(job, schemes)
        made = {name: known[name]() for name in reversed(known)}  # others began at the other end
    parts = [(key, made[name]) for name, (key, _) in PARTS.items()]
    sections = tuple(_section(key, [part for at, part in parts if at == key]) for key in TITLES)
    strong = next(
        (t for s in sections for word, t in s.tables if (s.key, word) == ("scaling", "strong")), None
    )
    facts = (
        ("network", study.network.name), ("batch", f"{study.batch:,}"), ("processes", f"{procs:,}"),
        ("machine", study.machine.name), ("plan shown", name), ("an element", f"{study.itemsize} bytes"),
    )  # fmt: skip
    return Contents(
        f"{study.network.name}, batch {study.batch:,}, on {procs:,} processes of {study.machine.name}",
        facts, answers(job, best, name, result, strong), sections, command, __version__,
    )  # fmt: skip


def doublings(procs: int) -> tuple[int, ...]:
    """Return halves of a number of processes down to some 8, and doublings of it up to some 4096."""
    least = procs
    while least % 2 == 0 and least // 2 >= FEWEST:
        least //= 2
    found = [least]
    while found[-1] * 2 <= max(MOST, procs):
        found.append(found[-1] * 2)
    return tuple(found)


def every_other(counts: Sequence[int], procs: int) -> tuple[int, ...]:
    """Return every other number of processes, that of the page among them where it is one."""
    start = counts.index(procs) % 2 if procs in counts else 0
    return tuple(counts[start::2])


def _counts(job: Job) -> tuple[int, ...]:
    every = doublings(job.procs)
    return every if len(job.network.nodes) <= MANY_LAYERS else every_other(every, job.procs)


def _part(name: str, asked: Asked) -> Section:
    """Return a part, or one that says why there is no answer."""
    try:
        return PARTS[name][1](asked)
    except InputError as error:
        return Section(name, "", (f"There is no answer here ({name}): {error}",))


def _section(key: str, parts: Iterable[Section]) -> Section:
    """Return the parts of a section as one."""
    found = list(parts)
    return Section(
        key, TITLES[key], tuple(text for p in found for text in p.text), tuple(t for p in found for t in p.tables),
        tuple(chart for p in found for chart in p.charts), "".join(p.drawing for p in found),
    )  # fmt: skip


def _network(asked: Asked) -> Section:
    drawing = picture(explain(asked.job, asked.schemes, exact=False, rivals=False))
    text = (
        f'The layers from top to bottom under the plan "{asked.name}". A band is a stretch of one grid: n cuts the '
        "batch, k output channels, c input channels, d h w space. A grey bar computes, a hatched one communicates.",
    )
    return Section("", "", text, drawing=drawing)


def _grids(asked: Asked) -> Section:
    from gridnn.analysis.grids import grids, grids_chart

    every = grids(asked.job, "all")
    text = (
        f"Every Pr x Pc of {asked.procs:,} processes: Pc cuts the batch, Pr the layers themselves. Above a bar is how "
        "many times faster it is than batch parallelism alone, in brackets the same of communication.",
    )
    return Section("", "", text, (("", every),), (grids_chart(every),))


def _strong(asked: Asked) -> Section:
    return _scaling(asked, "strong", asked.counts, f"Strong: the batch stays {asked.study.batch:,}.")


def _weak(asked: Asked) -> Section:
    # Its lines are flat, or lost: fewer points will do.
    counts = asked.counts if len(asked.counts) <= FEW else every_other(asked.counts, asked.procs)
    text = f"Weak: it grows with the processes, from {asked.study.batch:,} on {counts[0]:,}."
    return _scaling(asked, "weak", counts, text)


def _scaling(asked: Asked, mode: str, counts: Sequence[int], text: str) -> Section:
    from gridnn.analysis.scaling import scaling, scaling_charts

    table = scaling(asked.study, counts, mode)
    return Section("", "", (text,), ((mode, table),), scaling_charts(table))


def _over(quantity: str) -> Callable[[Asked], Section]:
    def part(asked: Asked) -> Section:
        from gridnn.analysis.sensitivity import sensitivity, sensitivity_chart

        values: Sequence[float] = FACTORS
        if quantity == "batch":
            batch, passes = asked.study.batch, asked.study.passes
            whole = {round(factor * batch / passes) * passes for factor in FACTORS}
            values = sorted(float(b) for b in whole if b)
        near = [{name: scheme.grid.sizes for name, scheme in asked.best.items()}] if asked.best else ()
        table = sensitivity(asked.study, asked.procs, quantity, values, near=near)
        return Section("", "", (), ((quantity, table),), (sensitivity_chart(table),))

    return part


def _map(asked: Asked) -> Section:
    from gridnn.analysis.sensitivity import flip_map

    table, chart = flip_map(asked.study, asked.procs)
    text = (
        "Alpha is the time of an empty message, beta the time of a byte; a factor is on those of all links of the "
        f"machine. Strategies within {MODEL_ERROR:.0%} of each other, the error of the model, are about equal.",
    )
    return Section("", "", text, (("map", table),), (chart,))


def _layers(asked: Asked) -> Section:
    from gridnn.analysis.layers import layers

    text = (f'Under the plan "{asked.name}"; a click on a head sorts.',)
    return Section("", "", text, (("", layers(asked.job, asked.schemes)),))


def _bounds(asked: Asked) -> Section:
    from gridnn.analysis.bounds import bounds

    text = (
        "What the busiest rank receives for each layer beside what some rank must, whatever the algorithm.",
    )
    return Section("", "", text, (("", bounds(asked.job, asked.schemes)),))


def _step(asked: Asked) -> Section:
    job, found = asked.job, simulated_step(asked.job, asked.schemes)
    if found is None:
        raise InputError(
            f"{len(job.network.nodes)} layers on {job.procs:,} processes: a page simulates up to {PLACES:,} layers "
            "times processes"
        )
    text = (
        "An event loop runs one step of the plan: ranks compute, links carry one transfer after the other. It takes "
        f"{time_text(found.seconds)}.",
    )
    return Section("", "", text, (("busy", found.busy), ("path", found.path)), (found.lanes,))


def _machine(asked: Asked) -> Section:
    return Section("", "", (), (("", machine_table(asked.study.machine)),))


def _assumptions(asked: Asked) -> Section:
    study = asked.study
    text = (
        "Seconds are predicted, from a machine file and the integers of a plan; none was measured here. "
        f"Such models err by some {MODEL_ERROR:.0%} (Jia et al. 2018, Table 4), so smaller gains are not called gains.",
        "A step adds up its layers, each waiting for its slowest rank, nothing hidden, unless a column says otherwise; "
        "the timeline and what is called overlapped hide what a run hides.",
        "Bytes are those a rank receives. Up to 512 processes they are what a run of gridnn would count; above, "
        "and where a table says so, they are estimates.",
        f"Strategies: {', '.join(STRATEGIES)}. data cuts the batch, model the weights, owt convolutions by batch "
        "and fully connected layers by weights (one weird trick), fc-only has a Pr x Pc grid for the latter, uniform "
        "one grid for all layers, dynamic a grid for each (layer-wise).",
        f"A step is {study.batch:,} samples in {study.passes} {'pass' if study.passes == 1 else 'passes'}: "
        "forward, both gradients, the sums of gradients, the update.",
    )
    return Section("", "", text)


PARTS: Mapping[str, tuple[str, Callable[[Asked], Section]]] = {
    "network": ("network", _network),
    "grids": ("grids", _grids),
    "strong": ("scaling", _strong),
    "weak": ("scaling", _weak),
    "map": ("sensitivity", _map),
    **{quantity: ("sensitivity", _over(quantity)) for quantity in ("alpha", "beta", "batch")},
    "layers": ("layers", _layers),
    "bounds": ("bounds", _bounds),
    "step": ("step", _step),
    "machine": ("machine", _machine),
    "assumptions": ("assumptions", _assumptions),
}
"""Every part and the section it belongs to, in the order of the page."""
_ORDER = (
    "strong", "weak", "batch", "grids", "network", "step", "bounds", "layers", "machine", "assumptions", "map",
    "beta", "alpha",
)  # fmt: skip
"""Every part, the longest at both ends, so that none of them is left when there is nothing else to do."""
_AT_ONCE = ("strong", "weak")
"""Those that are begun before the plan of the page is known: they ask neither for that nor for the one shown."""
