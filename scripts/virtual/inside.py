"""Programs in hosts: one by itself, or the ranks of an MPI job over several.

    host0: mpiexec --+-- enter 10.77.0.1 -> proxy -> ranks 0 .. K-1
                     +-- enter 10.77.0.2 -> proxy -> ranks K .. 2K-1     hosts in order, K ranks each

MPI libraries look for shorter ways than a network, and find one: all hosts are one machine.  What keeps them on TCP:

| library       | said by                                                                    |
|---------------|----------------------------------------------------------------------------|
| MPICH (UCX)   | `UCX_TLS=tcp,self`; ranks of one host still share memory, MPICH's own way  |
| MPICH (OFI)   | `FI_PROVIDER=tcp`                                                          |
| Open MPI      | `OMPI_MCA_pml=ob1`, `OMPI_MCA_btl=tcp,sm,self`                             |
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from virtual.cluster import HERE, Cluster, address, marked
from virtual.talk import Refused

ROOT = HERE.parent.parent


def entered(cluster: Cluster, host: int, command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command on a host, in the folder that it is started in.

    Raises
    ------
    Refused
        If there is no such host.
    """
    if not 0 <= host < cluster.links.hosts:
        raise Refused(f"there is no host {host}; this cluster has hosts 0 to {cluster.links.hosts - 1}")
    # A new mount namespace starts at the root; "$0" is where we are.
    into = ["nsenter", "--target", str(cluster.holders[host][0]), "--net", "--uts", "--mount"]
    return [*into, "--", "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *command]


def become(
    cluster: Cluster, host: int, command: Sequence[str], extra: Mapping[str, str] | None = None
) -> NoReturn:
    """Become a command on a host: signals to this process are then its own, and so is the exit code."""
    words = entered(cluster, host, command)
    os.execvpe(words[0], words, {**marked(cluster), **(extra or {})})


def become_ranks(cluster: Cluster, ranks: int, per_host: int, command: Sequence[str]) -> NoReturn:
    """Become the mpiexec of an MPI program over the hosts, `per_host` ranks on each in turn.

    Raises
    ------
    Refused
        If the ranks do not fit, or there is no mpiexec.
    """
    hosts = -(-ranks // per_host)
    if hosts > cluster.links.hosts:
        have = cluster.links.hosts
        raise Refused(
            f"{ranks} ranks, {per_host} on a host, need {hosts} hosts, and there are {have}; "
            f"give --per-host {-(-ranks // have)}, or fewer ranks"
        )
    mpiexec = _mpiexec()
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    addresses = [address(host) for host in range(hosts)]
    if "Open MPI" in version or "OpenRTE" in version or "PRRTE" in version:
        words = [
            *("--allow-run-as-root", "--prtemca", "plm_ssh_agent", str(HERE / "enter"), "--bind-to", "none"),
            *("--host", ",".join(f"{a}:{per_host}" for a in addresses)),
            *("--map-by", f"ppr:{per_host}:node:oversubscribe"),
        ]
    else:
        words = ["-launcher", "ssh", "-launcher-exec", str(HERE / "enter"), "-hosts", ",".join(addresses)]
        words += ["-ppn", str(per_host)]
    become(cluster, 0, [mpiexec, *words, "-n", str(ranks), *command], _environment(ranks))


def _mpiexec() -> str:
    """Return the mpiexec of .venv, else the one on PATH; MPIEXEC names another.  As scripts/mpirun does."""
    beside = ROOT / ".venv" / "bin" / "mpiexec"
    found = os.environ.get("MPIEXEC") or (
        str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
    )
    if not found or not shutil.which(found):
        raise Refused(f"no mpiexec in {beside.parent} and none on PATH; try: make setup")
    return str(Path(shutil.which(found) or found).absolute())


def _environment(ranks: int) -> dict[str, str]:
    """Return what ranks need beside what the user says: TCP only, one thread each, waiting ranks that sleep."""
    said = {
        "UCX_TLS": "tcp,self",
        "UCX_NET_DEVICES": "eth0",
        # Large messages without asking first: UCX answers on the connection that it sends on, so that of two large
        # messages that cross the second waited for the first, now and then.
        "UCX_RNDV_THRESH": "inf",
        "FI_PROVIDER": "tcp",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "tcp,sm,self",
        "OMPI_MCA_btl_tcp_if_include": "eth0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    if ranks > len(os.sched_getaffinity(0)):  # the hosts share the cores of one machine
        said |= {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    return {name: os.environ.get(name, value) for name, value in said.items()}
