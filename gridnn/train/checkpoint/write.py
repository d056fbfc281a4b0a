"""The writer of checkpoints: a snapshot, a thread, and an agreement that no rank waits for.

    main thread    save | forward, backward, await_copy, update | step, poll: done | step, poll: all whole | ...
    writer thread       | copy ............. | shard -> disk -> fsync              |                       |
    rank 0's thread     |                                                          |  index, rename, prune |
    messages                                                   facts of every rank ->     the verdict of rank 0 ->

Every rank copies its runs into one buffer, which is reused.  Weights and optimizer state are changed by an update and
by nothing else, so the thread copies them beside the next forward and backward pass, and `await_copy` lets the update
after these wait until the copy is whole.  Running statistics, which a forward pass changes, are copied by `save`.

`poll`, between steps, posts two non-blocking collectives on a communicator of its own: all ranks tell each other what
they wrote or why they could not, then rank 0, which has renamed the folder meanwhile, tells all that it is a
checkpoint.  A rank that fails tells it in place of the facts, so that all know of it by their next poll.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.comm.world import World
from gridnn.errors import RunError
from gridnn.train.checkpoint import folders
from gridnn.train.checkpoint.behind import WORDS_BYTES, Task, heard, words_of
from gridnn.train.checkpoint.contents import Contents
from gridnn.train.checkpoint.index import Index, State, Stored
from gridnn.train.checkpoint.save import Snapshot, arrays_in, commit_part, write_part
from gridnn.train.checkpoint.shards import FileFacts

Array = NDArray[Any]


class Writer:
    """Writes checkpoints of a run; one on each rank.  Making it is collective, as are `save` and `finish`.

    Parameters
    ----------
    root
        The folder of checkpoints; that of rank 0 counts.
    keep, best
        How many of the newest stay, and whether the one of the lowest loss stays too.
    behind
        Write a copy while training goes on; else `save` returns when there is a checkpoint, and nothing is copied.

    Attributes
    ----------
    stalled_s : float
        Seconds that training waited for this rank's saves: in `save`, `await_copy` and `finish`.
    saved_step : int
        Step of the newest checkpoint that this writer made; -1 before the first.
    """

    def __init__(
        self,
        world: World,
        root: Path | None,
        contents: Contents,
        keep: int = 3,
        best: bool = True,
        behind: bool = True,
    ) -> None:
        self._rank, self._comm = world.rank, world.comm.Dup()
        mine = (root, f"{time.time_ns():x}") if world.rank == 0 else None
        found: tuple[Path, str] = world.comm.bcast(mine)
        self.root, self.word = found
        self._contents, self._keep, self._best, self._behind = contents, keep, best, behind
        self._snapshot = Snapshot(contents, world.rank, copies=behind)
        self._told = np.zeros((world.size, WORDS_BYTES), np.uint8)
        self._verdict = np.zeros(WORDS_BYTES, np.uint8)
        self._task: Task | None = None
        self._request: Any = None  # of the collective that is under way
        self._then: Callable[[], None] | None = None  # what is next when task and request are done
        self._copied = threading.Event()  # values of the last save are no longer needed as they are
        self._copied.set()
        self._step = 0
        self._arrays: dict[str, Stored] | None = None  # of the index
        self.stalled_s, self.saved_step = 0.0, -1

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way."""
        return self._then is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the copy."""
        return self._snapshot.nbytes

    def save(self, values: Sequence[Array | None], state: State) -> None:
        """Begin a checkpoint of `state.step`; waits for one that is still on its way.

        The values must stay as they are until `await_copy` returns, but for those that a forward pass changes.

        Raises
        ------
        RunError
            If an earlier one failed; without `behind`, if this one does.
        """
        began_s = time.perf_counter()
        self._wait()
        self._snapshot.take(values)
        self._step = state.step
        self._copied.clear()
        self._task = Task(lambda: self._write(state))
        self._then = self._tell
        self.stalled_s += time.perf_counter() - began_s
        if not self._behind:
            self.finish()

    @property
    def copied(self) -> bool:
        """Whether the values of the last save may change."""
        return self._copied.is_set()

    def await_copy(self) -> None:
        """Return when the values of the last save may change; call it before every update of the optimizer."""
        began_s = time.perf_counter()
        self._copied.wait()
        self.stalled_s += time.perf_counter() - began_s

    def poll(self) -> None:
        """Go on with a checkpoint as far as that needs no waiting; call it after every step.

        Raises
        ------
        RunError
            On all ranks, within one poll, if any rank could not write: which, what and why.
        """
        while self._then is not None and self._ready():
            then, self._then = self._then, None
            then()

    def finish(self) -> None:
        """Return when no checkpoint is on its way.

        Raises
        ------
        RunError
            As `poll` does.
        """
        began_s = time.perf_counter()
        self._wait()
        self.stalled_s += time.perf_counter() - began_s

    def close(self) -> None:
        """Finish, and free the communicator.  Collective."""
        self.finish()
        self._comm.Free()

    def _wait(self) -> None:
        while self._then is not None:
            if self._task is not None:
                self._task.join()
            if self._request is not None:
                self._request.Wait()
                self._request = None
            self.poll()

    def _ready(self) -> bool:
        if self._request is not None and self._request.Test():
            self._request = None
        return self._request is None and (self._task is None or self._task.done)

    @property
    def _part(self) -> Path:
        return self.root / folders.part_name(self._step, self.word)

    # What happens in turn; each is called when the one before it is done.

    def _write(self, state: State) -> dict[str, FileFacts]:
        try:
            self._snapshot.copy()
        finally:  # what went wrong is told to all; training must not hang before
            self._copied.set()
        self._snapshot.check()
        if self._rank == 0:
            folders.clean(self.root, self._part.name)
        return write_part(
            self.root, state.step, self.word, self._rank, self._snapshot, state if self._rank == 0 else None
        )

    def _tell(self) -> None:
        assert self._task is not None
        mine, self._task = words_of(*self._task.result()), None
        self._request = self._comm.Iallgather(mine, self._told)
        self._then = self._hear

    def _hear(self) -> None:
        told = [heard(words) for words in self._told]
        failed = [(rank, words) for rank, words in enumerate(told) if "error" in words]
        if failed:
            self._fail(*failed[0])
        if self._rank == 0:
            files = {name: FileFacts(*facts) for words in told for name, facts in words.items()}
            self._task = Task(lambda: self._commit(files))
            self._then = self._judge
        else:
            self._request = self._comm.Ibcast(self._verdict)
            self._then = self._end

    def _commit(self, files: dict[str, FileFacts]) -> Path:
        if self._arrays is None:  # not when the run begins: for many ranks it takes seconds
            self._arrays = arrays_in(self._contents)
        index = Index(self._step, self._contents.placed.procs, self._arrays, files)
        return commit_part(self._part, index, self.word, self._keep, self._best)

    def _judge(self) -> None:
        assert self._task is not None
        self._verdict[...], self._task = words_of(*self._task.result()), None
        self._request = self._comm.Ibcast(self._verdict)
        self._then = self._end

    def _end(self) -> None:
        if "error" in (verdict := heard(self._verdict)):
            self._fail(0, verdict)
        self.saved_step = self._step

    def _fail(self, rank: int, words: Mapping[str, Any]) -> None:
        if self._rank == 0:
            folders.remove(self._part)
        advice = "make room or name another folder with --run-dir, and resume"
        if words.get("diverged"):
            advice = "resume from one of them with a lower train.lr, or with train.clip_norm"
        raise RunError(
            f"the checkpoint of step {self._step} failed on rank {rank}: {words['error']}; earlier checkpoints are "
            f"untouched: {advice}"
        )
