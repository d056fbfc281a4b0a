"""Plans: a scheme for every layer, in a file that people can read, write and compare.

{
  "format": "gridnn-plan", "version": 1,
  "network": "digits-cnn", "digest": "5c1f...",      (optional: refuses another network)
  "procs": 4, "batch": 64,                           (optional: refuses another number of processes, another batch)
  "passes": 1, "dtype": "float32", "machine": "h100", "model": {"name": "digits-cnn"},
                                                     (optional: what the plan was made for; `gridnn explain` asks)
  "schedule": "1f1b", "stages": ["conv1", "conv4"],  (optional: layers from conv4 on have ranks of their own, and work
                                                      on other passes at the same time; see pipeline.schedule; for
                                                      "delayed" there is a "form", too: "replay" or "stash")
  "layers": {
    "*":     "n4",                                   (every layer not named)
    "conv1": "h2 w2",
    "fc1":   "k2 @2"                                 (grid k2 on the ranks from 2 on)
  },
  "predicted": { ... }                               (for readers; a run predicts anew)
}
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Network
from gridnn.network.heads import is_head
from gridnn.network.placed import check_scheme
from gridnn.network.source import Source, read_source
from gridnn.network.stages import cut_network, ranks_of
from gridnn.plan.pipeline.schedule import Schedule

FORMAT, VERSION = "gridnn-plan", 1
ORDER = (
    "format", "version", "network", "digest", "model", "machine", "procs", "batch", "passes", "dtype", "origin",
    "schedule", "form", "stages", "layers", "predicted",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A scheme for every layer of a network, and where the choice came from.

    Attributes
    ----------
    batch, passes
        Samples of a step, and the passes they are split into.
    origin
        Who chose, in words.
    predicted
        What was expected of it: numbers and words for readers.
    model, machine
        Where the network comes from, and the name of the machine the plan is for, where they are known.
    schedule, form
        Of a pipeline (`plan.pipeline.schedule`).
    stages
        First layers of its stages; none without one.
    """

    network: str
    digest: str
    procs: int
    batch: int
    schemes: Mapping[str, Scheme]
    origin: str
    predicted: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 1
    dtype: str = "float32"
    model: Source | None = None
    machine: str = ""
    schedule: str = "sequential"
    form: str = "replay"
    stages: tuple[str, ...] = ()

    def dumps(self) -> str:
        """Return the plan as the text of a plan file, one line a layer."""
        table = {
            "format": FORMAT, "version": VERSION, "network": self.network, "digest": self.digest, "procs": self.procs,
            "batch": self.batch, "passes": self.passes, "dtype": self.dtype, "origin": self.origin,
            "layers": {n: str(s) for n, s in self.schemes.items()}, "predicted": dict(self.predicted),
        }  # fmt: skip
        if self.model is not None:
            table["model"] = self.model.table()
        if self.machine:
            table["machine"] = self.machine
        if self.stages:
            table |= {"schedule": self.schedule, "stages": list(self.stages)}
            if self.schedule == "delayed":
                table["form"] = self.form
        return json.dumps({key: table[key] for key in ORDER if key in table}, indent=2) + "\n"

    @property
    def summary(self) -> str:
        """The grid if it is the same for all layers, otherwise how many there are."""
        grids = dict.fromkeys(map(str, self.schemes.values()))
        words = next(iter(grids)) if len(grids) == 1 else f"{len(grids)} grids"
        return f"{len(self.stages)} stages ({self.schedule}), {words}" if self.stages else words


@dataclass(frozen=True)
class PlanFile:
    """A plan file as it was read: checked as far as that needs no network.

    Attributes
    ----------
    table
        Its keys and values.
    model
        Where its network comes from, if it says so.
    """

    path: Path
    table: Mapping[str, Any]
    model: Source | None

    def plan(
        self,
        network: Network,
        *,
        procs: int | None = None,
        batch: int | None = None,
        passes: int | None = None,
    ) -> Plan:
        """Return the plan for a network.

        Parameters
        ----------
        procs, batch, passes
            Of the run that wants it; None takes the file's.

        Raises
        ------
        InputError
            If it is a plan for something else, or does not fit: an unknown layer, a grid larger than there are
            processes, a batch cut too often.
        """
        given, path = self.table, self.path
        procs, batch = self._agree("procs", procs), self._agree("batch", batch)
        if given.get("digest", network.digest) != network.digest:
            raise self._other(
                "network", f"{given.get('network', 'another')} ({given['digest']})",
                f"{network.name} ({network.digest})", "digest",
            )  # fmt: skip
        pipelined = bool(given.get("stages"))
        if passes is None or (pipelined and passes == 1):  # nobody splits a batch by accident
            passes = given.get("passes", 1)
        if batch < passes:
            raise InputError(
                f"plan file {path}: batch {batch} cannot be split into {passes} passes; each needs a sample at least"
            )
        schemes = _schemes(path, given.get("layers"), network, given.get("schedule") == "local")
        for name, scheme in schemes.items():
            with _told_of(path):
                check_scheme(name, scheme, batch // passes, procs)
        return Plan(
            network.name, network.digest, procs, batch, schemes, f"file {path.name}", given.get("predicted", {}),
            passes, given.get("dtype", "float32"), self.model, given.get("machine", ""),
            *self._pipeline(network, schemes),
        )  # fmt: skip

    def _pipeline(self, network: Network, schemes: Mapping[str, Scheme]) -> tuple[str, str, tuple[str, ...]]:
        """Return schedule, form and first layers of the stages, checked."""
        given = self.table
        first = tuple(given.get("stages", ()))
        with _told_of(self.path):
            if not first:
                if given.get("schedule", "sequential") != "sequential":
                    raise InputError(
                        f'schedule = {given["schedule"]!r} without "stages"; add the first layer of each, such as '
                        f'"stages": ["{network.nodes[0].name}", "{network.nodes[len(network.nodes) // 2].name}"]'
                    )
                return "sequential", "replay", ()
            stages = cut_network(network, first)
            ranks_of(stages, schemes)
            made = Schedule(given.get("schedule", "1f1b"), stages.count, 1, given.get("form", "replay"))
        return made.name, made.form, stages.first

    def _agree(self, key: str, mine: int | None) -> int:
        given: int | None = self.table.get(key)
        if mine is None:
            if given is None:
                raise InputError(f'plan file {self.path} does not say "{key}"; add it, such as "{key}": 4')
            return given
        if given not in (None, mine):
            raise self._other("number of processes" if key == "procs" else key, given, mine, key)
        return mine

    def _other(self, what: str, given: object, have: object, key: str) -> InputError:
        return InputError(
            f"plan file {self.path} is for another {what}: it says {given}, the run has {have}; "
            f"make a new plan, or remove {key!r} from the file to use its grids all the same"
        )


def uniform_plan(network: Network, grid: GridShape, batch: int, procs: int, origin: str) -> Plan:
    """Return the plan that gives every layer the same grid."""
    schemes = {node.name: Scheme(grid) for node in network.nodes}
    return Plan(network.name, network.digest, procs, batch, schemes, origin)


def read_plan(path: Path, network: Network, batch: int, procs: int, passes: int = 1) -> Plan:
    """Read a plan file for a run: a network, its batch in so many passes, its processes.

    Raises
    ------
    InputError
        If the file cannot be read, is not a plan, or is a plan for something else.
    """
    return open_plan(path).plan(network, procs=procs, batch=batch, passes=passes)


def open_plan(path: Path) -> PlanFile:
    """Read a plan file whose network is not known yet.

    Raises
    ------
    InputError
        If the file cannot be read or is not a plan.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"plan file {path} cannot be read: {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"plan file {path} is not JSON: {error}") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise InputError(f'plan file {path} is not a plan: it needs "format": "{FORMAT}" at the top')
    if table.get("version") != VERSION:
        raise InputError(
            f"plan file {path} has version {table.get('version')!r}; this gridnn reads version {VERSION}"
        )
    if unknown := sorted(set(table) - set(ORDER)):
        raise InputError(f"plan file {path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(ORDER))}")
    for key in ("procs", "batch", "passes"):
        if key in table and (type(table[key]) is not int or table[key] < 1):
            raise InputError(f"plan file {path}: {key} = {table[key]!r}; write a whole number, at least 1")
    for key, kind, what in (
        ("predicted", dict, "a table"),
        ("machine", str, "a text"),
        ("dtype", str, "a text"),
        ("schedule", str, "a text"),
        ("form", str, "a text"),
        ("stages", list, "a list of layers"),
    ):
        if key in table and not isinstance(table[key], kind):
            raise InputError(f"plan file {path}: {key} = {table[key]!r}; write {what}")
    with _told_of(path):
        model = read_source(table["model"]) if "model" in table else None
    return PlanFile(path, table, model)


def _schemes(path: Path, layers: object, network: Network, local: bool) -> dict[str, Scheme]:
    """Return the scheme of every layer, and those of heads of stages that are given."""
    names = [node.name for node in network.nodes]
    if not isinstance(layers, dict) or not all(isinstance(v, str) for v in layers.values()):
        raise InputError(
            f'plan file {path}: "layers" must be a table of layer names and grids such as "n2 k2"'
        )
    heads = [name for name in layers if local and is_head(name)]
    for name in layers:
        if name not in ("*", *heads, *names):
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; its layers are {shown_names(names)}"
            raise InputError(f"plan file {path}: network {network.name} has no layer {name!r}{hint}")
    if missing := [name for name in names if name not in layers and "*" not in layers]:
        raise InputError(
            f'plan file {path}: layer {missing[0]} has no grid; add it, or "*" for all layers not named'
        )
    with _told_of(path):
        return {
            **{name: parse_scheme(layers[name if name in layers else "*"]) for name in names},
            **{name: parse_scheme(layers[name]) for name in heads},
        }


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong in it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"plan file {path}: {str(error).removeprefix('plan: ')}") from None


def shown_names(names: list[str], most: int = 12) -> str:
    """Return names in a line, the first of many."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def parse_scheme(text: str) -> Scheme:
    """Read a scheme such as ``"n2 k2"`` or ``"k2 @2"`` (from rank 2 on)."""
    grid, at, first = text.partition("@")
    if at and not first.strip().isdecimal():
        raise InputError(f'scheme "{text}": after @ stands the first rank, such as "k2 @2"')
    return Scheme(GridShape.parse(grid), int(first) if at else 0)
