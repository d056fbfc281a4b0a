"""Six runs as folders, for the tests that compare and refit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis import folders


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six runs on a machine that is not what its file says, with a little noise."""
    home = tmp_path_factory.mktemp("home")
    machine = str(folders.machine_file(home))
    for plan in folders.PLANS:
        folders.write_run(home / "runs" / plan.replace(" ", "-"), plan, machine, noise=0.02)
    return home / "runs"
