"""From a network to a plan, from a plan to a run: the commands that think, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gridnn.cli import COMMANDS, UNDER_MPI
from gridnn.network import zoo
from gridnn.plan.plan import open_plan
from tests.stories.job import finish, start, summary
from tests.support.command import answer, run
from tests.support.launch import ROOT, run_ranks

SMALL = ("plan", "digits-cnn", "--procs", "4", "--batch", "16")
MIXED = ("--pin", "conv1=h2 w2", "--pin", "conv5=k4", "--pin", "conv9=n2 h2", "--pin", "linear1=k2")
# A residual network on synthetic data, a few steps.
RESIDUAL = (
    "model.name=resnet20", "data.name=synthetic", "data.input_shape=[3, 32, 32]", "data.classes=10", "data.count=32",
    "data.test_count=8", "train.batch=8", "train.steps=2", "train.eval=false",
)  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return a mixed plan for a small network."""
    path = tmp_path / "plan.json"
    assert run(*SMALL, "--pin", "conv1=h2 w2", "--pin", "linear1=k2", "-o", str(path)) == 0
    capsys.readouterr()
    return path


def test_json_has_the_fixed_names(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "plan", "resnet20", "--procs", "8", "--batch", "64", "--machine", "p100-cluster")
    assert {"search_s", "step_s", "bytes", "method", "baselines", "layers"} <= set(found)
    assert set(found["baselines"]) == {"data", "model", "owt", "fc-only", "uniform"}
    assert list(found["layers"]) == [node.name for node in zoo.usual("resnet20").nodes]
    assert found["method"] == "dynamic" and found["bytes"] > 0 and found["bytes_exact"]
    assert 0 < found["lower_s"] <= found["step_s"] <= min(found["baselines"].values()) * (1 + 1e-9)


@pytest.mark.parametrize("method", ["uniform", "data", "model", "owt", "fc-only"])
def test_a_known_plan_costs_what_it_costs_as_a_baseline(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, *SMALL, "--method", method)
    assert found["method"] == method
    assert found["step_s"] == pytest.approx(found["baselines"][method])
    assert found["verdict"]


def test_text_says_plan_baselines_and_proof(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "--machine", "h100") == 0
    said = capsys.readouterr().out
    assert said.startswith("digits-cnn, batch 16, 4 processes of h100: method dynamic\n")
    for word in (
        "Pr x Pc",
        "with overlap",
        "received in a step",
        "fc-only",
        "verdict",
        "optimal for this cost, proved",
    ):
        assert word in said, said


def test_a_plan_file_is_all_that_is_needed(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = json.loads(plan.read_text())
    assert table["layers"]["conv1"] == "h2 w2" and table["model"] == {"name": "digits-cnn"}
    predicted = table["predicted"]
    assert {"step_s", "compute_s", "comm_s", "bytes", "method", "search_s", "lower_s", "baselines"} <= set(
        predicted
    )
    priced = answer(capsys, "simulate", str(plan))
    assert priced["bytes"] == predicted["bytes"] and priced["overlapped_s"] == predicted["overlapped_s"]
    assert 0 < priced["simulated_s"] <= priced["step_s"] * (1 + 1e-6)
    assert len(answer(capsys, "explain", str(plan))["layers"]) == len(table["layers"])


def test_an_edited_plan_is_priced_anew(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = answer(capsys, "simulate", str(plan))
    table = json.loads(plan.read_text())
    table["layers"] = {"*": "1"}
    plan.write_text(json.dumps(table))
    after = answer(capsys, "simulate", str(plan))
    assert before["bytes"] > 0 and after["bytes"] == 0 and after["comm_s"] == 0.0


def test_a_plan_differs_from_another_where_it_does(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    other.write_text(plan.read_text().replace('"conv1": "h2 w2"', '"conv1": "n4"'))
    assert run("diff", str(plan), str(other)) == 0
    said = capsys.readouterr().out
    assert f"1 of {len(zoo.usual('digits-cnn').nodes)} layers differ" in said
    assert [line.split()[1:4] for line in said.splitlines() if line.startswith("conv1")] == [
        ["h2", "w2", "n4"]
    ]


def test_pictures_and_traces_are_written(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", str(plan), "--svg", str(tmp_path / "plan.svg")) == 0
    assert run("simulate", str(plan), "--trace", str(tmp_path / "step.json")) == 0
    assert "<svg" in (tmp_path / "plan.svg").read_text()
    events = json.loads((tmp_path / "step.json").read_text())["traceEvents"]
    assert any(event["ph"] == "X" and event["dur"] > 0 for event in events)
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


def test_a_walk_is_reproducible_and_obeys_pins(capsys: pytest.CaptureFixture[str]) -> None:
    words = (*SMALL, "--machine", "h100", "--method", "mcmc", "--proposals", "60", "--pin", "linear1=k2 @2")
    found, again = answer(capsys, *words), answer(capsys, *words)
    assert found["layers"] == again["layers"] and found["layers"]["linear1"] == "k2 @2"
    assert found["step_s"] == again["step_s"] <= found["baselines"]["dynamic"] and found["lower_s"] is None
    assert answer(capsys, *words[:-2])["step_s"] <= min(found["baselines"].values())


def test_large_jobs_take_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "digits-cnn", "--procs", "65536", "--batch", "65536", "--machine", "h100")
    for method in ("data", "fc-only"):
        found = answer(capsys, *words, "--method", method)
        assert not found["bytes_exact"] and found["bytes"] > 0 and found["overlapped_s"] is None


def test_an_onnx_file_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    from tests.network.onnx_files import OnnxFile

    file = OnnxFile("n", 3, 16, 16)
    x = file.add("Relu", file.conv(file.add("Relu", file.conv("x", 3, 16)), 16, 16))
    file.gemm(file.add("Flatten", x), 16 * 256, 10)
    model, path = file.save(tmp_path / "net.onnx"), tmp_path / "plan.json"
    found = answer(capsys, "plan", str(model), "-p", "4", "-b", "32", "-m", "h100", "-o", str(path))
    assert found["network"] == "net" and len(found["layers"]) == 7
    assert json.loads(path.read_text())["model"] == {"file": str(model)}
    assert answer(capsys, "simulate", str(path))["bytes"] == found["bytes"]
    dynamic = OnnxFile("n", 3, "h", 16)
    dynamic.conv("x", 3, 16)
    words = ("plan", str(dynamic.save(tmp_path / "open.onnx")), "-p", "4", "-b", "32")
    assert run(*words) == 2
    assert 'dim 2 "h" of input x is dynamic' in capsys.readouterr().err
    assert answer(capsys, *words, "--input", "3,16,16")["layers"]
    assert run(*words, "--input", "3,16,16", "--option", "width=3") == 2
    assert 'takes no option but "output"' in capsys.readouterr().err


def test_what_was_found_is_said_even_if_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "plan.json"
    path.write_text("before")
    monkeypatch.setattr("os.replace", full)
    assert run(*SMALL, "--json", "-o", str(path)) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["layers"] and "No space left on device" in said.err
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


OLD = ("explain", "plan.json")
BAD: dict[str, tuple[Sequence[str], str]] = {
    "no processes": (("plan", "lenet", "--procs", "0", "--batch", "4"), "0 processes: a plan needs at least 1"),
    "no batch": (("plan", "lenet", "--procs", "4", "--batch", "0"), "batch 0 in 1 passes"),
    "no word": (("plan", "lenet", "--procs", "four", "--batch", "4"), "invalid int value: 'four'"),
    "a prime": (("plan", "lenet", "--procs", "10007", "--batch", "4"), "take a number with small factors"),
    "no passes": ((*SMALL, "--passes", "0"), "'0' is not a whole number of at least 1"),
    "seed": ((*SMALL, "--method", "mcmc", "--seed", "-1"), "'-1' is not a whole number of at least 0"),
    "network": (("plan", "lenett", "--procs", "4", "--batch", "4"), 'did you mean "lenet"?'),
    "machine": ((*SMALL, "--machine", "cray"), 'machine "cray" is not known'),
    "machine file": ((*SMALL, "--machine", "no.toml"), "machine file no.toml cannot be read"),
    "machine keys": ((*SMALL, "--machine", "bad.toml"), "machine file bad.toml: needs the key 'source'"),
    "pinned layer": ((*SMALL, "--pin", "fc6=k4"), "has no such layer"),
    "pinned batch": ((*SMALL[:-1], "2", "--pin", "conv1=n4"), "cuts the batch 4 ways"),
    "pin too large": ((*SMALL, "--pin", "conv1=n8"), "wants grid n8 = 8 processes"),
    "pin unreadable": ((*SMALL, "--pin", "conv1"), 'write a layer and its grid, such as --pin fc6="k4"'),
    "pin of a baseline": ((*SMALL, "--pin", "conv1=n4", "--method", "data"), "use --method dynamic"),
    "nothing fits": ((*SMALL, "--memory", "0.000001"), "no choice of grids fits: a rank has 1000 bytes"),
    "walk": ((*SMALL, "--proposals", "7"), "--proposals is for --method mcmc"),
    "walk of many": (("plan", "lenet", "-p", "512", "-b", "512", "--method", "mcmc"), "up to 256"),
    "walk in a limit": ((*SMALL, "--method", "mcmc", "--memory", "1"), "knows no memory limit"),
    "input": ((*SMALL, "--input", "1,,8"), "write channels and extents such as 3,224,224"),
    "classes": ((*SMALL, "--classes", "0"), "a network needs at least 1"),
    "option": ((*SMALL, "--option", "wdth=3"), 'unknown option "wdth"'),
    "onnx": (("plan", "no.onnx", "--procs", "4", "--batch", "4"), "no.onnx"),
    "folder": ((*SMALL, "-o", "none/plan.json"), "there is no folder none"),
    "unknown word": ((*SMALL, "--pan"), "unrecognized arguments: --pan"),
    "no plan": (("explain", "none.json"), "plan file none.json cannot be read"),
    "nameless": (("simulate", "nameless.json"), "name it with --network"),
    "no plan at all": (("simulate", "bad.toml"), "is not JSON"),
    "edited layer": (OLD, "no layer 'conv9'; did you mean conv"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = {"format": "gridnn-plan", "version": 1, "procs": 4, "batch": 16, "layers": {"*": "n4"}}
    (tmp_path / "bad.toml").write_text('name = "bad"\n')
    (tmp_path / "nameless.json").write_text(json.dumps(table))
    table |= {"model": {"name": "digits-cnn"}, "layers": {"*": "n4", "conv9": "k2"}}
    (tmp_path / "plan.json").write_text(json.dumps(table))
    words, message = BAD[name]
    assert run(*words) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("error:") == 1 and not said.out
    assert not (tmp_path / "none").exists()


def test_a_plan_that_was_there_survives_a_failure(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = plan.read_text()
    assert run(*SMALL, "--pin", "fc6=k4", "-o", str(plan)) == 2
    assert plan.read_text() == before


def test_every_command_has_help_with_an_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        if command in UNDER_MPI:
            said = run_ranks(0, ["-m", "gridnn.cli", command, "--help"], cwd=tmp_path).stdout
        else:
            assert run(command, "--help") == 0
            said = capsys.readouterr().out
        assert "examples:" in said and said.count("usage: ") == 1, command


ALONE = """
import sys
for room in ("mpi4py", "gridnn.comm", "gridnn.compute", "gridnn.layers", "gridnn.train"):
    sys.modules[room] = None
from gridnn.cli import main
assert main(["plan", "digits-cnn", "-p", "4", "-b", "16", "-o", "plan.json"]) == 0
for words in ("explain plan.json --svg plan.svg", "simulate plan.json", "diff plan.json plan.json"):
    assert main(words.split()) == 0
"""


def test_planning_needs_neither_mpi_nor_kernels(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_a_searched_plan_of_a_residual_network_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    assert run("plan", "resnet20", "--procs", "4", "--batch", "8", *MIXED, "-o", str(path)) == 0
    written = open_plan(path).plan(zoo.usual("resnet20"))
    assert len(set(written.schemes.values())) > 4
    folder = finish(4, tmp_path, "--plan", "plan.json", "--set", *RESIDUAL)
    result = summary(folder)
    assert result["predicted_bytes"] == result["counted_bytes"] > 0
    ran = json.loads((folder / "plan.json").read_text())
    assert ran["layers"] == json.loads(path.read_text())["layers"]
    capsys.readouterr()
    # What ran can be explained: its file says all that is needed, and the price is the planner's.
    assert answer(capsys, "simulate", str(folder / "plan.json"))["bytes"] == written.predicted["bytes"]


def test_a_plan_for_another_batch_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert run("plan", "resnet20", "--procs", "2", "--batch", "16", "-o", str(path)) == 0
    done = start(2, tmp_path, "--plan", "plan.json", "--set", *RESIDUAL)
    assert done.returncode == 2
    assert "plan.json is for another batch: it says 16, the run has 8" in done.stderr


def test_descriptions_are_not_trained(tmp_path: Path) -> None:
    done = start(2, tmp_path, "--set", "model.name=rnnlm")
    assert done.returncode == 2 and "is a description for planning only" in done.stderr
