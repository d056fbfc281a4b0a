"""The errors gridnn raises on purpose, and the exit code of each.

Every message says what was given, what is needed and what to try.  The porch
(`gridnn.train`, `gridnn.cli`) prints the message without a traceback and ends
all ranks with `exit_code`; any other exception is a bug of ours and keeps its
traceback.
"""

from __future__ import annotations


class GridnnError(Exception):
    """An error with a message for people and an exit code for scripts.

    `everywhere` says that all ranks raise it together, so that one of them may speak for all.
    """

    exit_code = 1
    everywhere = False


class InputError(GridnnError):
    """What the user gave cannot be used: configuration, plan, grid, shape, file or data."""

    exit_code = 2


class RunError(GridnnError):
    """A run that started well cannot go on: a loss that is not finite, a rank that failed."""

    exit_code = 3


class TrafficError(GridnnError):
    """Counted bytes differ from predicted bytes: a law of gridnn is broken."""

    exit_code = 4
