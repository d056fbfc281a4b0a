"""The keeper: a process that starts a cluster's switch and stays until it ends, to clean up after it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from virtual.cluster import STATE, Cluster, Links, address, end, remove
from virtual.processes import identity
from virtual.talk import say


def keep(folder: Path, links: Links) -> None:
    """Run the switch until it ends or this process is told to end; then clean up.  The keeper's work."""
    signal.signal(signal.SIGTERM, _leave)
    numbers = (links.hosts, links.mbit, links.delay_us, links.mtu, links.limit_s)
    switch = subprocess.Popen(
        [str(folder / "switch"), str(folder), *map(str, numbers)], stdout=subprocess.PIPE, text=True
    )
    cluster = None
    try:
        told = switch.stdout.read() if switch.stdout else ""  # the switch closes it when it is ready
        lines = told.splitlines()
        if not lines or not lines[-1].startswith("ready"):
            return
        holders = [int(line.split()[1]) for line in lines[:-1]]
        known = [identity(pid) or [pid, 0] for pid in (os.getpid(), switch.pid, *holders)]
        real_time, token = lines[-1] == "ready real-time", secrets.token_hex(8)
        cluster = Cluster(str(folder), token, links, real_time, known[0], known[1], known[2:])
        (folder / "pids").write_text("".join(f"{address(h)} {pid}\n" for h, pid in enumerate(holders)))
        fresh = folder / f"{STATE}.new"
        fresh.write_text(json.dumps(asdict(cluster)))
        fresh.replace(folder / STATE)
        say("ready")
        sys.stdout.close()
        switch.wait()
    except _Leave:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the work below is what is asked for
        if cluster:
            end(cluster)
            switch.wait()
            remove(folder)
        else:
            switch.kill()
            switch.wait()


class _Leave(Exception):
    """The keeper is told to end."""


def _leave(number: int, frame: object) -> None:
    raise _Leave
