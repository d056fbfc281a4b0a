"""The batch scripts without a Slurm: its commands are stand-ins that note how they were called."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.launch import ROOT
from tests.support.slurm import wait_for

SCRIPTS = ROOT / "scripts" / "slurm"
BATCH = sorted(SCRIPTS.glob("*.sbatch"))
SHELL = [SCRIPTS / "common.sh", SCRIPTS / "submit", ROOT / "scripts" / "slurm_test_cluster", *BATCH]

# srun: the ranks.  FAKE_SRUN is what they do; another one, before them, is the sweep.
COMMANDS = {
    "srun": 'echo srun "$@" >>"$CALLS"; case "$*" in *find*) exit 0 ;; esac; eval "${FAKE_SRUN:-exit 0}"',
    "sbatch": 'echo sbatch "$@" >>"$CALLS"; echo "site $GRIDNN_SITE home $GRIDNN_HOME" >>"$CALLS"',
    "scontrol": 'echo scontrol "$@" >>"$CALLS"; echo "$FAKE_JOB"; ${FAKE_REQUEUE:-true}',
}
JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}


class Bench:
    """A folder with stand-ins for the commands of Slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls"
        (folder / "bin").mkdir()
        for name, body in COMMANDS.items():
            command = folder / "bin" / name
            command.write_text(f"#!/bin/bash\n{body}\n")
            command.chmod(0o755)

    def environment(self, env: dict[str, str]) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        here = {
            "PATH": path,
            "HOME": str(self.folder),
            "CALLS": str(self.log),
            "GRIDNN_PYTHON": sys.executable,
        }
        return here | {"SLURM_SUBMIT_DIR": str(self.folder), "GRIDNN_HOME": str(ROOT), **env}

    def start(self, script: str, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a batch script as Slurm does: a copy of it, in the folder of submission."""
        copy = Path(shutil.copy(SCRIPTS / script, self.folder / "slurm_script"))
        return subprocess.Popen(
            ["bash", str(copy), *words], cwd=self.folder, env=self.environment(env), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        job = self.start(script, *words, **env)
        out, err = job.communicate(timeout=60)
        return subprocess.CompletedProcess(job.args, job.returncode, out, err)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck: apt-get install shellcheck")
def test_scripts_are_clean() -> None:
    sites = sorted((SCRIPTS / "sites").glob("*.sh"))
    command = ["shellcheck", "--external-sources", *map(str, [*SHELL, *sites])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", BATCH, ids=lambda path: path.name)
def test_every_directive_is_explained(script: Path) -> None:
    lines = script.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert len(directives) >= 5
    for number in directives:
        before = lines[number - 1]
        assert before.startswith(("# ", "#SBATCH")), f"{script.name}: {lines[number]}"
    assert not any(line.startswith("#SBATCH") for line in lines[directives[-1] + 1 :])
    assert all(re.match(r"(#|\s*$)", line) for line in lines[: directives[-1]]), (
        "Slurm reads none after a command"
    )


@pytest.mark.parametrize(
    "script", [*BATCH, SCRIPTS / "common.sh", SCRIPTS / "submit"], ids=lambda path: path.name
)
def test_nothing_local_is_inside(script: Path) -> None:
    text = script.read_text()
    paths = set(re.findall(r"(?<![\w.\"}$)*+])/(?:\w+/)*\w\w+", text))
    assert paths <= {"/usr/bin/env", "/dev/null", "/dev/shm", "/proc"}, paths
    for option in ("account", "partition", "qos", "constraint", "reservation", "nodelist", "mail"):
        assert f"--{option}" not in text


def test_submit_hands_on_options_script_and_words(bench: Bench) -> None:
    command = [str(SCRIPTS / "submit"), "--nodes=2", "--array=0-3", "train", "my job.toml", "--set", "a=b"]
    env = bench.environment({"SBATCH_PARTITION": ""})
    del env["GRIDNN_HOME"]
    done = subprocess.run(command, cwd=bench.folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert bench.calls() == [
        f"sbatch --nodes=2 --array=0-3 {SCRIPTS}/train.sbatch my job.toml --set a=b",
        f"site local home {ROOT}",
    ]


@pytest.mark.parametrize(
    ("words", "site", "message"),
    [
        (["trian"], "local", "NAME is one of: calibrate strong-scaling test train weak-scaling"),
        ([], "local", "usage: "),
        (["--nodes=2"], "local", "usage: "),
        (["train"], "nowhere", "no site file"),
    ],
)
def test_submit_refuses_what_it_does_not_know(
    bench: Bench, words: list[str], site: str, message: str
) -> None:
    env = bench.environment({"GRIDNN_SITE": site})
    done = subprocess.run(
        [str(SCRIPTS / "submit"), *words], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and message in done.stderr
    assert bench.calls() == []


def test_train_is_one_srun_line(bench: Bench) -> None:
    done = bench.run(
        "train.sbatch", "job.toml", "--set", "a=%a", **JOB, SLURM_CPUS_PER_TASK="3", GRIDNN_MPI="pmix"
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = bench.calls()
    for option in (
        "--ntasks=4",
        "--nodes=2",
        "--cpus-per-task=3",
        "--mpi=pmix",
        "--kill-on-bad-exit=1",
        "--wait=30",
    ):
        assert f" {option} " in line
    runs = f"{bench.folder}/runs"
    assert line.endswith(f"-m gridnn.train --run-dir {runs}/slurm-7 --resume auto job.toml --set a=0")


def test_a_task_of_an_array_has_a_run_of_its_own(bench: Bench) -> None:
    bench.run("train.sbatch", "--set", "train.seed=%a", "--resume", "never", **JOB, **ARRAY)
    (line,) = bench.calls()
    assert f"--run-dir {bench.folder}/runs/slurm-7_1 --resume auto --set train.seed=1 --resume never" in line


@pytest.mark.parametrize(("kind", "batch"), [("strong", ""), ("weak", " train.batch=64")])
def test_scaling_takes_as_few_nodes_as_hold_the_ranks(bench: Bench, kind: str, batch: str) -> None:
    done = bench.run(
        f"{kind}-scaling.sbatch", "--x", **JOB, **ARRAY, GRIDNN_BATCH_PER_RANK="32", GRIDNN_STEPS="9"
    )
    assert done.returncode == 0
    (line,) = bench.calls()
    assert "--ntasks=2 --nodes=1 " in line
    settings = f"--set train.steps=9 train.eval=false{batch}"
    assert line.endswith(f"-m gridnn.train {settings} --run-dir {bench.folder}/runs/{kind}-7/p0002 --x")
    alone = bench.run(f"{kind}-scaling.sbatch", **JOB)
    assert alone.returncode == 2 and "a task of a job array is needed" in alone.stderr
    more = bench.run(f"{kind}-scaling.sbatch", **JOB | ARRAY | {"SLURM_ARRAY_TASK_ID": "3"})
    assert more.returncode == 2 and "runs on 8 ranks, the job has 4; give --ntasks=8" in more.stderr


def test_calibrate_names_its_file_and_lets_words_win(bench: Bench) -> None:
    bench.run("calibrate.sbatch", "--quick", **JOB)
    assert bench.calls()[0].endswith("-m gridnn.cli calibrate -o machine-7.toml --quick")


def test_the_test_job_stops_at_the_first_part_that_fails(bench: Bench) -> None:
    done = bench.run("test.sbatch", **JOB, FAKE_SRUN="exit 9")
    assert done.returncode == 9 and "tests, on" not in done.stdout


@pytest.mark.parametrize(
    ("leaves", "env", "requeued", "said"),
    [
        (0, {}, False, ""),
        (2, {}, False, ""),
        (3, {}, False, ""),
        (85, {}, True, "job 7: saved and requeued; restart 1 will resume"),
        (85, {"SLURM_RESTART_COUNT": "4"}, True, "restart 5 will resume"),
        (85, {"FAKE_REQUEUE": "false"}, True, "this Slurm refuses to requeue; submit it again"),
        (85, {"SLURM_RESTART_COUNT": "4", "GRIDNN_MAX_RESTARTS": "4"}, False, "GRIDNN_MAX_RESTARTS allows no more"),
        (143, {"FAKE_JOB": "JobState=RUNNING Restarts=0 PreemptTime=None Nodes=2"}, False, ""),
        (143, {"FAKE_JOB": "JobState=CANCELLED Restarts=0 PreemptTime=2026-01-01T10:00:00"}, False, ""),
        (143, {"FAKE_JOB": "JobState=RUNNING Restarts=0 PreemptTime=2026-01-01T10:00:00"}, True, "saved and requeued"),
    ],
)  # fmt: skip
def test_the_exit_code_decides_what_follows(
    bench: Bench, leaves: int, env: dict[str, str], requeued: bool, said: str
) -> None:
    done = bench.run("train.sbatch", **JOB, **env, FAKE_SRUN=f"exit {leaves}")
    assert done.returncode == leaves
    assert said in done.stdout + done.stderr
    assert ("scontrol requeue 7" in bench.calls()) == requeued


def test_only_the_task_that_left_is_requeued(bench: Bench) -> None:
    """The number of the last task of an array is that of the array: requeued by it, all would start again."""
    bench.run("train.sbatch", **JOB, **ARRAY, FAKE_SRUN="exit 85")
    assert bench.calls()[-1] == "scontrol requeue 7_1"


RANKS = """
trap 'echo told >>"$CALLS"; exit 85' USR1
trap 'echo ended >>"$CALLS"; exit 143' TERM
echo ready >>"$CALLS"
for ((i = 0; i < 600; i++)); do sleep 0.1; [ ! -e leave ] || exit 143; done
"""


def test_a_warning_reaches_the_ranks(bench: Bench) -> None:
    job = bench.start("train.sbatch", **JOB, FAKE_SRUN=RANKS)
    wait_for(lambda: "ready" in bench.calls(), "the ranks")
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 85 and "the ranks are told to save" in out
    assert bench.calls()[-2:] == ["told", "scontrol requeue 7"]


def test_the_end_is_waited_for(bench: Bench) -> None:
    """srun must not hear of SIGTERM, or it kills the ranks while they save."""
    job = bench.start("train.sbatch", **JOB, FAKE_SRUN=RANKS)
    wait_for(lambda: "ready" in bench.calls(), "the ranks")
    job.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert job.poll() is None and "ended" not in bench.calls()
    (bench.folder / "leave").touch()
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 143 and "given time to save" in out
    assert not any("requeue" in call for call in bench.calls())


def test_a_restart_sweeps_first(bench: Bench) -> None:
    bench.run("train.sbatch", **JOB, SLURM_RESTART_COUNT="1")
    sweep, train = (call for call in bench.calls() if call.startswith("srun"))
    assert sweep.startswith("srun --ntasks=2 --ntasks-per-node=1 ")
    assert "-m gridnn.train" in train


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("GRIDNN_RUNS=", "sets no GRIDNN_RUNS"),
        ("GRIDNN_PYTHON=/nowhere", "no Python at GRIDNN_PYTHON=/nowhere"),
    ],
)
def test_a_site_that_says_too_little_is_refused(bench: Bench, line: str, message: str) -> None:
    home = bench.folder / "home"
    shutil.copytree(SCRIPTS, home / "scripts" / "slurm")
    example = (SCRIPTS / "sites" / "local.sh").read_text()
    (home / "scripts" / "slurm" / "sites" / "mine.sh").write_text(f"{example}\n{line}\n")
    done = bench.run("train.sbatch", **JOB, GRIDNN_HOME=str(home), GRIDNN_SITE="mine")
    assert done.returncode == 2 and message in done.stderr
    assert bench.calls() == []
