"""Seconds of a step of a placed network: the dearest of its ranks."""

from __future__ import annotations

from typing import NamedTuple

from gridnn.cost.compute import forward_work
from gridnn.cost.machine import Machine
from gridnn.cost.traffic import predict_step
from gridnn.network.placed import PlacedNetwork


class Price(NamedTuple):
    """Predicted seconds of a step, and the bytes one rank receives in it."""

    compute_s: float
    comm_s: float
    received_bytes: int

    @property
    def step_s(self) -> float:
        """Compute and communication one after the other: an upper bound where they overlap."""
        return self.compute_s + self.comm_s


def price_rank(placed: PlacedNetwork, rank: int, machine: Machine, itemsize: int, passes: int = 1) -> Price:
    """Return the price of one rank's step: alpha a message, beta a byte (Gholami et al. 2018, section 2.1)."""
    flops = touched = 0
    for layer in placed.layers:
        if rank in layer.scheme.ranks:
            work = forward_work(layer, rank)
            flops, touched = flops + 3 * work.product_flops, touched + 2 * work.touched
    traffic = predict_step(placed, rank, itemsize, passes=passes)
    compute_s = passes * (flops / machine.flops_per_s + touched * machine.touch_s_per_element)
    comm_s = traffic.messages * machine.alpha_s + traffic.received_bytes * machine.beta_s_per_byte
    return Price(compute_s, comm_s, traffic.received_bytes)


def price(
    placed: PlacedNetwork, machine: Machine, itemsize: int, passes: int = 1, most_ranks: int = 8
) -> Price:
    """Return the highest price among at most `most_ranks` ranks spread over all (rank 0 has the largest blocks)."""
    step = max(1, placed.procs // most_ranks)
    prices = [price_rank(placed, rank, machine, itemsize, passes) for rank in range(0, placed.procs, step)]
    return max(prices, key=lambda p: p.step_s)
