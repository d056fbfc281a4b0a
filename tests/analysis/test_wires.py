"""The measurement on wires: its links follow from the paper, its plans can be run, what it calls hidden is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from analysis.bench.wires.hidden import Hidden, Visible, hidden_halos, hidden_sums, visible
from analysis.bench.wires.hosts import Failed, run
from analysis.bench.wires.regime import BATCH, batch_bytes, cases, link_mbit, paper_ratio
from gridnn.cost.paper.figures import paper_alexnet
from gridnn.cost.paper.gholami import Link, eq4, seconds
from gridnn.cost.traffic import predict_step
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import zoo
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.train.spans import Place, Spans


def test_the_ratio_is_that_of_the_printed_bars() -> None:
    # Read off Fig. 7d: communication 44.5 s, computation 22.2 s of an epoch.
    assert paper_ratio() == pytest.approx(44.5 / 22.2, rel=0.02)
    # Of 512 samples an epoch has four times the steps, and a sample alone takes what Fig. 4 says beside four.
    assert paper_ratio(512, 512) == pytest.approx(4 * 44.5 / (22.2 * 30740 / 9608), rel=0.05)
    assert paper_ratio(2048, 8) == pytest.approx(38.7 / 279.4, rel=0.02)
    with pytest.raises(InputError, match="no batch 2048 on 511 processes"):
        paper_ratio(2048, 511)


@pytest.mark.parametrize("procs", [4, 8])
def test_on_the_chosen_link_eq4_takes_the_ratio(procs: int) -> None:
    compute_s, ratio = 3.7, paper_ratio()
    mbit = link_mbit(batch_bytes(zoo.usual("alexnet"), 16, procs), compute_s, ratio)
    # The paper counts weights; a run sums biases, too, which are 0.02 % of them.
    comm_s = seconds(eq4(paper_alexnet(), procs), Link(0.0, 8e-6 / mbit))
    assert comm_s / compute_s == pytest.approx(ratio, rel=3e-4)


@pytest.mark.parametrize("numbers", [(0, 1.0, 2.0), (1, 0.0, 2.0), (1, 1.0, 0.0), (1, -1.0, 2.0)])
def test_no_link_follows_from_nothing(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        link_mbit(*numbers)


def placed(name: str, batch: int, procs: int, grids: dict[str, str]) -> PlacedNetwork:
    network = zoo.usual(name)
    schemes = {node.name: Scheme(GridShape.parse(grids.get(node.name, grids["*"]))) for node in network.nodes}
    return place_network(network, schemes, batch, procs)


@pytest.mark.parametrize(("name", "batch"), [("alexnet", 16), ("digits-cnn", 16)])
@pytest.mark.parametrize("procs", [4, 8])
def test_the_plans_can_be_run_and_are_different(name: str, batch: int, procs: int) -> None:
    network = zoo.usual(name)
    found = cases(network, procs)
    assert len({case.name for case in found}) == len(found) >= 13
    received = {}
    for case in found:
        assert set(case.grids) <= {"*", *(node.name for node in network.nodes)}
        here = placed(name, batch, procs, dict(case.grids))
        received[case.name] = [predict_step(here, rank, 4).received_bytes for rank in range(procs)]
    assert max(received[BATCH]) == batch_bytes(network, batch, procs)
    assert len({tuple(each) for each in received.values()}) >= 12
    if name == "alexnet":  # what the paper says: fully connected layers are nearly all of the gradients
        assert 5 * max(received["owt"]) < max(received[BATCH])


def test_plans_for_other_numbers_of_hosts_are_refused() -> None:
    with pytest.raises(InputError, match="use 2, 4 or 8"):
        cases(zoo.usual("alexnet"), 6)


def test_visible_seconds_are_those_of_the_spans() -> None:
    rng = np.random.default_rng(3)
    phases = ("compute", "allreduce", "allreduce wait", "halo", "halo wait", "allgather wait", "update")
    ways = ("forward", "backward", "weights", "")
    places = tuple(Place(("conv1",), way) for way in ways)
    steps, ranks, count = (1, 2, 3), (0, 1), 400
    drawn = [rng.integers(0, n, count) for n in (len(ranks), len(steps), len(phases), len(places))]
    took = rng.integers(1, 10**9, count)
    spans = Spans(
        ranks=ranks, hosts=("a", "b"), procs=2, steps=steps, offset_ns=(0, 0), uncertainty_ns=(0, 0), phases=phases,
        places=places, rank=drawn[0].astype(np.int32), step=(drawn[1] + 1).astype(np.int32),
        phase=drawn[2].astype(np.int32), place=drawn[3].astype(np.int32), start_ns=np.zeros(count, np.int64),
        duration_ns=took,
    )  # fmt: skip

    def told(step: int, named: tuple[str, ...], directions: tuple[str, ...]) -> float:
        mine = [
            int(t) for t, (_, s, p, w) in zip(took, zip(*drawn, strict=True), strict=True)
            if steps[s] == step and phases[p] in named and ways[w] in directions
        ]  # fmt: skip
        return sum(mine) * 1e-9 / len(ranks)

    found = visible(spans, warm=2)
    halo, steps_seen = ("halo", "halo wait"), (2, 3)
    two = [  # the steps from 2 on; the median of two is their mean
        (told(s, ("allreduce", "allreduce wait"), ("backward",)), told(s, halo, ways),
         told(s, ("compute",), ("backward", "weights")))
        for s in steps_seen
    ]  # fmt: skip
    assert (found.sums_s, found.halos_s, found.backward_s) == pytest.approx(np.mean(two, axis=0))
    covered_s = 0.0
    for way in ways:
        beside = "forward" if way == "forward" else "weights"
        pairs = [(told(s, halo, (way,)), told(s, ("compute",), (beside,))) for s in steps_seen]
        covered_s += min(np.mean(pairs, axis=0))
    assert found.beside_halos_s == pytest.approx(covered_s) and 0 < covered_s < found.halos_s


def test_least_is_of_the_rank_that_came_last() -> None:
    """Of each layer another rank may have; a rank that has no part in a layer has seen nothing of it."""
    phases, places = ("halo wait", "allreduce"), (Place(("a",), "forward"), Place(("b",), "backward"))
    rows = [  # rank, step, phase, place, ms
        (0, 1, 0, 0, 900), (3, 1, 0, 0, 900),  # warm
        (0, 2, 0, 0, 60), (3, 2, 0, 0, 20), (0, 2, 0, 1, 5), (3, 2, 0, 1, 8),
        (0, 3, 0, 0, 10), (0, 3, 0, 0, 20), (3, 3, 0, 0, 50), (0, 3, 0, 1, 7), (3, 3, 0, 1, 4),
        (5, 2, 1, 1, 2), (5, 3, 1, 1, 4), (0, 2, 1, 1, 11), (0, 3, 1, 1, 1), (3, 2, 1, 1, 9), (3, 3, 1, 1, 9),
    ]  # fmt: skip
    columns = [np.array(column, np.int32) for column in zip(*rows, strict=True)]
    spans = Spans(
        ranks=(0, 3, 5), hosts=("a",) * 3, procs=6, steps=(1, 2, 3), offset_ns=(0,) * 3, uncertainty_ns=(0,) * 3,
        phases=phases, places=places, rank=columns[0], step=columns[1], phase=columns[2], place=columns[3],
        start_ns=np.zeros(len(rows), np.int64), duration_ns=columns[4].astype(np.int64) * 10**6,
    )  # fmt: skip
    found = visible(spans, warm=2)
    assert found.least_halos_s == pytest.approx(
        np.median([0.020 + 0.0, 0.030 + 0.0])
    )  # rank 5 has no part in a
    assert found.least_sums_s == pytest.approx(np.median([0.002, 0.001]))


def test_hidden_is_what_is_not_seen_any_more() -> None:
    on, off = Visible(4.0, 0.5, 1.0, 0.1, 9.0, 0.5), Visible(10.0, 2.0, 8.0, 1.0, 6.0, 1.5)
    sums, halos = hidden_sums(on, off), hidden_halos(on, off)
    assert sums.share == pytest.approx(0.6) and sums.could == pytest.approx(0.6)
    assert (halos.share, halos.could) == (0.75, 0.75)
    assert (sums.least_share, halos.least_share) == (0.875, 0.9)
    assert Hidden(0.0, 0.0, 5.0).least_share is None
    assert Hidden(0.0, 0.0, 5.0).share is Hidden(0.0, 0.0, 5.0).could is None


def test_a_program_that_fails_or_never_ends_is_told_of(tmp_path: Path) -> None:
    assert run([sys.executable, "-c", "import os; print(os.environ['A'])"], 60.0, {"A": "one"}) == "one\n"
    with pytest.raises(Failed, match=r"exit code 3(.|\n)*the reason"):
        run([sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"], 60.0, {})
    pid = tmp_path / "pid"
    with pytest.raises(Failed, match="not done after 3 s"):
        run(["sh", "-c", f"sleep 300 & echo $! > {pid}; wait"], 3.0, {})
    end_s = time.monotonic() + 20.0
    while _alive(int(pid.read_text())):  # the child is gone with its parent
        assert time.monotonic() < end_s
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


TURNS = """
import sys
sys.path[:0] = sys.argv[1:]
from hidden import Visible
from outcome import Outcome
from tables import times

def measured(name, predicted_s, *turns):
    return Outcome(name, sum(turns, ()), predicted_s, predicted_s, 1, 1, 1, tuple(Visible() for _ in turns))

found = [
    measured("batch", 10.0, (9.0, 9.1, 9.2), (8.0, 8.1, 8.2)),
    measured("a", 5.0, (5.0, 5.1, 5.2), (9.0, 9.1, 9.2)),
    measured("b", 6.0, (7.0, 7.1, 7.2), (6.0, 6.1, 6.2)),
]
print(found[1].turns_s, *times(found, []), sep="\\n")
"""


def test_turns_are_held_to_each_other() -> None:
    """In a process of its own, where the bench's modules have their short names, as when it runs."""
    root = Path(__file__).resolve().parents[2]
    text = run([sys.executable, "-c", TURNS, str(root / "analysis" / "bench" / "wires"), str(root)], 60.0, {})
    assert "(5.1, 9.1)" in text and "| a | 7.100 | 5.000 - 9.200 |" in text
    assert "3 plans, mean |error| 18.3 %, worst 29.6 %, Kendall tau 0.333." in text
    assert "In the wrong order (measured apart by): a / b (8 %)." in text
    assert "quickest step of each instead: mean |error| 8.3 %, worst 25.0 %, Kendall tau 1.000." in text
    assert "One turn against another, which is how far the order repeats: tau -0.333." in text
