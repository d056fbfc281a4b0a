"""Jobs in a real Slurm: submitted by the scripts of the project, run, cancelled, warned, preempted, killed, resumed."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stories.job import BRIEF, finish, losses, summary
from tests.support.launch import ROOT, shared_memory
from tests.support.slurm import Cluster, cluster, missing, swept, wait_for

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

TRAIN = ("--set", *BRIEF, "compute.choice=fixed")
FOREVER = (*TRAIN, "train.steps=1000000")
# Long enough to be still at work when something happens to it; float64, so that any number of ranks must agree.
STEPS = 720
LONG = (*TRAIN, f"train.steps={STEPS}", "train.dtype=float64", "checkpoint.every_s=0")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), nodes=3) as found:
        yield found


@pytest.fixture
def here(slurm: Cluster, tmp_path: Path) -> Cluster:
    """The cluster, with a folder of this test's own."""
    return Cluster(slurm.folder, tmp_path)


def folder(here: Cluster, job: int | str) -> Path:
    return here.work / "runs" / f"slurm-{job}"


def steps_made(run: Path) -> list[int]:
    """The steps in the record of a run, in the order of its lines."""
    path = run / "steps.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def test_train_on_four_ranks_of_two_nodes(here: Cluster) -> None:
    job = here.submit("--nodes=2", "train", "--plan", "n2 k2", *TRAIN)
    assert here.end(job) == [("COMPLETED", "0:0")], here.out()
    run, out = folder(here, job), here.out(f"gridnn-train-{job}.out")
    found = summary(run)
    assert (found["ranks"], found["steps"], steps_made(run)) == (4, 4, [0, 1, 2, 3])
    assert found["predicted_bytes"] == found["counted_bytes"] > 0
    assert "error" not in out
    assert f"job {job}: 4 ranks on 2 nodes, " in out, "it finds itself in a job"


def test_array_of_two_runs(here: Cluster) -> None:
    job = here.submit("--array=0-1", "--ntasks=1", "train", *TRAIN, "train.seed=%a")
    assert here.end(job) == [("COMPLETED", "0:0")] * 2, here.out()
    runs = [folder(here, f"{job}_{task}") for task in range(2)]
    for task, run in enumerate(runs):
        assert f"seed = {task}\n" in (run / "config.toml").read_text()
    assert losses(runs[0]) != losses(runs[1])


def test_scaling_is_an_array_over_numbers_of_ranks(here: Cluster) -> None:
    words = ("--set", "compute.choice=fixed", "model.options.width=4", "train.batch=16")
    job = here.submit("--ntasks=2", "--array=0-2", "strong-scaling", *words, env={"GRIDNN_STEPS": "2"})
    assert sorted(here.end(job)) == [("COMPLETED", "0:0")] * 2 + [("FAILED", "2:0")], here.out()
    runs = here.work / "runs" / f"strong-{job}"
    assert sorted(path.name for path in runs.iterdir()) == ["p0001", "p0002"]
    for ranks in (1, 2):
        found = summary(runs / f"p{ranks:04d}")
        assert (found["ranks"], found["steps"]) == (ranks, 2)
    assert "task 2 runs on 4 ranks, the job has 2; give --ntasks=4" in here.out(f"*-{job}_2.out")


def test_separate_single_ranks_are_refused(here: Cluster) -> None:
    """The wrong --mpi starts four runs of one rank each, in one folder."""
    job = here.submit("train", *TRAIN, env={"GRIDNN_MPI": "none"})
    assert here.end(job) == [("FAILED", "2:0")], here.out()
    assert here.out().count("error: srun started 4 processes (SLURM_STEP_NUM_TASKS)") == 1, here.out()
    assert "srun --mpi=pmi2 (MPICH)" in here.out()
    assert not folder(here, job).exists()


def at_work(here: Cluster) -> tuple[int, list[int]]:
    """A job that would train for ever, after its first steps, and its two ranks."""
    job = here.submit("--ntasks=2", "--nodes=2", "train", *FOREVER)
    wait_for(lambda: len(steps_made(folder(here, job))) > 2, "the first steps")
    ranks = here.ranks(job)
    assert len(ranks) == 2
    return job, ranks


def test_cancelled_job_saves_and_does_not_come_back(here: Cluster) -> None:
    job, ranks = at_work(here)
    with swept(ranks):
        assert here.run("scancel", str(job)).returncode == 0
        assert [state for state, _ in here.end(job)] == ["CANCELLED"]
        wait_for(lambda: not here.processes(job), "the end of its processes")
    made = len(steps_made(folder(here, job)))
    assert [path.name for path in checkpoints(folder(here, job))] == [f"step-{made:08d}"], here.out()
    assert here.show(job)[0]["Restarts"] == "0"


def test_killed_rank_ends_the_job(here: Cluster) -> None:
    job, ranks = at_work(here)
    with swept(ranks):
        os.kill(ranks[1], signal.SIGKILL)
        assert here.end(job) == [("FAILED", "137:0")], here.out()
        wait_for(lambda: not here.processes(job), "the end of its processes")
    assert "Killed" in here.out()


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-????????"))


@dataclass(frozen=True)
class Lives:
    """Jobs that were interrupted, by what interrupted them, and a run that was not."""

    here: Cluster
    jobs: Mapping[str, str]
    left: frozenset[Path]
    whole: Path


def interrupt(here: Cluster, why: str, job: str) -> None:
    """Do to a job what its name says, without waiting for what follows."""
    number = here.show_one(job)["JobId"]
    urgent = (
        "sbatch",
        "--partition=urgent",
        "--nodelist=n2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=true",
    )
    commands = {
        "warned": ("scancel", "--batch", "--signal=USR1", number),
        "requeued": ("scontrol", "requeue", number),
        "preempted": urgent,
        "killed": ("kill", "-KILL", *map(str, here.ranks(int(number)))),
    }
    done = here.run(*commands[why])
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def lives(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """Four jobs that are interrupted at the same time and come back: most of it is waiting for Slurm."""
    here = Cluster(slurm.folder, tmp_path_factory.mktemp("lives"))
    where = {"warned": "n1", "requeued": "n1", "preempted": "n2", "killed": "n3"}
    jobs = {}
    for why, node in where.items():
        options = (f"--nodelist={node}", "--ntasks=2", *(["--array=5"] if why == "warned" else []))
        more = ("checkpoint.every_steps=20",) if why == "killed" else ()
        number = here.submit(*options, "train", "--plan", "n2", *LONG, *more)
        jobs[why] = f"{number}_5" if why == "warned" else f"{number}"
    left: set[Path] = set()
    waiting = dict(jobs)

    def strike() -> bool:
        """Interrupt every job that has something to lose; is there none left?"""
        for why, job in list(waiting.items()):
            run = folder(here, job)
            if len(steps_made(run)) > 2 and (why != "killed" or checkpoints(run)):
                if why == "killed":
                    left.update(file for rank in here.ranks(int(job)) for file in shared_memory(rank))
                interrupt(here, why, job)
                del waiting[why]
        return not waiting

    wait_for(strike, "the first steps")
    assert here.end(int(jobs["killed"])) == [("FAILED", "137:0")], here.out()
    assert all(file.exists() for file in left)
    assert here.run("scontrol", "requeue", jobs["killed"]).returncode == 0
    whole = finish(0, here.work, *LONG, "checkpoint.keep=0", timeout_s=120)
    for job in jobs.values():
        here.end(int(job.split("_")[0]))
    return Lives(here, jobs, frozenset(left), whole)


@pytest.mark.parametrize("why", ["warned", "requeued", "preempted", "killed"])
def test_an_interrupted_job_comes_back_and_goes_on(lives: Lives, why: str) -> None:
    job, here = lives.jobs[why], lives.here
    out, found = here.out(f"*-{job.split('_')[0]}.out"), here.show_one(job)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("COMPLETED", "0:0", "1"), out
    assert re.search(rf"job {job}, restart 1: 2 ranks on 1 node, (59|60) min left", out), out
    run = folder(here, job)
    assert steps_made(run) == list(range(STEPS)), "every step once"
    assert losses(run) == pytest.approx(losses(lives.whole), rel=1e-9), (
        "the curve of a run that nothing happened to"
    )
    resumed = [int(step) for step in re.findall(r"resumed from \S*step-(\d+)", out)]
    assert len(resumed) == 1 and 0 < resumed[0] < STEPS
    saved = [int(step) for step in re.findall(r"left after step (\d+): ", out)]
    assert saved == ([] if why == "killed" else resumed), "it goes on where it had left"
    # Of its own accord where it left as a job that runs; what ends it with a word to Slurm, Slurm brings back.
    assert ("saved and requeued; restart 1 will resume" in out) == (why in ("warned", "preempted"))


def test_memory_of_killed_ranks_is_swept(lives: Lives) -> None:
    """MPICH would take what killed ranks left behind for the memory of the new ones: same job, same step."""
    if not lives.left:
        pytest.skip("this MPI keeps no files in memory")
    assert not any(file.exists() for file in lives.left)


def test_an_unknown_site_fails_the_job(here: Cluster) -> None:
    """As it is where the script was not started by `submit`, which looks first."""
    script, env = (
        ROOT / "scripts" / "slurm" / "train.sbatch",
        {"GRIDNN_HOME": str(ROOT), "GRIDNN_SITE": "nowhere"},
    )
    job = int(here.run("sbatch", "--parsable", str(script), env=env).stdout)
    assert here.end(job) == [("FAILED", "2:0")]
    assert "error: no site file" in here.out() and "example.sh local.sh" in here.out()
