"""From measured seconds to the numbers of a machine file, each with how well it fits.

swaps         seconds ~ alpha + beta bytes                    least squares of relative errors, every size counts alike
streams       seconds of s streams / seconds of one ~ s / links, where that is above 1
collectives   seconds ~ call + formula(alpha, beta)           the algorithm whose formula leaves the least error
layers        seconds ~ layer + flops / rate + touched * touch
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from gridnn.cost.collectives import allgather_s, allreduce_s, reduce_scatter_s
from gridnn.cost.machine import ALGORITHMS, COLLECTIVES, Level, Machine
from gridnn.cost.profile import Profile, Sample, nonnegative_fit
from gridnn.train.calibrate.blocks import Block
from gridnn.train.calibrate.layers import Point
from gridnn.train.calibrate.links import Collective, Message, Nodes, levels_of

Floats = NDArray[np.float64]

TINY = 1e-9
"""Bytes of a collective that takes its latency alone."""
MOST_SPEED = 8.0
"""More than that is noise, either way."""
CLEAR = 0.9
"""An algorithm is named when its error is below this share of the next one's; otherwise the best is taken each time."""
LARGE = 4.0
"""Passes longer than so many times what the smallest take show a rate."""


@dataclass(frozen=True)
class Line:
    """A fitted line; `r2` of the logarithms of the seconds, `worst` the largest relative error of a point."""

    alpha_s: float
    beta_s_per_byte: float
    r2: float
    worst: float


@dataclass(frozen=True)
class Rate:
    """A fitted rate, as seconds of one operation or element; `typical` and `worst` relative errors of passes."""

    unit_s: float
    typical: float
    worst: float


@dataclass(frozen=True)
class Fitted:
    """The algorithm of a collective; `errors` are root mean squares of log(formula / measured), by algorithm.

    `speed` is how many times as fast as by the formula that fits best its bytes move, however long a call takes.
    """

    algorithm: str
    errors: Mapping[str, float]
    speed: float


def fit_line(nbytes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Fit latency and inverse bandwidth to measured messages.

    A term that the fit leaves out (noise can hide the latency behind the bytes, or the bytes behind it) is bounded
    by what was measured instead, for a link has both.
    """
    sizes, taken = np.asarray(nbytes, float), np.asarray(seconds, float)
    alpha_s, beta = nonnegative_fit(np.stack([np.ones(len(sizes)), sizes], axis=1), taken)
    alpha_s, beta = alpha_s or taken.min(), beta or taken.max() / sizes.max()
    line = alpha_s + beta * sizes
    return Line(
        float(alpha_s), float(beta), _r2(np.log(taken), np.log(line)), float(abs(line / taken - 1).max())
    )


def fit_links(single_s: float, together_s: float, streams: int) -> int:
    """Return how many of `streams` equal streams run at full speed at once; 0 if all of them do."""
    links = round(streams * min(1.0, single_s / together_s))
    return 0 if links >= streams else max(1, links)


def fit_levels(messages: Sequence[Message], nodes: Nodes) -> tuple[tuple[Level, ...], dict[str, Line]]:
    """Return the levels of the machine, and by name the lines that their alpha and beta come from."""
    names = levels_of(nodes)
    levels, lines = [], dict[str, Line]()
    for at, name in enumerate(names):
        swaps = [m for m in messages if m.level == name and m.how == "swap"]
        single = {m.nbytes: m.seconds for m in swaps if m.streams == 1}
        lines[name] = line = fit_line(list(single), list(single.values()))
        largest = max(single)
        most = max((m for m in swaps if m.nbytes == largest), key=lambda m: m.streams)
        links = fit_links(single[largest], most.seconds, most.streams) if most.streams > 1 else 0
        ranks = nodes.ranks if at + 1 < len(names) else 0
        levels.append(Level(name, ranks, line.alpha_s, line.beta_s_per_byte, links))
    return tuple(levels), lines


def fit_algorithms(machine: Machine, measured: Sequence[Collective], procs: int) -> dict[str, Fitted]:
    """Return for each collective the algorithm whose formula tells its seconds best.

    A call's own time, the same for all sizes, is left free: the formulas know nothing of interpreters.  The speed is
    that of the largest groups, which sum the gradients of data parallelism.
    """
    formulas = {"allreduce": allreduce_s, "allgather": allgather_s, "reduce_scatter": reduce_scatter_s}
    found = dict[str, Fitted]()
    for kind in COLLECTIVES:
        mine = [c for c in measured if c.kind == kind]
        taken, errors, speeds = np.array([c.seconds for c in mine]), dict[str, float](), dict[str, float]()
        widths = np.array([c.members[-1] for c in mine])
        wide = widths == widths.max()
        for how in (name for name in ALGORITHMS if name != "best"):
            trial = replace(machine, algorithms=dict.fromkeys(COLLECTIVES, how))
            told = np.array([float(formulas[kind](trial, c.members, c.nbytes, procs)) for c in mine])
            empty = np.array([float(formulas[kind](trial, c.members, TINY, procs)) for c in mine])
            speeds[how] = _speed(taken[wide], empty[wide], (told - empty)[wide])
            call_s = max(0.0, float(((taken - told) / taken**2).sum() / (1 / taken**2).sum()))
            errors[how] = float(np.sqrt(np.mean(np.log((told + call_s) / taken) ** 2)))
        first, second, *_ = sorted(errors, key=errors.__getitem__)
        clear = errors[first] < CLEAR * errors[second]
        found[kind] = Fitted(first if clear else "best", errors, speeds[first])
    return found


def _speed(taken: Floats, empty: Floats, carried: Floats) -> float:
    """Return by what to divide the seconds of bytes to tell what was measured.

    Least squares of errors over the root of the seconds: long calls count more than by relative errors, for they take
    the time of a step, and short ones more than by absolute errors.
    """
    weights = 1 / np.sqrt(taken)
    columns = np.stack([np.ones(len(taken)), carried], axis=1) * weights[:, None]
    (_, factor), _ = nnls(columns, np.maximum(taken - empty, 0) * weights)
    return float(np.clip(1 / factor, 1 / MOST_SPEED, MOST_SPEED)) if factor > 0 else 1.0


def fit_layer_s(tiny: Sequence[Point]) -> float:
    """Return what a pass takes whose block is next to nothing: the median over kinds and passes."""
    return statistics.median(point.seconds for point in tiny)


def fit_rates(points: Sequence[Point], layer_s: float) -> tuple[Rate, Rate]:
    """Return seconds of a multiplication or addition in products, and of an element that is read or written.

    Medians over passes, since what passes differ in (shapes, kernels, caches) is no noise that a square would fit.

    Parameters
    ----------
    layer_s
        Taken off every pass first.  Passes of less than `LARGE` times that say little and are left out where
        others are there.
    """
    large = [p for p in points if p.seconds > LARGE * layer_s]
    touches = [p for p in large if not p.flops and p.touched] or [
        p for p in points if not p.flops and p.touched
    ]
    touch_s = _positive([(p.seconds - layer_s) / p.touched for p in touches], touches)
    products = [p for p in large if p.flops] or [p for p in points if p.flops]
    flop_s = _positive([(p.seconds - layer_s - p.touched * touch_s) / p.flops for p in products], products)
    return (
        _rate(flop_s, products, [layer_s + p.touched * touch_s + p.flops * flop_s for p in products]),
        _rate(touch_s, touches, [layer_s + p.touched * touch_s for p in touches]),
    )


def left_out(profile: Profile, blocks: Sequence[Block], most: int = 60) -> list[float]:
    """Return relative errors of a profile's forward passes, each told from the other blocks of its family.

    Parameters
    ----------
    blocks
        Those of the profile's samples, in their order.
    most
        Blocks that are tried, spread over all.
    """
    errors, by_family = [], dict[str, list[Sample]]()
    for sample in profile.samples:
        by_family.setdefault(sample.family, []).append(sample)
    pairs = list(zip(profile.samples, blocks, strict=True))
    for sample, block in pairs[:: max(1, math.ceil(len(pairs) / most))]:
        others = tuple(other for other in by_family[sample.family] if other is not sample)
        told = Profile(profile.source, profile.date, others).seconds(block.spec, "forward", block.shape)
        if told is not None:
            errors.append(abs(told / sample.forward_s - 1))
    return errors


def _positive(ratios: Sequence[float], points: Sequence[Point]) -> float:
    """Return the median of ratios; where small blocks leave nothing of it, that of seconds for all of the work."""
    found = statistics.median(ratios)
    return found if found > 0 else statistics.median(p.seconds / (p.flops or p.touched) for p in points)


def _rate(unit_s: float, points: Sequence[Point], told_s: Sequence[float]) -> Rate:
    errors = [abs(told / p.seconds - 1) for told, p in zip(told_s, points, strict=True)]
    return Rate(unit_s, statistics.median(errors), max(errors))


def _r2(values: Floats, told: Floats) -> float:
    spread = float(((values - values.mean()) ** 2).sum())
    return 1 - float(((values - told) ** 2).sum()) / spread if spread else 1.0
