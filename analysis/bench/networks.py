"""Training steps of whole networks against PyTorch's, one process, float32.

    python analysis/bench/networks.py --torch PYTHON [--networks resnet20 vgg16] [--threads 1 2] [--out FILE.md]

A step is forward, softmax and cross-entropy, backward, and SGD with momentum 0.9 and weight decay 1e-4 (on weights, not
on biases and norms).  PyTorch builds the network from our own description of its layers and starts from our weights;
the losses of the first steps must agree, to 1e-3 or to twice what PyTorch's two layouts differ by.  Dropout is left
out on both sides: their random numbers differ.  Memory is the most that a worker's process ever had.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import sides
from report import Report, geometric_mean, ms, parser, percent
from rounds import Worker, peak_flops_per_s, take_turns, worst_difference

TOLERANCE = 1e-3
FIRST_STEPS = 3
SGD = {"momentum": 0.9, "decay": 1e-4}
HEAD = (
    "network", "batch", "threads", "ours ms", "PyTorch ms", "channels-last ms", "vs default", "vs best",
    "ours of peak", "best of peak", "memory MiB: ours", "PyTorch", "channels-last", "losses differ by",
    "PyTorch's two by",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network of the zoo with its input, classes and batch, as a worker of ours is asked for it.

    The learning rate is one at which first losses fall but rounding does not decide them: at 1e-3 PyTorch's own two
    layouts differ by 2 % after two steps of ResNet-50.  No network may diverge, for infinities take their own time.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    batch: int
    lr: float
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    case.name: case
    for case in (
        Case("resnet20", (3, 32, 32), 10, 128, 1e-3),
        Case("resnet50", (3, 224, 224), 1000, 16, 1e-5),
        Case("alexnet-single", (3, 227, 227), 1000, 64, 1e-4, {"dropout_rate": 0.0}),
        Case("vgg16", (3, 224, 224), 1000, 8, 1e-4, {"dropout_rate": 0.0}),
        Case("alexnet", (3, 227, 227), 1000, 64, 1e-4, {"dropout_rate": 0.0}),
        Case("inception-v3", (3, 299, 299), 1000, 8, 1e-4, {"dropout_rate": 0.0}),
        Case("unet", (1, 128, 128), 2, 4, 1e-3, {"width": 32, "depth": 3}),
        Case("digits-cnn", (1, 8, 8), 10, 64, 1e-2),
        Case("lenet", (1, 28, 28), 10, 64, 1e-2),
        Case("mlp", (784,), 10, 128, 1e-2),
    )
}
USUAL = ("resnet20", "resnet50", "alexnet-single", "vgg16")


def prepare(
    workers: list[Worker], case: Case, batch: int, grids: dict[str, str]
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Give all workers the network, the first one's weights to the peers; make the first steps.

    Parameters
    ----------
    grids
        The grid of each worker of ours, by label; the first worker is of ours and holds all weights.

    Returns
    -------
    the network as the first worker describes it, and the losses of the first steps by label.
    """
    asked = {**asdict(case), "batch": batch, **SGD}
    described: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for worker in workers:
            if worker.label in grids:
                weights = None if described else f"{folder}/weights.npz"
                answer = worker.ask("network", **asked, grid=grids[worker.label], weights=weights)
                described = described or answer["described"]
            else:
                worker.ask("network", batch=batch, described=described, lr=case.lr, **SGD)
    return described, {worker.label: worker.ask("steps", count=FIRST_STEPS)["losses"] for worker in workers}


def step_s(workers: list[Worker], rounds: int, count: int) -> dict[str, float]:
    """Return each worker's median step."""
    answers = take_turns(workers, rounds, lambda worker: worker.ask("time", count=count))
    return {label: statistics.median(s for a in of for s in a["steps"]) for label, of in answers.items()}


def compare(
    report: Report, workers: list[Worker], case: Case, batch: int, threads: int, rounds: int, steps: int
) -> tuple[float, float]:
    """Measure one network and add its row; return our time over PyTorch's default and best."""
    described, losses = prepare(workers, case, batch, {sides.OURS: "1"})
    off, usual = (
        worst_difference(losses[label], losses[sides.DEFAULT]) for label in (sides.OURS, sides.LAST)
    )
    alarm = "" if off < max(TOLERANCE, 2 * usual) else " (!)"
    seconds = step_s(workers, rounds, steps)
    memory = {worker.label: worker.ask("memory")["bytes"] for worker in workers}
    peak = peak_flops_per_s(workers)
    mine, best = seconds[sides.OURS], min(s for label, s in seconds.items() if label != sides.OURS)
    found = mine / seconds[sides.DEFAULT], mine / best
    labels = (sides.OURS, *sides.LAYOUTS)
    report.row([
        case.name, str(batch), str(threads), *(ms(seconds[label]) for label in labels),
        *(f"{ratio:.2f}" for ratio in found), *(percent(described["flops"] / s / peak) for s in (mine, best)),
        *(f"{memory[label] / 2**20:.0f}" for label in labels), f"{off:.0e}{alarm}", f"{usual:.0e}",
    ])  # fmt: skip
    return found


def main() -> None:
    """Measure the networks and print the table."""
    options = parser(__doc__)
    options.add_argument("--networks", nargs="+", choices=sorted(CASES), default=USUAL)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--batch", type=int, help="instead of the usual one of each network")
    options.add_argument("--steps", type=int, default=2, help="steps of a turn (2)")
    given = options.parse_args()
    report = Report("Training steps against PyTorch, one process", given.out)
    found: list[tuple[float, float]] = []
    for name in given.networks:
        for threads in given.threads:
            with ExitStack() as open_workers:
                started = [sides.ours(threads)]
                started += [sides.torch(given.torch, label, threads) for label in sides.LAYOUTS]
                workers = [open_workers.enter_context(worker) for worker in started]
                if not found:
                    report.machine(workers)
                    report.head(HEAD)
                batch = given.batch or CASES[name].batch
                found.append(compare(report, workers, CASES[name], batch, threads, given.rounds, given.steps))
    means = [f"**{geometric_mean([each[i] for each in found]):.3f}**" for i in range(2)]
    report.row([f"**geometric mean of {len(found)}**", *[""] * 5, *means, *[""] * 7])


if __name__ == "__main__":
    main()
