"""Several hosts on one machine: they are hosts, their links are what was asked for, and nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stories.job import losses, summary
from tests.support.launch import ROOT
from tests.support.virtual import COMMAND, call, cluster, programs, sent_bytes, stats, variables, why_not

HOSTS, MBIT, DELAY_US = 4, 100, 1000
SLEEP = "import time; print('asleep', flush=True); time.sleep(300)"
# One rank speaks: the line is all that is read, and mpiexec ends when nobody takes what it says.
MPI_SLEEP = (
    "from mpi4py import MPI; MPI.COMM_WORLD.Barrier(); "
    "import time; MPI.COMM_WORLD.rank or print('asleep', flush=True); time.sleep(300)"
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Links so slow that what a busy machine adds is little."""
    with cluster(
        tmp_path_factory.mktemp("v") / "hosts", HOSTS, "--mbit", str(MBIT), "--delay-us", str(DELAY_US)
    ) as folder:
        yield folder


def until(true: Callable[[], object], seconds: float = 20.0) -> bool:
    end_s = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command that prints a line when it is under way."""
    job = subprocess.Popen(
        [sys.executable, COMMAND, words[0], "--dir", folder, *words[1:]],
        env=variables(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert job.stdout
    with job.stdout as said:
        assert said.readline() == "asleep\n"
    return job


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "0"), "'0' is not a whole number above 0"),
        (("up", "65"), "64 at most"),
        (("up", "4", "--mbit", "-1"), "--mbit"),
        (("up", "4", "--mbit", "0"), "0 is too little"),
        (("up", "4", "--mtu", "100"), "100 is not from 576"),
        (("run", "true"), "there is no virtual cluster in"),
        (("exec", "0", "true"), "there is no virtual cluster in"),
        (("exec", "first", "true"), "first is no host"),
        (("stats",), "start one: scripts/virtual_cluster up 4"),
        (("measure",), "there is no virtual cluster in"),
        (("down", "--now"), "unrecognized arguments: --now"),
    ],
)
def test_words_that_cannot_be_done(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = call(tmp_path / "none", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("no virtual hosts: only root may make network namespaces")
    (tmp_path / "log").write_text("dear")
    done = call(tmp_path, "up", "2")
    assert done.returncode == 2 and "holds other files" in done.stderr
    done = call(tmp_path / "log", "up", "2")
    assert done.returncode == 2 and "cannot be a folder of ours" in done.stderr
    (tmp_path / "state.json").write_text('{"dear": 1}')
    for words in (("up", "2"), ("down",), ("run", "true")):
        done = call(tmp_path, *words)
        assert done.returncode == 2 and "is not of a virtual cluster" in done.stderr
    assert (tmp_path / "log").read_text() == "dear" and len(list(tmp_path.iterdir())) == 2


def test_a_machine_without_the_tools(tmp_path: Path) -> None:
    for tools in ((), ("nsenter", "unshare")):
        for tool in tools:
            (tmp_path / tool).write_text("#!/bin/sh\n")
            (tmp_path / tool).chmod(0o755)
        done = call(tmp_path / "none", "up", "2", extra_env={"PATH": str(tmp_path)})
        expected = "C compiler" if tools else "nsenter is not installed"
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert (expected if os.geteuid() == 0 else "only root") in done.stderr
    assert not (tmp_path / "none").exists()


def test_hosts_are_hosts(hosts: Path) -> None:
    look = "hostname; ls /sys/class/net; ls /dev/shm; cat /etc/hosts; pwd"
    done = call(hosts, "exec", "host2", "sh", "-c", look, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    names = ["127.0.0.1 localhost", *(f"10.77.0.{host + 1} host{host}" for host in range(HOSTS))]
    assert first == "host2" and rest == ["eth0", "lo", *names, str(ROOT)]
    assert call(hosts, "exec", "1", "sh", "-c", "exit 7").returncode == 7
    assert call(hosts, "exec", "1", "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL
    done = call(hosts, "exec", "4", "true")
    assert done.returncode == 2 and "hosts 0 to 3" in done.stderr
    done = call(hosts, "run", "-n", "9", "--per-host", "2", "true")
    assert done.returncode == 2 and "need 5 hosts, and there are 4; give --per-host 3" in done.stderr
    for verb in ("run", "exec"):
        done = call(hosts, verb, *["1"] * (verb == "exec"))
        assert done.returncode == 2 and f"{verb} needs a command" in done.stderr
    done = call(hosts, "run", "--", "hostname")
    # Searched, not split: mpiexec may join the lines of several ranks.
    assert sorted(re.findall(r"host\d", done.stdout)) == [f"host{host}" for host in range(HOSTS)]
    # Only neighbours can be reached: no way leads out.
    reach = "import socket; socket.create_connection(('{}', 9), 5)"
    for place, error in (("10.77.0.2", "Connection refused"), ("192.0.2.1", "Network is unreachable")):
        done = call(hosts, "exec", "0", sys.executable, "-c", reach.format(place))
        assert error in done.stderr


def test_up_twice(hosts: Path) -> None:
    before = stats(hosts)
    done = call(hosts, "up", "2")
    assert done.returncode == 2 and "a virtual cluster of 4 hosts is up" in done.stderr
    assert stats(hosts)["links"] == before["links"]


def test_sockets_find_the_links(hosts: Path) -> None:
    done = call(hosts, "measure", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0.85 < found["round_trip_min_s"] / (2e-6 * DELAY_US) < 1.5
    for way in ("one_way", "both_ways"):
        assert 0.5 < found[f"{way}_bytes_per_s"] / (1e6 * MBIT / 8) < 1.02


def test_every_byte_of_a_job_goes_over_the_links(hosts: Path, tmp_path: Path) -> None:
    said = [sys.executable, "-m", "gridnn.train", "--plan", "n2 k2", "--run-dir", str(tmp_path / "run")]
    before = stats(hosts)
    done = call(
        hosts, "run", *said, "--set", "train.steps=4", "train.eval=false",
        extra_env={"XDG_CACHE_HOME": str(tmp_path / "cache")}, timeout_s=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    after = stats(hosts)
    found, sent = summary(tmp_path / "run"), sent_bytes(before, after)
    counted = found["counted_bytes"]
    assert found["predicted_bytes"] == counted > 8e6 and len(losses(tmp_path / "run")) == 4
    # Headers and acknowledgements are 1 to 2 %; starting MPI takes about 300 KB, whatever the job.
    assert counted < sum(sent) < 1.04 * counted + 500_000
    # Four equal ranks, one on each host.
    assert max(sent) < 1.1 * min(sent)
    # The kernel's counters and the switch's are of the same frames.
    carried = [
        sum(late) - sum(early) for early, late in zip(before["pair_bytes"], after["pair_bytes"], strict=True)
    ]
    assert carried == sent and after["lost"] == 0
    assert all(interface["dropped"] == 0 for interface in after["interfaces"])


def test_ranks_of_a_host_share_it(hosts: Path) -> None:
    ask = (
        "from mpi4py import MPI; import platform; w = MPI.COMM_WORLD; n = w.Split_type(MPI.COMM_TYPE_SHARED).size; "
        "print('\\n'.join(w.gather(f'{platform.node()} {n}') or ()), end='\\n' * (not w.rank))"
    )
    done = call(hosts, "run", "-n", "5", sys.executable, "-c", ask)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == ["host0 2", "host0 2", "host1 2", "host1 2", "host2 1"]


# The part of `gridnn calibrate` that looks at links, without its minutes for collectives and layers.
FIND_LINKS = """
from gridnn.comm.world import World, world_comm
from gridnn.train.calibrate.fit import fit_levels
from gridnn.train.calibrate.links import find_nodes, measure_messages
with World(world_comm()) as world:
    nodes = find_nodes(world, None)
    levels, _ = fit_levels(list(measure_messages(world, nodes, True, lambda text: None)), nodes)
    if not world.rank:
        print(*(f"{level.name} {level.alpha_s} {level.beta_s_per_byte}" for level in levels))
"""


def links_are(name: str, alpha_s: float, beta_s_per_byte: float) -> None:
    """Hold found links to the real ones: never better, and not much worse.

    A quiet machine stays within 25 %; on a busy one a rank notices a message late, and it may take some times as long.
    A message through memory would take a thousandth of the latency, and a hundredth of the time of its bytes.
    """
    assert name == "network"
    assert 0.95 < alpha_s / (1e-6 * DELAY_US) < 10
    assert 0.75 < beta_s_per_byte / (8e-6 / MBIT) < 4


def test_calibration_finds_the_links(hosts: Path) -> None:
    done = call(hosts, "run", sys.executable, "-c", FIND_LINKS, timeout_s=150)
    assert done.returncode == 0, done.stdout + done.stderr
    name, alpha_s, beta = done.stdout.split()
    links_are(name, float(alpha_s), float(beta))


@pytest.mark.sweep
def test_a_machine_file_has_the_links(hosts: Path, tmp_path: Path) -> None:
    done = call(
        hosts, "run", sys.executable, "-m", "gridnn.cli", "calibrate", "--quick", "--network", "mlp",
        "-o", str(tmp_path / "mine.toml"), extra_env={"XDG_CACHE_HOME": str(tmp_path)}, timeout_s=240,
    )  # fmt: skip
    assert done.returncode == 0 and "4 ranks on 4 nodes" in done.stdout, done.stdout + done.stderr
    (level,) = tomllib.loads((tmp_path / "mine.toml").read_text())["level"]
    links_are(level["name"], level["alpha_s"], level["beta_s_per_byte"])


def test_down_ends_everything(tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    with cluster(folder, 2):
        (folder / "mine").write_text("not of the cluster")
        sleeper, job = start(folder, "exec", "1", sys.executable, "-c", SLEEP), None
        job = start(folder, "run", sys.executable, "-c", MPI_SLEEP)
        assert len(programs(folder)) > 5
        done = call(folder, "down")
        assert done.returncode == 0 and done.stdout == "down\n", done.stderr
        assert sleeper.wait(10) and job.wait(10)
        assert not programs(folder) and [path.name for path in folder.iterdir()] == ["mine"]
        assert "there is no virtual cluster" in call(folder, "down").stdout


def test_an_ended_job_leaves_no_ranks(tmp_path: Path) -> None:
    with cluster(tmp_path / "hosts", 2) as folder:
        quiet = len(programs(folder))
        for end, number in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM), (os.kill, signal.SIGKILL)):
            job = start(folder, "run", sys.executable, "-c", MPI_SLEEP)
            assert len(programs(folder)) > quiet
            end(job.pid, number)
            assert job.wait(20) != 0
            assert until(lambda: len(programs(folder)) == quiet), number
        assert call(folder, "exec", "1", "true").returncode == 0


def test_clusters_side_by_side(tmp_path: Path) -> None:
    with cluster(tmp_path / "one", 1) as one, cluster(tmp_path / "other", 2) as other:
        assert call(other, "exec", "1", "hostname").stdout == "host1\n"
        assert call(one, "down").returncode == 0 and not programs(one)
        assert call(other, "exec", "1", "true").returncode == 0


def test_a_start_that_is_interrupted(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(f"no virtual hosts: {reason}")
    folder = tmp_path / "hosts"
    for wait_s in (0.1, 0.3, 0.5):  # whatever it is at, then
        job = subprocess.Popen(
            [sys.executable, COMMAND, "up", "--dir", folder, "2"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True,
        )  # fmt: skip
        time.sleep(wait_s)
        os.killpg(job.pid, signal.SIGINT)
        if job.communicate(timeout=20)[0].startswith("up: "):  # it was faster
            assert call(folder, "down").returncode == 0
        assert until(lambda: not folder.exists() and not programs(folder))


@pytest.mark.parametrize("victim", ["switch", "keeper"])
def test_a_crash_is_cleaned_up(tmp_path: Path, victim: str) -> None:
    folder = tmp_path / "hosts"
    with cluster(folder, 2):
        sleeper = start(folder, "exec", "0", sys.executable, "-c", SLEEP)
        os.kill(json.loads((folder / "state.json").read_text())[victim][0], signal.SIGKILL)
        if victim == "keeper":  # nobody is left to do it
            assert call(folder, "exec", "0", "true").returncode == 0
            assert call(folder, "down").returncode == 0
        assert until(lambda: not programs(folder) and not folder.exists())
        assert sleeper.wait(10)
        assert call(folder, "up", "2").returncode == 0


def test_it_ends_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    with cluster(folder, 2, "--minutes", "0.02"):
        assert until(lambda: not folder.exists() and not programs(folder))
