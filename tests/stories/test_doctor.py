"""`gridnn doctor`: alone, under mpiexec and srun; and what it says of ranks that die, hang or are not one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gridnn.cli import main
from gridnn.comm import cuda_aware
from tests.support import shim
from tests.support.gpus import run_doctor
from tests.support.launch import ROOT, run_ranks
from tests.support.slurm import Cluster, cluster, missing

FACTS = {
    "host", "cores", "host_cores", "memory_bytes", "free_bytes", "gridnn", "python", "numpy", "gpu", "mpi",
    "standard", "threading", "cuda", "threads",
}  # fmt: skip


def run(
    ranks: int, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    return run_ranks(ranks, ["-m", "gridnn.cli", "doctor", *words], extra_env=env, timeout_s=timeout_s)


def answer(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    """The one JSON object that a doctor says."""
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["format"], found["version"], found["ok"]) == ("gridnn-doctor", 1, not code)
    return found


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
def test_what_a_run_would_find(ranks: int) -> None:
    found = answer(run(ranks, "--json"))
    size = max(1, ranks)
    assert len(found["ranks"]) == size and found["problems"] == []
    for rank in found["ranks"]:
        assert set(rank) == FACTS
        assert 0 < rank["free_bytes"] <= rank["memory_bytes"] and rank["threads"] == 1
        assert set(rank["cores"]) == os.sched_getaffinity(0)
        assert rank["cuda"]["why"]
    assert [link["ranks"] for link in found["links"]] == [[at, at + 1] for at in range(size - 1)]
    for link in found["links"]:
        assert 0 < link["latency_s"] < 1 and 1e3 < link["bytes_per_s"] < 1e12
    assert set(found["tried"]) == {"nccl", "links", *cuda_aware.OPERATIONS}
    if found["use"]["device"] == "cpu":
        assert not any(what["tried"] for what in found["tried"].values()) and found["device_links"] == []
        assert all("no rank has a GPU" in what["why"] for what in found["tried"].values())
    assert found["use"]["device"] and found["use"]["transport"] in (*cuda_aware.TRANSPORTS, "host")
    crowded = [note for note in found["notes"] if "lower OMP_NUM_THREADS" in note]
    assert len(crowded) == (size > len(os.sched_getaffinity(0)))


def test_rank_0_speaks_once() -> None:
    done = run(2)
    assert (done.returncode, done.stderr) == (0, "")
    labels = [line[:12].strip() for line in done.stdout.splitlines()]
    for label in (
        "gridnn",
        "ranks",
        "cores",
        "memory",
        "MPI",
        "CUDA in MPI",
        "links",
        "GPUs",
        "device",
        "transport",
        "tried",
    ):
        assert labels.count(label) == 1, done.stdout
    assert done.stdout.splitlines()[-1] == "verdict     a run can start here"
    assert "has ranks 0-1" in done.stdout and "inside a host: latency" in done.stdout


@pytest.mark.parametrize(
    "words", [("--transport", "ncll"), ("--device", "tpu"), ("--limit", "0"), ("--limit", "soon"), ("now",)]
)
def test_words_it_does_not_know(words: tuple[str, ...]) -> None:
    done = run(2, *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("error: ") == 1 and words[-1] in done.stderr


def test_help_says_what_the_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "exit codes:" in said and "a run would fail" in said


def test_what_cannot_be_had() -> None:
    """Where there is no GPU for every rank: the cores are asked for, so none is taken."""
    found = answer(run(2, "--json", "--device", "cpu", "--transport", "cuda-mpi"), code=1)
    assert found["problems"] == [
        "transport cuda-mpi needs a GPU on every rank, and device cpu was asked for; use transport auto"
    ]
    assert len(found["ranks"]) == 2 and len(found["links"]) == 1, "what was found is said all the same"


def test_ranks_that_mpi_does_not_see_together() -> None:
    """Alone, though three others were started; one of them speaks."""
    first = run(0, env={"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"})
    assert (first.returncode, first.stderr) == (1, "")
    assert first.stdout.count("srun started 4 processes (SLURM_STEP_NUM_TASKS)") == 1
    assert "memory" in first.stdout and first.stdout.endswith("a run would fail here\n")
    other = run(0, env={"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"})
    assert (other.returncode, other.stdout, other.stderr) == (1, "", "")
    found = answer(run(0, "--json", env={"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}), code=1)
    assert len(found["problems"]) == 1 and len(found["ranks"]) == 1 and found["use"] is None


# A rank that fails: what Python starts with is changed for rank 1 --------------------------------

FAULT = """
import os, signal, sys, time
if os.environ.get("PMI_RANK") == "1":
    from {module} import {name} as honest
    import {module} as place

    def faulty(*arguments, **words):
        {deed}

    place.{name} = faulty
"""
BEFORE, AFTER = ("gridnn.compute.gpu.found", "find_devices"), ("gridnn.comm.cuda_aware", "detect")


def with_fault(
    folder: Path, place: tuple[str, str], deed: str, *words: str
) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(FAULT.format(module=place[0], name=place[1], deed=deed))
    return run(3, *words, env={"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}, timeout_s=40)


DIES = "print('a library', 'says', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize("place", [BEFORE, AFTER])
def test_a_rank_that_dies(tmp_path: Path, place: tuple[str, str]) -> None:
    """Among the others, when a launcher ends them; and before MPI starts, when nobody does but the limit."""
    done = with_fault(tmp_path, place, DIES, "--limit", "8")
    assert done.returncode != 0
    assert done.stdout.count("rank 1: the process that was to try it was killed by SIGSEGV") == 1, done.stdout
    assert "a library says" in done.stdout


def test_a_rank_that_raises(tmp_path: Path) -> None:
    done = with_fault(tmp_path, AFTER, "raise ValueError('this is odd')")
    assert done.returncode != 0
    assert done.stdout.count("ValueError: this is odd") == 1 and "rank 1 failed" in done.stdout


def test_a_rank_that_never_answers(tmp_path: Path) -> None:
    started_s = time.monotonic()
    done = with_fault(tmp_path, AFTER, "time.sleep(1000)", "--limit", "5")
    assert time.monotonic() - started_s < 20
    assert done.returncode != 0  # 1, or that of a launcher which ended the others
    assert done.stdout.count("no answer within 5 s, while ranks were asked") == 1, done.stdout + done.stderr


# GPUs: those of the tests (`tests.support.gpus`) ---------------------------------------------------

needs_kernels = pytest.mark.skipif(
    shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU"
)
SOON = "from gridnn.comm import attempts; attempts.CLASS_S = 3.0"
"""An attempt is waited for so long."""
DIES_IN = (
    SOON
    + """
import signal
from gridnn.comm.carrier import Mpi
honest = Mpi.share
def dies(*arguments):
    if rank in {ranks}:
        print("a library", "says", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    return honest(*arguments)
Mpi.share = dies
"""
)
KILLED = "the process that was to try it was killed by SIGSEGV; it said:\n  a library says"
TRIED = "device memory given to MPI in"


@needs_kernels
@pytest.mark.parametrize("ranks", [1, 3])
def test_gpus_are_tried(tmp_path: Path, ranks: int) -> None:
    found = answer(run_doctor(tmp_path, ranks, "--json"))
    assert [rank["gpu"]["taken"] for rank in found["ranks"]] == list(range(ranks))
    assert [link["ranks"] for link in found["device_links"]] == [[at, at + 1] for at in range(ranks - 1)]
    if ranks == 1:
        why = "there is one rank, which sends nothing"
        assert {(what["tried"], what["why"]) for what in found["tried"].values()} == {(False, why)}
    else:
        assert found["use"]["transport"] == "nccl"
        assert {(what["tried"], what["why"]) for what in found["tried"].values()} == {(True, "")}


@needs_kernels
def test_mpi_that_dies_of_device_memory_on_one_rank(tmp_path: Path) -> None:
    """The report comes all the same: of the rank that died what only that one knows, and rank 0 tells all."""
    done = run_doctor(tmp_path, 2, "--transport", "staged", deed=DIES_IN.format(ranks=(1,)))
    said = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), said + done.stderr
    died = f"rank 1: {TRIED} blocking collectives: {KILLED.splitlines()[0]}"
    assert said.count(died) == 1 and said.count("a library says") == 1, said
    assert f"{TRIED} blocking collectives: fails: no answer within 3 s\n" in said
    assert f"arrays of GPUs by staged, {TRIED} messages: works\n" in said
    assert f"{TRIED} non-blocking collectives: not tried: it did not come to that\n" in said
    assert said.count("GPU links   inside a host: latency") == 1 == said.count("ranks       2 on 1 host")
    assert said.count("verdict     a run can start here") == 1, "it would not give it to MPI"


@needs_kernels
def test_mpi_that_dies_of_device_memory_everywhere(tmp_path: Path) -> None:
    """One object, though the launcher ends all ranks; a run would die of it too."""
    done = run_doctor(
        tmp_path, 2, "--json", "--transport", "cuda-mpi", takes="part", deed=DIES_IN.format(ranks=(0, 1))
    )
    found = json.loads(done.stdout)
    assert done.returncode != 0 and not found["ok"]
    assert found["tried"]["messages"] == {"tried": True, "why": ""}
    assert found["tried"]["blocking collectives"] == {"tried": True, "why": KILLED}
    assert len(found["problems"]) == 1
    assert "a run would take transport cuda-mpi, which fails" in found["problems"][0]


# Slurm -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(folder, nodes=2) as found:
        yield Cluster(found.folder, folder)


def srun(slurm: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "gridnn.cli", "doctor", "--json"]
    return subprocess.run(
        ["srun", "-N2", "-n4", *words, *program], env=slurm.environment(), cwd=slurm.folder,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def test_under_srun(slurm: Cluster) -> None:
    found = answer(srun(slurm, "--mpi=pmi2"))
    assert len(found["ranks"]) == 4 and len(found["links"]) == 3


def test_srun_with_the_wrong_mpi(slurm: Cluster) -> None:
    done = srun(slurm, "--mpi=none")
    assert done.returncode == 1
    found = json.loads(done.stdout)  # of one of four
    assert len(found["problems"]) == 1 and "srun started 4 processes" in found["problems"][0]
    assert "srun --mpi=pmi2 (MPICH)" in found["problems"][0]


def test_a_signal_ends_it_and_its_process() -> None:
    """Nothing is left behind by a doctor that is told to go while it waits."""
    words = [sys.executable, "-m", "gridnn.cli", "doctor"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        deadline_s = time.monotonic() + 20
        while not (children := _children(process.pid)) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert children
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    while time.monotonic() < deadline_s and any(_runs(child) for child in children):
        time.sleep(0.05)
    assert not any(_runs(child) for child in children)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
