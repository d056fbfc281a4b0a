"""What runs say of a machine file: its constants found again, and what cannot be told left as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gridnn.analysis.compare import compare
from gridnn.analysis.runs import open_runs
from gridnn.commands.analyze.compare import main
from gridnn.cost.machine import load_machine
from gridnn.cost.profile import Profile, Sample
from gridnn.errors import InputError
from tests.analysis import folders


def said(*argv: str) -> str:
    lines: list[str] = []
    main(argv, lines.append)
    return "\n".join(lines)


def test_a_machine_is_found_again(runs: Path) -> None:
    found = compare([runs])
    assert found.machine is not None
    for key in ("flops_per_s", "touch_s_per_element", "layer_s"):
        assert getattr(found.machine, key) == pytest.approx(getattr(folders.TRUTH, key), rel=0.04)
    level, true = found.machine.levels[0], folders.TRUTH.levels[0]
    assert level.alpha_s == pytest.approx(true.alpha_s, rel=0.04)
    assert level.beta_s_per_byte == pytest.approx(true.beta_s_per_byte, rel=0.04)
    assert found.machine.name == "file-refit" and "h2-w2" in found.machine.source
    rows = {row["constant"]: row for row in found.residue.records()}
    assert rows["flops_per_s"]["factor"] == pytest.approx(0.5, rel=0.04)  # a rate: half of it
    assert rows["node beta_s_per_byte"]["factor"] == pytest.approx(4.0, rel=0.04)
    assert all(row["known"] == "well" for row in rows.values())


def test_the_machine_file_prices_the_same_runs_better(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "refit.toml"
    assert str(path) in said(str(runs), "--write-machine", str(path))
    before, after = (compare([runs], machine).runs for machine in (None, str(path)))
    worst = [max(map(abs, table.numbers("error"))) for table in (before, after)]
    assert worst[0] > 0.5 and worst[1] < 0.05
    written = load_machine(str(path))
    newest = max(run.finished for run in open_runs([runs]))
    assert written.name == "file-refit" and written.date == newest.isoformat()
    # Fitted again from there, nothing is left to learn.
    again = compare([runs], str(path)).residue
    assert all(factor == pytest.approx(1.0, abs=0.02) for factor in again.numbers("factor"))


def test_waiting_for_a_late_rank_is_no_price_of_the_network(tmp_path: Path) -> None:
    machine = str(folders.machine_file(tmp_path))
    for plan in ("h4", "k4", "n2 k2"):  # of h4, the first rank has one neighbour, others have two
        folders.write_run(tmp_path / plan, plan, machine, late_s=0.01)
    found = compare([tmp_path]).machine
    assert found is not None
    assert found.levels[0].alpha_s == pytest.approx(folders.TRUTH.levels[0].alpha_s, rel=0.02)
    assert found.levels[0].beta_s_per_byte == pytest.approx(folders.TRUTH.levels[0].beta_s_per_byte, rel=0.02)


def test_what_runs_do_not_say_stays_as_the_file_has_it(tmp_path: Path) -> None:
    two = replace(folders.FILE, levels=(replace(folders.FILE.levels[0], ranks=8),
                                        replace(folders.FILE.levels[0], name="network")))  # fmt: skip
    run = folders.write_run(tmp_path / "one", "n4", str(folders.machine_file(tmp_path, two)))
    found = compare([run])
    rows = {str(row["constant"]): row for row in found.residue.records()}
    for key in ("network alpha_s", "network beta_s_per_byte"):  # four ranks are on one node
        assert rows[key]["factor"] == pytest.approx(1.0) and rows[key]["known"] == "no: not seen"
    assert rows["flops_per_s"]["factor"] == pytest.approx(0.5, rel=0.02)


def test_a_measured_profile_is_left_alone(runs: Path) -> None:
    block = Sample("conv3x3", (16, 8, 8, 8), (16, 8, 8, 8), 10**6, 10**4, 1e-3, 1e-3, 1e-3)
    profiled = replace(folders.FILE, profile=Profile("a test", "2020-02-02", (block,)))
    found = compare([runs], profiled)
    assert {str(c).split()[0] for c in found.residue.column("constant")} == {"node"}
    assert found.machine is not None and found.machine.flops_per_s == folders.FILE.flops_per_s
    assert any("profile" in note for note in found.residue.notes)


def test_several_machines_have_no_one_residue(tmp_path: Path) -> None:
    for at, machine in enumerate((folders.FILE, folders.TRUTH)):
        path = str(folders.machine_file(tmp_path, replace(machine, name=f"m{at}")))
        folders.write_run(tmp_path / f"run{at}", "n4", path)
    found = compare([tmp_path])
    assert found.machine is None and "--machine" in found.residue.notes[0]
    assert compare([tmp_path], folders.FILE).machine is not None
    with pytest.raises(InputError, match="several machines"):
        said(str(tmp_path), "--write-machine", str(tmp_path / "new.toml"))
    assert not (tmp_path / "new.toml").exists()
