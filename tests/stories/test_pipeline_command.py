"""Pipelined plans, as a user calls for them: plan, explain, simulate and diff, and the run of what was planned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.stories.job import finish, summary
from tests.support.command import answer, run
from tests.support.launch import ROOT

ALEXNET = ("plan", "alexnet", "-p", "4", "-b", "64", "-m", "h100")
MLP = ("plan", "mlp", "-p", "2", "-b", "256")
SLOW = "slow.toml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a machine whose links are slow, so that a pipeline is the faster plan of an MLP."""
    laptop = (ROOT / "gridnn/cost/machines/laptop.toml").read_text()
    slow = laptop.replace("beta_s_per_byte = 4.0e-10", "beta_s_per_byte = 3.2e-9").replace(
        '"laptop"', '"slow"'
    )
    assert slow.count("3.2e-9") == 1
    (tmp_path / SLOW).write_text(slow)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_named_schedule_is_planned_beside_no_stages(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*ALEXNET, "--schedule", "gpipe", "--stages", "3", "--groups", "2,1,1", "-o", "p.json")
    found = answer(capsys, *words)
    assert [stage["ranks"] for stage in found["stages"]] == [[0, 2], [2, 3], [3, 4]]
    assert found["exact"] and found["schedule"] == "gpipe" and found["passes"] > 1
    plain = answer(capsys, *ALEXNET)
    assert found["plain_s"] == plain["overlapped_s"]
    assert found["margin"] == pytest.approx(1 - found["step_s"] / plain["overlapped_s"])
    assert ("slower" if found["margin"] < 0 else "faster") in found["verdict"]
    table = json.loads((folder / "p.json").read_text())
    assert table["schedule"] == "gpipe" and table["passes"] == found["passes"]
    assert table["stages"] == [stage["first"] for stage in found["stages"]]
    assert table["predicted"]["step_s"] == found["step_s"] and table["predicted"]["bubble"] == found["bubble"]
    assert table["layers"] == found["layers"] and "stages" not in table["predicted"]


def test_text_has_stages_picture_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*ALEXNET, "--stages", "conv3,fc6", "--schedule", "delayed", "--form", "stash") == 0
    said = capsys.readouterr().out
    assert said.startswith("alexnet, batch 64 in ") and "delayed (stash), 3 stages" in said.splitlines()[0]
    rows = [line.split() for line in said.splitlines() if line[:2] in ("0 ", "1 ", "2 ")]
    assert [row[1] for row in rows] == ["conv1", "conv3", "fc6"]
    assert [int(row[-3]) for row in rows] == [2, 1, 0]  # steps that gradients are late
    assert "stage 0  0" in said and "weight stashing" in said
    assert said.splitlines()[-2].startswith("verdict") and "than without stages" in said.splitlines()[-2]
    assert max(map(len, said.splitlines())) <= 130


def test_auto_takes_what_is_faster(capsys: pytest.CaptureFixture[str]) -> None:
    fast = answer(capsys, *ALEXNET, "--schedule", "auto")
    assert fast["method"] == "dynamic" and "stages" not in fast
    assert any("slower than without stages" in note for note in fast["notes"])
    slow = answer(capsys, *MLP, "-m", SLOW, "--schedule", "auto", "-o", "p.json")
    assert slow["method"] == "pipeline" and slow["step_s"] < 0.9 * slow["plain_s"]
    assert "faster than without stages" in slow["verdict"] and slow["margin"] > 0.1
    assert answer(capsys, "simulate", "p.json")["step_s"] == slow["step_s"]


def test_a_faster_pipeline_is_noted_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    noted = answer(capsys, *MLP, "-m", SLOW)
    assert noted["method"] == "dynamic"
    assert any("--schedule auto takes it" in note for note in noted["notes"])
    for words in ((*MLP, "-m", SLOW, "--schedule", "sequential"), MLP):
        assert not any("pipeline" in note for note in answer(capsys, *words)["notes"])


def test_stages_without_a_schedule_are_exact(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, *ALEXNET, "--stages", "2")
    assert found["schedule"] == "1f1b" and found["form"] is None
    assert answer(capsys, *ALEXNET, "--groups", "3,1", "--schedule", "auto")["schedule"] == "1f1b"
    one = answer(capsys, *ALEXNET, "--stages", "2", "--schedule", "sequential", "--passes", "4")
    assert one["schedule"] == "sequential" and one["passes"] == 4
    assert answer(capsys, *ALEXNET, "--stages", "2", "--passes", "4")["step_s"] < one["step_s"]


def test_explain_simulate_and_plan_say_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = answer(capsys, *ALEXNET, "--schedule", "delayed", "--stages", "3", "-o", "p.json")
    explained, simulated = answer(capsys, "explain", "p.json"), answer(capsys, "simulate", "p.json")
    for found in (explained, simulated):
        same = ("step_s", "bytes", "memory_bytes", "bubble", "stages", "transfers", "passes", "form")
        assert {key: found[key] for key in same} == {key: planned[key] for key in same}
    assert simulated["simulated_s"] == simulated["step_s"] < simulated["compute_s"] + simulated["comm_s"]
    assert [layer["name"] for layer in explained["layers"]] == list(planned["layers"])
    assert len(explained["cuts"]) >= 2 and all(each["step_s"] > 0 for each in explained["cuts"])
    assert run("explain", "p.json", "--svg", "p.svg") == 0
    said = capsys.readouterr().out
    assert "cuts        " in said and "features replay" in said and "then slowest" in said
    assert "delayed (replay), 3 stages" in (folder / "p.svg").read_text()


def test_a_trace_has_a_lane_a_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = answer(capsys, *ALEXNET, "--stages", "3", "-o", "p.json")
    assert run("simulate", "p.json", "--trace", "p.trace.json") == 0
    events = json.loads((folder / "p.trace.json").read_text())["traceEvents"]
    work = [event for event in events if event["ph"] == "X"]
    assert {event["tid"] for event in work} == {1, 2, 3}
    assert max(e["ts"] + e["dur"] for e in work) == pytest.approx(planned["step_s"] * 1e6)
    assert {event["cat"] for event in work} == {"forward", "backward", "update"}
    assert sum(event["cat"] == "forward" for event in work) == 3 * planned["passes"]


def test_a_difference_of_stages_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, staged = (
        answer(capsys, *ALEXNET, "-o", "a.json"),
        answer(capsys, *ALEXNET, "--stages", "2", "-o", "b.json"),
    )
    assert run("diff", "a.json", "b.json") == 0
    said = capsys.readouterr().out.splitlines()
    assert f"different passes: 1 and {staged['passes']}" in said
    assert "schedule: no stages and 1f1b, 2 stages" in said
    first = staged["stages"][1]["first"]
    assert any(line.startswith(f"stage 1: none and from {first}, ranks") for line in said)
    change = 100 * (staged["step_s"] / plain["overlapped_s"] - 1)
    assert any(line.startswith("with overlap: ") and line.endswith(f"({change:+.1f} %)") for line in said)
    assert not any(line.startswith("step: ") for line in said)
    table = json.loads((folder / "b.json").read_text())
    (folder / "c.json").write_text(json.dumps({**table, "schedule": "delayed", "form": "stash"}))
    assert run("diff", "b.json", "c.json") == 0
    said = capsys.readouterr().out.splitlines()
    assert "schedule: 1f1b, 2 stages and delayed (stash), 2 stages" in said
    assert not any(line.startswith("stage ") for line in said)
    assert any(line.startswith("both give every layer the same grid") for line in said)


def test_what_was_planned_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("--input", "1,8,8", "--classes", "10")
    assert run("plan", "mlp", *shape, "-p", "2", "-b", "32", "--schedule", "1f1b", "-o", "p.json") == 0
    made = finish(2, folder, "--plan", "p.json", "--set", "model.name=mlp", "train.batch=32", "train.steps=4",
                  "train.eval=false")  # fmt: skip
    ran, planned = json.loads((made / "plan.json").read_text()), json.loads((folder / "p.json").read_text())
    for key in ("schedule", "stages", "passes", "layers", "procs", "batch"):
        assert ran[key] == planned[key]
    result = summary(made)
    assert result["predicted_bytes"] == result["counted_bytes"] > 0
    capsys.readouterr()
    assert answer(capsys, "simulate", str(made / "plan.json"))["step_s"] == planned["predicted"]["step_s"]


BAD: dict[str, tuple[Sequence[str], str]] = {
    "more stages than layers": (("--stages", "20"), "22 layers in 8 units"),
    "more stages than ranks": (("--schedule", "gpipe", "--stages", "5"), "5 stages on 4 processes"),
    "one stage": (("--stages", "1"), "2 stages or more"),
    "one group": (("--groups", "4"), "2 stages or more"),
    "one first layer": (("--stages", "conv1"), "2 stages or more"),
    "groups too many": (("--groups", "2,4"), "are 6 together, but there are 4"),
    "groups too many of given stages": (("--stages", "conv3", "--groups", "2,4"), "are 6 together, but there are 4"),
    "an empty group": (("--groups", "4,0"), "at least one rank"),
    "groups of words": (("--groups", "2,x"), "is not a list of whole numbers such as 4,2,2"),
    "groups and stages": (("--stages", "3", "--groups", "2,2"), "3 stages, but 2 groups"),
    "groups and first layers": (("--stages", "conv3,fc6", "--groups", "2,2"), "2 groups of ranks (2, 2) for 3 stages"),
    "an unknown layer": (("--stages", "conv3,foo"), "has no layer 'foo'"),
    "layers out of order": (("--stages", "fc6,conv3"), "not in the order"),
    "a comma": (("--stages", "conv3,"), "write how many, or the first layers"),
    "passes": (("--schedule", "gpipe", "--passes", "65"), "each needs a sample at least"),
    "schedule": (("--schedule", "zigzag"), "invalid choice: 'zigzag'"),
    "form": (("--schedule", "gpipe", "--form", "stash"), "--form is for --schedule delayed"),
    "a baseline": (("--stages", "2", "--method", "data"), "--method data knows no stages"),
    "pins": (("--schedule", "auto", "--pin", "fc6=k4"), "--pin is for plans without stages"),
    "all sizes": (("--schedule", "1f1b", "--every"), "--every is for plans without stages"),
    "a walk's seed": (("--schedule", "1f1b", "--seed", "1"), "--seed is for --method mcmc"),
    "auto in a limit": (("--schedule", "auto", "--memory", "1"), "knows no memory limit"),
    "nothing fits": (("--schedule", "1f1b", "--memory", "0.001"), "no pipeline fits in 0.001 GB"),
    "nothing fits given stages": (("--stages", "conv3", "--memory", "0.001"), "begin at conv1, conv3 fits in 0.001 GB"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = BAD[name]
    assert run(*ALEXNET, *words, "-o", "p.json") == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("error:") == 1 and not said.out
    assert not (folder / "p.json").exists()


def test_options_that_know_no_stages_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*ALEXNET, "--stages", "2", "-o", "p.json") == 0
    capsys.readouterr()
    for option in ("--equations", "--every"):
        assert run("explain", "p.json", option) == 2
        assert f"{option} knows no stages, and p.json has 2" in capsys.readouterr().err
