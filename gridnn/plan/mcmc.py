"""Metropolis-Hastings: a random walk over one choice for each operation that prefers the cheap ones.

    x     the current choices, cost c(x)           pi(x) = exp(-beta c(x)) / Z   is where the walk spends its time
    x'    one operation, drawn evenly, takes a choice drawn by its weights w: q(x -> x') = w[x'_i] / operations
    x' is accepted if u < exp(-beta (c(x') - c(x))) * q(x' -> x) / q(x -> x')       with u even in (0, 1)

The last factor, w[x_i] / w[x'_i] here, is Hastings' (Biometrika 57, 1970); without it a walk of uneven proposals visits
what is proposed often too often.  Drawing u first turns the rule into a limit on c(x'), so that whoever computes
c(x') may give up beyond it, and the walk stays the same.  Walks on parallelizations by one operation at a time are Jia,
Zaharia and Aiken's (SysML 2019).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, log
from typing import NamedTuple, Protocol

import numpy as np

from gridnn.errors import InputError

Choice = tuple[int, ...]


class Walker(Protocol):
    """What the walk is on: a choice with a cost, and at most one proposal; `Simulator` is one."""

    @property
    def choice(self) -> Choice:
        """The current choice of each operation."""

    @property
    def cost_s(self) -> float:
        """Seconds of the current choice."""

    def propose(self, operation: int, configuration: int, limit_s: float, /) -> float | None:
        """Return the seconds of a neighbour; None if they are certain to exceed the limit."""

    def accept(self) -> None:
        """Move to the neighbour."""

    def reject(self) -> None:
        """Stay."""


class Moves:
    """Proposals: how many choices each operation has, and how often each is drawn.

    Parameters
    ----------
    choices
        Number of choices of each operation.
    weights
        For each operation a positive number for each choice; even where not given.

    Raises
    ------
    InputError
        If a weight is missing, or not a positive number: from a choice that is never proposed a walk cannot return.
    """

    def __init__(self, choices: Sequence[int], weights: Sequence[Sequence[float]] | None = None) -> None:
        given = [[1.0] * n for n in choices] if weights is None else [list(w) for w in weights]
        if [len(w) for w in given] != list(choices):
            raise InputError(
                f"weights of proposals: {len(given)} rows for {len(choices)} operations, or of other lengths "
                "than their choices; give one positive number for each choice"
            )
        for at, row in enumerate(given):
            if not row or not all(0 < w < inf for w in row):
                raise InputError(
                    f"weights of operation {at} are {row}: every choice needs a positive, finite weight"
                )
        self.choices = tuple(choices)
        self._log = [[log(w) for w in row] for row in given]
        self._upto = [np.array(list(accumulate(row))) for row in given]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return an operation, drawn evenly, and a choice for it, drawn by its weights."""
        operation = int(rng.integers(len(self.choices)))
        upto = self._upto[operation]
        choice = int(np.searchsorted(upto, rng.random() * upto[-1], side="right"))
        return operation, min(choice, len(upto) - 1)

    def log_factor(self, operation: int, old: int, new: int) -> float:
        """Return the logarithm of q(new -> old) / q(old -> new)."""
        return self._log[operation][old] - self._log[operation][new]


class Step(NamedTuple):
    """One step of a walk: where it stands then."""

    cost_s: float
    moved: bool
    """A proposal of another choice was accepted."""
    given_up: bool
    """The proposal was rejected before its cost was known."""


def chain(walker: Walker, moves: Moves, beta_per_s: float, rng: np.random.Generator) -> Iterator[Step]:
    """Walk for ever, one proposal a step; to propose the current choice is a step that stays."""
    cost = walker.cost_s
    while True:
        operation, new = moves.draw(rng)
        luck = -log(1.0 - rng.random())  # -log u
        old = walker.choice[operation]
        if new == old:
            yield Step(cost, False, False)
            continue
        slack = luck + moves.log_factor(operation, old, new)
        limit = cost + slack / beta_per_s if beta_per_s else (inf if slack > 0 else -inf)
        proposed = walker.propose(operation, new, limit)
        # From a choice that cannot be (infinite) every proposal is accepted, to one only from there.
        moved = proposed is not None and (proposed < limit or limit == inf)
        if moved and proposed is not None:
            walker.accept()
            cost = proposed
        else:
            walker.reject()
        yield Step(cost, moved, proposed is None)


class Best(NamedTuple):
    """A point of the best-so-far curve."""

    start: int
    proposal: int
    """Proposals made before, all starts together."""
    seconds: float
    """Since the search began."""
    cost_s: float


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    choice, cost_s
        The cheapest that was visited.
    start
        The start it was found from.
    curve
        Every improvement, the first start included.
    proposals, accepted, given_up
        Steps, steps that moved, and proposals rejected before their cost was known.
    beta_per_s
        Of each start.
    """

    choice: Choice
    cost_s: float
    start: int
    curve: tuple[Best, ...]
    proposals: int
    accepted: int
    given_up: int
    beta_per_s: tuple[float, ...]

    @property
    def acceptance(self) -> float:
        """Accepted proposals of all."""
        return self.accepted / max(1, self.proposals)


def default_beta(cost_s: float, operations: int) -> float:
    """Return 10 operations / cost, in 1/s.

    A proposal is accepted once in e if it adds a tenth of what an operation takes on average; so the walk behaves alike
    for small and large networks and in any unit of time.  (The paper gives no value.)
    """
    return 10.0 * operations / cost_s if 0 < cost_s < inf else 1.0


def search(
    walker_at: Callable[[Choice], Walker],
    moves: Moves,
    starts: Sequence[Choice],
    rng: np.random.Generator,
    *,
    random_starts: int = 0,
    proposals: int | None = None,
    seconds: float | None = None,
    beta_per_s: float | None = None,
) -> Found:
    """Return the cheapest choice that walks from several starts visit.

    Parameters
    ----------
    walker_at
        Makes a walker that stands at a choice.
    starts, random_starts
        Choices to start from, and how many more to draw evenly.
    proposals, seconds
        Budget of each start; what ends first counts.  A start also ends when half of its budget brought nothing
        better than it had found.  With `proposals` alone the search is a function of its arguments and of `rng`.
    beta_per_s
        `default_beta` of each start if not given.

    Raises
    ------
    InputError
        If there is no start, or no budget.
    """
    if not starts and not random_starts:
        raise InputError("search by random walk: needs a start; give one, or random_starts of at least 1")
    if proposals is None and seconds is None:
        raise InputError("search by random walk: needs a budget; give a number of proposals, or seconds")
    begun = time.monotonic()
    drawn = [tuple(int(rng.integers(n)) for n in moves.choices) for _ in range(random_starts)]
    curve: list[Best] = []
    betas, choice, total, accepted, given_up = [], (*starts, *drawn)[0], 0, 0, 0
    for number, start in enumerate((*starts, *drawn)):
        walker = walker_at(tuple(start))
        best, at = walker.cost_s, 0
        since = from_s = time.monotonic()
        if not curve or best < curve[-1].cost_s:
            curve.append(Best(number, total, from_s - begun, best))
            choice = walker.choice
        beta = default_beta(best, len(moves.choices)) if beta_per_s is None else beta_per_s
        betas.append(beta)
        for done, step in enumerate(chain(walker, moves, beta, rng), 1) if _any(proposals, seconds) else ():
            total, accepted, given_up = total + 1, accepted + step.moved, given_up + step.given_up
            now = time.monotonic()
            if step.cost_s < best:
                best, at, since = step.cost_s, done, now
                if best < curve[-1].cost_s:
                    curve.append(Best(number, total, now - begun, best))
                    choice = walker.choice
            if proposals is not None and (done >= proposals or 2 * (done - at) > proposals):
                break
            if seconds is not None and (now - from_s >= seconds or 2 * (now - since) > seconds):
                break
    found = curve[-1]
    return Found(choice, found.cost_s, found.start, tuple(curve), total, accepted, given_up, tuple(betas))


def _any(proposals: int | None, seconds: float | None) -> bool:
    """Whether the budget is more than nothing."""
    return proposals != 0 and seconds != 0
