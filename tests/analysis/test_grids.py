"""`gridnn analyze grids`: the equations' table to four digits, prices of single plans, rows that cannot be."""

from __future__ import annotations

import csv
import json

import pytest

from gridnn.analysis.grids import grids, grids_chart
from gridnn.analysis.study import schemes_of, study
from gridnn.commands.analyze.grids import main
from gridnn.cost.paper.variants import epoch_s
from gridnn.cost.price import price_plan
from gridnn.errors import InputError
from gridnn.network.placed import place_network
from gridnn.plan.baselines import fully_connected

# Seconds of an epoch of AlexNet by the literal equations, B = 2048, P = 512: (batch, model) by Pr.
SAME = {
    1: (47.70, 0),
    2: (23.87, 3.12),
    4: (11.94, 9.33),
    8: (5.97, 21.72),
    16: (2.98, 46.47),
    32: (1.47, 95.94),
}
FC_ONLY = {
    1: (47.70, 0),
    2: (24.79, 0.05),
    8: (7.60, 0.33),
    32: (3.29, 1.39),
    64: (2.57, 2.78),
    512: (1.92, 22.11),
}


@pytest.mark.parametrize(
    ("cut", "truth", "best", "speedup"), [("all", SAME, 4, 2.24), ("fc-only", FC_ONLY, 32, 10.19)]
)
def test_literal_equations_of_the_paper(
    cut: str, truth: dict[int, tuple[float, float]], best: int, speedup: float
) -> None:
    table = grids(study("alexnet", 2048, "cori-knl").job(512), cut, "paper").where(
        lambda r: r["variant"] == "model"
    )
    assert [r["pr"] for r in table.records()] == [2**i for i in range(10)]
    rows = {r["pr"]: r for r in table.records()}
    for pr, (batch, model) in truth.items():
        assert epoch_s(float(rows[pr]["batch_comm_s"] or 0), 2048) == pytest.approx(batch, abs=6e-3)
        assert epoch_s(float(rows[pr]["model_comm_s"] or 0), 2048) == pytest.approx(model, abs=6e-3)
    least = min(table.records(), key=lambda r: float(r["comm_s"] or 0))
    assert (least["pr"], round(float(least["comm_speedup"] or 0), 2)) == (best, speedup)


def test_pure_batch_by_the_equation() -> None:
    """Eq. 4: 81.402 ms at P = 512; at every P its own (P - 1) / P."""
    for procs in (8, 32, 128, 512):
        rows = grids(study("alexnet", 2048, "cori-knl").job(procs), source="paper").records()
        truth = 8 * 2 * 2e-6 * (procs.bit_length() - 1) + 2 * (procs - 1) / procs * 60_954_656 * 4 / 6e9
        assert rows[0]["comm_s"] == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("cut", ["all", "fc-only"])
def test_rows_are_prices_of_plans(cut: str) -> None:
    job = study("lenet", 64, "h100").job(8)
    late = fully_connected(job.network)
    for row in grids(job, cut).records():
        fc = schemes_of(job, f"k{row['pr']} n{row['pc']}")
        conv = schemes_of(job, "n8") if cut == "fc-only" else fc
        if row["variant"] == "domain":
            conv = schemes_of(job, f"h{row['pr']} n{row['pc']}")
        plan = {name: fc[name] if name in late else conv[name] for name in fc}
        price = price_plan(place_network(job.network, plan, 64, 8), job.machine, 4)
        sums = sum(m.seconds for x in price.layers for m in x.movements if m.part == "gradients")
        assert row["compute_s"] == pytest.approx(price.compute_s)
        assert row["batch_comm_s"] == pytest.approx(sums)
        assert row["comm_s"] == pytest.approx(price.comm_s)
        assert row["overlapped_s"] == pytest.approx(price.overlapped_s)
        assert row["received_bytes"] == price.received_bytes
        assert row["total_s"] == pytest.approx(float(row["compute_s"] or 0) + float(row["comm_s"] or 0))


def test_every_divisor_and_the_domain_where_it_fits() -> None:
    table = grids(study("lenet", 64, "laptop").job(12))
    assert [r["pr"] for r in table.records() if r["variant"] == "model"] == [1, 2, 3, 4, 6, 12]
    heights = [int(str(r["pr"])) for r in table.records() if r["variant"] == "domain"]
    assert heights == [2, 3, 4, 6], "LeNet's last convolution has ten rows"
    assert all(int(str(r["pr"])) * int(str(r["pc"])) == 12 for r in table.records())


def test_rows_that_cannot_be_say_why() -> None:
    rows = grids(study("alexnet", 4, "cori-knl").job(16)).records()
    for row in rows:
        able = int(str(row["pc"])) <= 4
        assert (row["total_s"] is not None) == able
        assert able or "4 samples" in str(row["note"])
    first = next(r for r in rows if r["total_s"] is not None)
    assert (first["pr"], first["speedup"]) == (4, 1.0)


def test_more_processes_than_samples_cut_images() -> None:
    rows = grids(study("alexnet", 4, "cori-knl").job(16), "fc-only").records()
    assert [r["variant"] for r in rows] == ["domain"] * 5
    assert rows[-1]["total_s"] is not None
    with pytest.raises(InputError, match="rows"):
        grids(study("alexnet", 1, "cori-knl").job(64), "fc-only")


def test_a_prime_that_nothing_fits_is_refused() -> None:
    table = grids(study("lenet", 8, "laptop").job(11))
    assert [r["total_s"] is None for r in table.records() if r["variant"] == "model"] == [True, False]
    with pytest.raises(InputError, match="cut"):
        grids(study("lenet", 8, "laptop").job(4), "some")
    with pytest.raises(InputError, match="equations"):
        grids(study("rnnlm", 8, "laptop").job(4), source="paper")


@pytest.mark.parametrize("procs", [1000, 65536, 1_000_000])
def test_large_numbers_answer(procs: int) -> None:
    table = grids(study("alexnet", procs, "cori-knl").job(procs))
    assert len({r["source"] for r in table.records()}) == 1, "rows that are compared are priced in one way"
    assert all(float(r["total_s"] or 0) > 0 for r in table.records())


def test_the_chart_stacks_to_the_total() -> None:
    table = grids(study("alexnet", 2048, "cori-knl").job(32), "fc-only", "paper")
    chart = grids_chart(table)
    assert chart.x == ("1 x 32", "2 x 16", "4 x 8", "8 x 4", "16 x 2", "32 x 1")
    assert [s.name for s in chart.series] == ["compute", "batch comm", "model comm"]
    stacked = [sum(v or 0 for v in parts) for parts in zip(*(s.values for s in chart.series), strict=True)]
    assert stacked == pytest.approx(table.numbers("total_s"))
    assert chart.marks[0] == "1.0x (1.0x)" and chart.marks[3].endswith("(4.2x)")


def said(*words: str) -> str:
    found: list[str] = []
    main(words, found.append)
    return "\n".join(found)


def test_forms_of_the_answer() -> None:
    words = ("lenet", "-b", "64", "-p", "4")
    values = json.loads(said(*words, "--json"))
    assert values["rows"][0]["grid"] == "1 x 4" and values["units"]["total_s"] == "s"
    rows = list(csv.DictReader(said(*words, "--csv").splitlines()))
    assert [float(r["total_s"]) for r in rows] == [r["total_s"] for r in values["rows"]]
    assert "pure batch" in said(*words)


@pytest.mark.parametrize(("words", "part"), [
    (("nonet", "-b", "8", "-p", "4"), "unknown network"),
    (("lenet", "-b", "8", "-p", "4", "-m", "nowhere"), "nowhere"),
    (("lenet", "-b", "8", "-p", "4", "--svg", "no/such/folder/x.svg"), "folder"),
    (("alexnet", "-b", "1", "-p", "64", "--cut", "fc-only"), "no Pr x Pc fits"),
])  # fmt: skip
def test_bad_input_is_one_message(words: tuple[str, ...], part: str) -> None:
    with pytest.raises(InputError) as caught:
        said(*words)
    assert part in str(caught.value)
