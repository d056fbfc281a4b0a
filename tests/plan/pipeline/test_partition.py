"""Partition: the optimum of its tables, as enumeration of all partitions finds it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.plan.pipeline.partition import Partition, fits, partition


class Case:
    """A random graph of units with work, outputs of some size and memory; edges between neighbours, others skip."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.units, self.procs = rng.randint(2, 6), rng.randint(2, 6)
        self.stages = rng.randint(1, min(self.units, self.procs))
        self.groups = sorted(rng.sample(range(1, self.procs + 1), rng.randint(1, self.procs)))
        self.passes = rng.choice([1, 2, 4, 16])
        self.work = [rng.uniform(0.5, 4) for _ in range(self.units)]
        self.update = [rng.uniform(0, 2) for _ in range(self.units)]
        self.bytes = [rng.randint(1, 9) for _ in range(self.units)]
        self.limit = rng.choice([np.inf, rng.randint(8, 30)])
        self.unit = rng.choice([0, 0, 2, 3])
        self.edges = [(u, u + 1) for u in range(self.units - 1)]
        if seed % 2:
            pairs = [p for p in combinations(range(self.units), 2) if p[1] - p[0] > 1]
            self.edges += rng.sample(pairs, min(len(pairs), rng.randint(1, 4)))
        self.output = [rng.uniform(0, 2) for _ in range(self.units)]

    def stage(self, k: int, start: int, stop: int, ranks: int) -> tuple[float, float]:
        """Return what a stage adds to a pass, and its seconds for all other passes and the update."""
        # An output is sent once to every stage that reads it.
        made = {a for a, b in self.edges if a < start <= b < stop}
        arrive = sum(self.output[a] for a in made) / ranks
        work = sum(self.work[start:stop]) / ranks**0.8
        slow = (self.passes - 1) * max(work, arrive) + sum(self.update[start:stop])
        need = sum(self.bytes[start:stop]) / ranks * (self.stages - k)
        return work + 2 * arrive, slow if need <= self.limit else np.inf

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.stages, self.units + 1, self.units + 1, len(self.groups))
        fill, slow = np.full(shape, np.nan), np.full(shape, np.nan)
        for k, i, j, g in product(*map(range, shape)):
            if i < j:
                fill[k, i, j, g], slow[k, i, j, g] = self.stage(k, i, j, self.groups[g])
        return fill, slow

    def every(self) -> Iterator[tuple[float, float]]:
        """Yield the sum and the slowest of every partition that can be."""
        for cuts in combinations(range(1, self.units), self.stages - 1):
            ends = (0, *cuts, self.units)
            for ranks in product(self.groups, repeat=self.stages):
                begins = [sum(ranks[:k]) for k in range(self.stages)]
                if sum(ranks) != self.procs or not all(map(self.inside, begins, ranks)):
                    continue
                costs = [self.stage(k, ends[k], ends[k + 1], q) for k, q in enumerate(ranks)]
                slow = max(s for _, s in costs)
                if slow < np.inf:
                    yield sum(f for f, _ in costs), slow

    def inside(self, begin: int, ranks: int) -> bool:
        """Return whether a group touches no more nodes than it must, a large one from the first rank of a node on."""
        if not self.unit:
            return True
        nodes = {rank // self.unit for rank in range(begin, begin + ranks)}
        return len(nodes) == 1 if ranks <= self.unit else begin % self.unit == 0


@pytest.mark.parametrize("block", range(8))
def test_the_optimum_is_that_of_enumeration(block):
    none = some = 0
    for seed in range(40 * block, 40 * block + 40):
        case = Case(seed)
        every = list(case.every())
        for rule in ("step", "slowest"):
            found = partition(*case.tables(), case.groups, case.procs, rule, case.unit)
            if not every:
                assert found is None, seed
                none += 1
                continue
            some += 1
            assert found is not None, seed
            if rule == "step":
                assert found.cost_s == pytest.approx(min(f + s for f, s in every), rel=1e-12), seed
            else:
                slow = min(s for _, s in every)
                fill = min(f for f, s in every if s <= slow * (1 + 1e-12))
                assert (found.slow_s, found.fill_s) == pytest.approx((slow, fill), rel=1e-12), seed
            check(case, found.first, found.ranks, found)
            near = partition(*case.tables(), case.groups, case.procs, rule, case.unit, gap=0.05)
            assert near is not None
            assert rule == "slowest" or near.cost_s <= 1.05 * found.cost_s
    assert some > 30 and none  # both happen in every block of seeds


def check(case: Case, first: Sequence[int], ranks: Sequence[int], found: Partition) -> None:
    """A partition has the costs it says, and as many ranks as there are."""
    assert first[0] == 0 and list(first) == sorted(set(first)) and len(first) == case.stages
    assert sum(ranks) == case.procs and set(ranks) <= set(case.groups)
    stops = (*first[1:], case.units)
    costs = [case.stage(k, *each) for k, each in enumerate(zip(first, stops, ranks, strict=True))]
    assert found.fill_s == pytest.approx(sum(f for f, _ in costs))
    assert found.slow_s == pytest.approx(max(s for _, s in costs))


def best(
    fill: np.ndarray, slow: np.ndarray, groups: Sequence[int], procs: int, rule: str = "step"
) -> Partition:
    found = partition(fill, slow, groups, procs, rule)
    assert found is not None
    return found


def test_few_passes_want_less_to_fill_and_many_a_faster_slowest():
    """A stage of two units has less to fill; with many passes the slowest stage is all that counts."""
    work, moved = [4.0, 1.0, 1.0, 4.0], [0.0, 3.0, 0.0, 3.0]  # arriving at each unit
    fill, pace = np.full((2, 5, 5, 1), np.inf), np.full((2, 5, 5, 1), np.inf)
    for i in range(4):
        for j in range(i + 1, 5):
            fill[:, i, j, 0], pace[:, i, j, 0] = sum(work[i:j]) + moved[i], sum(work[i:j])
    few, many = (best(fill, m * pace, [1], 2) for m in (1, 9))
    assert few.first == many.first == (0, 2)
    moved[2] = 5.0
    for j in range(3, 5):
        fill[:, 2, j, 0] += 5.0
    assert best(fill, pace, [1], 2).first == (0, 1)
    assert best(fill, 9 * pace, [1], 2).first == best(fill, pace, [1], 2, "slowest").first == (0, 2)


def test_a_hundred_units_take_less_than_enumeration_ever_could():
    rng = np.random.default_rng(5)
    ends = np.concatenate([[0.0], np.cumsum(rng.uniform(1, 2, 100))])
    work = (ends[None, :] - ends[:, None])[None, :, :, None] / np.array([1, 2, 4, 8])
    found = best(np.repeat(work, 8, axis=0), 31 * np.repeat(work, 8, axis=0), [1, 2, 4, 8], 16)
    assert sum(found.ranks) == 16
    ideal = 31 * ends[-1] / 16
    assert ideal <= found.slow_s <= 1.1 * ideal


def test_groups_and_nodes():
    assert fits(3, 2, 0) and not fits(3, 2, 4) and fits(2, 2, 4)
    assert fits(4, 6, 4) and not fits(2, 6, 4)


@pytest.mark.parametrize(
    ("stages", "procs", "rule", "words"),
    [
        (4, 8, "step", "4 stages of 3 units"),
        (3, 2, "step", "3 stages on 2 ranks"),
        (2, 2, "fast", 'rule "fast"'),
    ],
)
def test_what_cannot_be_asked(stages, procs, rule, words):
    tables = np.ones((stages, 4, 4, 1))
    with pytest.raises(InputError, match=words):
        partition(tables, tables, [1], procs, rule)
