"""Schedules: in which order a stage goes forward and backward, as a list of tasks.  Execution and simulation read it.

Four micro-batches on three stages; digits are forwards, letters the backwards of the same micro-batches:

    sequential   0     a     1     b     ...         one stage works, the others wait
                   0 a         1 b
    gpipe        0 1 2 3 . . . . a b c d |           Huang et al. 2019: all forwards, then all backwards
                   0 1 2 3 . . a b c d   |
                     0 1 2 3 a b c d     |
    1f1b         0 1 2 . . a 3 b . c . d |           Narayanan et al. 2019: no more micro-batches are open than there
                   0 1 . a 2 b 3 c . d   |           are stages from here on
                     0 a 1 b 2 c 3 d     |
    delayed      0 1 2 . . a 3 b 4 c 5 d ...         Huo et al. 2018 (features replay): no flush; stage k goes back
                   0 1 . a 2 b 3 c 4 d ...           through step t - (K-1-k) at step t: its update does not wait for
                     0 a 1 b 2 c 3 d ...             the update of a stage before or behind
    local        0 a 1 b 2 c ...                     Belilovsky et al. 2020: every stage has a loss of its own
                   0 a 1 b 2 c ...

In `sequential`, `gpipe` and `1f1b` a step ends with an update of all stages by the exact gradient of its batch.  In
`delayed` gradients are late by `delay` steps, in `local` they are of other losses.  Messages between stages hide behind
other passes: with one pass a step `delayed` waits for them.

Stages and tasks are counted from 0; micro-batches (passes) over all steps: those of step t are t * passes and on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.errors import InputError

SCHEDULES = ("sequential", "gpipe", "1f1b", "delayed", "local")
EXACT = ("sequential", "gpipe", "1f1b")
"""Those whose steps are those of one process."""
FORMS = ("replay", "stash")
"""How `delayed` goes back: from its kept input with the weights of now, or from all it kept with those of then."""


class Task(NamedTuple):
    """What a stage does next: `verb` is forward, backward or update; `number` that of the pass, or of the step."""

    verb: str
    number: int


@dataclass(frozen=True)
class Schedule:
    """The order of work of all stages.

    Attributes
    ----------
    name
        Of `SCHEDULES`.
    stages, passes
        How many, and the passes (micro-batches) of a step.
    form
        Of `FORMS`; of `delayed` only.
    """

    name: str
    stages: int
    passes: int
    form: str = "replay"

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise InputError(f'schedule "{self.name}" is not known; use one of {", ".join(SCHEDULES)}')
        if self.form not in FORMS:
            raise InputError(
                f'form "{self.form}" of a delayed schedule is not known; use {" or ".join(FORMS)}'
            )
        if self.stages < 1 or self.passes < 1:
            raise InputError(
                f"{self.stages} stages and {self.passes} passes: a schedule needs at least 1 of each"
            )

    @property
    def exact(self) -> bool:
        """Whether a step equals that of one process."""
        return self.name in EXACT

    def delay(self, stage: int) -> int:
        """Return by how many steps the gradients of a stage are late (its staleness)."""
        return self.stages - 1 - stage if self.name == "delayed" else 0

    def replays(self, stage: int) -> bool:
        """Return whether a stage goes forward a second time before it goes backward."""
        return self.form == "replay" and self.delay(stage) > 0

    def versions(self, stage: int) -> int:
        """Return how many copies of its weights a stage keeps, if it stashes: one for each step with an open pass."""
        delay = self.delay(stage)
        return delay + 1 if delay and not self.replays(stage) else 0

    def open(self, stage: int) -> int:
        """Return for how many passes, at most, a stage keeps what backward needs (replaying: its inputs) at once."""
        if self.name == "gpipe":
            return self.passes
        if self.name == "1f1b":
            return min(self.passes, self.stages - stage)
        return self.delay(stage) * self.passes + 1

    def step(self, stage: int, step: int, first: int = 0, stop: int | None = None) -> Iterator[Task]:
        """Yield what a stage does in a step.

        Parameters
        ----------
        first, stop
            Steps whose batches go in, from `first` on and before `stop`: at step `first` the pipeline is empty, and
            from `stop` on it is drained.
        """
        m, delay = self.passes, self.delay(stage)
        comes, goes = (
            stop is None or step < stop,
            step - delay >= first and (stop is None or step - delay < stop),
        )
        forwards = range(step * m, (step + 1) * m) if comes else range(0)
        backwards = range((step - delay) * m, (step - delay + 1) * m) if goes else range(0)
        if self.name == "gpipe":
            ahead = m
        elif self.name == "1f1b":
            ahead = self.open(stage)
        else:
            ahead = 1
        there, back = iter(forwards), iter(backwards)
        for _ in range(ahead - 1):
            yield from (Task("forward", n) for n in _next(there))
        for _ in range(m):
            yield from (Task("forward", n) for n in _next(there))
            yield from (Task("backward", n) for n in _next(back))
        yield from (Task("backward", n) for n in back)
        if goes:
            yield Task("update", step - delay)

    def last_step(self, stop: int) -> int:
        """Return the number of steps until the pipeline is drained of all batches before step `stop`."""
        return stop + self.delay(0)


def _next(numbers: Iterator[int]) -> Iterator[int]:
    """Yield the next number, if there is one."""
    found = next(numbers, None)
    if found is not None:
        yield found
