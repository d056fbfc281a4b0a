"""Our traces in the real Perfetto: every piece, to the nanosecond, on lanes that are named and in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gridnn.analysis.runs import open_run
from gridnn.analysis.trace import span_name
from gridnn.cli import main
from tests.analysis import folders
from tests.support.browser import browser
from tests.support.perfetto import ALONE, answered, lanes, open_trace, query, serve, severe

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

RANKS = range(folders.PROCS)
STEP = ("plan", "digits-cnn", "--procs", "4", "--batch", "16", "--pin", "conv1=h2 w2", "--pin", "linear1=k2")
SLICES = """
select process.name, thread.name, slice.name, slice.category, slice.ts, slice.dur
from slice join thread_track on track_id = thread_track.id join thread using (utid) join process using (upid)
"""


@dataclass(frozen=True)
class Shown:
    """A trace that Perfetto shows."""

    driver: WebDriver
    name: str
    events: list[dict[str, Any]]

    def pieces(self) -> list[dict[str, Any]]:
        return [e for e in self.events if e["ph"] == "X"]

    def named(self, what: str) -> dict[tuple[int, int], str]:
        found = [e for e in self.events if e["name"] == what]
        return {(e["pid"], e["tid"]): e["args"]["name"] for e in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, its trace, and that of a simulated step whose layers have several grids."""
    home = tmp_path_factory.mktemp("traces")
    run = folders.write_run(home / "run", "n2 h2", str(folders.machine_file(home)), noise=0.1)
    for words in (
        ("analyze", "trace", str(run), "-o", str(home / "run.json")),
        (*STEP, "-o", str(home / "plan.json")),
        ("simulate", str(home / "plan.json"), "--trace", str(home / "step.json")),
    ):
        assert main(words) == 0
    return home


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[tuple[WebDriver, str]]:
    with serve(folder) as address, browser(folder, switches=ALONE) as driver:
        yield driver, address


@pytest.fixture(scope="module", params=["run.json", "step.json"])
def shown(page: tuple[WebDriver, str], folder: Path, request: pytest.FixtureRequest) -> Shown:
    open_trace(*page, request.param)
    return Shown(page[0], request.param, json.loads((folder / request.param).read_text())["traceEvents"])


def test_every_piece_is_a_slice(shown: Shown) -> None:
    process = {pid: name for (pid, _), name in shown.named("process_name").items()}
    lane = shown.named("thread_name")
    expected = [
        [process[e["pid"]], lane[e["pid"], e["tid"]], e["name"], e["cat"], *(round(1e3 * e[k]) for k in ("ts", "dur"))]
        for e in shown.pieces()
    ]  # fmt: skip
    assert query(shown.driver, "select count(*) from slice") == [[len(expected)]]
    assert sorted(query(shown.driver, SLICES)) == sorted(expected)


def test_the_measured_ones_are_the_spans_of_the_run(shown: Shown, folder: Path) -> None:
    spans = open_run(folder / "run").spans
    assert spans is not None
    rows = zip(spans.rank.tolist(), spans.place, spans.phase, spans.start_ns - spans.start_ns.min(),
               spans.duration_ns, strict=True)  # fmt: skip
    expected = [
        ["ranks", f"rank {rank} measured (host{rank // 2})", span_name(spans.places[at], spans.phases[phase]),
         spans.phases[phase], int(start), int(duration)]
        for rank, at, phase, start, duration in rows if shown.name == "run.json"
    ]  # fmt: skip
    assert sorted(query(shown.driver, SLICES + "where thread.name like '%measured%'")) == sorted(expected)
    steps = "select distinct extract_arg(arg_set_id, 'args.step') as step from slice where step is not null order by 1"
    assert query(shown.driver, steps) == ([[2], [3], [4]] if expected else [])


def test_nothing_is_lost_and_no_piece_lies_on_another(shown: Shown) -> None:
    faults = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
    assert query(shown.driver, faults) == []
    assert query(shown.driver, "select name, ts from slice where depth > 0 and dur > 0") == []
    last = max(round(1e3 * (e["ts"] + e["dur"])) for e in shown.pieces())
    assert query(shown.driver, "select start_ts, end_ts from trace_bounds") == [[0, last]]


def test_lanes_are_in_the_order_of_the_ranks(shown: Shown) -> None:
    found = dict(lanes(shown.driver))
    links = [f"rank {rank} in" for rank in RANKS]
    if shown.name == "run.json":
        both = (
            f"rank {rank} {what}"
            for rank in RANKS
            for what in (f"measured (host{rank // 2})", "predicted (file)")
        )
        expected = {"ranks": ["steps", *both], "links (predicted)": links}
    else:
        expected = {"simulated step": [*(f"rank {rank}" for rank in RANKS), *links]}
    # Perfetto writes the number of a lane behind its name.
    assert {
        group.rpartition(" ")[0]: [name.rpartition(" ")[0] for name in names]
        for group, names in found.items()
    } == expected


def test_nothing_is_complained_of_and_nobody_else_answers(shown: Shown, page: tuple[WebDriver, str]) -> None:
    assert severe(shown.driver) == []
    ours, came = re.escape(page[1]), answered(shown.driver)
    assert f"{page[1]}/traces/{shown.name}" in came
    assert [url for url in came if not re.match(rf"{ours}/|blob:{ours}/|data:|chrome:", url)] == []
