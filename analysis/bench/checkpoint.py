"""What a checkpoint costs: saved and loaded, against plain NumPy files of the same bytes, in the same run.

    mpiexec -n 2 python analysis/bench/checkpoint.py --steps 10      AlexNet on two ranks, and what steps lose
    mpiexec -n 4 python analysis/bench/checkpoint.py --network resnet50 --plan "n2 k2" --folder DIR

| line              | what is timed                                                                                   |
|-------------------|-------------------------------------------------------------------------------------------------|
| plain save        | every rank writes what it owns of weights, statistics and momentum, one ``np.save`` an array    |
| ... synced        | the same, each file synced to the disk                                                          |
| save              | a checkpoint: shards with checksums, synced, agreed on, index, rename                           |
| save, copy        | behind training: begun, and its copy waited for at once, which nothing hides here               |
| remove            | an old checkpoint, as `keep` says, on rank 0                                                    |
| plain load        | every rank reads the blocks and the state that it holds, by ``np.load``                         |
| load              | newest found, every checksum compared, boxes read into a model that is there and a new optimizer |

What is read was written just before, so it comes from memory: on a disk both sides wait for the disk.  Numbers are the
smallest of the repeats, taken in turn, of the slowest rank.

With ``--steps N`` the model trains on noise as well: N rounds of a step alone, a step that ends with a save, and two
steps beside which it is written (medians of the slowest rank):

| stall             | what the save itself takes, and what the next update waits for the end of the copy              |
| lost              | by how much the three steps took longer than three alone: stall, and cores and memory shared    |
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from gridnn.comm.world import World, world_comm
from gridnn.geometry.grid import GridShape
from gridnn.geometry.interval import extents_of
from gridnn.layers.arena import Arena
from gridnn.layers.model import Model
from gridnn.layers.norm import BatchNormalisation
from gridnn.network import zoo
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.plan.plan import uniform_plan
from gridnn.train.checkpoint import folders
from gridnn.train.checkpoint.contents import norms
from gridnn.train.checkpoint.find import find_named
from gridnn.train.checkpoint.index import State
from gridnn.train.checkpoint.live import contents_of, restore, values_of
from gridnn.train.checkpoint.write import Writer
from gridnn.train.optimizer import Optimizer, Piece
from gridnn.train.sections import TrainSection

GB = 1e9


def smallest_s(world: World, act: Callable[[], object], repeats: int, before: Callable[[], object]) -> float:
    """Return the seconds of the slowest rank in the best repeat."""
    found = []
    for _ in range(repeats):
        before()
        world.comm.Barrier()
        began_s = time.perf_counter()
        act()
        found.append(slowest(world, time.perf_counter() - began_s))
    return min(found)


def slowest(world: World, mine_s: float) -> float:
    """Return the seconds of the slowest rank."""
    found: list[float] = world.comm.allgather(mine_s)
    return max(found)


def save_plain(folder: Path, values: Sequence[Any], sync: bool) -> None:
    """Write each array into a file of its own."""
    folder.mkdir(exist_ok=True)
    for number, value in enumerate(values):
        with (folder / f"{number}.npy").open("wb") as file:
            np.save(file, value)
            if sync:
                file.flush()
                os.fsync(file.fileno())


def load_plain(folder: Path, count: int) -> list[Any]:
    """Read them."""
    return [np.load(folder / f"{number}.npy") for number in range(count)]


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--network", default="alexnet")
    words.add_argument("--plan", default=None, help="a grid for every layer; left out, batch parallel")
    words.add_argument("--repeats", type=int, default=7)
    words.add_argument("--steps", type=int, default=0, help="steps trained, to see what they lose")
    words.add_argument("--batch", type=int, default=8, help="samples of a step")
    words.add_argument(
        "--folder", type=Path, default=None, help="where to write; left out, a temporary folder"
    )
    arguments = words.parse_args()
    with World(world_comm()) as world:
        measure(world, arguments)


def measure(world: World, arguments: argparse.Namespace) -> None:
    """Measure one network on one plan."""
    shape, classes = zoo.usual_input(arguments.network)
    network, batch = zoo.build(arguments.network, shape, classes), arguments.batch
    grid = GridShape.parse(arguments.plan or f"n{world.size}")
    placed = place_network(
        network, uniform_plan(network, grid, batch, world.size, "").schemes, batch, world.size
    )
    config = TrainSection(momentum=0.9)
    contents = contents_of(placed, config)
    arena = Arena(world, placed, config.dtype, config.bucket_bytes, config.cut_optimizer)
    arena.initialise(1)
    engine: Any = None
    layers = [BatchNormalisation(world, p, config.dtype, {}, engine) for p in norms(placed)]
    optimizer = Optimizer(config)
    optimizer.step([Piece(s.entry.name, s.value, s.grad, True, 0) for s in arena.shares()], 0.1)
    values = [v for v in values_of(contents, world.rank, arena, layers, optimizer) if v is not None]
    mine, say = sum(v.nbytes for v in values), print if world.rank == 0 else lambda *_: None
    total = world.comm.allreduce(mine)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as own:
        root = world.comm.bcast(Path(own))
        step = iter(range(1_000_000))
        writer = Writer(world, root / "checkpoints", contents, keep=99, behind=False)
        behind = Writer(world, root / "checkpoints", contents, keep=99)
        plain, blocks = root / f"plain{world.rank}", root / f"blocks{world.rank}"
        held = [p.value for of_layer in arena.parameters.values() for p in of_layer.values()]
        held += [a for kinds in optimizer.state_arrays().values() for a in kinds.values()]
        save_plain(blocks, held, False)

        def fresh() -> None:
            for path in plain.glob("*"):
                path.unlink()

        def save(through: Writer) -> None:
            through.save(values, State(next(step), 0, 1, 1, "", ""))
            through.await_copy()

        def remove() -> None:
            if world.rank == 0:
                folders.remove(folders.steps_in(root / "checkpoints")[-1])

        def load() -> None:
            checkpoint, _ = find_named(world, root / "checkpoints")
            restore(checkpoint, contents, world.rank, arena, layers, Optimizer(config))

        times = dict.fromkeys(
            ("plain save", "plain save, synced", "save", "save, copy", "remove", "plain load", "load"), 1e9
        )
        for _ in range(arguments.repeats):  # in turn, so that a busy moment is everybody's
            for name, act, before in (
                ("plain save", lambda: save_plain(plain, values, False), fresh),
                ("plain save, synced", lambda: save_plain(plain, values, True), fresh),
                ("save", lambda: save(writer), lambda: None),
                ("save, copy", lambda: save(behind), behind.finish),
                ("remove", remove, behind.finish),
                ("plain load", lambda: load_plain(blocks, len(held)), lambda: None),
                ("load", load, lambda: None),
            ):
                times[name] = min(times[name], smallest_s(world, act, 1, before))
            remove()  # two were made
        if arguments.steps:
            trained = Writer(world, root / "trained", contents, keep=1)  # old ones go, as in a run
            train(world, placed, config, trained, arguments.steps, say)
            trained.close()
        behind.close()
        writer.close()
    say(
        f"{arguments.network}, {world.size} ranks, grid {grid}: {total / 1e6:.0f} MB, {len(values)} arrays on rank 0; "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for name, spent_s in times.items():
        say(f"  {name:20} {1e3 * spent_s:8.1f} ms  {total / spent_s / GB:6.2f} GB/s")
    say(f"  save / plain, synced  {times['save'] / times['plain save, synced']:.2f}")
    say(f"  save / plain          {times['save'] / times['plain save']:.2f}")
    say(f"  load / plain          {times['load'] / times['plain load']:.2f}")
    if world.rank == 0:
        checksums(say)


def train(
    world: World,
    placed: PlacedNetwork,
    config: TrainSection,
    writer: Writer,
    steps: int,
    say: Callable[..., None],
) -> None:
    """Say what steps take without a checkpoint, and with one on its way."""
    model = Model(world, placed, config.dtype, config.bucket_bytes)
    model.arena.initialise(1)
    optimizer, rng = Optimizer(config, model.engine), np.random.default_rng(world.rank)
    pieces = [Piece(s.entry.name, s.value, s.grad, True, 0) for s in model.arena.shares()]
    contents = contents_of(placed, config)
    x = rng.standard_normal(extents_of(model.input_box)).astype(config.dtype)
    target = np.zeros(extents_of(model.target_box), np.int64)

    stalls = [0.0]

    def step(number: int, save: bool) -> float:
        world.comm.Barrier()
        began_s = time.perf_counter()
        model.arena.begin()
        model.forward(x, target, at=(1, number))
        model.backward()
        model.arena.await_sums()
        stalled_s = time.perf_counter()
        writer.await_copy()
        stalls[-1] += time.perf_counter() - stalled_s
        optimizer.step(pieces, 1e-6)
        model.arena.publish()
        if save:
            stalled_s = time.perf_counter()
            values = values_of(contents, world.rank, model.arena, model.layers, optimizer)
            writer.save(values, State(10**7 + number, 0, number, 1, "", ""))
            stalls.append(time.perf_counter() - stalled_s)
        writer.poll()
        return slowest(world, time.perf_counter() - began_s)

    for number in range(3):
        step(number, False)
    alone, beside, lost, stalled = [], [], [], []
    for number in range(steps):
        writer.finish()
        whole_s = step(4 * number, False)
        saving_s = step(4 * number + 1, True)
        after_s = [step(4 * number + more, False) for more in (2, 3)]  # the file is being written
        alone.append(whole_s)
        beside.append(after_s[0])
        lost.append(saving_s + sum(after_s) - 3 * whole_s)
        stalled.append(slowest(world, stalls[-1]))
    whole_s, beside_s, lost_s, stall_s = (float(np.median(found)) for found in (alone, beside, lost, stalled))
    say(
        f"  step of {placed.batch} samples  {1e3 * whole_s:8.1f} ms, the one after a save {1e3 * beside_s:.1f} ms"
    )
    say(f"  stall of a save        {1e3 * stall_s:8.1f} ms: {stall_s / whole_s:.2%} of a step")
    say(f"  lost to a save, in all {1e3 * lost_s:8.1f} ms")


def checksums(say: Callable[..., None]) -> None:
    """Say what checksums cost, of memory that is no cache's."""
    data = np.random.default_rng(0).integers(0, 256, 64 << 20, np.uint8)
    for name, of in (
        ("zlib.crc32", zlib.crc32),
        ("zlib.adler32", zlib.adler32),
        ("xxh3_64", xxhash.xxh3_64_digest),
    ):
        found = []
        for _ in range(5):
            began_s = time.perf_counter()
            of(data.data)
            found.append(time.perf_counter() - began_s)
        say(f"  {name:20} {data.nbytes / min(found) / GB:6.2f} GB/s")


if __name__ == "__main__":
    main()
