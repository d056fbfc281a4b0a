"""From costs to segments: which tasks an operation and an edge bring, and what waits for what.

operation    forward -> {sums -> point} | {point -> gathers} -> backward -> sums of gradients -> update
edge         leave of the producer -> transfers -> enter of the consumer, and back
"""

from __future__ import annotations

from gridnn.plan.simulate.program import EdgeCost, OperationCost
from gridnn.plan.simulate.segment import (
    LAST_SLOT,
    OWN,
    SOURCE,
    TARGET,
    Draft,
    Phase,
    Ports,
    Segment,
    Waits,
    key_of,
    listed,
)


def operation_segment(cost: OperationCost, at: int, operations: int, backward: bool) -> Segment:
    """Return the tasks of an operation: forward, backward, sums of gradients and updates of its parts.

    Parameters
    ----------
    at, operations
        Its place in the program, and the length of the program.
    """
    draft, device = Draft(), listed(cost.device)
    waits: Waits = []
    arrive: list[int] = []
    draft.key = key_of(at, LAST_SLOT)
    forward = leave = draft.tasks(Phase.FORWARD, device, listed(cost.forward_ns))
    if cost.after_forward:
        waits = draft.groups(Phase.SEND, cost.after_forward, forward)
        leave = draft.points(len(device))
        draft.follow(forward, leave)
        draft.release(waits, leave)
    if not backward:
        return draft.segment((0, 0), Ports(forward, leave, [], []))

    draft.key = key_of(2 * operations - 1 - at, LAST_SLOT)
    if cost.before_backward:
        arrive = draft.points(len(device))
        waits = draft.groups(Phase.RETURN, cost.before_backward, arrive)
    back = draft.tasks(Phase.BACKWARD, device, listed(cost.backward_ns))
    draft.follow(forward, back)
    if arrive:
        draft.follow(arrive, back)
        draft.release(waits, back)
    if cost.gradients or any(listed(cost.update_ns)):
        waits = draft.groups(Phase.SUM, cost.gradients, back)
        update = draft.tasks(Phase.UPDATE, device, listed(cost.update_ns))
        draft.follow(back, update)
        draft.release(waits, update)
    return draft.segment((0, 0), Ports(forward, leave, arrive or back, back))


def edge_segment(
    cost: EdgeCost, source: Segment, target: Segment, stages: tuple[int, int], slots: tuple[int, int]
) -> Segment:
    """Return the transfers of an edge, forward and backward.

    Parameters
    ----------
    source, target
        Segments of the producer and the consumer.
    stages
        Forward stage of the consumer; backward stage of the producer, or -1 where only forward is simulated.
    slots
        The edge among those into the consumer; among those out of the producer.
    """
    assert source.ports is not None and target.ports is not None
    into, out_of, draft = source.ports, target.ports, Draft()
    draft.key = key_of(stages[0], slots[0])
    draft.flow(Phase.SEND, cost.forward, _in(into.leave_forward, SOURCE), _in(out_of.enter_forward, TARGET))
    if stages[1] >= 0:
        draft.key = key_of(stages[1], slots[1])
        draft.flow(
            Phase.RETURN, cost.backward, _in(out_of.leave_backward, TARGET), _in(into.enter_backward, SOURCE)
        )
    return draft.segment((source.size, target.size))


def _in(tasks: list[int], which: int) -> list[int]:
    """Return an operation's own tasks as an edge names them."""
    return [task - OWN + which for task in tasks]
