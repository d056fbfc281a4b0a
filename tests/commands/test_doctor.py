"""What `gridnn doctor` makes of answers: a process that is asked, made of paper; what is judged, in which words."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gridnn.comm import cuda_aware
from gridnn.commands import doctor
from gridnn.commands.doctor.ask import Answer, ask, yielding
from gridnn.commands.doctor.judge import judge, ranks_text
from gridnn.commands.doctor.words import OPERATIONS, lines

# A process that is asked, made of paper ----------------------------------------------------------


def asked(program: str, limit_s: float = 20.0) -> Answer:
    words = [sys.executable, "-c", f"import json, os, sys, time\n{program}"]
    with ask(os.environ, "auto", "auto", limit_s, words) as found:
        return found


def test_noise_is_no_answer() -> None:
    found = asked("print('x' * 200000); os.write(int(sys.argv[1]), b'{\"report\": {}, \"rank\": 3}\\n')")
    assert found == Answer({}, 3)


def test_what_a_dead_process_said() -> None:
    found = asked("print('\\n'.join(map(str, range(100)))); sys.stdout.flush(); os._exit(9)")
    assert found.died and "ended with exit code 9, while it started; it said:\n  88\n" in found.error
    assert asked("os._exit(0)").error.endswith("it said nothing")


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    started_s = time.monotonic()
    found = asked(f"open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(1000)", limit_s=2.0)
    assert time.monotonic() - started_s < 15 and not found.died
    assert found.error.startswith("no answer within 2 s")
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


BEGUN = """
def tell(**what): os.write(int(sys.argv[1]), json.dumps(what).encode() + b"\\n")
tell(stage="messages were measured", trying="", within_s=9, rank=1, so_far={"ranks": [], "use": "auto"})
before = {"nccl": {"tried": True, "why": ""}, "links": {"tried": False, "why": "later"}}
tell(stage="links were tried", trying="links", within_s=1.5, rank=1, so_far={"tried": before, "use": "nccl"})
"""


def test_what_was_found_before_an_attempt() -> None:
    """In which the process died, or that came to no end: it is told, with what became of the attempt."""
    died = asked(BEGUN + "print('odd', flush=True); os._exit(9)")
    assert (died.died, died.cut, died.rank, died.error, died.others_s) == (True, "links", 1, "", 1.5)
    assert died.report is not None
    assert died.report["ranks"] == [] and died.report["use"] == "nccl"
    assert died.report["tried"]["nccl"] == {"tried": True, "why": ""}
    why = "the process that was to try it ended with exit code 9; it said:\n  odd"
    assert died.report["tried"]["links"] == {"tried": True, "why": why}
    started_s = time.monotonic()
    late = asked(BEGUN + "time.sleep(1000)")
    assert time.monotonic() - started_s < 10 and not late.died and late.report is not None
    assert late.report["tried"]["links"]["why"] == "no answer within 1.5 s"
    short = asked(BEGUN.replace("1.5", "60") + "time.sleep(1000)", limit_s=1.0)
    assert short.report is not None and short.report["tried"]["links"]["why"] == "no answer within 1 s"
    assert asked(BEGUN.split("before")[0] + "os._exit(9)").error.endswith(
        "while messages were measured; it said nothing"
    ), "nothing was tried yet"


# What is judged, and in which words --------------------------------------------------------------


def rank(host: str = "a", **changes: Any) -> dict[str, Any]:
    gpu = {"devices": [], "missing": "no CuPy", "cupy": "", "driver": 0, "runtime": 0, "nccl": 0}
    return {
        "host": host, "cores": [0, 1, 2, 3], "host_cores": 8, "memory_bytes": 100 << 30, "free_bytes": 50 << 30,
        "gridnn": "1", "python": "3", "numpy": "2", "mpi": "MPICH  Version: 5", "standard": "5.0",
        "threading": "multiple", "threads": 1, "cuda": {"operations": [], "why": "it says no"},
        "gpu": gpu | {"taken": None, "free_bytes": 0, "failed": ""}, **changes,
    }  # fmt: skip


def on_gpu(number: int, host: str = "a") -> dict[str, Any]:
    devices = [
        {"number": n, "name": "Paper", "identity": f"u{n}", "memory_bytes": 80 << 30, "capability": "9.0"}
        for n in range(2)
    ]
    gpu = {"devices": devices, "missing": "", "cupy": "14", "driver": 13000, "runtime": 12080, "nccl": 22707}
    return rank(host, gpu=gpu | {"taken": number, "free_bytes": 70 << 30, "failed": ""})


def report(
    ranks: list[dict[str, Any]], links: Sequence[tuple[float, float]] = (),
    device_links: Sequence[tuple[float, float]] = (), tried: Mapping[str, str] | None = None, **use: str,
) -> Answer:  # fmt: skip
    """What ranks found; of what was `tried`, what is wrong."""
    made, of_devices = (
        [
            {"ranks": [at, at + 1], "latency_s": late, "bytes_per_s": rate}
            for at, (late, rate) in enumerate(some)
        ]
        for some in (links, device_links)
    )
    chosen = {"device": "cpu", "transport": "host", "why": "so", "error": ""} | use
    not_tried = {name: {"tried": False, "why": "no reason"} for name in ("nccl", "links", *OPERATIONS)}
    told = not_tried | {name: {"tried": True, "why": why} for name, why in (tried or {}).items()}
    return Answer(
        {"ranks": ranks, "links": made, "use": chosen, "tried": told, "device_links": of_devices}, 0
    )


def test_nothing_is_wrong() -> None:
    assert judge(report([rank(), rank(), rank("b"), rank("b")], [(1e-6, 1e9)] * 3)) == ((), ())


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            report([rank(), rank(mpi="Open MPI v5")]),
            "different versions of MPI: rank 0 MPICH  Version: 5; rank 1 Open",
        ),
        (report([rank(gridnn="2"), rank(), rank()]), "different versions of gridnn: rank 0 2; ranks 1-2 1"),
        (report([rank()], error="transport cuda-mpi cannot be had"), "transport cuda-mpi cannot be had"),
        (Answer(None, error="it died", died=True), "it died"),
    ],
)
def test_what_makes_a_run_fail(given: Answer, problem: str) -> None:
    verdict = judge(given)
    assert len(verdict.problems) == 1 and problem in verdict.problems[0]
    assert lines(given, verdict)[-1].endswith("a run would fail here")


@pytest.mark.parametrize(
    ("given", "note"),
    [
        (report([rank(threads=4), rank(threads=4)]), "2 ranks of host a would use 8 threads on 4 cores"),
        (report([rank(free_bytes=9 << 30)]), "less than 10 % of the memory of host a is free"),
        (report([rank(), rank(), rank("b")]), "hosts have 1 and 2 ranks"),
        (report([rank(), rank("b"), rank(), rank("b")]), "neighbours in rank are on different hosts"),
        (report([rank(), rank(threading="serialized")]), "MPI was not started for several threads"),
        (report([on_gpu(0), on_gpu(0)], device="gpu", transport="staged"), "up to 2 ranks share a GPU"),
        (
            report([rank()] * 4, [(1e-6, 1e9), (9e-6, 1e9), (1e-6, 1e9)]),
            "ranks 1-2 (a): 9 times the latency of links like theirs",
        ),
        (
            report([rank()] * 4, [(1e-6, 1e9), (1e-6, 1e9), (1e-6, 1e8)]),
            "ranks 2-3 (a): 1/10 of the bandwidth",
        ),
    ],
)
def test_what_is_worth_a_note(given: Answer, note: str) -> None:
    verdict = judge(given)
    assert not verdict.problems
    assert len(verdict.notes) == 1 and note in verdict.notes[0]
    assert lines(given, verdict)[-1].endswith("a run can start here")


def test_a_device_that_fails_is_a_note() -> None:
    broken = on_gpu(0)
    broken["gpu"] |= {"taken": None, "failed": "device 0 cannot be used: out of memory"}
    verdict = judge(report([on_gpu(0), broken]))
    assert verdict.notes == ("rank 1: device 0 cannot be used: out of memory",)


def test_links_between_hosts_are_no_slow_links_inside() -> None:
    four = [rank(), rank(), rank("b"), rank("b")]
    given = report(four, [(1e-6, 1e10), (5e-5, 1e8), (2e-6, 5e9)])
    verdict = judge(given)
    assert verdict.notes == ()
    said = "\n".join(lines(given, verdict))
    assert "inside a host: latency 1.50 us (at most 2.00 us, ranks 2-3)" in said
    assert "between hosts: latency 50.00 us, 95.4 MiB/s" in said


def test_gpus_in_words() -> None:
    given = report([on_gpu(0), on_gpu(1)], device="gpu", transport="staged")
    said = lines(given, judge(given))
    assert any(
        "ranks" not in line
        and "rank 1: device 1 of 2: Paper (9.0), 80.0 GiB, 70.0 GiB free; CuPy 14, CUDA 12.8, driver for 13.0"
        in line
        for line in said
    ), said
    assert "NCCL        2.27.7" in said
    assert any(line.startswith("device      gpu for runs with --device gpu") for line in said)
    in_part = rank(cuda={"operations": list(OPERATIONS[:2]), "why": "it says yes"})
    assert any(
        "non-blocking collectives no" in line for line in lines(report([in_part]), judge(report([in_part])))
    )


def test_what_was_tried() -> None:
    """What a run would use and what fails is wrong; what it would not use is worth a note; NCCL had its say before."""
    two = [on_gpu(0), on_gpu(1)]
    fine = dict.fromkeys(("nccl", "links", *OPERATIONS), "")
    given = report(two, [(1e-6, 1e9)], [(2e-5, 1e8)], fine, transport="nccl", device="gpu")
    assert judge(given) == ((), ())
    said = "\n".join(lines(given, judge(given)))
    assert "GPU links   inside a host: latency 20.00 us, 95.4 MiB/s" in said
    assert (
        "tried       NCCL, arrays of GPUs by nccl, device memory given to MPI in messages, blocking collectives, "
        "non-blocking collectives: works\n"
    ) in said
    dead = {"messages": "", "blocking collectives": "it was killed; it said:\n  odd"}
    given = report(two, tried=dead, transport="cuda-mpi", device="gpu")
    verdict = judge(given)
    assert verdict.notes == () and len(verdict.problems) == 1
    assert verdict.problems[0].startswith(
        'a run would take transport cuda-mpi, which fails (comm.transport = "staged"'
    )
    said = "\n".join(lines(given, verdict))
    assert "device memory given to MPI in blocking collectives: fails: it was killed\n" in said
    assert "device memory given to MPI in messages: works\n" in said
    assert (
        "NCCL, arrays of GPUs by cuda-mpi, device memory given to MPI in non-blocking collectives: not tried: "
        in said
    )
    verdict = judge(report(two, tried=dead, transport="staged", device="gpu"))
    assert verdict.problems == () and "no matter to a run, which takes transport staged" in verdict.notes[0]
    verdict = judge(report(two, tried={"nccl": "rank 0: no", "links": ""}, transport="staged", device="gpu"))
    assert verdict == ((), ()), "the transport says why"
    verdict = judge(report(two, tried={"nccl": "no answer"}, transport="nccl", device="gpu"))
    assert "NCCL: no answer" in verdict.problems[0]
    verdict = judge(report(two, tried={"links": "odd"}, transport="staged", device="gpu"))
    assert verdict.problems == (
        "a run would take transport staged, which fails: arrays of GPUs by staged: odd",
    )
    slow = [(1e-6, 1e9), (9e-6, 1e9), (1e-6, 1e9)]
    verdict = judge(report([on_gpu(0)] * 4, device_links=slow, transport="nccl", device="cpu"))
    assert verdict.notes == (
        "ranks 1-2 (a): 9 times the latency of links like theirs, for arrays of GPUs by nccl",
    )


def test_words_of_two_rooms_are_the_same() -> None:
    """Those of the command, which imports no room that names MPI."""
    assert doctor._TRANSPORTS == cuda_aware.TRANSPORTS and doctor._DEVICES == cuda_aware.DEVICES
    assert OPERATIONS == cuda_aware.OPERATIONS


def test_ranks_in_words() -> None:
    assert ranks_text([2]) == "rank 2"
    assert ranks_text([6, 0, 1, 2, 3]) == "ranks 0-3, 6"
    assert ranks_text(range(0, 40, 2)) == "ranks 0, 2, 4, 6, 8, 10, 12, ..., 38"


def test_crowded_ranks_sleep() -> None:
    cores = len(os.sched_getaffinity(0))
    assert yielding({}) == {} == yielding({"MPI_LOCALNRANKS": str(cores)})
    assert yielding({"MPI_LOCALNRANKS": str(cores + 1)}) == {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
    assert yielding({"SLURM_STEP_TASKS_PER_NODE": f"{(os.cpu_count() or 1) + 1}(x2)"})
