"""What went over the links, counted twice: by the kernel at each interface, and by the switch for each pair of hosts.

Bytes are those of Ethernet frames without preamble and checksum, which is also what the rate of a link counts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from virtual.cluster import Cluster, address


@dataclass(frozen=True)
class Interface:
    """Counters of a host's interface, from the kernel."""

    sent_bytes: int
    sent_frames: int
    received_bytes: int
    received_frames: int
    dropped: int


@dataclass(frozen=True)
class Counters:
    """Counters of a cluster.

    Parameters
    ----------
    pair_bytes, pair_frames
        Carried by the switch, from a host (first index) to a host.
    lost
        Frames for an interface that was down.
    """

    interfaces: tuple[Interface, ...]
    pair_frames: tuple[tuple[int, ...], ...]
    pair_bytes: tuple[tuple[int, ...], ...]
    lost: int


def read_counters(cluster: Cluster) -> Counters:
    """Read the counters of a live cluster."""
    hosts, lost, *pairs = (
        number for (number,) in struct.iter_unpack("=Q", (Path(cluster.folder) / "counters").read_bytes())
    )
    rows = [tuple(pairs[at : at + hosts]) for at in range(0, 2 * hosts * hosts, hosts)]
    interfaces = tuple(_interface(pid) for pid, _ in cluster.holders)
    return Counters(interfaces, tuple(rows[:hosts]), tuple(rows[hosts:]), lost)


def _interface(holder: int) -> Interface:
    # The kernel shows a process the devices of its own namespace.
    for line in Path(f"/proc/{holder}/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "eth0":
            n = [
                int(word) for word in rest.split()
            ]  # received: bytes, frames, errors, dropped ...; sent: from n[8]
            return Interface(
                sent_bytes=n[8],
                sent_frames=n[9],
                received_bytes=n[0],
                received_frames=n[1],
                dropped=n[3] + n[11],
            )
    raise LookupError(f"process {holder} has no eth0")


def lines_of(cluster: Cluster, found: Counters) -> list[str]:
    """Return the counters as tables."""
    lines = [
        f"{'host':<8}{'address':<12}{'sent bytes':>16}{'frames':>10}{'received bytes':>16}{'frames':>10}{'dropped':>9}"
    ]
    for host, one in enumerate(found.interfaces):
        lines.append(
            f"{f'host{host}':<8}{address(host):<12}{one.sent_bytes:>16,}{one.sent_frames:>10,}"
            f"{one.received_bytes:>16,}{one.received_frames:>10,}{one.dropped:>9,}"
        )
    names = [f"host{host}" for host in range(len(found.interfaces))]
    lines += ["", f"{'bytes':<8}" + "".join(f"{'to ' + name:>16}" for name in names)]
    lines += [
        f"{name:<8}" + "".join(f"{count:>16,}" for count in row)
        for name, row in zip(names, found.pair_bytes, strict=True)
    ]
    return [*lines, f"lost: {found.lost:,} frames for interfaces that were down"] if found.lost else lines
