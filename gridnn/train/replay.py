"""The steps of a rank as a graph of its device: two as always, the third captured, that one and all others launched.

    host     batch - launch - numbers - launch | batch - launch - ...             a few calls a step
    device         | forwards, backwards       | update | forwards ...            hundreds of kernels, in a row

What differs from step to step is written where kernels read it, between the parts of the graph (`compute.gpu.graph`):

    at each pass    the batch, into a place of its own; the number of the pass, for dropout
    at the update   its number and the learning rate

All else that a step does on the host is done at capture only: what must be done at every launch is here.  Evaluations
and checkpoints come between steps as always.  A step that is traced is one span: nobody sees its layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.graph import Call, CaptureError, Graph, obstacle
from gridnn.compute.gpu.room import MemoryShortError
from gridnn.errors import InputError, RunError
from gridnn.geometry.traffic import Traffic
from gridnn.layers.arena import Arena
from gridnn.train.choose import Job
from gridnn.train.console import shout
from gridnn.train.data.loader import Batch, Loader

WARM = 2
"""Steps as always before one is captured: kernels are compiled and loaded, and what is made once is made."""


def replay_of(
    world: World, engine: object, arena: Arena, job: Job, announce: Callable[[int], None]
) -> Replay | None:  # fmt: skip
    """Return what makes graphs of a rank's steps; None where the run wants none, or "auto" and they cannot be.

    Parameters
    ----------
    announce
        Tells the device the numbers of a step's update.

    Raises
    ------
    InputError
        On all ranks, if the run wants graphs and they cannot be.
    """
    if not isinstance(engine, Engine) or engine.device.graphs == "off":
        return None
    passes = max(job.schedule.open(stage) for stage in range(job.schedule.stages))
    by_host = world.size > 1 and not world.transport.capturable
    why = obstacle(passes=passes, stages=job.stages is not None, by_host=by_host)
    if why is None:
        return Replay(world, engine, arena, job, announce)
    if engine.device.graphs == "on":
        error = InputError(f'compute.graphs = "on": {why}; or compute.graphs = "off"')
        error.everywhere = True
        raise error
    if world.rank == 0:
        shout(f'compute.graphs = "auto": no graphs, for {why}')
    return None


class Replay:
    """The graph of a rank's steps.  See `replay_of`."""

    def __init__(
        self, world: World, engine: Engine, arena: Arena, job: Job, announce: Callable[[int], None]
    ) -> None:  # fmt: skip
        self.world, self._engine, self._arena, self._job = world, engine, arena, job
        self._announce, self._device = announce, engine.device
        self.graph: Graph | None = None
        self._made = 0
        self._places: dict[int, Batch] = {}
        self._step = 0
        self._loader: Loader | None = None
        self._counted = Traffic()

    @property
    def capturing(self) -> bool:
        """Whether a step is being captured."""
        return self._device.capturing

    def due(self) -> bool:
        """Note a step; return whether a graph makes it."""
        self._made += 1
        return self._made > WARM

    def keep(self, kind: int, batch: Batch) -> None:
        """Make a place for the batches of passes of a size, from one of them."""
        if kind not in self._places:
            taken = self._engine.take(batch.x), self._engine.take(batch.target)
            self._places[kind] = replace(batch, x=taken[0], target=taken[1])

    def batch(self, number: int) -> Batch:
        """Return where the batch of a pass lies in every launch."""
        part = number % self._job.passes
        self._device.between(lambda: self._fill(part))
        return self._places[self._job.kind(number)]

    def update(self) -> None:
        """Let the numbers of its update be told in every launch."""
        self._device.between(lambda: self._announce(self._step))

    def capture(self, work: Call) -> bool:
        """Capture a step; return whether that was possible.

        Parameters
        ----------
        work
            What makes the step.

        Raises
        ------
        RunError
            If it was not, and the run wants graphs.
        """
        counted, self.world.ledger = self.world.ledger, Traffic()
        self._arena.changed()  # what follows from weights is captured, too
        try:
            self.graph = self._device.capture(work)
        except (CaptureError, MemoryShortError) as error:
            self._give_up(error)
            return False
        finally:
            self._counted, self.world.ledger = self.world.ledger, counted
        return True

    def launch(self, number: int, loader: Loader) -> None:
        """Make a step."""
        assert self.graph is not None, "a graph is captured before it is launched"
        self._step, self._loader = number, loader
        with self.world.clock.phase("compute", ((), "forward")):
            self.graph.launch()
        self._loader = None
        self.world.ledger.merge(self._counted)
        self._arena.changed()

    def _fill(self, part: int) -> None:
        assert self._loader is not None, "batches are filled in by a launch"
        number = self._step * self._job.passes + part
        with self.world.clock.phase("data"):
            batch = self._loader.batch(number)
        place = self._places[self._job.kind(number)]
        place.x[...], place.target[...] = self._engine.take(batch.x), self._engine.take(batch.target)
        self._device.varying.move("pass", number)

    def _give_up(self, error: RunError) -> None:
        """Say why there is no graph, or end the run."""
        from gridnn.train.memory import place_of  # which knows whole runs

        found = place_of(error.__traceback__)
        if found is None and error.__cause__ is not None:
            found = place_of(error.__cause__.__traceback__)
        where = f"layer {found.layer}, {found.direction}" if found else "outside of all layers"
        words = f"a step cannot be captured as a graph ({where}): {error}"
        if self._device.graphs == "on":
            raise RunError(f'compute.graphs = "on": {words}; take compute.graphs = "off"') from error
        if self.world.rank == 0:
            shout(f'compute.graphs = "auto": {words}; steps are made as without graphs')
