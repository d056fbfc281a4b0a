"""Commands that think, called in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gridnn.cli import main


def run(*words: str) -> int:
    """Run a command; a mistake that the parser finds ends like any other."""
    try:
        return main(words)
    except SystemExit as done:
        return int(done.code or 0)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the JSON object that is all a command says."""
    assert run(*words, "--json") == 0
    said = capsys.readouterr()
    assert not said.err
    found: dict[str, Any] = json.loads(said.out)
    return found
