"""The words of `scripts/virtual_cluster`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from virtual import cluster as clusters
from virtual.cluster import HERE, MOST_HOSTS, Cluster, Links, address
from virtual.counters import lines_of, read_counters
from virtual.inside import become, become_ranks, entered
from virtual.keeper import keep
from virtual.needs import missing
from virtual.talk import Refused, complain, say

FOLDER = "/run/gridnn-virtual-cluster"
_EXAMPLES = """\
examples (as root):
  scripts/virtual_cluster up 4 --mbit 100 --delay-us 200
  scripts/virtual_cluster run python -m gridnn.train --plan "n2 k2"      one rank on each host
  scripts/virtual_cluster run -n 8 --per-host 2 python -m gridnn.train   two on each
  scripts/virtual_cluster exec 1 ping -c 3 host0
  scripts/virtual_cluster stats
  scripts/virtual_cluster down
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say; returns the exit code."""
    arguments = _parser().parse_args(argv)
    folder = Path(arguments.dir).absolute()
    try:
        return int(_COMMANDS[arguments.command](folder, arguments))
    except (Refused, TimeoutError) as refused:
        return complain(str(refused))
    except KeyboardInterrupt:
        return 130


def _up(folder: Path, arguments: argparse.Namespace) -> int:
    if ":" in str(folder) or len(str(folder)) > 1000:
        raise Refused(f"--dir {folder}: the name may not hold a colon nor be that long")
    links = Links(arguments.hosts, arguments.mbit, arguments.delay_us, arguments.mtu, 60 * arguments.minutes)
    made = clusters.start(folder, links)
    say(
        f"up: host0 to host{links.hosts - 1}, {address(0)} to {address(links.hosts - 1)}; "
        f"links of {links.mbit:g} Mbit/s each way, {links.delay_us:g} us one way; ends in {arguments.minutes:g} minutes"
    )
    if not made.real_time:
        say("note: no real-time priority here; on busy cores frames come late")
    return 0


def _down(folder: Path, arguments: argparse.Namespace) -> int:
    say("down" if clusters.stop(folder) else f"there is no virtual cluster in {folder}")
    return 0


def _run(folder: Path, arguments: argparse.Namespace) -> NoReturn:
    found, per_host = clusters.find(folder), arguments.per_host
    ranks = arguments.ranks or found.links.hosts * (per_host or 1)
    become_ranks(found, ranks, per_host or -(-ranks // found.links.hosts), _words(arguments))


def _exec(folder: Path, arguments: argparse.Namespace) -> NoReturn:
    host = arguments.host.removeprefix("host")
    if not host.isdecimal():
        raise Refused(f"{arguments.host} is no host; hosts are numbers from 0, or host0, host1, ...")
    become(clusters.find(folder), int(host), _words(arguments))


def _words(arguments: argparse.Namespace) -> list[str]:
    words: list[str] = arguments.words[arguments.words[:1] == ["--"] :]
    if not words:
        raise Refused(f"{arguments.command} needs a command; try: scripts/virtual_cluster exec 0 hostname")
    return words


def _stats(folder: Path, arguments: argparse.Namespace) -> int:
    found = clusters.find(folder)
    counters = read_counters(found)
    if arguments.json:
        say(json.dumps({"links": asdict(found.links), **asdict(counters)}))
    else:
        say("\n".join(lines_of(found, counters)))
    return 0


def _measure(folder: Path, arguments: argparse.Namespace) -> int:
    found = clusters.find(folder)
    links = found.links
    if links.hosts < 2:
        raise Refused("one host has no link to measure; start two")
    wire = [sys.executable, str(HERE / "wire.py")]
    nbytes = max(1 << 18, min(8 << 20, int(links.mbit * 1e6 / 16)))  # half a second of it
    with _started(found, 1, [*wire, "serve"]) as server:
        if server.stdout is None or not server.stdout.readline():
            raise Refused("host1 does not listen; is another measurement running?")
        asked = entered(found, 0, [*wire, "measure", address(1), str(nbytes)])
        done = subprocess.run(asked, env=clusters.marked(found), capture_output=True, text=True, check=False)
        if done.returncode:
            server.kill()
            raise Refused(f"host0 cannot measure: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    if arguments.json:
        say(json.dumps({"links": asdict(links), **told}))
        return 0
    one_way_us = [1e6 * told[f"round_trip_{which}_s"] / 2 for which in ("min", "median")]
    mbits = [told[f"{which}_bytes_per_s"] * 8e-6 for which in ("one_way", "both_ways")]
    say(f"{'TCP, host0 to host1':<22}{'configured':>12}{'measured':>12}")
    say(f"{'one way, least':<22}{links.delay_us:>9.0f} us{one_way_us[0]:>9.0f} us")
    say(f"{'one way, median':<22}{'':>12}{one_way_us[1]:>9.0f} us")
    say(f"{'rate':<22}{links.mbit:>7.0f} Mbit{mbits[0]:>7.1f} Mbit   (of contents, {nbytes >> 10} KiB)")
    say(f"{'rate, both ways':<22}{'':>12}{mbits[1]:>7.1f} Mbit")
    return 0


def _started(found: Cluster, host: int, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        entered(found, host, command), env=clusters.marked(found), stdout=subprocess.PIPE, text=True
    )


def _check(folder: Path, arguments: argparse.Namespace) -> int:
    if lacking := missing():
        raise Refused(lacking)
    say("a virtual cluster can be started here")
    return 0


def _keep(folder: Path, arguments: argparse.Namespace) -> int:
    keep(folder, Links(**json.loads(arguments.links)))
    return 0


_COMMANDS = {
    "up": _up, "down": _down, "run": _run, "exec": _exec, "stats": _stats, "measure": _measure, "check": _check,
    "keep": _keep,
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/virtual_cluster", description="Several hosts with links of their own on one Linux machine.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", default=FOLDER, help=f"the folder of the cluster ({FOLDER})")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def verb(name: str, about: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=about, description=about, parents=[common], allow_abbrev=False)

    up = verb("up", "start hosts with links between them")
    up.add_argument("hosts", type=_hosts, metavar="HOSTS", help=f"how many (1 to {MOST_HOSTS})")
    up.add_argument(
        "--mbit", type=_positive, default=100.0, help="rate of a host's link, each way, in Mbit/s (100)"
    )
    up.add_argument(
        "--delay-us", type=_not_negative, default=200.0, help="one way between hosts, in us (200)"
    )
    up.add_argument("--mtu", type=_mtu, default=9000, help="bytes of an IP packet at most (9000)")
    up.add_argument("--minutes", type=_positive, default=240.0, help="it ends by itself after so many (240)")
    verb("down", "end all programs in the hosts, and the hosts")
    ranks = verb("run", "run an MPI program, its ranks spread over the hosts in order")
    ranks.add_argument("-n", dest="ranks", type=_count, help="ranks (as many as hosts)")
    ranks.add_argument("--per-host", type=_count, help="ranks on each host (as few as possible)")
    one = verb("exec", "run a command on a host")
    one.add_argument("host", metavar="HOST", help="its number, or its name")
    for takes in (ranks, one):
        takes.add_argument(
            "words", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="with its arguments"
        )
    stats = verb("stats", "show the bytes that went over the links")
    measure = verb("measure", "measure the link between the first two hosts with plain sockets")
    for tells in (stats, measure):
        tells.add_argument("--json", action="store_true", help="for programs")
    verb("check", "say whether this machine can have virtual hosts")
    verbs.add_parser("keep", parents=[common]).add_argument("links")  # of `up`; not for people
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _hosts(text: str) -> int:
    if _count(text) > MOST_HOSTS:
        raise argparse.ArgumentTypeError(f"{text} hosts are too many; {MOST_HOSTS} at most")
    return int(text)


def _mtu(text: str) -> int:
    if not 576 <= _count(text) <= 65000:
        raise argparse.ArgumentTypeError(f"{text} is not from 576 to 65000")
    return int(text)


def _not_negative(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return found


def _positive(text: str) -> float:
    found = _not_negative(text)
    if found == 0:
        raise argparse.ArgumentTypeError("0 is too little")
    return found
