"""The paper's claim on real wires: per-layer grids against pure batch, uniform grids and PyTorch, on shaped links.

    .venv/bin/python analysis/bench/wires -o analysis/results/DATE-wires.md [--torch-python PYTHON]

On 4 and then 8 hosts of scripts/virtual_cluster (so as root, on Linux), with AlexNet:

    1  compute     every host steps on its share of the batch, none talks            -> seconds of computation
    2  link        the rate at which pure batch communicates 1.99 times as long      (regime.py)
    3  calibrate   ``gridnn calibrate`` on these hosts and links                     -> what predictions are made of
    4  plans       the known ones, some by hand, the searched one; each a run that holds counted to predicted bytes,
                   between two looks at the counters of the interfaces; some again, nothing hidden; in turns
    5  PyTorch     DistributedDataParallel over gloo: same layers, batch, links, threads
    6  tables

Every program runs under a time limit; what fails is said in the result, and the hosts always go.  docs/wires.md tells
how to read it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
from contextlib import ExitStack
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[2])]

import runs  # noqa: E402
from hosts import Failed, up  # noqa: E402
from regime import batch_bytes, link_mbit, paper_ratio  # noqa: E402
from report import commit, cpu  # noqa: E402
from tables import hiding, times, traffic  # noqa: E402
from turns import chosen, take_turns  # noqa: E402

from gridnn.network import zoo  # noqa: E402

DELAY_US = 50.0
MINUTES = 600.0


class Result:
    """Lines of the result: said at once, and written as far as they have come."""

    def __init__(self, out: Path | None) -> None:
        self.out, self.lines = out, list[str]()

    def say(self, *lines: str) -> None:
        """Add lines."""
        self.lines += lines
        print(*lines, sep="\n", flush=True)
        if self.out is not None:
            self.out.write_text("\n".join(self.lines) + "\n")


def main() -> int:
    """Measure, and write the result."""
    given = parser().parse_args()
    network = zoo.usual(given.network)
    result = Result(given.output)
    result.say(f"# Plans on shaped wires: {given.network}, batch {given.batch}, {date.today()}", "")
    words = shlex.join(sys.argv[1:])
    result.say(f"`python analysis/bench/wires {words}`, commit {commit()}.", "")
    result.say(f"Machine: {cpu()}, Python {platform.python_version()}; {_load('start')}.")
    with ExitStack() as opened:
        work = given.work or Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="wires-")))
        work.mkdir(parents=True, exist_ok=True)
        setting = runs.Setting(
            given.network, network, given.batch, given.warm, given.steps, given.limit_s, work.resolve()
        )
        for count in given.hosts:
            try:
                on_hosts(count, given, setting, result)
            except Failed as failed:
                result.say("", f"{count} hosts: **failed**, {failed}")
    result.say("", f"{_load('end')}.")
    return 0


def on_hosts(count: int, given: argparse.Namespace, setting: runs.Setting, result: Result) -> None:
    """Measure everything on so many hosts."""
    env = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MPIR_CVAR_ENABLE_HEAVY_YIELD"), "1")
    env["XDG_CACHE_HOME"] = str(setting.folder / "cache")
    place, ratio = setting.folder / f"hosts{count}", given.ratio or paper_ratio(*given.paper)
    result.say("", f"## {count} hosts, one rank each, one thread a rank", "")
    with up(place, count, given.most_mbit, DELAY_US, env, MINUTES) as hosts:
        compute_s = runs.compute_alone(hosts, setting, "start")
    nbytes = batch_bytes(setting.network, setting.batch, count)
    exact = link_mbit(nbytes, compute_s, ratio)
    mbit = given.mbit or min(exact, given.most_mbit)
    reached = 8e-6 * nbytes / mbit / compute_s
    result.say(
        f"Computation of a step (all hosts at once, none talking) {compute_s:.3f} s; a rank of pure batch receives "
        f"{nbytes:,} bytes. Communication / computation of the paper's pure batch: {ratio:.2f}, which asks for links "
        f"of {exact:.0f} Mbit/s; taken: {mbit:.0f} Mbit/s and {DELAY_US:.0f} us one way, a ratio of {reached:.2f}."
    )
    with up(place, count, mbit, DELAY_US, env, MINUTES) as hosts:
        machine = given.machine or runs.calibrated(hosts, setting, given.quick)
        todo = chosen(hosts, setting, machine, given.plans, result.say)
        found = take_turns(
            hosts,
            setting,
            machine,
            todo,
            given.turns,
            not given.no_apart,
            given.torch_python,
            result.say,
            progress,
        )
        late_s = runs.compute_alone(hosts, setting, "end")
    ratio_text = (
        "" if found.ratio is None else f" Pure batch with nothing hidden had a ratio of {found.ratio:.2f}."
    )
    result.say("", f"The same computation measured again at the end: {late_s:.3f} s.{ratio_text}")
    versions = sorted({peer.version for peer in found.peers.values()})
    if versions:
        result.say("", f"PyTorch {', '.join(versions)}, DistributedDataParallel over gloo.")
    elif given.torch_python is None:
        result.say("", "No PyTorch: --torch-python names no interpreter that has it.")
    outcomes, peers = list(found.plans.values()), list(found.peers.values())
    result.say("", "### Seconds of a step", "", *times(outcomes, peers))
    steps = f"{given.turns} x {setting.warm + setting.steps}"
    result.say("", f"### Bytes of {steps} steps, all hosts together", "", *traffic(outcomes, peers))
    result.say("", "### Hidden behind arithmetic", "", *hiding(found.hidden))


def progress(text: str) -> None:
    """Say how far it is; not part of the result."""
    print(f"... {text}; {_load('now')}", file=sys.stderr, flush=True)


def _load(when: str) -> str:
    return f"load at the {when} {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python analysis/bench/wires", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("-o", "--output", type=Path, metavar="FILE.md", help="write the result there too")
    add(
        "--hosts",
        type=int,
        nargs="+",
        default=[4, 8],
        help="numbers of hosts, one after another, of 2, 4 and 8 (4 8)",
    )
    add("--network", default="alexnet", help="of the zoo, in its usual size (alexnet)")
    add("--batch", type=int, default=128, help="samples of a step over all hosts (128)")
    add("--warm", type=int, default=1, help="first steps left out (1)")
    add("--steps", type=int, default=3, help="steps measured in a turn (3)")
    add("--turns", type=int, default=2, help="how often all plans are measured, one after another (2)")
    add("--ratio", type=float, help="communication / computation of pure batch; left out, the paper's")
    add(
        "--paper",
        type=int,
        nargs=2,
        default=[2048, 512],
        metavar=("B", "P"),
        help="whose ratio, of Figs. 7 and 10a of the paper (2048 512)",
    )
    add("--mbit", type=float, help="rate of the links, instead of the one that gives the ratio")
    add("--most-mbit", type=float, default=300.0, help="the most that this machine can switch (300)")
    add("--machine", type=Path, metavar="FILE.toml", help="predict by this machine, instead of calibrating")
    add("--quick", action="store_true", help="calibrate in half a minute, less exactly")
    add("--plans", nargs="+", metavar="NAME", help="only these plans")
    add("--no-apart", action="store_true", help="no second runs with nothing hidden")
    add("--torch-python", metavar="PYTHON", help="an interpreter that has PyTorch")
    add("--limit-s", type=float, default=900.0, help="of one run (900)")
    add("--work", type=Path, metavar="DIR", help="keep runs and machine files there")
    return made


if __name__ == "__main__":
    sys.exit(main())
