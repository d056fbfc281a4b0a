"""Our side of the benchmarks: one process, or the ranks of an mpiexec, that compute when asked.

    python analysis/bench/ours.py                                     # threads: OMP_NUM_THREADS
    mpiexec -n 2 python analysis/bench/ours.py --commands FOLDER      # ranks above 0 read FOLDER/rank1, ...

What it computes is in `engines.py` (convolutions) and `training.py` (steps).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from peer import measure
from peer.serve import Answer, serve

from gridnn import __version__
from gridnn.comm.world import World, mpi_version, world_comm


class Ours:
    """What the worker can be asked; holds one case at a time."""

    def __init__(self, world: World) -> None:
        self.world, self.threads = world, int(os.environ["OMP_NUM_THREADS"])
        self.parts: dict[str, Any] = {}
        self.step: Callable[[], float] | None = None

    def versions(self) -> Answer:
        """Name what computes here."""
        found = f"gridnn {__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
        return {"versions": found, "with": [" ".join(mpi_version().split())]}

    def conv(self, case: dict[str, Any], split: bool, engine: str) -> Answer:
        """Prepare a convolution, one pass of each part, by the engine that a run has or by a provider."""
        # Here and below: a worker loads what it is asked for, memory is measured too.
        from engines import products as by

        products = by(engine, case, self.threads)
        found = zip(("y", "dx", "dw"), products, strict=True)
        samples = {key: measure.samples(work()) for key, work in found}
        self.parts = {"forward": products.forward, "backward": lambda: (products.data(), products.weights())}
        if split:
            self.parts |= {"data": products.data, "weights": products.weights}
        return {"samples": samples}

    def network(self, **asked: Any) -> Answer:
        """Prepare training steps; `training.prepare` says of what."""
        from training import prepare

        self.step, described = prepare(self.world, self.threads, **asked)
        return {"described": described}

    def steps(self, count: int) -> Answer:
        """Make steps and return their losses."""
        assert self.step is not None, "ask for a network first"
        return {"losses": [self.step() for _ in range(count)]}

    def time(self, least_s: float = 0.0, count: int = 1) -> Answer:
        """Return the median seconds of each part of a convolution, or those of `count` steps."""
        if self.step is None:
            return {"seconds": {name: measure.median_s(work, least_s) for name, work in self.parts.items()}}
        together = self.world.comm.Barrier if self.world.size > 1 else (lambda: None)
        return {"steps": measure.step_s(self.step, count, together)}

    def memory(self) -> Answer:
        """Return the peak memory of this process."""
        return {"bytes": measure.peak_bytes()}

    def product(self) -> Answer:
        """Return the speed of a large matrix product."""
        a, b = (measure.numbers((measure.PRODUCT,) * 2, seed) for seed in range(2))
        out = np.empty_like(a)
        return {"flops_per_s": measure.product_flops_per_s(lambda: np.matmul(a, b, out=out))}


def main() -> None:
    """Serve until the parent closes the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commands", type=Path, help="folder of the pipes that ranks above 0 read")
    given = parser.parse_args()
    with World(world_comm()) as world:
        ours, lines = Ours(world), cast(Iterable[str], sys.stdin)
        if world.rank:
            lines = (given.commands / f"rank{world.rank}").open()
        verbs = ("versions", "conv", "network", "steps", "time", "memory", "product")
        serve({verb: getattr(ours, verb) for verb in verbs}, lines, world.rank == 0)


if __name__ == "__main__":
    main()
