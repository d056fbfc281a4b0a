"""The compiled event loop (kernels/plan/simulate.c), loaded with ctypes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.plan.simulate.graph import State, TaskGraph
from gridnn.plan.simulate.loop import FOREVER, Schedule

_ADDRESS, _INT = ctypes.c_void_p, ctypes.c_int64


class _Graph(ctypes.Structure):
    _fields_ = [
        *[(name, _INT) for name in ("operations", "segments", "devices", "slots")],
        *[(name, _ADDRESS) for name in ("tasks", "source", "target", "incident_from", "incident")],
    ]


class _Schedule(ctypes.Structure):
    _fields_ = [
        *[(name, _ADDRESS) for name in ("at", "order")],
        *[(name, _INT) for name in ("count", "kept", "makespan", "over")],
    ]


class _Scratch(ctypes.Structure):
    _fields_ = [(name, _ADDRESS) for name in ("pending", "mark", "free_at", "left", "heap")]


def library_path() -> Path:
    """Return where the package's build puts the library."""
    return Path(__file__).parent / "compiled" / "libgridnn-plan.so"


class NativeLoop:
    """The event loop for one task graph.

    Raises
    ------
    OSError
        If the library is not there, or was built for another processor.
    """

    def __init__(self, graph: TaskGraph, path: Path | None = None) -> None:
        self._simulate = ctypes.CDLL(str(path or library_path())).gridnn_plan_simulate
        self._simulate.restype = None
        self._graph = graph
        self._fit()

    def simulate(
        self,
        state: State,
        out: Schedule,
        bound_ns: int = FOREVER,
        since: tuple[State, Schedule, list[int]] | None = None,
    ) -> None:
        """Simulate a state of the graph into `out`.

        Parameters
        ----------
        bound_ns
            Stop as soon as the makespan is certain to exceed it.
        since
            An earlier state, its complete schedule, and the segments in which `state` differs from it: only what
            can differ is simulated.
        """
        if self._struct.slots != self._graph.slots:
            self._fit()
        result = _schedule(out)
        table, graph, scratch = state.table.ctypes.data, self._struct, self._scratch
        refer = ctypes.byref
        if since is None:
            past: tuple[object, ...] = (None, None, None, _INT(0))
        else:
            was, old, changed = since
            which = np.array(changed, np.int32)
            past = (_ADDRESS(was.table.ctypes.data), refer(_schedule(old)), _ADDRESS(which.ctypes.data),
                    _INT(len(changed)))  # fmt: skip
        self._simulate(refer(graph), _ADDRESS(table), refer(result), refer(scratch), _INT(bound_ns), *past)
        out.count, out.kept = result.count, result.kept
        out.makespan_ns, out.over = result.makespan, bool(result.over)

    def _fit(self) -> None:
        """Tell the library where the arrays are now."""
        g = self._graph
        slots, devices = g.slots, len(g.program.devices)
        arrays = (g.tasks, g.source, g.target, g.incident_from, g.incident)
        self._struct = _Graph(len(g.program.operations), len(g.source), devices, slots, *_addresses(*arrays))
        self._room = (
            np.zeros(slots, np.int32), np.zeros(slots, np.uint8), np.zeros(devices, np.int64),
            np.zeros(devices, np.int64), np.zeros((slots, 3), np.int64),
        )  # fmt: skip
        self._scratch = _Scratch(*_addresses(*self._room))


def _addresses(*arrays: NDArray[Any]) -> list[int]:
    return [a.ctypes.data for a in arrays]


def _schedule(schedule: Schedule) -> _Schedule:
    return _Schedule(*_addresses(schedule.times, schedule.order), schedule.count, 0, 0, 0)
