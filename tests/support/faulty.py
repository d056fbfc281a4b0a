"""A training job in which something goes wrong: `python -m tests.support.faulty FAULT RANK STEP [--guarded] ARGUMENTS`.

Before step STEP rank RANK meets the fault, on the number of ranks in FAULTY_RANKS only (left out, on any number):

| raise    | an error nobody foresaw                  | stop     | SIGSTOP                                  |
| kill     | SIGKILL                                  | loop     | an endless loop in Python                |
| segv     | SIGSEGV                                  | other    | a collective where others make another   |
| exit     | leaves with 0, without a word            | full     | no byte fits into a file any more        |
| cut      | its (virtual) host loses its network     |          |                                          |
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gridnn.geometry.traffic import Key
from gridnn.train import guard, launch

if TYPE_CHECKING:
    from gridnn.train.step import Trainer

train = launch.main


def meet(fault: str, trainer: Trainer) -> None:
    """Let a fault happen to this process."""
    if fault == "raise":
        raise ValueError("the fault of this test")
    if fault in ("kill", "stop", "segv"):
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "segv": signal.SIGSEGV}[fault]
        os.kill(os.getpid(), number)
        time.sleep(0.1)  # a signal to oneself may take a moment
    if fault == "exit":
        os._exit(0)
    if fault == "loop":
        while True:
            time.sleep(0.01)
    if fault == "other":
        from gridnn.comm.collectives import all_gather_shares

        everyone = tuple(range(trainer.world.size))
        key = Key("fc6", "update", "allgather", "n")
        all_gather_shares(trainer.world, everyone, np.ones(12), [(key, 12)])
    if fault == "cut":
        links = [name for _, name in socket.if_nameindex() if name != "lo"]
        assert os.environ.get("GRIDNN_VIRTUAL_CLUSTER") and len(links) == 1, f"no virtual host: {links}"
        subprocess.run(["ip", "link", "set", links[0], "down"], check=True)
    if fault == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def train_with(fault: str, victim: int, number: int, words: Sequence[str] | None) -> int:
    """Train with the fault.  MPI starts in here, below the guard."""
    from gridnn.train.step import Trainer

    step = Trainer.step

    def wrong(self: Trainer, at: int, *rest: Any) -> Any:
        wanted = int(os.environ.get("FAULTY_RANKS") or self.world.size)
        if (at, self.world.rank, self.world.size) == (number, victim, wanted):
            meet(fault, self)
        return step(self, at, *rest)

    setattr(Trainer, "step", wrong)  # noqa: B010 - types are not what this is about
    return train(words)


def main(argv: list[str]) -> int:
    """Train with the fault; under a guard where `gridnn launch` is to know how ranks end."""
    fault, victim, number, *words = argv

    def faulty(argv: Sequence[str] | None = None) -> int:
        return train_with(fault, int(victim), int(number), argv)

    launch.main = faulty
    return guard.main(words[1:]) if words[:1] == ["--guarded"] else launch.main(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
