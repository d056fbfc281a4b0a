"""Random numbers: every box is the slice of the whole, bitwise, and streams do not resemble each other."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import kstest

from gridnn.compute import random
from gridnn.errors import InputError

SHAPES = [(), (0,), (1,), (17,), (5, 7), (4, 0, 3), (6, 5, 7), (3, 4, 5, 6), (2, 3, 1, 7, 3)]


def whole(shape):
    return tuple((0, extent) for extent in shape)


def some_box(rng, shape):
    ends = [sorted(rng.integers(0, extent + 1, 2).tolist()) for extent in shape]
    return tuple((a, b) for a, b in ends)


def part(array, box):
    return array[tuple(slice(a, b) for a, b in box)]


@pytest.mark.parametrize(("jump", "chunk"), [(0, 1), (0, 1 << 20), (10, 13), (1 << 40, 50), (1000, 1 << 20)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_box_is_the_slice_of_the_whole(shape, jump, chunk, monkeypatch):
    """Whatever the way of generation (every run alone, all in one, in pieces), bitwise."""
    everything = random.box_uniform(11, "s", shape, whole(shape), step=3)
    flat = random.box_uniform(11, "s", (everything.size,), ((0, everything.size),), step=3)
    assert np.array_equal(everything.ravel(), flat)
    normal = random.box_normal(11, "s", shape, whole(shape), step=3)
    monkeypatch.setattr(random, "_JUMP", jump)
    monkeypatch.setattr(random, "_CHUNK", chunk)
    rng = np.random.default_rng(5)
    for _ in range(12):
        box = some_box(rng, shape)
        assert np.array_equal(random.box_uniform(11, "s", shape, box, step=3), part(everything, box)), box
        assert np.array_equal(random.box_normal(11, "s", shape, box, step=3), part(normal, box)), box


def test_element_is_output_i_mod_4_of_counter_i_div_4():
    values = random.box_uniform(1, "s", (101,), ((0, 101),))
    stream = random._Stream(1, "s", 0)
    key = stream._philox.state["state"]["key"]
    for i in (0, 1, 3, 4, 50, 99, 100):
        raw = np.random.Philox(key=key, counter=i // 4).random_raw(4)[i % 4]
        assert values[i] == int(raw >> np.uint64(11)) * 2.0**-53


def test_extents_beyond_32_bits():
    shape = (3, 1 << 33)
    box = ((1, 3), ((1 << 33) - 5, 1 << 33))
    block = random.box_uniform(0, "far", shape, box)
    line = random.box_uniform(0, "far", (3 << 33,), (((3 << 33) - 5, 3 << 33),))
    assert np.array_equal(block[1], line)
    assert len(np.unique(block)) == 10


def test_normal_is_elementwise():
    """The normal of a long strided or short array is that of each of its elements."""
    u = random.box_uniform(3, "n", (1003,), ((0, 1003),))
    one_by_one = np.array([ndtri(value) for value in u])
    assert np.array_equal(ndtri(u), one_by_one)
    assert np.array_equal(ndtri(u[::3]), one_by_one[::3])
    assert np.array_equal(ndtri(u[5:8]), one_by_one[5:8])


def test_distributions():
    n = 100_000
    u = random.box_uniform(4, "u", (n,), ((0, n),))
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert kstest(u, "uniform").pvalue > 1e-3
    assert kstest(random.box_normal(4, "u", (n,), ((0, n),)), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    drawn = random.integers(4, "i", n, -2, 5)
    assert (drawn.min(), drawn.max()) == (-2, 4)
    assert np.all(np.abs(np.bincount(drawn + 2) - n / 7) < 5 * np.sqrt(n / 7))


def test_streams_seeds_and_steps_differ():
    def draw(seed, stream, step):
        return random.box_uniform(seed, stream, (2000,), ((0, 2000),), step)

    # (1, "1|s") and (11, "s") would collide if the parts of the key ran together
    names = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (1, "1|s", 0), (11, "s", 0), (-1, "a", 0)]
    arrays = [draw(*name) for name in names]
    for i in range(len(arrays)):
        for j in range(i):
            assert abs(np.corrcoef(arrays[i], arrays[j])[0, 1]) < 0.1, (names[i], names[j])


def test_golden_values():
    """Pinned: a run must start from the same weights with every later version."""
    golden = [0.8124480354939588, 0.8368143648734755, 0.2757091986303568, 0.05785308967015701]
    assert random.box_uniform(7, "golden", (4,), ((0, 4),), step=2).tolist() == golden
    assert random.permutation(7, "golden", 8).tolist() == [0, 6, 2, 7, 1, 4, 5, 3]
    assert random.integers(7, "golden", 6, 0, 100).tolist() == [3, 30, 8, 61, 37, 51]
    he = random.initial("he_normal", 7, "w", (2, 2), ((0, 2), (0, 2)), 2, 2, np.float32)
    golden = [0.6556665301322937, 1.1874595880508423, -1.528822660446167, 0.6403911113739014]
    assert he.ravel().tolist() == golden


@pytest.mark.parametrize("n", [0, 1, 2, 1797])
def test_permutation(n):
    order = random.permutation(3, "order", n)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, random.permutation(3, "order", n))
    if n > 100:
        assert not np.array_equal(order, random.permutation(3, "order", n, step=1))
        assert np.mean(order == np.arange(n)) < 0.02


def test_dropout_mask():
    shape = (50, 60)
    mask = random.dropout_mask(3, "drop", shape, whole(shape), 9, 0.25, np.float32)
    assert mask.dtype == np.float32
    assert set(np.unique(mask).tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert abs(np.mean(mask == 0) - 0.25) < 0.04
    box = ((7, 31), (2, 59))
    assert np.array_equal(random.dropout_mask(3, "drop", shape, box, 9, 0.25, np.float32), part(mask, box))
    assert np.all(random.dropout_mask(3, "drop", shape, box, 9, 0.0, np.float64) == 1.0)
    with pytest.raises(InputError, match=r"1.0 is not in \[0, 1\)"):
        random.dropout_mask(3, "drop", shape, box, 9, 1.0, np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [*random.INITIALISERS, "zeros", "ones"])
def test_initial(kind, dtype):
    shape, fan_in, fan_out = (40, 30, 3, 3), 270, 360
    values = random.initial(kind, 5, "conv.weight", shape, whole(shape), fan_in, fan_out, dtype)
    assert values.dtype == dtype
    box = ((3, 17), (0, 30), (1, 2), (0, 3))
    block = random.initial(kind, 5, "conv.weight", shape, box, fan_in, fan_out, dtype)
    assert np.array_equal(block, part(values, box))
    if kind in ("zeros", "ones"):
        assert np.all(values == (kind == "ones"))
        return
    variance = {"he": 2 / 270, "glorot": 2 / 630, "lecun": 1 / 270, "bias": 1 / 810}[kind.split("_")[0]]
    assert np.isclose(values.var(), variance, rtol=0.05)
    assert abs(values.mean()) < 4 * np.sqrt(variance / values.size)
    if kind.endswith("uniform"):
        assert np.abs(values).max() <= np.sqrt(3 * variance) * (1 + 1e-6)


def test_unknown_initialiser():
    with pytest.raises(InputError, match="'he' of w is not known; use one of zeros, ones, he_uniform"):
        random.initial("he", 0, "w", (2,), ((0, 2),), 1, 1, np.float32)


def test_many_short_runs_do_not_cost_a_generator_each():
    """A quarter of each 28 x 28 picture: 57 344 runs of 14 numbers, merged."""
    shape = (64, 64, 28, 28)
    started = time.perf_counter()
    random.box_uniform(0, "d", shape, ((0, 64), (0, 64), (0, 14), (14, 28)))
    assert time.perf_counter() - started < 2.0
