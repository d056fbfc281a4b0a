"""The space of a search: every grid a layer may have.

| layer                       | axes that may be above 1                      |
|-----------------------------|-----------------------------------------------|
| convolution                 | n, k, c, space        `c` only without groups |
| linear                      | n, k, c                                       |
| embedding                   | n, k, c               `c` is the vocabulary   |
| LSTM                        | n, k                                          |
| any other with space        | n, k, space                                   |
| any other without           | n, k                                          |

An axis is at most the extent it cuts.  Sizes are powers of two whose product is at most P, or, where P is no power of
two, divisors whose product divides P, and up to 16 processes powers of two as well; `every` asks for all products up to
P.  Left out is only what is the same twice:
`c` of a layer that sums nothing over channels cuts them as a larger `k` would, on the same ranks.  Steps of an LSTM
follow each other, and it reads all of a sample's: an embedding cut by steps would only have to be put together again.
Layers that share weights have one grid, and the smallest limits of them all.
OptCNN (Jia et al. 2018, Table 1) and FlexFlow have the same dims without `c`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gridnn.cost.grids import Grids, Ints
from gridnn.errors import InputError
from gridnn.geometry.grid import AXES
from gridnn.network import spec as s
from gridnn.network.graph import Network, Node
from gridnn.network.placement import space_axes
from gridnn.plan.job import Degrees, Job

POWERS_TOO = 16
"""Processes up to which powers of two are candidates beside divisors: 7 processes may work as 4."""


def space(job: Job, *, every: bool = False, extra: Mapping[str, Sequence[Degrees]] | None = None,
          pins: Mapping[str, Degrees] | None = None) -> list[Grids]:  # fmt: skip
    """Return the candidate grids of every layer; layers with the same ones share an object.

    Parameters
    ----------
    extra
        Grids a layer may have besides, such as those of a plan it is compared with.
    pins
        The one grid of a layer that is not to be chosen, and of those it shares weights with.

    Raises
    ------
    InputError
        For pins that give layers of the same weights different grids.
    """
    more = _by_owner(job, extra or {})
    fixed = _by_owner(job, {name: [pin] for name, pin in (pins or {}).items()})
    for owner, pinned in fixed.items():
        if len(pinned) > 1:
            raise InputError(f"pins: layers that share the weights of {owner} have one grid; pin them alike")
    known: dict[object, Grids] = {}
    shared: dict[bytes, Grids] = {}
    found = []
    for node in job.network.nodes:
        owner = node.shared or node.name
        limits = tuple(axis_limits(job.network, node, job.per_pass).items())
        key = (limits, more[owner], fixed[owner])
        if key not in known:
            grids = Grids(np.array(fixed[owner], dtype=np.int64))
            if not fixed[owner]:
                grids = grids_of(job.network, node, job.per_pass, job.procs, every=every, extra=more[owner])
            known[key] = shared.setdefault(grids.degrees.tobytes(), grids)
        found.append(known[key])
    return found


def _by_owner(job: Job, given: Mapping[str, Sequence[Degrees]]) -> dict[str, tuple[Degrees, ...]]:
    """Return grids by the layer that has the weights, each once."""
    found: dict[str, dict[Degrees, None]] = {}
    for node in job.network.nodes:
        found.setdefault(node.shared or node.name, {}).update(dict.fromkeys(given.get(node.name, ())))
    return {owner: tuple(grids) for owner, grids in found.items()}


def grids_of(
    network: Network,
    node: Node,
    batch: int,
    procs: int,
    *,
    every: bool = False,
    extra: Sequence[tuple[int, ...]] = (),
) -> Grids:
    """Return the candidate grids of a layer, and `extra` ones (sizes of the axes n, k, c, d, h, w) behind them."""
    limits = axis_limits(network, node, batch)
    if every or _power(procs):
        rows = _products(limits, degrees(procs, every=every), procs, divide=False)
    else:
        rows = _products(limits, degrees(procs), procs, divide=True)
        if procs <= POWERS_TOO:
            powers = _products(limits, degrees(1 << procs.bit_length() - 1), procs, divide=False)
            rows = np.unique(np.vstack([rows, powers]), axis=0)
    if extra:
        known = set(map(tuple, rows.tolist()))
        fresh = [e for e in dict.fromkeys(extra) if e not in known]
        rows = np.vstack([rows, np.array(fresh, dtype=np.int64).reshape(-1, len(AXES))])
    return Grids(rows)


def _products(limits: Mapping[str, int], steps: Sequence[int], procs: int, *, divide: bool) -> Ints:
    """Return all sizes of axes from `steps` whose product is at most `procs`, or divides it."""
    rows = np.array([(1,) * len(AXES)], dtype=np.int64)
    for axis, limit in limits.items():
        able = np.array([d for d in steps if d <= limit], dtype=np.int64)
        grown = np.repeat(rows, len(able), axis=0)
        grown[:, AXES.index(axis)] = np.tile(able, len(rows))
        sizes = grown.prod(axis=1)
        rows = grown[procs % sizes == 0 if divide else sizes <= procs]
    return rows


def axis_limits(network: Network, node: Node, batch: int) -> dict[str, int]:
    """Return the axes a layer's grid may have, and the largest size of each."""
    owner = node.shared or node.name
    tied = (
        [n for n in network.nodes if owner in (n.name, n.shared)]
        if owner in network.tied.values()
        else [node]
    )
    limits = [_limits(network, n, batch) for n in tied]
    return {
        axis: min(each[axis] for each in limits) for axis in limits[0] if all(axis in each for each in limits)
    }


def _limits(network: Network, node: Node, batch: int) -> dict[str, int]:
    spec, x, y = node.spec, network.shapes[node.inputs[0]], network.shapes[node.name]
    if isinstance(spec, s.LOSSES):
        y = x
    if isinstance(spec, s.GlobalPool):
        y = (y[0], *x[1:])  # partial sums where the space lies
    limits = {"n": batch, "k": y[0]}
    if isinstance(spec, s.Embedding):
        return {**limits, "c": spec.vocabulary}
    if isinstance(spec, s.LSTM):
        return limits
    if isinstance(spec, s.Linear | s.ConvTranspose) or (isinstance(spec, s.Conv) and spec.groups == 1):
        limits["c"] = x[0]
    limits.update(zip(space_axes(len(y) - 1), y[1:], strict=True))
    return limits


def degrees(procs: int, *, every: bool = False) -> list[int]:
    """Return the sizes an axis may have on `procs` processes."""
    if every:
        return list(range(1, procs + 1))
    if _power(procs):
        return [1 << i for i in range(procs.bit_length())]
    return [d for d in range(1, procs + 1) if procs % d == 0]


def _power(number: int) -> bool:
    return number & (number - 1) == 0
