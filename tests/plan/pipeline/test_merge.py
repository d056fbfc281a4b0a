"""Merge: every promise of its rule, against enumeration where it promises the best."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.plan.pipeline.merge import merge


def tables(
    seed: int, passes: int, *, moving: float = 1.0, update: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return fill and slow of a random chain or graph with skip edges; `moving` scales what moves."""
    rng = random.Random(seed)
    units = rng.randint(2, 7)
    work = [rng.uniform(0.5, 4) for _ in range(units)]
    updates = [update * rng.uniform(0, 2) for _ in range(units)]
    edges = [(u, u + 1) for u in range(units - 1)]
    edges += [p for p in combinations(range(units), 2) if p[1] - p[0] > 1 and rng.random() < 0.3 * (seed % 2)]
    output = [moving * rng.uniform(0, 3) for _ in range(units)]
    fill, slow = np.zeros((units + 1, units + 1)), np.zeros((units + 1, units + 1))
    for i in range(units):
        for j in range(i + 1, units + 1):
            arrive = sum(output[a] for a in {a for a, b in edges if a < i <= b < j})
            fill[i, j] = sum(work[i:j]) + 2 * arrive
            slow[i, j] = (passes - 1) * max(sum(work[i:j]), arrive) + sum(updates[i:j])
    return fill, slow


def cost(first: tuple[int, ...], fill: np.ndarray, slow: np.ndarray) -> float:
    runs = list(zip(first, (*first[1:], len(fill) - 1), strict=True))
    return float(sum(fill[run] for run in runs) + max(slow[run] for run in runs))


def every(fill: np.ndarray, most: int, least: int = 1) -> list[tuple[int, ...]]:
    """Return all partitions into `least` to `most` stages."""
    units = len(fill) - 1
    sizes = range(least, min(most, units) + 1)
    return [(0, *cuts) for k in sizes for cuts in combinations(range(1, units), k - 1)]


def test_merging_never_makes_a_step_longer():
    """Unless forced: the cost before less what a merge says is the cost after, for every merge of 300 cases."""
    merged = 0
    for seed in range(300):
        fill, slow = tables(seed, random.Random(seed).choice([1, 2, 4, 8]))
        first = tuple(range(len(fill) - 1))
        found = merge(fill, slow, len(first))
        for step in found.merges:
            after = tuple(u for u in first if u != step.at)
            change = cost(after, fill, slow) - cost(first, fill, slow)
            assert change == pytest.approx(step.rise_s - step.saved_s, abs=1e-9)
            assert change < 0 and not step.forced
            first, merged = after, merged + 1
        assert found.first == first and found.cost_s == pytest.approx(cost(first, fill, slow))
    assert merged > 300


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_at_the_end_no_merge_would_help_and_there_is_a_group_for_every_stage(groups):
    forced = 0
    for seed in range(120):
        fill, slow = tables(seed, 4)
        found = merge(fill, slow, groups)
        assert len(found.first) <= groups
        for at in found.first[1:]:
            fewer = tuple(u for u in found.first if u != at)
            assert cost(fewer, fill, slow) >= found.cost_s - 1e-9
        marks = [step.forced for step in found.merges]
        assert marks == sorted(marks, reverse=True)  # forced ones come first
        forced += sum(marks)
    assert (forced > 0) == (groups < 7)


def test_one_merge_is_the_best_there_is():
    for seed in range(120):
        fill, slow = tables(seed, 4)
        units = len(fill) - 1
        found = merge(fill, slow, max(1, units - 1))
        first = tuple(range(units))
        after = tuple(u for u in first if u != found.merges[0].at)
        best = min(cost(each, fill, slow) for each in every(fill, units - 1, units - 1))
        assert cost(after, fill, slow) == pytest.approx(best)


def test_with_one_pass_all_becomes_one_stage_and_that_is_optimal():
    for seed in range(60):
        fill, slow = tables(seed, 1, update=0.0, moving=1.0 + seed)
        found = merge(fill, slow, 8)
        assert found.first == (0,)
        assert found.cost_s == pytest.approx(min(cost(each, fill, slow) for each in every(fill, 8)))


def test_where_nothing_moves_nothing_is_merged_and_that_is_optimal():
    for seed in range(60):
        fill, slow = tables(seed, 4, moving=0.0)
        found = merge(fill, slow, 8)
        assert found.merges == ()
        assert found.cost_s == pytest.approx(min(cost(each, fill, slow) for each in every(fill, 8)))


def test_what_cannot_be_merged():
    fill, slow = tables(4, 2)
    with pytest.raises(InputError, match="0 groups"):
        merge(fill, slow, 0)
    tight = np.full_like(slow, np.inf)
    units = len(slow) - 1
    for u in range(units):
        tight[u, u + 1] = slow[u, u + 1]  # a unit fits, two together never do
    assert merge(fill, tight, units).merges == ()
    with pytest.raises(InputError, match="cannot be merged further"):
        merge(fill, tight, units - 1)
    tight[0, 1] = np.inf
    with pytest.raises(InputError, match="single unit"):
        merge(fill, tight, units)
