"""Links and sums as calibrate measures them: nodes, messages, collectives, what of a sum is hidden."""

from __future__ import annotations

from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.cost.machine import COLLECTIVES, Level, Machine
from gridnn.errors import InputError
from gridnn.train.calibrate import links, overlap

LEVELS = (Level("node", 4, 1e-6, 1e-10), Level("network", 0, 1e-5, 1e-9, links=1))


@pytest.mark.ranks(4)
def test_nodes_and_links(comm: Any) -> None:
    with World(comm) as world:
        assert links.find_nodes(world, None) == links.Nodes((0, 0, 0, 0), 4)
        nodes = links.find_nodes(world, 2)
        assert (nodes.of_rank, nodes.ranks, nodes.count, nodes.in_order) == ((0, 0, 1, 1), 2, 2, True)
        with pytest.raises(InputError, match="--ranks-per-node 3: 4 ranks"):
            links.find_nodes(world, 3)
        said = list[str]()
        messages = list(links.measure_messages(world, nodes, True, said.append))
        sums = list(links.measure_collectives(world, nodes, True, said.append))
        assert len({str(all_) for all_ in comm.allgather((messages, sums))}) == 1
    streams = {(m.level, m.how, m.streams) for m in messages}
    one = {(level, how, 1) for level in ("node", "network") for how in ("swap", "ping-pong", "mover")}
    assert streams == one | {("network", "swap", 2)}
    assert {c.members for c in sums} == {(2, 2), (2, 4)} and {c.kind for c in sums} == set(COLLECTIVES)
    assert all(m.seconds > 0 for m in messages) and all(c.seconds > 0 for c in sums)
    assert len(said) == 4


@pytest.mark.ranks(2)
def test_sums_of_buckets_are_measured_several_at_once(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backward pass queues them; told are the seconds of one.  Smaller sums, and all else, are measured alone."""
    under_way, most, taken = 0, dict[int, int](), dict[int, float]()
    here: Any = links
    start, finish, seconds = here.start_sum, here.finish, here._seconds

    def counted_start(world: World, ranks: Any, array: Any, parts: Any) -> Any:
        nonlocal under_way
        under_way += 1
        most[array.nbytes] = max(under_way, most.get(array.nbytes, 0))
        return start(world, ranks, array, parts)

    def counted_finish(world: World, request: Any, kind: str) -> None:
        nonlocal under_way
        under_way -= kind == "allreduce"
        finish(world, request, kind)

    def kept_seconds(world: World, work: Any, nbytes: int, quick: bool) -> float:
        taken[nbytes] = seconds(world, work, nbytes, quick) if work.args[0] == "allreduce" else taken[nbytes]
        return taken[nbytes]

    monkeypatch.setattr(links, "start_sum", counted_start)
    monkeypatch.setattr(links, "finish", counted_finish)
    monkeypatch.setattr(links, "_seconds", kept_seconds)
    monkeypatch.setattr(links, "BUCKET", 32 << 10)
    with World(comm) as world:
        nodes = links.find_nodes(world, None)
        found = list(links.measure_collectives(world, nodes, True, lambda text: None))
    assert most == {1 << 10: 1, 32 << 10: links.BUCKETS, 1 << 20: links.BUCKETS}
    for c in found:
        parts = links.BUCKETS if c.kind == "allreduce" and c.nbytes >= 32 << 10 else 1
        assert c.seconds == pytest.approx(taken[c.nbytes] / parts)


@pytest.mark.parametrize(("both_s", "share"), [(1.2, 1.0), (1.7, 0.5), (2.2, 0.0), (3.0, 0.0), (1.0, 1.0)])
def test_the_share_that_is_hidden(both_s: float, share: float) -> None:
    """What is measured with a share is priced with it: `Machine.beside` gives the seconds back."""
    found = overlap.share_hidden(1.0, 1.2, both_s)
    assert found == pytest.approx(share)
    if 1.2 <= both_s <= 2.2:
        machine = Machine("m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, LEVELS, overlap=found)
        assert machine.beside(1.0, 1.2) == pytest.approx(both_s)


@pytest.mark.ranks(2, 3)
def test_sums_beside_products(comm: Any) -> None:
    with World(comm) as world:
        said = list[str]()
        found = overlap.measure_overlap(world, True, said.append)
        assert len(set(comm.allgather(found))) == 1 and not world.progress.on
    assert 0 <= found.share <= 1 and min(found[:3]) > 0 and len(said) == 1
    assert found.both_s > 0.5 * max(found.sums_s, found.products_s)  # nothing was left out


def test_nodes_dealt_in_turns_are_noticed() -> None:
    assert not links.Nodes((0, 1, 0, 1), 2).in_order
    assert links.Nodes((0, 1, 0, 1), 2).on(1) == (1, 3)
