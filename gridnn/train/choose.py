"""From a configuration to data, network, plan and placed network: everything before the first array.

The same integers on every rank; nothing here communicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gridnn.cost.machine import load_machine
from gridnn.cost.price import price_plan
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.graph import Network
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.plan.plan import Plan, read_plan, uniform_plan
from gridnn.plan.uniform import cheapest_uniform
from gridnn.train.data.dataset import Dataset
from gridnn.train.sections import Config


@dataclass(frozen=True)
class Job:
    """What a run will do: network, plan, and the network placed by it for one pass of a batch."""

    network: Network
    plan: Plan
    placed: PlacedNetwork
    passes: int


def choose(config: Config, train: Dataset, procs: int) -> Job:
    """Return the job of a configuration on `procs` processes.

    Raises
    ------
    InputError
        If network, data, batch and plan do not fit each other.
    """
    batch, passes = config.train.batch, config.train.accumulate
    if batch % passes:
        raise InputError(
            f"train.batch = {batch} cannot be split into train.accumulate = {passes} equal passes; use a divisor"
        )
    network = _network(config, train)
    plan = choose_plan(config, network, procs)
    placed = place_network(network, plan.schemes, batch // passes, procs)
    itemsize = np.dtype(config.train.dtype).itemsize
    machine = load_machine()
    cost = price_plan(placed, machine, itemsize, passes)
    predicted: dict[str, float | int | str] = {
        "step_s": cost.step_s,
        "compute_s": cost.compute_s,
        "comm_s": cost.comm_s,
        "machine": machine.name,
    }
    return Job(network, replace(plan, predicted=predicted), placed, passes)


def choose_plan(config: Config, network: Network, procs: int) -> Plan:
    """Return the plan that ``plan.spec`` asks for: "auto", a grid for every layer, or a file.

    A text that has a plan file's ending or a slash is a file; a grid has neither.
    """
    spec, batch, passes = config.plan.spec, config.train.batch, config.train.accumulate
    if spec == "auto":
        itemsize = np.dtype(config.train.dtype).itemsize
        return cheapest_uniform(network, batch, passes, procs, itemsize, load_machine())[0]
    if spec.endswith(".json") or "/" in spec:
        return read_plan(Path(spec), network, batch, procs)
    grid = GridShape.parse(spec)
    if grid.size > procs:
        raise InputError(
            f'plan "{spec}" needs {grid.size} processes, {procs} {"is" if procs == 1 else "are"} running; '
            f"start {grid.size} (mpiexec -n {grid.size} ...) or choose a grid of {procs}"
        )
    return uniform_plan(network, grid, batch, procs, f'"{spec}" for every layer')


def _network(config: Config, train: Dataset) -> Network:
    shape, options = train.input_shape, dict(config.model.options)
    if config.train.label_smoothing and "label_smoothing" in zoo.options(config.model.name):
        options.setdefault("label_smoothing", config.train.label_smoothing)
    network = zoo.build(config.model.name, shape, train.classes, **options)
    made, wanted = network.shapes[network.output], train.target_shape
    if isinstance(network.loss.spec, s.SoftmaxCrossEntropy):
        fits, what = train.target != "image" and made[1:] == wanted, "one class for each of"
    else:
        fits, what = train.target == "image" and made == wanted, "numbers of shape"
    if not fits:
        raise InputError(
            f"network {network.name} predicts {what} {made[1:] if 'class' in what else made}, "
            f"but data {train.name} has "
            f'targets "{train.target}" of shape {wanted}; choose a network or data.target that fits'
        )
    return network
