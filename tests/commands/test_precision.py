"""Precision in the commands that plan: `--dtype` says it, prices and plan files follow, a mismatch is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gridnn.commands.words import DTYPES, ITEMSIZE, job_of
from gridnn.cost.machine import dumps, load_machine
from gridnn.cost.price import price_plan
from gridnn.geometry.traffic import Widths
from gridnn.network import zoo
from gridnn.network.placed import place_network
from gridnn.plan.plan import open_plan
from tests.support.command import answer, run

SMALL = ("plan", "digits-cnn", "--procs", "4", "--batch", "16", "--method", "data")
TOLD = "machine h100 was measured in bf16, and this computes in {}"


@pytest.fixture
def machine(tmp_path: Path) -> str:
    """A machine that was measured in bf16."""
    (tmp_path / "p.json").write_text(
        '{"version": 1, "source": "s", "date": "d", "precision": "bf16", "layers": []}'
    )
    path = tmp_path / "bf16.toml"
    path.write_text(f'profile = "p.json"\n{dumps(load_machine("h100"))}')
    return str(path)


def test_a_type_is_two_widths_and_a_precision() -> None:
    assert DTYPES["bf16"] == (Widths(2, 4), "bf16") and DTYPES["tf32"] == (Widths(4, 4), "tf32")
    assert ITEMSIZE == {"float32": 4, "float64": 8, "bfloat16": 2}
    for name, (widths, _) in DTYPES.items():
        job = job_of(zoo.usual("mlp"), load_machine(), 1, 1, 1, name)
        assert job.widths == job.machine.widths == widths


def test_a_plan_in_bf16_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan file says the type, and simulate and explain price it so, or in another that they are given."""
    found = {}
    for dtype in ("float32", "tf32", "bf16"):
        path = tmp_path / f"{dtype}.json"
        found[dtype] = answer(capsys, *SMALL, "--machine", "h100", "--dtype", dtype, "-o", str(path))
        assert open_plan(path).table["dtype"] == dtype
        simulated = answer(capsys, "simulate", str(path))
        assert simulated["step_s"] == pytest.approx(found[dtype]["run_s"])
        assert simulated["bytes"] == found[dtype]["bytes"] and "notes" not in simulated
        assert answer(capsys, "simulate", str(path), "--dtype", "bf16")["step_s"] == pytest.approx(
            answer(capsys, "simulate", str(tmp_path / "float32.json"), "--dtype", "bf16")["step_s"]
        )
    wide, narrow = found["float32"], found["bf16"]
    assert found["tf32"]["step_s"] == wide["step_s"], "nothing but a measurement tells how much faster"
    assert narrow["step_s"] < wide["step_s"]
    # One plan by hand: data parallel, all of its traffic gradients, which keep their width.
    assert narrow["bytes"] == wide["bytes"] > 0
    plan, network = open_plan(tmp_path / "bf16.json"), zoo.usual("digits-cnn")
    placed = place_network(network, plan.plan(network).schemes, 16, 4)
    priced = price_plan(placed, load_machine("h100").at(Widths(2, 4)), Widths(2, 4))
    assert narrow["run_s"] == pytest.approx(priced.step_s)
    assert run("explain", str(tmp_path / "bf16.json")) == 0
    assert "note  " not in capsys.readouterr().out


@pytest.mark.parametrize("more", [(), ("--schedule", "gpipe", "--stages", "2", "--passes", "2")])
def test_another_precision_than_the_machines_is_told_once(
    tmp_path: Path, machine: str, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    words = ("plan", "lenet" if more else "mlp", "--procs", "2", "--batch", "16", *more)
    for dtype in ("float32", "bf16"):
        path, told = str(tmp_path / f"{dtype}.json"), TOLD.format(dtype)
        times = int(dtype != "bf16")
        assert run(*words, "--machine", machine, "--dtype", dtype, "-o", path) == 0
        assert capsys.readouterr().out.count(told) == times
        for command in ("simulate", "explain"):
            assert run(command, path) == 0
            assert capsys.readouterr().out.count(told) == times
            notes = answer(capsys, command, path).get("notes", [])
            assert sum(told in note for note in notes) == times
        notes = answer(capsys, *words, "--machine", machine, "--dtype", dtype).get("notes", [])
        assert sum(told in note for note in notes) == times


def test_a_plan_file_of_an_unknown_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert run(*SMALL, "-o", str(path)) == 0
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "dtype": "half"}))
    assert run("simulate", str(path)) == 2
    assert 'dtype "half"; use one of float32, tf32, bf16, float64, bfloat16' in capsys.readouterr().err
    assert answer(capsys, "simulate", str(path), "--dtype", "tf32")["step_s"] > 0
