"""What is wrong with what ranks found, and what is odd about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from gridnn.commands.doctor.ask import Answer

Facts = dict[str, Any]
_SLOW, _MANY = 5.0, 3
"""A link this many times slower than the median of at least so many is told."""
_LITTLE = 0.1  # of the memory that is free


class Verdict(NamedTuple):
    """Sentences: what would make a run fail, and what is worth knowing."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(answer: Answer) -> Verdict:
    """Return what is to be said about an answer."""
    if answer.report is None:
        return Verdict((answer.error,))
    ranks, links, use = (answer.report[name] for name in ("ranks", "links", "use"))
    problems = [use["error"]] if use["error"] else []
    failed, told = _failed(answer.report)
    problems += failed
    for name, what in (("gridnn", "gridnn"), ("mpi", "MPI")):
        if len(said := _by(ranks, name)) > 1:
            problems.append(
                f"ranks have different versions of {what}: {_apart(said)}; start the same one on every host"
            )
    notes = (
        *_notes(ranks, use),
        *_slow(ranks, links),
        *_slow(ranks, answer.report["device_links"], use["transport"]),
    )
    return Verdict(tuple(problems), (*told, *notes))


def _failed(report: Facts) -> tuple[list[str], list[str]]:
    """Return what failed when it was tried: of what a run would use, and of what it would not."""
    way, problems, notes = report["use"]["transport"], [], []
    for name, found in report["tried"].items():
        words = f"{what_text([name], way)}: {found['why']}"
        if not (found["tried"] and found["why"]) or (name == "nccl" and way != "nccl"):
            continue  # where NCCL failed another transport was taken, or none can be
        if name in ("links", way) or way == "cuda-mpi":
            instead = "" if way == "staged" else ' (comm.transport = "staged" goes without it)'
            problems.append(f"a run would take transport {way}, which fails{instead}: {words}")
        else:
            notes.append(f"no matter to a run, which takes transport {way or 'none'}: {words}")
    return problems, notes


def what_text(names: Sequence[str], way: str) -> str:
    """Return what was tried, in words.

    Parameters
    ----------
    way
        How arrays of GPUs travel.
    """
    parts = [
        words for name, words in (("nccl", "NCCL"), ("links", f"arrays of GPUs by {way}")) if name in names
    ]
    classes = [name for name in names if name not in ("nccl", "links")]
    return ", ".join([*parts, *[f"device memory given to MPI in {', '.join(classes)}"] * bool(classes)])


def ranks_text(numbers: Sequence[int]) -> str:
    """Return ranks in words: ``rank 2``, ``ranks 0-3, 6``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    shown = parts if len(parts) <= 8 else [*parts[:7], "...", parts[-1]]
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(shown)}"


def of_hosts(ranks: Sequence[Facts]) -> dict[str, list[int]]:
    """Return the ranks of each host, hosts in the order of their first rank."""
    found: dict[str, list[int]] = {}
    for number, rank in enumerate(ranks):
        found.setdefault(rank["host"], []).append(number)
    return found


def _notes(ranks: Sequence[Facts], use: Facts) -> list[str]:
    notes, hosts = [], of_hosts(ranks)
    for host, numbers in hosts.items():
        cores = len({core for number in numbers for core in ranks[number]["cores"]})
        threads = sum(ranks[number]["threads"] for number in numbers)
        if threads > cores:
            notes.append(
                f"{_plural(len(numbers), 'rank')} of host {host} would use {_plural(threads, 'thread')} on "
                f"{_plural(cores, 'core')}: give each rank cores of its own, or lower OMP_NUM_THREADS"
            )
        one = ranks[numbers[0]]
        if one["free_bytes"] < _LITTLE * one["memory_bytes"]:
            notes.append(f"less than {100 * _LITTLE:.0f} % of the memory of host {host} is free")
    counts = sorted({len(numbers) for numbers in hosts.values()})
    if len(counts) > 1:
        notes.append(
            f"hosts have {' and '.join(map(str, counts))} ranks; plans are priced for the same number on each "
            "(mpiexec -ppn N, srun --ntasks-per-node=N)"
        )
    if [number for numbers in hosts.values() for number in numbers] != list(range(len(ranks))):
        notes.append(
            "neighbours in rank are on different hosts, where they talk most: start ranks host by host "
            "(mpiexec -ppn N, srun --distribution=block)"
        )
    if len(ranks) > 1 and any(rank["threading"] != "multiple" for rank in ranks):
        notes.append(
            "MPI was not started for several threads, so less of what is sent is hidden behind arithmetic"
        )
    for words, numbers in _by(ranks, lambda rank: rank["gpu"]["failed"]).items():
        if words:
            notes.append(f"{ranks_text(numbers)}: {words}")
    if use["device"] == "gpu":
        places = Counter(
            (rank["host"], rank["gpu"]["devices"][rank["gpu"]["taken"]]["identity"]) for rank in ranks
        )
        if (most := max(places.values())) > 1:
            notes.append(f"up to {most} ranks share a GPU and take turns on it: start as many ranks as GPUs")
    return notes


def _slow(ranks: Sequence[Facts], links: Sequence[Facts], by: str = "") -> list[str]:
    """Return notes about links that are far slower than others like them: inside hosts, and between them.

    Parameters
    ----------
    by
        How arrays of devices go there; "" for messages of hosts.
    """
    notes = []
    for inside in (True, False):
        alike = [link for link in links if is_inside(ranks, link) == inside]
        if len(alike) < _MANY:
            continue
        usual_s = median(link["latency_s"] for link in alike)
        usual_rate = median(link["bytes_per_s"] for link in alike)
        for link in alike:
            late, thin = link["latency_s"] / usual_s, usual_rate / link["bytes_per_s"]
            what = [f"{late:.0f} times the latency"] * (late > _SLOW) + [f"1/{thin:.0f} of the bandwidth"] * (
                thin > _SLOW
            )
            if what:
                where = " and ".join(dict.fromkeys(ranks[number]["host"] for number in link["ranks"]))
                notes.append(
                    f"{ranks_text(link['ranks'])} ({where}): {' and '.join(what)} of links like theirs"
                    + f", for arrays of GPUs by {by}" * bool(by)
                )
    return notes


def is_inside(ranks: Sequence[Facts], link: Facts) -> bool:
    """Whether a link is between ranks of one host."""
    lower, upper = link["ranks"]
    return bool(ranks[lower]["host"] == ranks[upper]["host"])


def _by(ranks: Sequence[Facts], key: str | Callable[[Facts], str]) -> dict[str, list[int]]:
    """Return which ranks say what."""
    found: dict[str, list[int]] = {}
    for number, rank in enumerate(ranks):
        found.setdefault(rank[key] if isinstance(key, str) else key(rank), []).append(number)
    return found


def _apart(said: dict[str, list[int]]) -> str:
    return "; ".join(f"{ranks_text(numbers)} {words}" for words, numbers in said.items())


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
