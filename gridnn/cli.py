"""The command ``gridnn``: one word for each thing it does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gridnn import __version__

_EXAMPLES = """\
examples:
  gridnn train                              the default job on one process
  mpiexec -n 4 gridnn train --plan "n2 k2"  the same on four
  gridnn train --help                       everything train can do
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="gridnn", description="Plan, run and explain parallel training of neural networks.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"gridnn {__version__}")
    parser.add_argument("command", choices=["train"], help="what to do")
    words = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(words[:1] or ["--help"])
    assert options.command == "train"
    from gridnn.train.launch import main as train  # after the parser: --help needs no MPI

    return train(words[1:])


if __name__ == "__main__":
    sys.exit(main())
