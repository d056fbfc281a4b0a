"""Which movements of a run tell about the network: those that nothing hides."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gridnn.analysis.compare_steps import measured_of
from gridnn.analysis.observe import movements_seen
from gridnn.analysis.runs import open_run
from gridnn.cost.machine import Level
from tests.analysis import folders


def observed(folder: Path, plan: str, beta: float, overlap: bool) -> tuple[int, int]:
    """Return how many movements of a run are seen, and how many are left out."""
    folder.mkdir(exist_ok=True)
    machine = replace(folders.FILE, levels=(Level("node", 0, 6e-5, beta),))
    folders.write_run(folder / "run", plan, str(folders.machine_file(folder, machine)))
    config = folder / "run" / "config.toml"
    config.write_text(config.read_text().replace("overlap = true", f"overlap = {str(overlap).lower()}"))
    run = open_run(folder / "run")
    assert run.overlap is overlap
    seen = movements_seen([(run, measured_of(run))])
    left = re.match(r"(\d+) movements", seen.notes[0]) if seen.notes else None
    return len(seen.seconds), int(left[1]) if left else 0


@pytest.mark.parametrize(
    ("beta", "overlap", "hidden"), [(4e-9, True, False), (1e-4, True, True), (1e-4, False, False)]
)
def test_sums_are_hidden_where_links_are_slow(
    tmp_path: Path, beta: float, overlap: bool, hidden: bool
) -> None:
    """One bucket holds all: on fast links nothing of it starts before backward ends, on slow ones parts do."""
    seen, left = observed(tmp_path, "n4", beta, overlap)
    assert (left > 0) == hidden
    assert seen == (3 if hidden else 4)  # three are of statistics, forward


def test_with_nothing_hidden_halos_are_seen_both_ways(tmp_path: Path) -> None:
    kept, hidden = (observed(tmp_path / str(overlap), "h4", 4e-9, overlap) for overlap in (False, True))
    assert kept[1] == 0 < hidden[1]
    assert kept[0] > hidden[0]
