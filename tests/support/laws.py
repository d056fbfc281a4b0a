"""The laws of gridnn as one check: a network on any schemes equals the same network on one process.

`check` compares, in float64 and for two steps, the loss, the output, every gradient, every updated parameter
and the running statistics with the 1-process run (law 1), and the ledger of each rank with the formulas (law 4).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gridnn.comm.shard import Shard, gather
from gridnn.comm.world import World
from gridnn.compute.interface import Engine
from gridnn.cost.traffic import predict_step
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.traffic import Traffic, Widths
from gridnn.layers.model import Model
from gridnn.layers.norm import BatchNormalisation
from gridnn.network import spec as s
from gridnn.network.graph import Network
from gridnn.network.placed import place_network
from tests.support.factor import factorisations

BUCKET_BYTES = 1000  # small, so that several buckets exist
STEPS = 2


class Outcome(NamedTuple):
    """What a run of two steps gives, gathered."""

    losses: list[float]
    output: Any
    gradients: dict[str, Any]
    values: dict[str, Any]
    running: dict[str, Any]
    ledger: Traffic
    predicted: Traffic


def data(network: Network, batch: int) -> tuple[Any, Any]:
    """Return an input and a target for a network, from a fixed seed."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((batch, *network.input_shape))
    logits = network.shapes[network.output]
    if isinstance(network.loss.spec, s.SoftmaxCrossEntropy):
        return x, rng.integers(0, logits[0], (batch, *logits[1:]))
    return x, rng.standard_normal((batch, *logits))


def run(world: World, network: Network, schemes: Mapping[str, Scheme], batch: int, *, cut_optimizer: bool = False,
        overlap: bool = True, dtype: str = "float64", engine: Engine | None = None) -> Outcome:  # fmt: skip
    """Train two plain steps and gather everything."""
    placed = place_network(network, schemes, batch, world.size)
    model = Model(world, placed, dtype, BUCKET_BYTES, cut_optimizer, overlap, engine)
    model.arena.initialise(3)
    whole_x, whole_t = data(network, batch)
    x = np.ascontiguousarray(whole_x[tuple(slice(*i) for i in model.input_box)].astype(dtype))
    t = np.ascontiguousarray(whole_t[tuple(slice(*i) for i in model.target_box)])
    losses, gradients = [], {}
    world.ledger = Traffic()
    for step in range(STEPS):
        model.arena.begin()
        verdict = model.forward(x, t, at=(1, step))
        losses.append(world.comm.allreduce(verdict.loss))
        model.backward()
        model.arena.await_sums()
        if step == 0:
            counted, world.ledger = world.ledger, Traffic()
            if not cut_optimizer:
                gradients = _gather(world, model, "grad")
            world.ledger = counted
        for share in model.arena.shares():
            share.value[...] -= 0.1 * share.grad
        model.arena.publish()
    running = {}
    for layer in model.layers:
        if isinstance(layer, BatchNormalisation):
            dims = layer.placed.placement.parameters[0].layout
            inside = world.rank in layer.scheme.ranks
            for name in ("mean", "variance"):
                array = model.engine.give(getattr(layer, name)) if inside else np.zeros(0)
                running[f"{layer.name}.{name}"] = gather(world, Shard(array, dims))
    predicted = Traffic()
    widths = Widths(model.activations.itemsize, model.dtype.itemsize)
    step_traffic = predict_step(
        placed, world.rank, widths, bucket_bytes=BUCKET_BYTES, cut_optimizer=cut_optimizer
    )
    predicted.merge(step_traffic, STEPS)
    assert model.output is not None
    mine = model.engine.give(model.output).astype(model.dtype, copy=False)
    output = gather(world, Shard(mine, model.loss.placed.placement.needs[0]))
    return Outcome(
        losses, output, gradients, _gather(world, model, "value"), running, world.ledger, predicted
    )


def _gather(world: World, model: Model, what: str) -> dict[str, Any]:
    found = {}
    for layer in model.placed.layers:
        for p in layer.placement.parameters:
            mine = model.arena.parameters[layer.node.name].get(p.name)
            array = (
                model.engine.give(getattr(mine, what)) if mine else np.zeros((0,) * len(p.shape), model.dtype)
            )
            found[f"{layer.node.name}.{p.name}"] = gather(world, Shard(array, p.layout))
    return found


@lru_cache(maxsize=64)
def reference(network: Network, batch: int, dtype: str = "float64") -> Outcome:
    """Return the 1-process outcome, which must have sent nothing."""
    from mpi4py import MPI

    with World(MPI.COMM_SELF) as world:
        outcome = run(
            world, network, {n.name: Scheme(GridShape()) for n in network.nodes}, batch, dtype=dtype
        )
    assert outcome.ledger.messages == 0 and outcome.predicted.messages == 0
    return outcome


def check(world: World, network: Network, schemes: Mapping[str, Scheme], batch: int, *, tolerance: float = 1e-10,
          dtype: str = "float64", **options: Any) -> Outcome:  # fmt: skip
    """Hold a network on its schemes to laws 1 and 4."""
    wanted, got = (
        reference(network, batch, dtype),
        run(world, network, schemes, batch, dtype=dtype, **options),
    )
    where = {name: str(scheme) for name, scheme in schemes.items()}
    np.testing.assert_allclose(got.losses, wanted.losses, rtol=tolerance, err_msg=str(where))
    near(got.output, wanted.output, tolerance, f"output {where}")
    for part in ("gradients", "values", "running"):
        for name, array in getattr(got, part).items():
            near(array, getattr(wanted, part)[name], tolerance, f"{part} {name} {where}")
    differences = got.predicted.differences(got.ledger)
    assert not differences, f"{differences} {where}"
    return got


def near(got: Any, wanted: Any, tolerance: float, what: str) -> None:
    """Compare arrays relative to the largest wanted element, and at least to 1."""
    assert got.shape == wanted.shape, f"{what}: {got.shape} for {wanted.shape}"
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale, err_msg=what)


def random_schemes(network: Network, procs: int, batch: int, rng: random.Random) -> dict[str, Scheme]:
    """Return a random scheme for every layer: any axes, any size up to `procs`, any first rank."""
    schemes = {}
    for node in network.nodes:
        size = rng.choice([procs, procs, procs, *range(1, procs + 1)])
        grids = [
            GridShape.of(**f) for f in factorisations(size, ("n", "k", "c", "d", "h", "w")) if f["n"] <= batch
        ]
        schemes[node.name] = Scheme(rng.choice(grids), rng.randint(0, procs - size))
    return schemes


def uniform_schemes(network: Network, grid: str) -> dict[str, Scheme]:
    """Return the same scheme for every layer."""
    return {node.name: Scheme(GridShape.parse(grid)) for node in network.nodes}
