"""The optimizer: the chosen update rule over the pieces a rank owns, and the state that goes with them.

A piece is a parameter's block, or a share of it where the optimizer's state is cut over `n`.  The
rules are elementwise, so cuts never change a result; only LARS looks beyond its piece, through the
squared norms of whole parameters, which the caller sums over the ranks, or through the rates that a
device has made of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu import update
from gridnn.compute.gpu import update as gpu
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.compute.interface import CPU, Engine, subjects_of
from gridnn.train.late import form
from gridnn.train.sections import TrainSection

Array = NDArray[Any]

# State arrays of each rule, all shaped like the piece.
_STATE = {"sgd": ("velocity",), "adam": ("m", "v"), "adamw": ("m", "v"), "lars": ("velocity",)}


@dataclass(frozen=True, eq=False)
class Piece:
    """What a rank updates of one parameter.

    Parameters
    ----------
    name : str
        Name of the parameter; a rank has one piece of a parameter at most.
    value, grad : 1-D arrays of one dtype
        Views; the value is updated in place.
    decay : bool
        False for biases and norm parameters: no weight decay, no LARS rate.
    index : int
        Row of the parameter in the table of squared norms.
    """

    name: str
    value: Array
    grad: Array
    decay: bool
    index: int


def states(config: TrainSection) -> int:
    """Return how many arrays of state a parameter has; plain SGD keeps none."""
    return len(kinds(config))


def kinds(config: TrainSection) -> tuple[str, ...]:
    """Return the names of those arrays, as `Optimizer.state_arrays` has them."""
    plain = config.optimizer == "sgd" and config.momentum == 0.0
    return () if plain else _STATE[config.optimizer]


class Optimizer:
    """The update rule of a run with its state.  Live, one per rank.

    Parameters
    ----------
    config : TrainSection
        Rule and coefficients; the learning rate comes with every step.
    engine : Engine, optional
        What computes the updates; NumPy without one.

    Attributes
    ----------
    needs_norms : bool
        Whether `step` needs the global squared norms.
    updates : int
        Updates made so far.
    """

    def __init__(self, config: TrainSection, engine: Engine | None = None) -> None:
        self._config = config
        self._engine = engine
        self._rules = (CPU if engine is None else subjects_of(engine)).update.rules(engine, config.dtype)
        self.needs_norms = config.optimizer == "lars"
        self.updates = 0
        self._state: dict[str, dict[str, Array]] = {}

    def step(
        self,
        pieces: Sequence[Piece],
        lr: float,
        squares: NDArray[np.float64] | None = None,
        grad_scale: float | Array = 1.0,
        late: int = 0,
        rates: Array | None = None,
    ) -> None:
        """Update every piece once.

        Parameters
        ----------
        squares : float64 array (parameters, 2), or None
            Squared norms of value and gradient of whole parameters, summed over all ranks, the
            gradient's before `grad_scale`.  Needed where `needs_norms`, unless there are `rates`.
        grad_scale : float, or float64 array (1,) of the device
            Factor on every gradient, from clipping.
        late : int
            Updates since the forward that the gradient is of; SGD with momentum makes up for them where the
            configuration asks for it.
        rates : float64 array (parameters,) of the device, or None
            Local rates of LARS by the rows of `squares`, of which they were made.
        """
        self.updates += 1
        for piece in pieces:
            self._update(piece, lr, squares, grad_scale, late, rates)

    def lead(self, values: Mapping[str, Array], by: float) -> None:
        """Move copies of pieces' values, by their names, as far as so many of their velocities: none so far, no way."""
        for name, value in values.items() if by else ():
            if name in self._state:
                value -= by * self._state[name]["velocity"]

    def announce(self, lr: float) -> None:
        """Count an update that a graph of the device makes, and tell its numbers to the rules there."""
        assert isinstance(self._engine, GpuEngine), "a device makes graphs"
        self.updates += 1
        gpu.announce(self._engine, gpu.Now(self.updates, lr))

    def state_arrays(self) -> dict[str, dict[str, Array]]:
        """Return the state by piece and kind ("velocity", "m", "v"): views, empty before the first step."""
        return {name: dict(arrays) for name, arrays in self._state.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(a.nbytes for arrays in self._state.values() for a in arrays.values())

    def restore(self, arrays: Mapping[str, Mapping[str, Array]], updates: int) -> None:
        """Continue from the `state_arrays` (copied) and the number of updates of an earlier optimizer."""
        self._state = {
            name: {kind: self._own(a) for kind, a in of_piece.items()} for name, of_piece in arrays.items()
        }
        self.updates = updates

    def _own(self, array: Array) -> Array:
        """Return a copy of a host's array where the rules compute."""
        return (
            array.copy() if self._engine is None or self._engine.where == "cpu" else self._engine.take(array)
        )

    def _update(
        self, piece: Piece, lr: float, squares: NDArray[np.float64] | None, grad_scale: float | Array, late: int,
        rates: Array | None,
    ) -> None:  # fmt: skip
        c, w, g, state = self._config, piece.value, piece.grad, self._of(piece)
        decay = c.weight_decay if piece.decay else 0.0
        match c.optimizer:
            case "sgd":
                self._rules.sgd(
                    w,
                    g,
                    state.get("velocity"),
                    lr=lr,
                    momentum=c.momentum,
                    weight_decay=decay,
                    grad_scale=grad_scale,
                    **form(c, late),
                )
            case "adam" | "adamw":
                rule = self._rules.adam if c.optimizer == "adam" else self._rules.adamw
                rule(
                    w,
                    g,
                    state["m"],
                    state["v"],
                    step=self.updates,
                    lr=lr,
                    beta1=c.beta1,
                    beta2=c.beta2,
                    eps=c.eps,
                    weight_decay=decay,
                    grad_scale=grad_scale,
                )
            case "lars":
                self._rules.lars(
                    w,
                    g,
                    state["velocity"],
                    lr=lr,
                    rate=self._rate(piece, squares, grad_scale, rates),
                    momentum=c.momentum,
                    weight_decay=decay,
                    grad_scale=grad_scale,
                )

    def _rate(
        self,
        piece: Piece,
        squares: NDArray[np.float64] | None,
        grad_scale: float | Array,
        rates: Array | None,
    ) -> float | Array:
        if not piece.decay:
            return 1.0
        if rates is not None:
            return rates[piece.index : piece.index + 1]
        assert squares is not None, "LARS needs the squared norms of whole parameters"
        w_norm, g_norm = (math.sqrt(float(square)) for square in squares[piece.index])
        return update.lars_rate(
            w_norm,
            float(grad_scale) * g_norm,
            trust=self._config.trust,
            weight_decay=self._config.weight_decay,
            eps=self._config.eps,
        )

    def _of(self, piece: Piece) -> dict[str, Array]:
        """Return the state of a piece, zero on first use; plain SGD keeps none."""
        if piece.name not in self._state:
            self._state[piece.name] = {kind: np.zeros_like(piece.value) for kind in kinds(self._config)}
        state = self._state[piece.name]
        assert all(a.shape == piece.value.shape for a in state.values()), (
            f"{piece.name}: state of another size"
        )
        return state
