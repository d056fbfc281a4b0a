"""A step of a run beside its price: the passes of every layer, and what it moves.

Of a pass the slowest rank counts, as in the price: ranks wait for each other at the next movement.  Of a movement
the mean of the ranks that took part counts, and beside it the least of them: what is more than the least was waited
for ranks that came later, and is no price of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gridnn.analysis.measured import OWN_WORK, Measured, Spent, measure
from gridnn.analysis.runs import Run
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.price import Movement
from gridnn.train.record import TrafficRow

PASSES = {"forward": "forward", "data": "backward", "weights": "weights"}
"""Direction of the spans of each pass."""
UPDATE, DATA, BETWEEN = "(update)", "(data)", "(between layers)"
"""What ranks do for no layer in particular."""
NO_SPANS = "runs without measured spans have no measured parts (run.trace_steps = 0, or an older gridnn): {}"
Runs = Sequence[tuple[Run, Measured | None]]

_LAYERS = (
    Column("run"), Column("layer"), Column("grid"),
    *(Column(f"{p}{m}_s", "s", f"{p} {'measured' if m else 'predicted'}") for p in PASSES for m in ("", "_measured")),
    Column("predicted_s", "s", "all predicted", "of a step, on the slowest rank"),
    Column("measured_s", "s", "measured", "the same, median of the traced steps"),
    Column("mean_s", "s", hidden=True, about="measured, mean of the ranks"),
    Column("error", "ratio", about="predicted / measured - 1"),
)  # fmt: skip
_COUNTS = (
    Column("predicted_messages", "count", "messages", "of all ranks in the whole run, evaluations too"),
    Column("counted_messages", "count", hidden=True),
    Column("predicted_bytes", "bytes", "bytes predicted", "received by all ranks in the whole run"),
    Column("counted_bytes", "bytes", "counted"), Column("equal"),
    Column("predicted_s", "s", "predicted", "of a step, nothing hidden"),
    Column("measured_s", "s", "measured", "posting, waiting, unpacking in a step; mean of the ranks that took part"),
    Column("least_s", "s", "least", "the same on the rank that saw least"),
    Column("mean_s", "s", hidden=True, about="measured, mean of all ranks"),
)  # fmt: skip
_COLLECTIVES = (Column("run"), Column("direction"), Column("collective"), *_COUNTS)
_MOVEMENTS = (Column("run"), Column("layer"), Column("direction"), Column("collective"), *_COUNTS)


def measured_of(run: Run) -> Measured | None:
    """Return the measured seconds of a run's traced steps.

    The layers of a bucket share its sum as its price is shared: by the size of their gradients.
    """
    if run.spans is None:
        return None
    shares = {
        Spent(layer.name, m.direction, m.collective): m.seconds
        for layer in run.layers for m in layer.movements if m.part == "gradients"
    }  # fmt: skip
    return measure(run.spans, shares)


def layers(runs: Runs) -> Table:
    """Return predicted and measured seconds of the passes of every layer."""
    rows: list[tuple[Cell, ...]] = []
    for run, measured in runs:
        for layer in run.layers:
            told = (layer.forward_s, layer.data_s, layer.weights_s)
            keys = [Spent(layer.name, way, "compute") for way in PASSES.values()]
            took = [None if measured is None else measured.slowest_s(key) for key in keys]
            pairs = [cell for both in zip(told, took, strict=True) for cell in both]
            rows.append((run.name, layer.name, str(run.schemes[layer.name]), *pairs,
                         *_together(sum(told), measured, keys)))  # fmt: skip
        update_s = sum(layer.update_s for layer in run.layers)
        rows.append((run.name, UPDATE, "", *[None] * 6, *_together(update_s, measured, _of_none(UPDATE))))
        if measured is not None:
            for name in (BETWEEN, DATA):
                rows.append((run.name, name, "", *[None] * 6, *_together(None, measured, _of_none(name))))
    return Table("Passes of every layer in a step", _LAYERS, tuple(rows), None, _notes(runs))


def _of_none(name: str) -> list[Spent]:
    return [Spent("", "", {UPDATE: "update", DATA: "data", BETWEEN: "compute"}[name])]


def _together(told_s: float | None, measured: Measured | None, keys: Sequence[Spent]) -> tuple[Cell, ...]:
    if measured is None:
        return told_s, None, None, None
    took_s = measured.slowest_s(*keys)
    return (
        told_s,
        took_s,
        measured.mean_s(*keys),
        told_s / took_s - 1 if told_s and took_s else None,
    )


def collectives(runs: Runs) -> Table:
    """Return what runs move, by direction and collective: bytes, messages, seconds."""
    notes = (
        "bytes and messages are those of all ranks in the whole run, seconds those of a step",
        "measured is what ranks see of a movement: one that is on its way while they compute, such as the sum of "
        "gradients, shows less than is predicted; one whose partner is late shows more",
        *_notes(runs),
    )
    rows = [row for run, measured in runs for row in _moved(run, measured, by_layer=False)]
    return Table("What moves", _COLLECTIVES, tuple(rows), None, notes)


def movements(runs: Runs) -> Table:
    """Return what every layer moves, by direction and collective; see `collectives`."""
    notes = (
        "the layers of a bucket of gradients share its measured seconds by size",
        "the loss of a run is summed over all ranks under its own name, which has no price",
    )
    rows = [row for run, measured in runs for row in _moved(run, measured, by_layer=True)]
    return Table("What moves for every layer", _MOVEMENTS, tuple(rows), None, notes)


def _moved(run: Run, measured: Measured | None, by_layer: bool) -> list[tuple[Cell, ...]]:
    """Return the rows of a run."""
    told: dict[Spent, list[Movement]] = {}
    for layer in run.layers:
        for m in layer.movements:
            told.setdefault(Spent(layer.name, m.direction, m.collective), []).append(m)
    counted: dict[Spent, list[TrafficRow]] = {}
    for row in () if run.traffic is None else run.traffic.rows:
        counted.setdefault(Spent(row.layer, row.direction, row.collective), []).append(row)
    seen = [] if measured is None else [k for k in measured.seconds if k.what not in OWN_WORK]
    groups: dict[tuple[str, ...], list[Spent]] = {}
    for key in dict.fromkeys([*told, *counted, *seen]):
        groups.setdefault(tuple(key) if by_layer else (key.direction, key.what), []).append(key)
    order = {layer.node.name: at for at, layer in enumerate(run.placed.layers)}
    found: list[tuple[Cell, ...]] = []
    for name, keys in sorted(groups.items(), key=lambda g: (order.get(g[0][0], len(order)), g[0])):
        rows = [row for key in keys for row in counted.get(key, [])]
        seconds = [m.seconds for key in keys for m in told.get(key, [])]
        took: tuple[Cell, ...] = (None, None, None)
        if measured is not None and any(
            key in measured.seconds for key in keys
        ):  # evaluations are not traced
            took = measured.seen_s(*keys), measured.least_s(*keys), measured.mean_s(*keys)
        found.append((run.name, *name, *_counts(run, rows), sum(seconds) if seconds else None, *took))
    return found


def _counts(run: Run, rows: Sequence[TrafficRow]) -> tuple[Cell, ...]:
    """Return messages and bytes, predicted and counted, and whether they are equal under every key."""
    if run.traffic is None:
        return (None,) * 5
    predicted = [(r.predicted_messages, r.predicted_bytes) for r in rows]
    counted = [(r.counted_messages, r.counted_bytes) for r in rows]
    (pm, pb), (cm, cb) = _sums(predicted), _sums(counted)
    return pm, cm, pb, cb, predicted == counted


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    listed = list(pairs)
    return sum(m for m, _ in listed), sum(b for _, b in listed)


def _notes(runs: Runs) -> tuple[str, ...]:
    blind = [run.name for run, measured in runs if measured is None]
    return (NO_SPANS.format(", ".join(blind)),) if blind else ()
