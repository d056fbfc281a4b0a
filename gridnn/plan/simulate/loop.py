"""Schedules, and the event loop that makes one, in plain Python.

This is the rule in its shortest form, the oracle of kernels/plan/simulate.c, and what runs where no compiler was at
installation.  A task is ready when all it waits for have ended; a device serves whoever is ready first, ties by key:

    a, b ready at 0, key a < b          device 0   aaaa bb
    c waits for a                       device 1       cccc
    d waits for b and c                 device 0            d     ready = max(end b, end c)
"""

from __future__ import annotations

import heapq

import numpy as np

from gridnn.plan.simulate.graph import BASE, SIZE, State, TaskGraph

FOREVER = np.iinfo(np.int64).max


class Schedule:
    """When every task is ready, starts and ends, in nanoseconds, by slot.

    Attributes
    ----------
    times : ndarray (slots, 3)
        Ready, start, end.
    order : ndarray
        Slots in the order in which they became ready; the first `count` are valid.
    kept : int
        How many at the front of the order were copied from another schedule.
    makespan_ns : int
        The end of the last task; less where the simulation was stopped.
    over : bool
        It was stopped, for the makespan would have exceeded the bound.
    """

    def __init__(self, slots: int) -> None:
        self.times = np.zeros((slots, 3), np.int64)
        self.order = np.zeros(slots, np.int32)
        self.count = self.kept = self.makespan_ns = 0
        self.over = False

    @property
    def slots(self) -> int:
        """Slots that it has room for."""
        return len(self.order)

    def grow(self, slots: int) -> None:
        """Make room for more slots."""
        more = slots - self.slots
        self.times = np.pad(self.times, ((0, more), (0, 0)))
        self.order = np.pad(self.order, (0, more))


def simulate_plain(graph: TaskGraph, state: State, out: Schedule, bound_ns: int = FOREVER) -> None:
    """Simulate a state of the graph into `out`.

    Parameters
    ----------
    bound_ns
        Stop as soon as the makespan is certain to exceed it: a device cannot end before all it has left is done.
    """
    slots = np.concatenate([np.arange(b, b + n) for b, n in state.table[[BASE, SIZE]].T])
    before, after = graph.dependencies(state)
    followers: dict[int, list[int]] = {int(t): [] for t in slots}
    pending = dict.fromkeys(followers, 0)
    for u, v in zip(before.tolist(), after.tolist(), strict=True):
        followers[u].append(v)
        pending[v] += 1
    ns, key, device = (
        dict(zip(pending, graph.tasks[name][slots].tolist(), strict=True)) for name in ("ns", "key", "device")
    )
    left = [0] * len(graph.program.devices)
    for t, d in device.items():
        if d >= 0:
            left[d] += ns[t]
    out.count = out.kept = out.makespan_ns = 0
    out.over = max(left, default=0) > bound_ns
    if out.over:
        return

    free_at = [0] * len(left)
    ready = dict.fromkeys(pending, 0)
    heap = [(0, key[t], t) for t, missing in pending.items() if missing == 0]
    heapq.heapify(heap)
    while heap:
        due, _, t = heapq.heappop(heap)
        start, least, d = due, 0, device[t]
        if d >= 0:
            start = max(due, free_at[d])
            free_at[d] = start + ns[t]
            least = start + left[d]
            left[d] -= ns[t]
        end = start + ns[t]
        out.times[t] = due, start, end
        out.order[out.count] = t
        out.count += 1
        out.makespan_ns = max(out.makespan_ns, end)
        if max(out.makespan_ns, least) > bound_ns:
            out.over = True
            return
        for v in followers[t]:
            ready[v] = max(ready[v], end)
            pending[v] -= 1
            if pending[v] == 0:
                heapq.heappush(heap, (ready[v], key[v], v))
