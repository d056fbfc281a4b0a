"""`gridnn analyze layers`: hand-checked numbers, ledgers' formulas, sums, and bad input."""

from __future__ import annotations

import csv
import json

import pytest

from gridnn.analysis.cost import COLLECTIVES
from gridnn.analysis.costs import by_traffic, cost_of
from gridnn.analysis.equations import by_equations
from gridnn.analysis.layers import layers
from gridnn.analysis.study import schemes_of, study
from gridnn.analysis.tabled import by_tables
from gridnn.commands.analyze.layers import main
from gridnn.cost.memory import predict_memory
from gridnn.cost.paper.gholami import moved_bytes
from gridnn.cost.price import price_plan
from gridnn.cost.sampled.placed import placed_on
from gridnn.cost.traffic import predict_step
from gridnn.errors import InputError
from gridnn.network.placed import place_network
from gridnn.network.zoo import names
from gridnn.plan.explain.equations import paper_terms
from gridnn.plan.outcome import estimate

# Gholami et al. 2018 for AlexNet in two groups, worked out by hand: d_i, |W_i|, batch of Eq. 5.
ALEXNET = {
    "conv1": (290400, 34848, 0.08),
    "conv2": (186624, 307200, 2.19),
    "conv3": (64896, 884736, 9.09),
    "conv4": (64896, 663552, 13.63),
    "conv5": (43264, 442368, 13.63),
    "fc6": (4096, 37748736, 6144),
    "fc7": (4096, 16777216, 2730.67),
    "fc8": (1000, 4096000, 2730.67),
}


def test_alexnet_by_hand() -> None:
    job = study("alexnet", 2048, "cori-knl").job(8)
    table = layers(job, schemes_of(job, "k2 n4"))
    rows = {str(r["layer"]): r for r in table.records()}
    for name, (d_out, weights, crossover) in ALEXNET.items():
        assert (rows[name]["d_out"], rows[name]["weights"]) == (d_out, weights)
        assert rows[name]["crossover_batch"] == pytest.approx(crossover, abs=5e-3)
    assert rows["relu1"]["crossover_batch"] is None and rows["relu1"]["weights"] == 0
    totals = table.record(table.totals or ())
    assert totals["weights"] == 60_954_656
    # conv2: 27 x 27 x 256 outputs of 48 channels (two groups) and 5 x 5 taps; two operations, three products.
    assert rows["conv2"]["flops"] == 27 * 27 * 256 * 48 * 25 * 2 * 3 * 2048
    assert rows["conv1"]["flops"] == 55 * 55 * 96 * 3 * 121 * 2 * 2 * 2048, "no gradient by images"


@pytest.mark.parametrize(("name", "grid"), [
    ("lenet", "k2 n4"), ("lenet", "h2 n4"), ("resnet20", "n2 h2 w2"), ("rnntc", "k2 n2"), ("alexnet", "n8"),
    ("alexnet", "fc-only"), ("lenet", "c2 k3 n2"),
])  # fmt: skip
def test_bytes_are_those_of_the_ledgers_formula(name: str, grid: str) -> None:
    job = study(name, 64, "cori-knl").job(12 if "3" in grid else 8)
    schemes = schemes_of(job, grid)
    placed = place_network(job.network, schemes, job.per_pass, job.procs)
    price = price_plan(placed, job.machine, job.itemsize, states=job.states)
    steps = [predict_step(placed, rank, job.itemsize) for rank in range(job.procs)]
    step = max(steps, key=lambda x: x.received_bytes)
    table = layers(job, schemes)
    for row, x in zip(table.records(), price.layers, strict=True):
        for collective in COLLECTIVES:
            counts = [
                c.received_bytes for k, c in step.items() if (k.layer, k.collective) == (x.name, collective)
            ]
            assert row[f"{collective}_bytes"] == sum(counts)
        assert row["compute_s"] == x.compute_s
        assert row["comm_s"] == pytest.approx(x.comm_s)
    totals = table.record(table.totals or ())
    assert totals["received_bytes"] == price.received_bytes
    assert totals["compute_s"] == pytest.approx(price.compute_s)
    assert totals["comm_s"] == pytest.approx(price.comm_s)
    assert totals["share"] == pytest.approx(1)
    for column in table.columns:
        if column.unit == "bytes":
            assert totals[column.key] == sum(table.numbers(column.key))


@pytest.mark.parametrize("grid", ["n32", "k4 n8", "h4 n8", "k32", "c2 k4 n4"])
def test_many_processes_cost_what_price_plan_says(grid: str) -> None:
    """The exchanges that are told are those that are found by going through all ranks."""
    job = study("lenet", 64, "h100").job(32)
    schemes, ranks = schemes_of(job, grid), (0, 5, 17, 31)
    placed = placed_on(job.network, schemes, job.per_pass, job.procs, ranks)
    assert placed is not None
    truth = place_network(job.network, schemes, job.per_pass, job.procs)
    mine, theirs = (price_plan(p, job.machine, job.itemsize, ranks=ranks) for p in (placed, truth))
    assert mine == theirs
    for rank in ranks:
        assert predict_step(placed, rank, 4) == predict_step(truth, rank, 4)
    cost = by_traffic(job, placed, ranks)
    assert cost.memory_bytes == max(
        predict_memory(truth, r, job.itemsize, job.states).total_bytes for r in ranks
    )
    assert set(cost.ranks) <= set(ranks)
    assert cost.received_bytes == pytest.approx(theirs.received_bytes, rel=1e-3)


def test_tables_are_those_of_a_search() -> None:
    job = study("resnet20", 64, "h100").job(16)
    plans = [schemes_of(job, g) for g in ("n16", "k4 n4", "h4 n4")]
    for cost, schemes in zip(by_tables(job, plans), plans, strict=True):
        truth = estimate(job, schemes)
        assert cost.compute_s == pytest.approx(truth.compute_s)
        assert cost.comm_s == pytest.approx(truth.comm_s)
        assert cost.received_bytes == pytest.approx(truth.received_bytes, abs=len(cost.layers))
        assert cost.memory_bytes == pytest.approx(truth.memory_bytes, abs=len(cost.layers))


def test_closed_forms_are_eq_9_and_compute_as_rank_0_does() -> None:
    job = study("alexnet", 2048, "cori-knl").job(512)
    for grid in ("k16 n32", "n512", "h8 n64"):
        schemes = schemes_of(job, grid)
        if grid.startswith("h"):
            schemes = {
                name: schemes_of(job, "k8 n64")[name] if name[:2] == "fc" else x
                for name, x in schemes.items()
            }
        cost, exact = by_equations(job, schemes), cost_of(job, schemes)
        assert cost.received_bytes == pytest.approx(moved_bytes(paper_terms(job, schemes)), abs=40)
        assert cost.compute_s == pytest.approx(exact.compute_s, rel=0.05)
        assert cost.layers[0].parameters_bytes == exact.layers[0].parameters_bytes


def test_a_million_processes() -> None:
    job = study("alexnet", 1_000_000, "cori-knl").job(1_000_000)
    assert cost_of(job, schemes_of(job, "n1000000")).source == "equations"
    with pytest.raises(InputError, match="samples"):
        cost_of(study("alexnet", 64).job(1_000_000), schemes_of(job, "n1000000"))
    recurrent = study("rnnlm", 1_000_000).job(1_000_000)
    with pytest.raises(InputError, match="closed forms"):
        cost_of(recurrent, schemes_of(recurrent, "n1000000"))


@pytest.mark.parametrize("name", names())
def test_every_network_of_the_zoo(name: str) -> None:
    job = study(name, 16, "laptop").job(4)
    table = layers(job, schemes_of(job, "k2 n2"))
    assert len(table) == len(job.network.nodes)
    assert table.totals is not None and all(cell is not None for cell in table.column("memory_bytes"))
    recurrent = name in ("rnntc", "rnnlm", "nmt")
    assert any("no crossover" in note for note in table.notes) == recurrent


def said(*words: str) -> str:
    found: list[str] = []
    main(words, found.append)
    return "\n".join(found)


def test_forms_of_the_answer() -> None:
    words = ("lenet", "--batch", "64", "--procs", "8", "--grid", "k2 n4")
    values = json.loads(said(*words, "--json"))
    assert values["totals"]["received_bytes"] == sum(r["received_bytes"] for r in values["rows"])
    assert any("ledger" in note for note in values["notes"])
    rows = list(csv.DictReader(said(*words, "--csv").splitlines()))
    assert [r["layer"] for r in rows] == [r["layer"] for r in values["rows"]]
    text = said(*words)
    assert "all-reduce" in text and "halo" not in text, "columns of nothing are not shown"


@pytest.mark.parametrize(("words", "part"), [
    (("nonet", "-b", "8", "-p", "4"), "unknown network"),
    (("lenet", "-b", "8", "-p", "4", "-m", "nowhere"), "nowhere"),
    (("lenet", "-b", "8", "-p", "4", "-g", "n8"), "8 processes"),
    (("lenet", "-b", "8", "-p", "16", "-g", "n16"), "samples"),
    (("lenet", "-b", "8", "-p", "4", "--plan", "missing.json"), "missing.json"),
    (("nothing.onnx", "-b", "8", "-p", "4"), "nothing.onnx"),
])  # fmt: skip
def test_bad_input_is_one_message(words: tuple[str, ...], part: str) -> None:
    with pytest.raises(InputError) as caught:
        said(*words)
    assert part in str(caught.value)
