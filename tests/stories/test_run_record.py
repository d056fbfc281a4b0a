"""What a run leaves behind for those who look at it later, without MPI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gridnn.train.record import read_config, read_summary, read_traffic
from gridnn.train.spans import SPANS, read_spans
from tests.stories.job import BRIEF, finish, start
from tests.support.launch import ROOT

READ_ALONE = """
import sys
from pathlib import Path
from gridnn.train.record import read_config, read_summary, read_traffic
from gridnn.train.spans import read_spans
folder = Path(sys.argv[1])
assert read_config(folder) and read_summary(folder) and read_traffic(folder).rows and len(read_spans(folder))
heavy = {"mpi4py", "pydantic"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, heavy
"""


def test_a_run_leaves_its_spans_and_its_traffic(tmp_path: Path) -> None:
    run = finish(4, tmp_path, "--set", *BRIEF, "train.steps=7", "--plan", "n2 k2")
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints", "config.toml", "plan.json", "spans.npz", "steps.jsonl", "summary.json", "traffic.json",
    ]  # fmt: skip
    summary, traffic, spans = read_summary(run), read_traffic(run), read_spans(run)
    assert read_config(run)["run"]["trace_steps"] == 4
    assert (traffic.steps, traffic.evaluations) == (7, 0)
    for row in traffic.rows:
        assert row.predicted_bytes == row.counted_bytes and row.predicted_messages == row.counted_messages
    assert sum(row.counted_bytes for row in traffic.rows) == summary.counted_bytes > 0
    assert {row.collective for row in traffic.rows} == {"allgather", "reduce_scatter", "allreduce"}
    assert spans is not None and spans.ranks == (0, 1, 2, 3) and spans.steps == (2, 3, 4, 5)
    assert set(spans.rank.tolist()) == {0, 1, 2, 3} and len(set(spans.hosts)) == 1
    # One computer, one clock: what is said to be known of it is.
    for offset_ns, uncertainty_ns in zip(spans.offset_ns, spans.uncertainty_ns, strict=True):
        assert abs(offset_ns) <= uncertainty_ns
    done = subprocess.run(
        [sys.executable, "-c", READ_ALONE, str(run)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_run_may_keep_none(tmp_path: Path) -> None:
    run = finish(2, tmp_path, "--set", *BRIEF, "run.trace_steps=0")
    assert not (run / SPANS).exists() and read_spans(run) is None
    assert read_traffic(run).rows


def test_a_number_of_steps_that_is_none(tmp_path: Path) -> None:
    for value in ("-1", "two", "1.5"):
        done = start(0, tmp_path, "--set", f"run.trace_steps={value}", "--dry-run")
        assert done.returncode == 2 and "run.trace_steps" in done.stderr, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
