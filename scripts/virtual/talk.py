"""What a command says, and what ends it with one line."""

from __future__ import annotations

import sys


class Refused(Exception):
    """A command that cannot be done: what is wrong, and what to try.  Exit code 2."""


def say(text: str) -> None:
    """Say a line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text: str) -> int:
    """Say what is wrong; returns the exit code."""
    sys.stderr.write(f"error: {text}\n")
    return 2
