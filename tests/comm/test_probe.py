"""The process that a doctor asks: it ends with who asked; links between neighbours; the memory of a host."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gridnn.comm.neighbours import measure_neighbours
from gridnn.comm.probe import memory_of_host
from gridnn.comm.world import World
from tests.support.launch import ROOT


def test_the_probe_ends_with_who_asked() -> None:
    """It is asked, and then nobody is there any more: what waits for other ranks would wait for ever."""
    slow = "from gridnn.comm import probe; probe.find_devices = lambda: __import__('time').sleep(1000); probe.main()"
    with subprocess.Popen([sys.executable, "-c", slow, "2"], stdin=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"environment": {}, "transport": "auto", "device": "auto"}\n')
        process.stdin.flush()
        time.sleep(1.0)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(20) == 1


@pytest.mark.ranks(1, 2, 3, 4)
def test_all_ranks_know_all_links(comm: Any) -> None:
    with World(comm) as world:
        links = measure_neighbours(world)
        assert [link["ranks"] for link in links] == [[at, at + 1] for at in range(world.size - 1)]
        assert all(0 < link["latency_s"] < 1 < link["bytes_per_s"] for link in links)
        assert world.comm.allgather(links) == [links] * world.size
        assert world.ledger.messages == 0, "it is no traffic of a run"


@pytest.mark.parametrize(
    ("limit", "used", "found"),
    [
        (None, None, (100 << 10, 60 << 10)),
        ("max", "5", (100 << 10, 60 << 10)),
        (str(40 << 10), str(30 << 10), (40 << 10, 10 << 10)),
        (str(80 << 10), str(90 << 10), (80 << 10, 0)),
        (str(1 << 40), "5", (100 << 10, 60 << 10)),
    ],
)
def test_memory_of_a_host_or_its_container(
    tmp_path: Path, limit: str | None, used: str | None, found: tuple[int, int]
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:  100 kB\nMemFree: 50 kB\nMemAvailable:   60 kB\nHugePages: 0\n"
    )
    if limit is not None and used is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit + "\n")
        (tmp_path / "sys/fs/cgroup/memory.current").write_text(used + "\n")
    assert memory_of_host(tmp_path) == found
