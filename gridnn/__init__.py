"""gridnn plans, runs and explains parallel training of neural networks on process grids.

The names here need no MPI; what runs (`gridnn.train`, `gridnn.layers`, `gridnn.comm`) is imported by name.
"""

from __future__ import annotations

from gridnn.errors import GridnnError, InputError, RunError, TrafficError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Builder, Network
from gridnn.plan.plan import Plan, read_plan, uniform_plan

__version__ = "0.1.0"
__all__ = [
    "Builder",
    "GridShape",
    "GridnnError",
    "InputError",
    "Network",
    "Plan",
    "RunError",
    "Scheme",
    "TrafficError",
    "read_plan",
    "uniform_plan",
]
