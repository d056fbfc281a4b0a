"""Programs for tests of the simulator: hand-checkable ones, random ones, and a large one shaped like a network."""

from __future__ import annotations

from functools import cache

import numpy as np

from gridnn.plan.simulate.program import LOCAL, EdgeCost, Flow, Group, OperationCost, Program
from gridnn.plan.simulate.segment import Longs


def chain() -> Program:
    """Return the chain of three operations by hand: batch 2, full times 4, 6, 2; configuration 0 is devices 0 and 1,
    1 is device 1, 2 is device 0; one link an ordered pair of devices, 1 a sample; forward only.
    """
    devices_of, full = [(0, 1), (1,), (0,)], (4, 6, 2)

    def operation(i: int, a: int) -> OperationCost:
        parts = len(devices_of[a])
        return OperationCost(devices_of[a], (full[i] // parts,) * parts, (0,) * parts, (0,) * parts)

    def samples(a: int, part: int) -> set[int]:
        return {part} if len(devices_of[a]) == 2 else {0, 1}

    def edge(e: int, a: int, b: int) -> EdgeCost:
        pairs = [
            (p, q, LOCAL if source == target else 2 + source, len(samples(a, p) & samples(b, q)))
            for p, source in enumerate(devices_of[a])
            for q, target in enumerate(devices_of[b])
            if samples(a, p) & samples(b, q)
        ]
        source, target, link, ns = (list(column) for column in zip(*pairs, strict=True))
        return EdgeCost(Flow(source, target, link, ns))

    names = ("rank 0", "rank 1", "0 to 1", "1 to 0")
    return Program(("o1", "o2", "o3"), (3, 3, 3), ((0, 1), (1, 2)), names, operation, edge, backward=False)


def random_program(seed: int, operations: int = 14, ranks: int = 6, choices: int = 5) -> Program:
    """Return a random DAG with forward and backward, collectives of every kind, shared links and many ties."""
    rng = np.random.default_rng(seed)
    edges = sorted(
        {
            (int(rng.integers(max(0, j - 4), j)), j)
            for j in range(1, operations)
            for _ in range(rng.integers(1, 3))
        }
    )
    links = ranks // 2

    def draw(*what: int) -> np.random.Generator:
        return np.random.default_rng([seed, *what])

    def members(i: int, a: int) -> Longs:
        r = draw(i, a)
        return r.permutation(ranks)[: r.integers(1, ranks + 1)]

    def groups(r: np.random.Generator, leave: int, enter: int) -> tuple[Group, ...]:
        return tuple(
            Group(
                r.permutation(leave)[: r.integers(1, leave + 1)], r.permutation(enter)[: r.integers(1, enter + 1)],
                links_of := ranks + r.integers(0, links, r.integers(0, 4)), r.integers(0, 4, len(links_of)),
            )
            for _ in range(r.integers(0, 3))
        )  # fmt: skip

    @cache
    def operation(i: int, a: int) -> OperationCost:
        r, device = draw(i, a, 0), members(i, a)
        n = len(device)
        forward, backward = (r.integers(0, 2 + 12 // n, n) for _ in range(2))
        update = r.integers(0, 2, n) * r.integers(0, 2)
        sums, gathers, gradients = (groups(r, n, n) for _ in range(3))
        return OperationCost(device, forward, backward, update, sums, gathers, gradients)

    def flow(r: np.random.Generator, leave: Longs, enter: Longs) -> Flow:
        source, target = np.nonzero(r.random((len(leave), len(enter))) < 0.6)
        local = leave[source] == enter[target]
        link = np.where(local, LOCAL, ranks + r.integers(0, links, len(source)))
        return Flow(source, target, link, r.integers(0, 4, len(source)), groups(r, len(leave), len(enter)))

    @cache
    def edge(e: int, a: int, b: int) -> EdgeCost:
        r, (i, j) = draw(e, a, b, 1), edges[e]
        ends = members(i, a), members(j, b)
        return EdgeCost(flow(r, *ends), flow(r, *ends[::-1]))

    names = tuple(f"o{i}" for i in range(operations))
    devices = (*(f"rank {i}" for i in range(ranks)), *(f"link {i}" for i in range(links)))
    return Program(names, (choices,) * operations, tuple(edges), devices, operation, edge)


def random_choice(program: Program, rng: np.random.Generator) -> tuple[int, ...]:
    """Return a configuration of each operation."""
    return tuple(int(rng.integers(n)) for n in program.choices)
