"""Training steps on several ranks, a thread each: our grids against each other and against PyTorch's data parallelism.

    python analysis/bench/ranks.py --torch PYTHON [--networks resnet20] [--ranks 2] [--grids n h k] [--out FILE.md]

Our ranks are an MPI job, PyTorch's a gloo group with `DistributedDataParallel` as it comes.  All step on one global
batch, cut over the ranks.  Our batch norm sums its statistics over all ranks, PyTorch's does not, so with it the losses
differ; without it they must agree.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import sides
from networks import CASES, TOLERANCE, prepare, step_s
from report import Report, ms, parser, percent
from rounds import peak_flops_per_s, worst_difference

USUAL = ("resnet20", "alexnet-single")
HEAD = ("side", "step ms", "over {first}", "{first} over it", "of peak", "losses differ by", "first losses")


def main() -> None:
    """Measure the networks, one table each."""
    options = parser(__doc__)
    options.add_argument("--networks", nargs="+", choices=sorted(CASES), default=USUAL)
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument(
        "--grids", nargs="+", default=["n", "h", "k"], help="axes, each as long as there are ranks"
    )
    options.add_argument("--batch", type=int, help="of all ranks together, instead of the usual one")
    options.add_argument("--steps", type=int, default=3, help="steps of a turn (3)")
    given = options.parse_args()
    report = Report(f"Training steps on {given.ranks} ranks x 1 thread", given.out)
    for at, name in enumerate(given.networks):
        with ExitStack() as opened:
            grids, workers = {f"ours {axis}{given.ranks}": f"{axis}{given.ranks}" for axis in given.grids}, []
            for label in grids:
                folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
                workers.append(opened.enter_context(sides.ours_on_ranks(label, given.ranks, folder)))
            for label in sides.LAYOUTS:
                workers.append(opened.enter_context(sides.torch_on_ranks(given.torch, label, given.ranks)))
            if at == 0:
                report.machine(workers)
            batch, first = given.batch or CASES[name].batch, workers[0].label
            described, losses = prepare(workers, CASES[name], batch, grids)
            seconds = step_s(workers, given.rounds, given.steps)
            peak = given.ranks * peak_flops_per_s(workers)
            norms = any(layer["kind"] == "batch norm" for layer in described["layers"])
            report.say(f"## {name}, batch {batch}, peak {peak / 1e9:.0f} GFLOP/s on all ranks\n")
            report.head([word.format(first=first) for word in HEAD])
            for label, s in seconds.items():
                off = worst_difference(losses[label], losses[first])
                alarm = " (!)" * (not off < TOLERANCE and (label in grids or not norms))
                report.row([
                    label, ms(s), f"{s / seconds[first]:.2f}", f"{seconds[first] / s:.2f}",
                    percent(described["flops"] / s / peak), f"{off:.0e}{alarm}",
                    " ".join(f"{loss:.4f}" for loss in losses[label]),
                ])  # fmt: skip
            report.say("")


if __name__ == "__main__":
    main()
