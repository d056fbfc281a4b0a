"""What ranks found, in lines: what all have in common once, and who differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

from gridnn.commands.doctor.ask import Answer
from gridnn.commands.doctor.judge import Verdict, is_inside, of_hosts, ranks_text, what_text
from gridnn.plan.explain.tell import bytes_text

Facts = dict[str, Any]
OPERATIONS = ("messages", "blocking collectives", "non-blocking collectives")
_WIDTH, _HOSTS = 12, 8


def lines(answer: Answer, verdict: Verdict) -> list[str]:
    """Return what rank 0 says."""
    found: list[str] = []
    if answer.report is not None:
        ranks = answer.report["ranks"]
        found += _line(
            "gridnn", f"{ranks[0]['gridnn']}, Python {ranks[0]['python']}, NumPy {ranks[0]['numpy']}"
        )
        found += _line("ranks", *_where(ranks))
        found += _line("cores", *_same(ranks, _cores))
        found += _line("memory", *_memory(ranks))
        found += _line("MPI", *_same(ranks, _mpi))
        found += _line("CUDA in MPI", *_same(ranks, _cuda))
        found += _line("links", *_links(ranks, answer.report["links"]))
        found += _gpus(ranks)
        use = answer.report["use"]
        if use["device"]:
            said = (
                ""
                if use["device"] == "cpu"
                else " for runs with --device gpu or auto; cpu where nothing is said"
            )
            found += _line("device", f"{use['device']}{said}")
            found += _line("transport", f"{use['transport']}: {use['why']}")
        if answer.report["device_links"]:
            found += _line("GPU links", *_links(ranks, answer.report["device_links"]))
        found += _line("tried", *_tried(answer.report))
    elif answer.facts is not None:
        alone = answer.facts
        found += _line("gridnn", f"{alone['gridnn']}, Python {alone['python']}, NumPy {alone['numpy']}")
        found += _line("host", f"{alone['host']}, {len(alone['cores'])} of {alone['host_cores']} cores")
        found += _line("memory", *_memory([alone]))
        found += _gpus([alone])
    for note in verdict.notes:
        found += _line("note", *note.splitlines())
    for problem in verdict.problems:
        found += _line("wrong", *problem.splitlines())
    return [
        *found,
        *_line("verdict", "a run would fail here" if verdict.problems else "a run can start here"),
    ]


def cut_lines(answer: Answer) -> list[str]:
    """Return what only this rank knows of an attempt in which its process died."""
    assert answer.report is not None
    what = what_text([answer.cut], answer.report["use"]["transport"])
    why = answer.report["tried"][answer.cut]["why"]
    return list(_line("wrong", *f"rank {answer.rank}: {what}: {why}".splitlines()))


def _tried(report: Facts) -> list[str]:
    """Return what was tried and what came of it, one line for all of which the same is to be said."""
    way, tried, said = report["use"]["transport"], report["tried"], dict[str, list[str]]()
    if not any(found["tried"] for found in tried.values()):
        return [f"nothing between GPUs: {tried['links']['why']}"]
    for name, found in tried.items():
        why = found["why"].split("; it said")[0]
        words = (f"fails: {why}" if why else "works") if found["tried"] else f"not tried: {why}"
        said.setdefault(words, []).append(name)
    return [f"{what_text(names, way)}: {words}" for words, names in said.items()]


def _line(label: str, *texts: str) -> Iterator[str]:
    for at, text in enumerate(texts):
        yield f"{label if at == 0 else '':<{_WIDTH}}{text}"


def _same(ranks: Sequence[Facts], words: Callable[[Facts], str]) -> list[str]:
    """Return what ranks say, one line for all that say the same."""
    said: dict[str, list[int]] = {}
    for number, rank in enumerate(ranks):
        said.setdefault(words(rank), []).append(number)
    if len(said) == 1:
        return list(said)
    shown = [f"{ranks_text(numbers)}: {text}" for text, numbers in said.items()]
    return shown if len(shown) <= _HOSTS else [*shown[:_HOSTS], f"and {len(shown) - _HOSTS} lines more"]


def _where(ranks: Sequence[Facts]) -> list[str]:
    hosts = of_hosts(ranks)
    head = f"{len(ranks)} on {len(hosts)} host{'s' * (len(hosts) > 1)}"
    shown = [f"{host} has {ranks_text(numbers)}" for host, numbers in hosts.items()]
    more = [f"and {len(shown) - _HOSTS} hosts more"] * (len(shown) > _HOSTS)
    return [f"{head}: {shown[0]}"] if len(shown) == 1 else [head, *shown[:_HOSTS], *more]


def _cores(rank: Facts) -> str:
    mine, all_of_host = len(rank["cores"]), rank["host_cores"]
    bound = "not bound" if mine == all_of_host else f"bound to {ranks_text(rank['cores']).split(' ', 1)[1]}"
    threads = f"{rank['threads']} thread{'s' * (rank['threads'] != 1)}"
    return f"{mine} of {all_of_host} for each rank ({bound}), {threads} for its kernels"


def _memory(ranks: Sequence[Facts]) -> list[str]:
    """Return the memory of hosts: that of the host with the least free for each of its ranks."""
    hosts = of_hosts(ranks)
    least = min(hosts.values(), key=lambda numbers: ranks[numbers[0]]["free_bytes"] / len(numbers))
    one = ranks[least[0]]
    words = f"{bytes_text(one['memory_bytes'])} of host {one['host']}, {bytes_text(one['free_bytes'])} free"
    share = (
        f": {bytes_text(one['free_bytes'] / len(least))} for each of {len(least)} ranks"
        if len(least) > 1
        else ""
    )
    return [words + share + (", the least of all hosts" if len(hosts) > 1 else "")]


def _mpi(rank: Facts) -> str:
    name = " ".join(rank["mpi"].split())
    return f"{name}; standard {rank['standard']}, threads {rank['threading']}"


def _cuda(rank: Facts) -> str:
    has, why = rank["cuda"]["operations"], rank["cuda"]["why"]
    if not has or len(has) == len(OPERATIONS):
        return f"{'yes' if has else 'no'}, for {', '.join(OPERATIONS)}: {why}"
    each = ", ".join(f"{name} {'yes' if name in has else 'no'}" for name in OPERATIONS)
    return f"{each}: {why}"


def _links(ranks: Sequence[Facts], links: Sequence[Facts]) -> list[str]:
    said = []
    for inside, where in ((True, "inside a host"), (False, "between hosts")):
        alike = [link for link in links if is_inside(ranks, link) == inside]
        if alike:
            late = max(alike, key=lambda link: float(link["latency_s"]))
            thin = min(alike, key=lambda link: float(link["bytes_per_s"]))
            latency = micro_text(median(link["latency_s"] for link in alike))
            rate = f"{bytes_text(median(link['bytes_per_s'] for link in alike))}/s"
            if len(alike) > 1:
                latency += f" (at most {micro_text(late['latency_s'])}, {ranks_text(late['ranks'])})"
                rate += f" (at least {bytes_text(thin['bytes_per_s'])}/s, {ranks_text(thin['ranks'])})"
            said.append(f"{where}: latency {latency}, {rate}")
    return said or ["none: there is one rank"]


def micro_text(seconds: float) -> str:
    """Return seconds in microseconds, or milliseconds where they are many."""
    return f"{1e6 * seconds:.2f} us" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def _gpus(ranks: Sequence[Facts]) -> Iterator[str]:
    yield from _line("GPUs", *_same(ranks, _gpu))
    if any(rank["gpu"]["devices"] for rank in ranks):
        yield from _line("NCCL", *_same(ranks, lambda rank: _nccl(rank["gpu"]["nccl"])))
        if all("cudnn" in rank["gpu"] for rank in ranks):
            yield from _line("cuDNN", *_same(ranks, lambda rank: _cudnn(rank["gpu"]["cudnn"])))


def _gpu(rank: Facts) -> str:
    gpu = rank["gpu"]
    if not gpu["devices"]:
        return f"none: {gpu['missing']}"
    cuda = (
        f"CuPy {gpu['cupy']}, CUDA {_cuda_version(gpu['runtime'])}, driver for {_cuda_version(gpu['driver'])}"
    )
    if gpu["taken"] is None:
        return f"{len(gpu['devices'])}, none of them taken; {cuda}"
    mine = gpu["devices"][gpu["taken"]]
    size = f"{bytes_text(mine['memory_bytes'])}, {bytes_text(gpu['free_bytes'])} free"
    return f"device {gpu['taken']} of {len(gpu['devices'])}: {mine['name']} ({mine['capability']}), {size}; {cuda}"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _nccl(number: int) -> str:
    """Return a version of NCCL in words: 22707 is 2.27.7, and before 2.9 2804 was 2.8.4."""
    if not number:
        return "none that CuPy can load"
    big = 10000 if number >= 10000 else 1000
    return f"{number // big}.{number % big // 100}.{number % 100}"


def _cudnn(found: Facts) -> str:
    """Return what there is of cuDNN, and which convolutions a run would give it."""
    if found["missing"]:
        return f"none: {found['missing']}; own kernels compute convolutions"
    return (
        f"{found['backend']}, frontend {found['frontend']}: convolutions that it computes faster than own kernels "
        '(compute.conv = "auto"), measured once and kept'
    )
