"""The command line of ``python -m gridnn.train``: words in, a namespace out."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence

_EXAMPLES = """\
examples:
  python -m gridnn.train                                the default job: a small CNN on digits
  mpiexec -n 4 python -m gridnn.train                     the same on 4 processes, automatic plan
  mpiexec -n 4 python -m gridnn.train --plan "n2 k2"      one grid for every layer
  python -m gridnn.train job.toml --set train.batch=256 train.lr=0.1
  python -m gridnn.train --print-config > job.toml        a file to start from
  mpiexec -n 2 python -m gridnn.train job.toml --run-dir runs/job --resume auto     go on where it ended
"""


def parse_arguments(argv: Sequence[str] | None = None, *, quiet: bool = False) -> argparse.Namespace:
    """Read the command line.

    Parameters
    ----------
    argv : sequence of str, or None
        Words after the program's name; None takes the process's own.
    quiet : bool
        Keep help and mistakes to oneself: for every rank but 0.

    Returns
    -------
    argparse.Namespace
        ``config`` (path or None), ``overrides`` (list of "a.b=v"), ``plan``, ``device``, ``run_dir`` (text or None),
        ``resume`` (text), ``dry_run``, ``print_config`` (bool).

    Raises
    ------
    SystemExit
        With code 2 on a mistake, 0 after ``--help``.
    """
    hidden = io.StringIO()
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(hidden))
            stack.enter_context(contextlib.redirect_stderr(hidden))
        return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gridnn.train",
        description="Train a network, alone or on many processes: the same result on any grid.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("config", nargs="?", metavar="config.toml", help="the job; left out, the default job")
    add(
        "--set", dest="overrides", nargs="+", action="extend", default=[], metavar="a.b=v",
        help="change keys of the configuration; may be given again",
    )  # fmt: skip
    add("--plan", metavar="PLAN", help='a plan file, "auto", or one grid for every layer such as "n2 k2"')
    add(
        "--device", choices=("auto", "cpu", "gpu"),
        help="where ranks compute: gpu takes a CUDA device a rank (CuPy), auto does where there is one; left out, "
        "compute.device, which is cpu",
    )  # fmt: skip
    add("--run-dir", metavar="DIR", help="folder of the record; left out, a new one under runs")
    add(
        "--resume", default="never", metavar="never|auto|PATH",
        help="auto: go on from the newest whole checkpoint of --run-dir if there is one; PATH: from that run or "
        "checkpoint; any plan and any number of processes will do; left out, never",
    )  # fmt: skip
    add("--dry-run", action="store_true", help="show the plan and its predictions, train nothing")
    add("--write-plan", metavar="FILE", help="write the plan to a file, to be edited and given to --plan")
    add("--print-config", action="store_true", help="print the merged configuration as TOML and stop")
    return parser
