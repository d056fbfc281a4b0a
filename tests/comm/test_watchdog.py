"""Where ranks are, what is said when they are stuck, and that ranks agree on the numbers of their movements."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.clock import NOWHERE, Clock
from gridnn.comm.trail import AT_END, KEPT, Movement, Place, Trail, place_of
from gridnn.comm.verdict import ranks_text, verdict
from gridnn.comm.world import World
from gridnn.geometry.interval import extents_of
from gridnn.geometry.traffic import Key
from gridnn.layers.model import Model
from gridnn.network.placed import place_network
from tests.support import nets
from tests.support.launch import run_ranks
from tests.support.laws import random_schemes

ALL, PAIR = (0, 1, 2, 3), (0, 1)
HALO = Key("conv2", "forward", "halo", "h")
BUCKET = [(Key("fc7", "backward", "allreduce", "n"), 3), (Key("fc6", "backward", "allreduce", "n"), 4)]
CONV2, FC = (("conv2",), "forward"), (("fc7", "fc6"), "backward")


def test_movements_are_numbered_by_the_ranks_that_make_them() -> None:
    trail = Trail()
    for _ in range(3):
        trail.enter("halo", ALL, HALO)
        trail.enter("allreduce", PAIR, BUCKET)
    trail.enter("halo", tuple(range(4)), HALO)  # an equal tuple is the same ranks
    assert trail.recent()[-3:] == (
        Movement("halo", ALL, 3, CONV2), Movement("allreduce", PAIR, 3, FC), Movement("halo", ALL, 4, CONV2),
    )  # fmt: skip


def test_a_trail_stays_short_and_counts_on() -> None:
    trail = Trail()
    kept = [tuple(range(2, 2 + n % 3 + 1)) for n in range(5000)]  # new tuples, of three contents
    for ranks in kept:
        trail.enter("halo", ranks, HALO)
    recent = trail.recent()
    assert len(recent) == KEPT
    assert [m.number for m in recent[-3:]] == [sum(r == ranks for r in kept) for ranks in kept[-3:]]


def test_a_place_says_what_a_thread_is_at() -> None:
    clock, trail = Clock(), Trail()
    trail.enter("allreduce", ALL, BUCKET)
    trail.enter("halo", PAIR, HALO)
    with clock.phase("allreduce wait", FC):
        place = place_of(2, clock, trail, threading.get_ident())
    assert place.inside == Movement("allreduce", ALL, 1, FC)
    assert "test_watchdog.py" in "".join(place.stack) and place.entered(PAIR) == 1
    assert place_of(2, clock, trail, threading.get_ident()).inside is None


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([3], "rank 3"), ([2, 0, 1], "ranks 0-2"), ([0, 1, 3], "ranks 0-1, 3"), ([5, 7], "ranks 5, 7")],
)
def test_ranks_in_words(ranks: list[int], text: str) -> None:
    assert ranks_text(ranks) == text


def test_a_thousand_ranks_are_a_short_text() -> None:
    assert len(ranks_text(range(0, 4096, 2))) < 120


def at(rank: int, phase: str, *recent: Movement, line: str = "gridnn/x.py:7 in f") -> Place:
    where = recent[-1].where if recent and phase.split()[0] == recent[-1].kind else NOWHERE
    return Place(rank, phase, where, recent, (line, "tests/y.py:8 in g"))


H7, S8 = Movement("halo", ALL, 7, CONV2), Movement("allreduce", ALL, 8, FC)
G8 = Movement("allgather", ALL, 8, (("fc8",), "update"))
P1 = Movement("halo", PAIR, 1, CONV2)
CASES: dict[str, tuple[list[Place], list[int], list[str], str, str]] = {
    "absent": (
        [at(0, "halo wait", H7), at(3, "compute", H7)], [1, 2], ["a", "a", "b", "b"],
        "rank 1 on host a does not answer: stopped, lost or cut off", "",
    ),
    "mismatch": (
        [at(r, "allreduce wait", H7, S8) for r in (0, 1, 3)] + [at(2, "allgather", H7, G8)], [], ["a"] * 4,
        "mismatch in movement 8 of ranks 0-3: rank 2 entered all-gather of fc8 update; "
        "ranks 0-1, 3 entered all-reduce of fc7, fc6 backward", "stack of rank 2",
    ),
    "busy": (
        [at(r, "halo wait", H7) for r in (0, 1, 2)] + [at(3, "compute", P1, line="gridnn/z.py:3 in h")], [],
        ["a"] * 4, "rank 3 is in no movement but at gridnn/z.py:3 in h, after halo of conv2 forward",
        "stack of rank 3",
    ),
    "late": (
        [at(0, "halo wait", P1)] + [at(r, "halo wait", H7) for r in (1, 2)] + [at(3, AT_END, H7)], [], ["a"] * 4,
        "rank 1 has not entered halo of conv2 forward, movement 1 of ranks 0-1, in which rank 0 waits",
        "stack of rank 1",
    ),
    "nobody": (
        [at(r, "halo wait", H7) for r in range(4)], [], ["a"] * 4,
        "all ranks wait in movements that all have entered: a message was lost", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_names_the_cause(case: str) -> None:
    places, absent, hosts, cause, stack = CASES[case]
    random.Random(case).shuffle(places)
    lines = verdict(places, absent, hosts, 4.0).splitlines()
    assert lines[0] == "stuck: no step ended for 4 s, all ranks are stopped"
    causes = [line for line in lines if line.startswith("cause: ")]
    assert f"cause: {cause}" in causes and len(causes) == (2 if case in ("absent", "late") else 1)
    stacks = [line for line in lines if line.startswith("stack of")]
    assert (stack in "".join(stacks)) if stack else not stacks


def test_a_verdict_on_many_ranks_is_short() -> None:
    everyone = tuple(range(2000))
    places = [
        at(r, "compute", Movement("halo", everyone, r, CONV2), line=f"gridnn/x.py:{r} in f") for r in everyone
    ]
    assert len(verdict(places, [], ["a"] * 2000, 300.0).splitlines()) < 60


@pytest.mark.ranks(4)
@pytest.mark.parametrize("name", ["residual", "batch-norm"])
def test_ranks_agree_on_what_has_which_number(comm: Any, name: str, sample_seed: int) -> None:
    """The ground of every mismatch that is told: a healthy run, however its layers lie, has none."""
    network, rng = nets.build(name), random.Random(f"{sample_seed} {name}")
    most = 0
    for _ in range(4):
        schemes = random_schemes(network, comm.size, 6, rng)
        with World(comm) as world:
            model = Model(world, place_network(network, schemes, 6, comm.size), "float64", 200)
            model.arena.initialise(0)
            model.arena.begin()
            x, target = (np.zeros(extents_of(box)) for box in (model.input_box, model.target_box))
            model.forward(x, target.astype(np.int64))
            model.backward()
            model.arena.await_sums()
            told = world.comm.allgather(world.trail.recent())
        said: dict[Any, Any] = {}
        for movement in (movement for each in told for movement in each):
            kind = said.setdefault((movement.ranks, movement.number), (movement.kind, movement.where))
            assert kind == (movement.kind, movement.where), movement
        most = max(most, len(said))
    assert most > 3


STUCK = """
import sys, time
from gridnn.comm.watchdog import Watchdog
from gridnn.comm.world import World, world_comm
world = World(world_comm())
with Watchdog(world, 1.5, lambda text: print(text, flush=True)) as watchdog:
    for _ in range(10):
        time.sleep(0.2)
        watchdog.heard()
    if sys.argv[1] == "stuck" and world.rank == 0:
        world.comm.recv(source=1)
print("through", flush=True)
world.close()
"""


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_run_that_goes_on_is_left_alone(tmp_path: Path, ranks: int) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    done = run_ranks(ranks, [str(tmp_path / "stuck.py"), "well"], timeout_s=60)
    # Counted, not split: mpiexec may join the lines of several ranks.
    assert (done.returncode, done.stdout.count("through")) == (0, ranks), done.stdout + done.stderr


def test_who_is_done_does_not_leave_the_others_unwatched(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    done = run_ranks(3, [str(tmp_path / "stuck.py"), "stuck"], timeout_s=60)
    assert done.returncode == 3 and "through" not in done.stdout
    assert "cause: rank 0 is in no movement but at" in done.stdout, done.stdout
    assert "ranks 1-2 wait at the end of the run" in done.stdout and done.stdout.count("stuck: ") == 1
