"""Lower bounds against closed forms, and against every set of multiplications of small products."""

from __future__ import annotations

import random
from itertools import combinations
from itertools import product as each
from math import inf, isclose, prod, sqrt

import pytest

from gridnn.cost.bounds.conv import extents, product
from gridnn.cost.bounds.matmul import Product, least_faces, matrices, memory_words, moved_words, regime
from gridnn.cost.bounds.step import StepBound, step_bound
from gridnn.geometry.window import TransposedWindow, Window
from gridnn.network import spec as s

Triple = tuple[int, int, int]
Multiplication = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # elements of W, X and Y


def al_daas(extents_: Triple, procs: float) -> tuple[str, float]:
    """The theorem as a table of cases, with no minimisation."""
    k, n, m = sorted(extents_)
    owned = (m * n + m * k + n * k) / procs
    if procs <= m / n:
        return "1D", (m * n + m * k) / procs + n * k - owned
    if procs <= m * n / k**2:
        return "2D", 2 * sqrt(m * n * k**2 / procs) + m * n / procs - owned
    return "3D", 3 * (m * n * k / procs) ** (2 / 3) - owned


@pytest.mark.parametrize(
    "sizes", [(4096, 9216, 2048), (1000, 4096, 64), (7, 5, 3), (64, 64, 64), (1, 10, 1000)]
)
@pytest.mark.parametrize("procs", [2, 3, 4, 7, 16, 64, 101, 512, 1000])
def test_one_product_is_the_theorem_of_al_daas_et_al(sizes: Triple, procs: int) -> None:
    if procs > prod(sizes):
        return
    case, words = al_daas(sizes, procs)
    orders = [order for order in each(sizes, repeat=3) if sorted(order) == sorted(sizes)]
    found = {round(moved_words(matrices(*order), procs), 6) for order in orders}
    assert len(found) == 1  # whichever of the three arrays is the largest
    assert isclose(found.pop(), words, rel_tol=1e-9, abs_tol=1e-5)
    borders = (max(sizes) / sorted(sizes)[1], max(sizes) * sorted(sizes)[1] / min(sizes) ** 2)
    if procs not in borders:
        assert regime(matrices(*sizes), procs) == case


def test_by_hand() -> None:
    cube = matrices(8, 8, 8)
    assert moved_words(cube, 8) == pytest.approx(3 * 16 - 3 * 8)  # faces of 4 x 4, 8 elements owned of each
    slab = matrices(64, 2, 4)  # P = 4 <= 64 / 4: 8 rows a rank, the array of 2 x 4 whole
    assert moved_words(slab, 4) == pytest.approx(2 * 4 - 2 * 4 / 4)
    assert least_faces(slab, 4) == pytest.approx((64 * 2 / 4, 2 * 4, 64 * 4 / 4))
    column = matrices(64, 64, 4)  # 1 <= P = 16 <= 256: a 16 x 16 block of the 64 x 64 array, faces of 16 x 4
    assert moved_words(column, 16) == pytest.approx(2 * (64 - 16))


@pytest.mark.parametrize("sizes", [(64, 8, 2), (100, 10, 5), (36, 12, 3)])
def test_the_cases_meet(sizes: Triple) -> None:
    m, n, k = sizes
    for border in (m // n, m * n // k**2):
        below, at, above = (al_daas(sizes, border * step)[1] for step in (1 - 1e-9, 1, 1 + 1e-9))
        assert isclose(below, above, rel_tol=1e-6)
        assert isclose(moved_words(matrices(*sizes), border), at, rel_tol=1e-9)


def test_the_least_faces_are_the_least() -> None:
    """No other faces within the limits that hold as many multiplications move less; a raster looks for them."""
    rng = random.Random(5)
    for _ in range(40):
        sizes = [rng.randint(1, 40) for _ in range(3)]
        plain, procs = matrices(*sizes), rng.randint(1, 12)
        # As a convolution: fewer multiplications than the matrices have places for, an element that stands in several.
        whole = Product(rng.randint(1, plain.multiplies), plain.entries, (1, rng.randint(1, 9), 1))
        counts = tuple(rng.choice((0.0, 1.0, 2.0, 0.5)) for _ in range(3))
        faces = least_faces(whole, procs, counts)  # type: ignore[arg-type]
        target, low = (whole.multiplies / procs) ** 2, [e / procs for e in whole.entries]
        assert prod(faces) >= target * (1 - 1e-9)
        assert all(
            lo * (1 - 1e-9) <= f <= e * (1 + 1e-9) for lo, f, e in zip(low, faces, whole.entries, strict=True)
        )
        cost = [c / fold for c, fold in zip(counts, whole.folds, strict=True)]
        best = inf
        steps = 40
        for i, j in each(range(steps + 1), repeat=2):
            w, x = (
                lo * (e / lo) ** (t / steps) for lo, e, t in zip(low, whole.entries, (i, j), strict=False)
            )
            y = max(target / w / x, low[2])
            if y <= whole.entries[2] * (1 + 1e-9):
                best = min(best, sum(c * f for c, f in zip(cost, (w, x, y), strict=True)))
        found = sum(c * f for c, f in zip(cost, faces, strict=True))
        assert found <= best * (1 + 1e-9) + 1e-9
        assert found >= best * 0.85 - 1e-9  # the raster comes near


@pytest.mark.parametrize(
    ("sizes", "procs"), [((2, 2, 2), 2), ((2, 2, 2), 4), ((3, 2, 2), 3), ((2, 4, 2), 4), ((1, 4, 3), 3)]
)
def test_no_set_of_multiplications_touches_less(sizes: Triple, procs: int) -> None:
    every = list(each(*map(range, sizes)))
    least = min(
        len({(i, j) for i, j, _ in part})
        + len({(j, t) for _, j, t in part})
        + len({(i, t) for i, _, t in part})
        for part in combinations(every, len(every) // procs)
    )
    assert sum(least_faces(matrices(*sizes), procs)) <= least + 1e-9


def conv(kernel: int, **more: int) -> s.Conv:
    groups, out = more.pop("groups", 1), more.pop("out", 4)
    return s.Conv(out, (Window(kernel, **more), Window(2)), groups)


def transposed(kernel: int, **more: int) -> s.ConvTranspose:
    return s.ConvTranspose(3, (TransposedWindow(kernel, **more), TransposedWindow(2, 2)))


def enumerated(
    spec: s.Conv | s.ConvTranspose, x: tuple[int, ...], y: tuple[int, ...]
) -> list[Multiplication]:
    """Every multiplication of a layer by its definition, as elements of W, X and Y."""
    found: list[Multiplication] = []
    groups = spec.groups if isinstance(spec, s.Conv) else 1
    windows: tuple[Window | TransposedWindow, ...] = spec.windows
    kernel = [range(w.kernel) for w in windows]
    here, there = (
        (y, x) if isinstance(spec, s.Conv) else (x, y)
    )  # a window of `there` at every place of `here`
    for n, k, c, *places in each(range(x[0]), range(y[1]), range(x[1]), *map(range, here[2:]), *kernel):
        at, taps = places[: len(kernel)], places[len(kernel) :]
        if k // (y[1] // groups) != c // (x[1] // groups):
            continue
        other = [i * w.stride + r * w.dilation - w.pad_lo for w, i, r in zip(windows, at, taps, strict=True)]
        if all(0 <= o < e for o, e in zip(other, there[2:], strict=True)):
            inputs, outputs = (other, at) if isinstance(spec, s.Conv) else (at, other)
            found.append(((k, c, *taps), (n, c, *inputs), (n, k, *outputs)))
    return found


SPECS: list[s.Conv | s.ConvTranspose] = [
    conv(3, pad_lo=1, pad_hi=1), conv(3, stride=2), conv(5, stride=2, pad_lo=2, pad_hi=2), conv(1, stride=2),
    conv(2, stride=3), conv(3, dilation=2, pad_lo=2, pad_hi=2), conv(3, stride=2, dilation=2), conv(3, groups=2),
    transposed(2, stride=2), transposed(3, stride=2, pad_lo=1, pad_hi=1, out_pad=1), transposed(4),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=[f"{i}-{s.kind(spec)}" for i, spec in enumerate(SPECS)])
def test_a_convolution_is_counted_as_it_is_made(spec: s.Conv | s.ConvTranspose) -> None:
    x = (2, 4, 7, 5)
    y = (2, *s.out_shape(spec, (x[1:],), "layer"))
    every, whole = enumerated(spec, x, y), product(spec, x, y)
    assert whole.multiplies == len(every)
    rng = random.Random(3)
    sets = [every, *(rng.sample(every, rng.randint(1, len(every))) for _ in range(20))]
    # Runs in every order are dense sets, those with small faces.
    for axis in range(3):
        ordered = sorted(every, key=lambda m, a=axis: (m[a], m))  # type: ignore[misc]
        sets += [ordered[: len(ordered) // part] for part in (2, 3, 7)]
    for part in sets:
        w, x_, y_ = (len({m[side] for m in part}) for side in range(3))
        assert len(part) ** 2 <= prod(whole.folds) * w * x_ * y_
    # All of it: an entry of W is an element; X and Y have as many entries as there are places for their elements.
    w, x_, y_ = (len({m[side] for m in every}) for side in range(3))
    assert whole.entries[0] == w
    assert x_ <= whole.entries[1] <= whole.folds[1] * x_
    assert y_ <= whole.entries[2] <= whole.folds[2] * y_


def test_the_fold_must_be_rounded_up() -> None:
    """Kernel 3, stride 2: the published 3/2 in the small-filter inequality is too small, 2 is not."""
    spec, length = s.Conv(1, (Window(3, 2),)), 99
    x = (1, 1, 2 * length + 1)
    assert product(spec, x, (1, 1, length)).folds == (1, 2, 1)
    even = [((r,), (2 * o + r,), (o,)) for o in range(length) for r in (0, 2)]
    w, x_, y_ = (len({m[side] for m in even}) for side in range(3))
    assert 1.5 * w * x_ * y_ < len(even) ** 2 <= 2 * w * x_ * y_


def test_windows_that_do_not_overlap_are_matrices() -> None:
    """A 1 x 1 convolution and one of stride = kernel read every input once: bounds are those of their matrices."""
    point = product(s.Conv(6, (Window(1), Window(1))), (3, 5, 4, 4), (3, 6, 4, 4))
    assert point == matrices(6, 5, 3 * 16)
    patch = product(s.Conv(6, (Window(2, 2), Window(2, 2))), (3, 5, 8, 8), (3, 6, 4, 4))
    assert patch == matrices(6, 5 * 4, 3 * 16)
    assert extents(s.Conv(6, (Window(2, 2), Window(2, 2))), (3, 5, 8, 8), (3, 6, 4, 4)) == (6, 20, 48)
    assert product(s.Linear(7), (3, 5), (3, 7)) == matrices(7, 5, 3)


def test_groups_stay_apart() -> None:
    spec = s.Conv(8, (Window(3, 1, 1, 1),), groups=8)
    depthwise = product(spec, (4, 8, 30), (4, 8, 30))
    assert all(moved_words(depthwise, procs) == 0 for procs in (1, 2, 4, 8))
    assert moved_words(depthwise, 16) > 0


def test_a_step_makes_three_products() -> None:
    whole = matrices(512, 256, 128)
    once = moved_words(whole, 16)
    assert step_bound(whole, 16) == StepBound("3D", 3 * once, 2 * once, 1.5 * once, None)
    assert step_bound(whole, 16, shares=True).step < 2 * once
    assert step_bound(whole, 1, memory=10) == StepBound("none", 0, 0, 0, 0)
    # The first layer can cut W and Y by k and move nothing.
    assert step_bound(whole, 16, first=True, memory=10) == StepBound("3D", 0, 0, 0, 0)


@pytest.mark.parametrize(("sizes", "procs"), [((4, 4, 4), 4), ((6, 2, 2), 4), ((2, 4, 6), 3), ((1, 6, 6), 6)])
def test_no_distribution_moves_less_in_a_step(sizes: Triple, procs: int) -> None:
    """Random equal parts, any owners: the mean of what ranks move is at least 2 B, or 1.5 B for three distributions."""
    rng = random.Random(11)
    every: list[Multiplication] = [((i, j), (j, t), (i, t)) for i, j, t in each(*map(range, sizes))]
    bound = step_bound(matrices(*sizes), procs)

    def parts() -> list[list[Multiplication]]:
        mixed = (
            sorted(every, key=lambda m: [m[a] for a in order])
            if rng.random() < 0.7
            else rng.sample(every, len(every))
        )
        return [mixed[r * len(every) // procs : (r + 1) * len(every) // procs] for r in range(procs)]

    for _ in range(200):
        order = rng.sample(range(3), 3)
        one, others = parts(), (parts(), parts())
        owners = [{e: rng.randrange(procs) for e in {m[side] for m in every}} for side in range(3)]
        for sets, least in (((one, one, one), bound.step), ((one, *others), bound.any)):
            total = 0
            for rank in range(procs):
                faces = [
                    [{m[at] for m in made[rank] if owners[at][m[at]] != rank} for at in range(3)]
                    for made in sets
                ]
                (w1, x1, y1), (w2, x2, y2), (w3, x3, y3) = faces
                into = len(w1 | w2) + len(x1 | x3) + len(y2 | y3)
                total += into + len(y1) + len(x2) + len(w3)
            assert total / procs >= least - 1e-9


def test_small_memories_by_hand() -> None:
    assert memory_words(matrices(100, 100, 100), 4, 100) == 2 * 250_000 / 10 - 300
    assert memory_words(Product(10**6, (1, 1, 1), (1, 4, 1)), 4, 100) == 2 * 250_000 / 20 - 300
    assert memory_words(matrices(100, 100, 100), 4, 10_000) == 0
    assert step_bound(matrices(100, 100, 100), 4, memory=100).memory == 2 * (2 * 250_000 / 10 - 300)
