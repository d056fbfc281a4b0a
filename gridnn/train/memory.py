"""Memory of a device that a run is given: whether its plan fits before it starts, and what is said when it did not.

                   what a rank may take
compute.memory_limit given    that                            of each rank
left out                      what is free on its device      of all ranks that share the device, together

prediction         before the first step                      in a step, when an allocation fails all the same
above it           an error of all ranks                      an error of the rank that had no room: the layer, what was
nearly that much   a warning: room for what no prediction     asked for, what is used, what was predicted
                   knows may be missing (`need`)
less               a line that says both

Both errors name the layer and a plan that fits, or the least that was found (`train.fitting`), in words to be typed.
"""

from __future__ import annotations

import platform
import traceback
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from gridnn.comm.agree import agreed
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.compute.gpu.room import MemoryShortError, Room, free_bytes
from gridnn.errors import InputError, RunError
from gridnn.layers.base import Layer
from gridnn.plan.plan import Plan
from gridnn.train.console import bytes_text
from gridnn.train.fitting import Looked, Seen, look_for
from gridnn.train.need import need_of, parts_text, use_of
from gridnn.train.run import Run

LESS = 0.9
"""Share of what a plan was predicted to need that another may need which is named when that one did not fit: what was
short is not known to be all."""
_PASSES = {
    "forward": "forward",
    "judge": "forward",
    "backward": "backward",
    "gradient": "backward",
    "weigh": "weights",
}


class Place(NamedTuple):
    """Where in a step an error came from: a layer, and forward, backward or weights."""

    layer: str
    direction: str


class Bound(NamedTuple):
    """What ranks on one device may take together.

    Parameters
    ----------
    ranks : tuple of int
    limit_bytes : int
    words : str
        Where that comes from.
    room : Room
        Of the device, as the first of the ranks sees it.
    """

    ranks: tuple[int, ...]
    limit_bytes: int
    words: str
    room: Room


def check_fits(run: Run, keep: Path | None) -> str | None:
    """Return what is said of a plan that fits the device; None where nobody knows what there is.  Collective.

    Parameters
    ----------
    keep
        Where a plan that fits is written, by rank 0, if the run's does not.

    Raises
    ------
    InputError
        On all ranks, if some rank is predicted to need more than its limit, or those that share a device more than is
        free there.
    """
    world, job = run.world, run.job
    bounds = _bounds(run)
    if not bounds:
        return None
    needs = world.comm.allgather(need_of(run))
    bound = max(bounds, key=lambda b: sum(needs[r].use.total_bytes for r in b.ranks) / max(1, b.limit_bytes))
    rank = max(bound.ranks, key=lambda r: needs[r].use.total_bytes)
    need, together = needs[rank], sum(needs[r].use.total_bytes for r in bound.ranks)
    share = bound.limit_bytes // len(bound.ranks)
    predicted = f"{parts_text(need.use)} predicted for rank {rank}"
    if together <= bound.limit_bytes:
        said = f"memory: {predicted}, {bytes_text(share)} for each ({bound.words}); {need.moment}"
        beside = sum(needs[r].beside_bytes for r in bound.ranks)
        if together + beside <= bound.limit_bytes:
            return said
        less = _limit(int(LESS * need.use.total_bytes), bound.room)
        return (
            f"WARNING: {said}.  That is close: messages, workspaces and batches are not predicted, and may take "
            f"{bytes_text(need.beside_bytes)} more; if memory ends, split the batch (train.accumulate above "
            f"{job.passes}), or let compute.memory_limit = {less} name a plan that needs less"
        )
    # By one rank: the search is bounded by a clock, which decides, and all must hear the same.
    smallest = min(each.limit_bytes // len(each.ranks) for each in bounds)
    looked: Looked = world.comm.bcast(look_for(job, run.config, smallest) if world.rank == 0 else None)
    with agreed(world):
        if looked.fits is not None and keep is not None and world.rank == 0:
            write(keep, looked.fits.plan.dumps())
        advice = (
            f"take the plan {_told(run, looked.fits, keep)}" if looked.fits is not None else _least(looked)
        )
        raise InputError(
            f'the plan "{job.plan.summary}" is predicted to need {parts_text(need.use)} on rank {rank}, '
            f"{need.moment}; {bound.words} leaves a rank {bytes_text(share)}; {advice}"
        )


def short(run: Run, error: MemoryShortError) -> RunError:
    """Return what is said of a rank whose device had no room in the midst of training.

    By this rank alone: the others wait for it, and are ended.  Nothing here is sent, and the search for a plan takes no
    longer than `fitting.SEARCH_S`.
    """
    use, room, free = use_of(run), error.room, free_bytes()
    place = place_of(error.__traceback__)
    where = f"layer {place.layer}, {place.direction}" if place else "outside of all layers"
    most = (
        f"{bytes_text(room.total_bytes)} of the device, which other processes may use, too"
        if room.limit_bytes is None
        else f"{bytes_text(room.limit_bytes)} (compute.memory_limit)"
    )
    left = "" if free is None else f" ({bytes_text(free)} are free there)"
    # What there is: less than was needed just now, at most the limit, and what nobody else has.
    needed = error.used_bytes + error.asked_bytes
    known = (room.limit_bytes, room.total_bytes or None, None if free is None else free + error.used_bytes)
    there = min(needed, *(count for count in known if count is not None))
    # What a step took beside its prediction is kept free for another plan, too.
    within = max(2, min(there - max(0, needed - use.total_bytes), int(LESS * use.total_bytes)))
    try:
        looked = look_for(run.job, run.config, within)
        advice = (
            f"Within {bytes_text(within)} fits the plan {_told(run, looked.fits, None, _limit(within, room))}"
            if looked.fits is not None
            else f"Within {bytes_text(within)} {_least(looked)}"
        )
    except Exception as broken:  # memory is what ended the run: a bug of the search must not hide that
        advice = (
            f"No plan was looked for ({type(broken).__name__}: {broken}); split the batch (train.accumulate)"
        )
    return RunError(
        f"{error.device} has no memory left ({where}): {bytes_text(error.asked_bytes)} were asked for, this rank's "
        f"arrays have {bytes_text(error.used_bytes)} of {most}{left}.  For the plan "
        f'"{run.job.plan.summary}" {parts_text(use)} were predicted, without messages and what kernels need beside.  '
        f"{advice}"
    )


def place_of(trace: TracebackType | None) -> Place | None:
    """Return the layer whose pass an error came from: the innermost one; None if there is none."""
    found = None
    for frame, _ in traceback.walk_tb(trace):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Layer) and frame.f_code.co_name in _PASSES:
            found = Place(owner.name, _PASSES[frame.f_code.co_name])
    return found


def write(path: Path, text: str) -> None:
    """Write a plan.

    Raises
    ------
    InputError
        If the disk does not take it.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write the plan to {path}: {error.strerror}; name a file that can be written"
        ) from None


def _bounds(run: Run) -> list[Bound]:
    """Return what there is for ranks, device by device; nothing where nobody knows.  Collective."""
    mine: tuple[Room, int | None, int, str] | None = None
    if isinstance(run.engine, GpuEngine):
        mine = run.engine.room, free_bytes(), run.engine.device.used_bytes, platform.node()
    every = run.world.comm.allgather(mine)
    on = {rank: each for rank, each in enumerate(every) if each is not None}
    said, found = f"compute.memory_limit = {run.config.compute.memory_limit or 0:g}", list[Bound]()
    devices: dict[tuple[str, str], list[int]] = {}
    for rank, (room, _, _, host) in on.items():
        if room.limit_bytes is not None:
            found.append(Bound((rank,), room.limit_bytes, said, room))
        else:
            devices.setdefault((host, room.identity), []).append(rank)
    for ranks in devices.values():
        frees = [free for free in (on[rank][1] for rank in ranks) if free is not None]
        if frees:
            among = "" if len(ranks) == 1 else f" that {len(ranks)} ranks share"
            have = min(frees) + sum(on[rank][2] for rank in ranks)
            found.append(Bound(tuple(ranks), have, f"what is free on its device{among}", on[ranks[0]][0]))
    return found


def _told(run: Run, found: Seen, keep: Path | None, within: str = "") -> str:
    """Return a plan in words that can be given to a run.

    Parameters
    ----------
    keep
        The file that it is in; None if there is none.
    within
        A limit by which a run that is given it finds this plan before its first step; "" where it just did.
    """
    plan, passes = found.plan, run.config.train.accumulate
    needs = f"which is predicted to need {bytes_text(found.needed)}"
    alike = plan.passes == passes or (plan.stages and passes == 1)
    split = "" if alike else f" --set train.accumulate={plan.passes}"
    if keep is not None:
        return f"that is written to {keep}, {needs}: --plan {keep}{split}"
    asked = run.config.plan  # a grid is refused beside a schedule or stages that are asked for; a file is not
    if _plain(plan) and asked.schedule in ("auto", "sequential") and not asked.stages:
        return f'"{plan.summary}", {needs}: --plan "{plan.summary}"{split}'
    limit = f"--set compute.memory_limit={within} " if within else ""
    return f"of {plan.summary} that {limit}--write-plan FILE writes, {needs}: --plan FILE{split}"


def _limit(count: int, room: Room) -> str:
    """Return bytes as compute.memory_limit has them: a share where they are too few to be taken for bytes."""
    return str(count) if count >= 1 << 20 or not room.total_bytes else repr((count + 0.5) / room.total_bytes)


def _plain(plan: Plan) -> bool:
    """Return whether a plan is one grid for every layer, from rank 0 on: whether its summary can be given to a run."""
    return not plan.stages and len(set(map(str, plan.schemes.values()))) == 1


def _least(looked: Looked) -> str:
    """Return what is said where no plan was found."""
    words = "no plan was found" if looked.ended else "no plan was found in time"
    if looked.least is not None:
        of = f"of {looked.seen} that were looked at" if looked.seen > 1 else "looked at"
        words += f": the least {of}, {looked.least.plan.summary}"
        words += f" in {looked.least.plan.passes} passes" if looked.least.plan.passes > 1 else ""
        words += f", is predicted to need {bytes_text(looked.least.needed)}"
    return f"{words}; split the batch (train.accumulate), lower train.batch, or start more ranks"
