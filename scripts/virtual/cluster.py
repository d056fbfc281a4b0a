"""A cluster as a folder: how it starts, how it is found again, how it goes away.

    up  ----starts---->  keeper  ----starts---->  switch  ----holds---->  host0, host1, ...
        <---"ready"----          <---"ready"----
    down ---SIGTERM--->  keeper: ends the programs in the hosts, then the switch, removes the files

The keeper does the same when the switch ends by itself, killed or at its limit.  Killed itself, it leaves the work
to the next `down`, or `up`.  Hosts end with the switch, and with a host everything in it but its programs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from virtual.needs import compiler, missing
from virtual.processes import MARK, alive, end_members, gone_within, send
from virtual.talk import Refused

HERE = Path(__file__).resolve().parent
COMMAND = HERE.parent / "virtual_cluster"
STATE = "state.json"
FILES = (STATE, "switch", "hosts", "pids", "counters", "log")
NETWORK = "10.77.0."
MOST_HOSTS = 64


@dataclass(frozen=True)
class Links:
    """What was asked for: hosts, and the rate and one-way delay of their links."""

    hosts: int
    mbit: float
    delay_us: float
    mtu: int
    limit_s: float


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs, or ran; processes as `processes.identity` gives them."""

    folder: str
    token: str
    links: Links
    real_time: bool
    keeper: list[int]
    switch: list[int]
    holders: list[list[int]]

    @property
    def mark(self) -> str:
        """What its programs have in their environment."""
        return f"{self.folder}:{self.token}"

    @property
    def live(self) -> bool:
        """Whether all of it is there."""
        return alive(self.switch) and all(map(alive, self.holders))


def address(host: int) -> str:
    """Return the address of a host."""
    return f"{NETWORK}{host + 1}"


def find(folder: Path) -> Cluster:
    """Return the cluster of a folder.

    Raises
    ------
    Refused
        If there is none, or what is left of one that has ended.
    """
    cluster = read(folder)
    if cluster is None:
        raise Refused(f"there is no virtual cluster in {folder}; start one: scripts/virtual_cluster up 4")
    _must_be_root()
    if not cluster.live:
        raise Refused(f"the virtual cluster in {folder} has ended; clean up: scripts/virtual_cluster down")
    return cluster


def read(folder: Path) -> Cluster | None:
    """Return the cluster that a folder tells of, whether it lives or not; None if it tells of none.

    Raises
    ------
    Refused
        If the folder is not for us.
    """
    try:
        found = json.loads((folder / STATE).read_text())
        return Cluster(**{**found, "links": Links(**found["links"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise Refused(f"{folder} is not to be read by you; try: sudo") from None
    except (ValueError, TypeError, KeyError):
        raise Refused(f"{folder / STATE} is not of a virtual cluster; give another --dir") from None


def marked(cluster: Cluster) -> dict[str, str]:
    """Return the environment of a program in a cluster."""
    return {**os.environ, MARK: cluster.mark}


def start(folder: Path, links: Links) -> Cluster:
    """Start a cluster: compile the switch, leave it to a keeper, wait until it is ready.

    Raises
    ------
    Refused
        If the machine cannot, or a cluster is there already.
    """
    if lacking := missing():
        raise Refused(lacking)
    with _locked(folder):
        if left := read(folder):
            if left.live:
                raise Refused(
                    f"a virtual cluster of {left.links.hosts} hosts is up in {folder}; "
                    "end it first (scripts/virtual_cluster down) or give another --dir"
                )
            clean(left)
            folder.mkdir(exist_ok=True)
        elif any(folder.iterdir()):
            raise Refused(f"{folder} holds other files; give an empty or new --dir")
        try:
            _start(folder, links)
        except BaseException:  # an interrupt, too
            remove(folder)
            raise
        return find(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One `up` at a time in a folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Refused(f"{folder} cannot be a folder of ours ({error.strerror}); give another --dir") from None
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another `up` is at work in {folder}; wait for it or give another --dir") from None
        yield
    finally:
        os.close(held)


def _start(folder: Path, links: Links) -> None:
    names = "".join(f"{address(host)} host{host}\n" for host in range(links.hosts))
    try:
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + names)
        (folder / "cgroup").mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(f"{folder} cannot be written to ({error.strerror}); give another --dir") from None
    sources = [str(HERE / name) for name in ("switch.c", "hosts.c")]
    made = subprocess.run(
        [str(compiler()), "-O2", "-std=gnu11", "-o", str(folder / "switch"), *sources],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise Refused(f"the switch does not compile:\n{made.stderr.strip()}")
    with open(folder / "log", "w") as log:
        keeper = subprocess.Popen(
            [sys.executable, str(COMMAND), "keep", "--dir", str(folder), json.dumps(asdict(links))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, cwd="/",
        )  # fmt: skip
    try:
        answer = keeper.stdout.readline() if keeper.stdout else ""
    except KeyboardInterrupt:
        keeper.terminate()
        keeper.wait()
        raise
    if answer != "ready\n":
        keeper.wait()
        said = (folder / "log").read_text().strip() if (folder / "log").exists() else "it ended at once"
        raise Refused(f"the links cannot be made: {said}")


def stop(folder: Path) -> bool:
    """End a cluster and remove all of it; returns whether there was one."""
    cluster = read(folder)
    if cluster is None:
        return False
    _must_be_root()
    if alive(cluster.keeper):
        send(cluster.keeper[0], signal.SIGTERM)
        gone_within(cluster.keeper, 20.0)
    if read(folder) == cluster:
        clean(cluster)
    return True


def clean(cluster: Cluster) -> None:
    """Remove what a cluster left whose keeper cannot."""
    end(cluster)
    gone_within(cluster.switch, 5.0)
    remove(Path(cluster.folder))


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise Refused("only root may enter or end virtual hosts; try: sudo")


def end(cluster: Cluster) -> None:
    """End the programs of a cluster, its switch, and with it its hosts."""
    end_members([pid for pid, start in cluster.holders if alive([pid, start])], cluster.mark)
    if alive(cluster.switch):
        send(cluster.switch[0], signal.SIGTERM)
    for holder in cluster.holders:
        gone_within(holder, 5.0)


def remove(folder: Path) -> None:
    """Remove our files, and the folder if nothing else is in it."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for place in (folder / "cgroup", folder):
        with contextlib.suppress(OSError):
            place.rmdir()
