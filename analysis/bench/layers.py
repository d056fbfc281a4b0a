"""Single convolutions against PyTorch's, forward and both backwards, float32.

    python analysis/bench/layers.py --torch PYTHON [--engine winograd] [--set second] [--only 3x3] [--split] ...

PyTorch computes in its default layout and in channels-last; best is the faster of them, layer by layer.  Time is
forward plus both backwards, as training asks for them: PyTorch's in one call of autograd.  Before a layer is timed,
elements of its three results are compared.  Peak is the fastest large matrix product of any side.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

import sides
from report import Report, geometric_mean, ms, parser, percent
from rounds import Worker, medians_s, peak_flops_per_s, take_turns, worst_difference
from shapes import SETS, flops

TOLERANCE = 1e-3
PARTS = ("forward", "backward", "data", "weights")
HEAD = (
    "layer", "ours ms", "PyTorch ms", "channels-last ms", "vs default", "vs best", "ours of peak", "best of peak",
)  # fmt: skip
Seconds = dict[str, dict[str, float]]


def disagreement(workers: list[Worker], case: dict[str, Any], split: bool, engine: str) -> float | None:
    """Prepare a layer on all sides; return how far ours is off PyTorch's results, None if ours has no such layer."""
    found = {}
    for worker in workers:
        ours = {"engine": engine} if worker.label == sides.OURS else {}
        answer = worker.ask("conv", case=case, split=split, **ours)
        if not answer:
            return None
        found[worker.label] = answer["samples"]
    mine, theirs = found[sides.OURS], found[sides.DEFAULT]
    parts = (slice(-1), slice(-1, None))  # the last number is the norm; it would hide the elements
    return max(worst_difference(mine[key][part], theirs[key][part]) for key in mine for part in parts)


def ratios(seconds: Seconds, part: str | None = None) -> tuple[float, float]:
    """Return our time over PyTorch's default and over its best, for one part or for forward plus backward."""
    total = {label: s[part] if part else s["forward"] + s["backward"] for label, s in seconds.items()}
    mine = total.pop(sides.OURS)
    return mine / total[sides.DEFAULT], mine / min(total.values())


def cells(case: dict[str, Any], seconds: Seconds, peak: float, parts: tuple[str, ...]) -> list[str]:
    """Return a layer's row of the table."""
    total = {label: s["forward"] + s["backward"] for label, s in seconds.items()}
    mine, best = total[sides.OURS], min(s for label, s in total.items() if label != sides.OURS)
    return [
        case["name"],
        *(ms(total.get(label)) for label in (sides.OURS, sides.DEFAULT, sides.LAST)),
        *(f"{ratio:.2f}" for ratio in ratios(seconds)),
        *(percent(3 * flops(case) / s / peak) for s in (mine, best)),
        *(f"{ratios(seconds, part)[1]:.2f}" for part in parts),
    ]


def table(
    report: Report, workers: list[Worker], cases: list[dict[str, Any]], given: argparse.Namespace
) -> None:
    """Measure layers and add their table and the geometric means of its ratios."""
    peak = peak_flops_per_s(workers)
    parts = PARTS if given.split else PARTS[:2]
    report.say(f"Peak {peak / 1e9:.0f} GFLOP/s\n")
    report.head([*HEAD, *(f"{part} vs best" for part in parts)])
    all_s: list[Seconds] = []
    for case in cases:
        # PyTorch knows channels-last for two and three space dims.
        able = [w for w in workers if w.label != sides.LAST or len(case["x"]) > 3]
        off = disagreement(able, case, given.split, given.engine)
        if off is None:
            report.row([f"{case['name']}: none of ours"])
        elif not off < TOLERANCE:
            report.row([f"{case['name']}: OFF BY {off:.0e} (!)"])
        else:
            answers = take_turns(able, given.rounds, lambda worker: worker.ask("time", least_s=given.least_s))
            all_s.append(medians_s(answers))
            report.row(cells(case, all_s[-1], peak, parts))
    means = [geometric_mean([ratios(s)[i] for s in all_s]) for i in range(2)]
    means += [geometric_mean([ratios(s, part)[1] for s in all_s]) for part in parts]
    shown = [f"**{mean:.3f}**" for mean in means]
    report.row([f"**geometric mean of {len(all_s)}**", "", "", "", *shown[:2], "", "", *shown[2:]])
    report.say("")


def main() -> None:
    """Measure a set of layers with every number of threads."""
    options = parser(__doc__)
    options.add_argument("--set", choices=sorted(SETS), default="first")
    options.add_argument(
        "--engine", default="chosen", help="of ours: direct, winograd, onednn, numpy (its own choice)"
    )
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--only", default="", help="layers whose name has this text")
    options.add_argument("--split", action="store_true", help="time the two backwards one by one too")
    options.add_argument("--least-s", type=float, default=0.1, help="least seconds of a part in a turn (0.1)")
    given = options.parse_args()
    report = Report(f"Convolutions ({given.engine}) against PyTorch, {given.set} set", given.out)
    chosen = [case for case in SETS[given.set] if given.only in case["name"]]
    for at, threads in enumerate(given.threads):
        with ExitStack() as opened:
            started = [sides.ours(threads)]
            started += [sides.torch(given.torch, label, threads) for label in sides.LAYOUTS]
            workers = [opened.enter_context(worker) for worker in started]
            if at == 0:
                report.machine(workers)
            report.say(f"## {threads} thread{'s' * (threads > 1)}\n")
            table(report, workers, chosen, given)


if __name__ == "__main__":
    main()
