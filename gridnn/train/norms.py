"""Norms of parameters and gradients over all ranks: what clipping and LARS ask for before an update.

    on the host     squares of shares -> [sum over ranks] -> norm, factor, rates -> update
    on a device     squares of shares -> [sum over ranks] -> norm, factor, rates -> update
                                                              `- copied to the host, which looks at it later

Each element is counted on one rank only.  On a device nobody waits for the numbers but the update, which reads them
there (`compute.gpu.squares`): the host waits in the sum over ranks where the transport makes it wait, and nowhere else.
So a norm that is not finite is found before its update on the host, and after it on a device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.comm.collectives import all_reduce
from gridnn.comm.world import World
from gridnn.compute.gpu import squares as gpu
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.compute.gpu.graph import Known, Later
from gridnn.compute.interface import Engine
from gridnn.errors import RunError
from gridnn.geometry.traffic import Key
from gridnn.layers.arena import Arena
from gridnn.train.predicted import needs_squares
from gridnn.train.schedule import clip_scale
from gridnn.train.sections import TrainSection

_KEY = Key("optimizer", "update", "allreduce", "all")


class Told(NamedTuple):
    """What an update is told: `Optimizer.step` has the same words."""

    grad_scale: Any = 1.0
    squares: NDArray[np.float64] | None = None
    rates: Any = None


@dataclass
class Norm:
    """The gradient's norm over all ranks in a step, on its way to the host."""

    step: int
    later: Later

    @property
    def value(self) -> float:
        """The norm, when it is known."""
        return float(self.later.wait()[0])

    def check(self) -> None:
        """Wait for the norm, and refuse one that is not finite.

        Raises
        ------
        RunError
            On all ranks, if it is not.
        """
        norm = self.value
        self.later = Known(np.array([norm]))
        if not math.isfinite(norm):
            error = RunError(
                f"step {self.step}: the gradient's norm is {norm}; lower train.lr or check the data"
            )
            error.everywhere = True
            raise error


class HostNorms:
    """Norms of arrays of the host.

    Parameters
    ----------
    rows
        Of the table of squared norms, by the names of parameters.
    """

    late = False
    """Whether the norm of a gradient is known after its update only."""

    def __init__(self, world: World, arena: Arena, config: TrainSection, rows: Mapping[str, int]) -> None:
        self._world, self._arena, self._config, self._rows = world, arena, config, rows
        self._norm = 0.0

    def measure(self, counts: bool = True) -> Told:
        """Sum squares over all ranks, those of this one if it `counts`; return them, and no factor yet."""
        squares = np.zeros((len(self._rows), 2))
        for share in self._arena.counted_once() if counts else ():
            both = (share.value.astype(np.float64), share.grad.astype(np.float64))
            squares[self._rows[share.entry.name]] += [float(v @ v) for v in both]
        squares = all_reduce(self._world, _everyone(self._world), squares, _KEY)
        scale = 1.0
        if self._config.clip_norm is not None:
            self._norm = math.sqrt(float(squares[:, 1].sum()))
            scale = clip_scale(self._norm, self._config.clip_norm) if math.isfinite(self._norm) else 1.0
        return Told(scale, squares if self._config.optimizer == "lars" else None)

    def read(self) -> Later | None:
        """Return the gradient's norm as it was measured last, None where nothing is clipped."""
        return None if self._config.clip_norm is None else Known(np.array([self._norm]))


class DeviceNorms:
    """Norms of arrays of a device: nothing here waits for it.

    Parameters are those of `HostNorms`.  Parameters of the network stay where they are as long as this is.
    """

    late = True

    def __init__(
        self, world: World, arena: Arena, config: TrainSection, rows: Mapping[str, int], engine: GpuEngine
    ) -> None:  # fmt: skip
        self._world, self._config, self._engine = world, config, engine
        shares = [gpu.Part(rows[s.entry.name], s.value, s.grad) for s in arena.counted_once()]
        self._parts = {
            True: gpu.parts_of(engine, shares, len(rows)),
            False: gpu.parts_of(engine, [], len(rows)),
        }
        self._factors = engine.memory.zeros((2 + len(rows),), np.float64)  # one place, also for a graph
        self._meet(2 * len(rows))

    def measure(self, counts: bool = True) -> Told:
        """Sum squares over all ranks, those of this one if it `counts`; return where the factors will be."""
        c, engine, factors = self._config, self._engine, self._factors
        sums = gpu.squares(engine, self._parts[counts])
        sums = all_reduce(self._world, _everyone(self._world), sums, _KEY)
        gpu.factors(engine, sums, factors, most=c.clip_norm, trust=c.trust, decay=c.weight_decay, eps=c.eps)
        clips, lars = c.clip_norm is not None, c.optimizer == "lars"
        return Told(factors[1:2] if clips else 1.0, rates=factors[2:] if lars else None)

    def _meet(self, elements: int) -> None:
        """Let devices that hand on sums make one as all that come, which is no message of a step.

        Where ranks first send each other something hosts wait for each other, and for what runs on their devices: a
        stage that is behind would be waited for by one that waits for it.
        """
        world, nothing = self._world, self._engine.memory.zeros((elements,), np.float64)
        carrier = world.transport.direct(nothing)
        if carrier is not None and world.size > 1 and elements:
            carrier.all_reduce(world, _everyone(world), nothing, np.empty_like(nothing), "sum")

    def read(self) -> Later | None:
        """Ask for the gradient's norm as it was measured last, unless nothing is clipped."""
        return None if self._config.clip_norm is None else self._engine.device.read_later(self._factors[:1])


def norms_of(
    world: World, arena: Arena, config: TrainSection, rows: Mapping[str, int], engine: Engine
) -> HostNorms | DeviceNorms | None:
    """Return what measures norms where arrays are; None where a run needs none."""
    if not needs_squares(config):
        return None
    if isinstance(engine, GpuEngine):
        return DeviceNorms(world, arena, config, rows, engine)
    return HostNorms(world, arena, config, rows)


def _everyone(world: World) -> tuple[int, ...]:
    return tuple(range(world.size))
