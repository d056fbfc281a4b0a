"""The record of a run: a folder that says what was asked, what was planned and what happened.

    runs/digits-cnn-20250131-142233/
        config.toml     the merged configuration: the same run again
        plan.json       the scheme of every layer
        checkpoints/    what to go on from (see checkpoint)
        steps.jsonl     one line a step, written as it happens
        spans.npz       where the time of some steps went on every rank (see spans)
        traffic.json    predicted and counted, by layer, direction, collective and axes
        summary.json    the result; a run that has one is finished

Only rank 0 keeps a record (see folder).  Here is what its files say, and what reads them back; neither needs MPI.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gridnn.errors import InputError

RECORD_VERSION = 1
CONFIG, PLAN, STEPS, SUMMARY = "config.toml", "plan.json", "steps.jsonl", "summary.json"
TRAFFIC = "traffic.json"
Read = TypeVar("Read")


@dataclass(frozen=True)
class StageRecord:
    """A stage of a pipelined run.

    Parameters
    ----------
    first : str
        Its first layer.
    ranks : int
        How many it has.
    staleness : int
        Steps between a batch and the update by its gradient, the most that were counted.
    predicted_bubble : float
        Which part of a step the stage waits, simulated.
    bubble : float or None
        Which part of the traced steps its ranks waited for others (see `tally.bubbles`), their mean; None where no
        steps were traced.
    predicted_memory_bytes, memory_bytes : int
        Of the rank that needs most by the formulas, of the one that needed most.
    """

    first: str
    ranks: int
    staleness: int
    predicted_bubble: float
    bubble: float | None
    predicted_memory_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class PipelineRecord:
    """What was asked of the stages of a run, and what became of each; `form` is of delayed schedules only."""

    schedule: str
    form: str
    passes: int
    stages: tuple[StageRecord, ...]


@dataclass(frozen=True)
class Summary:
    """The result of a run, as it stands in ``summary.json``.

    Parameters
    ----------
    loss : float
        Loss of the last training step.
    test_accuracy : float or None
        Between 0 and 1; None where nothing was evaluated or there are no classes.
    steps : int
        Updates made.
    step_s : float
        Median seconds of a step, measured.
    predicted_bytes, counted_bytes : int
        Sums over ranks and layers for the whole run.
    plan : str
        The plan in short.
    ranks : int
        Processes.
    phases_s : mapping of str to float
        Seconds by phase for the whole run.
    versions : mapping of str to str
        Of everything that can change a result; see `versions`.
    predicted_step_s : float
        Seconds of a step by the plan's machine, to stand beside the measured ones.
    predicted_memory_bytes, memory_bytes : int
        Parameters, gradients, optimizer state and arrays of a step on the rank that needed most.
    pipeline : PipelineRecord or None
        Of a run in stages.
    """

    loss: float
    test_accuracy: float | None
    steps: int
    step_s: float
    predicted_bytes: int
    counted_bytes: int
    plan: str
    ranks: int
    phases_s: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    predicted_step_s: float = 0.0
    predicted_memory_bytes: int = 0
    memory_bytes: int = 0
    pipeline: PipelineRecord | None = None


class TrafficRow(NamedTuple):
    """What moved under one key, summed over all ranks for the whole run."""

    layer: str
    direction: str
    collective: str
    axes: str
    predicted_messages: int
    counted_messages: int
    predicted_bytes: int
    counted_bytes: int


class RunTraffic(NamedTuple):
    """All that moved in a run, as it stands in ``traffic.json``: a row a key, of so many steps and evaluations.

    Of a run that was interrupted, the steps since it was last started.
    """

    steps: int
    evaluations: int
    rows: tuple[TrafficRow, ...]


def read_summary(folder: Path) -> Summary:
    """Return the result of a finished run.

    Raises
    ------
    InputError
        If there is no such folder, it is no run's, its run has not finished, or its file is damaged or of
        another version.
    """

    def made(table: dict[str, Any]) -> Summary:
        whole = ("steps", "ranks", "predicted_bytes", "counted_bytes")
        _check_kinds(table, {int: whole, float: ("step_s",), str: ("plan",)})
        names = {f.name for f in fields(Summary)}
        given = {name: value for name, value in table.items() if name in names}
        return Summary(**given | {"pipeline": _pipeline(table.get("pipeline"))})

    return _read(folder, SUMMARY, made)


def _pipeline(table: Any) -> PipelineRecord | None:
    if table is None:
        return None
    _check_kinds(table, {str: ("schedule", "form"), int: ("passes",), list: ("stages",)})
    whole = ("ranks", "staleness", "predicted_memory_bytes", "memory_bytes")
    for stage in table["stages"]:
        _check_kinds(stage, {str: ("first",), int: whole, float: ("predicted_bubble",)})
        if stage["bubble"] is not None:
            _check_kinds(stage, {float: ("bubble",)})
    names = [f.name for f in fields(StageRecord)]
    stages = tuple(StageRecord(*(stage[name] for name in names)) for stage in table["stages"])
    return PipelineRecord(table["schedule"], table["form"], table["passes"], stages)


def read_traffic(folder: Path) -> RunTraffic:
    """Return what moved in a finished run.

    Raises
    ------
    InputError
        As `read_summary`.
    """

    def made(table: dict[str, Any]) -> RunTraffic:
        names, numbers = TrafficRow._fields[:4], TrafficRow._fields[4:]
        _check_kinds(table, {int: ("steps", "evaluations"), list: ("rows",)})
        for row in table["rows"]:
            _check_kinds(row, {str: names, int: numbers})
        rows = tuple(TrafficRow(*(row[name] for name in TrafficRow._fields)) for row in table["rows"])
        return RunTraffic(table["steps"], table["evaluations"], rows)

    return _read(folder, TRAFFIC, made)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a finished run, a table a section.

    Raises
    ------
    InputError
        As `read_summary`.
    """
    return _read(folder, CONFIG, dict)


def _read(folder: Path, name: str, make: Callable[[dict[str, Any]], Read]) -> Read:
    """Return what `make` makes of a file of a finished run."""
    _check_finished(folder)
    path = folder / name
    if not path.exists():
        raise InputError(
            f"the run in {folder} left no {name}; an older gridnn wrote it, or the file was removed: run it again"
        )
    try:
        text = path.read_text(encoding="utf-8")
        if name == CONFIG:
            return make(tomllib.loads(text))
        table = json.loads(text)
        if not isinstance(table, dict):
            raise ValueError("it holds no JSON object")
        found = table["record_version"]
        if found == RECORD_VERSION:
            return make(table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"no {error} in it" if isinstance(error, KeyError) else error
        raise InputError(f"{path} cannot be read as part of a run's record: {why}; run it again") from None
    raise InputError(
        f"{path} has version {found}, this gridnn reads {RECORD_VERSION}; read it with the gridnn that wrote it"
    )


def _check_kinds(table: Any, kinds: Mapping[type, tuple[str, ...]]) -> None:
    """Raise ValueError where a value is of another type."""
    if not isinstance(table, dict):
        raise ValueError(f"{table!r} is no table")
    for kind, names in kinds.items():
        for name in names:
            if type(table[name]) is not kind:
                raise ValueError(f"{name} = {table[name]!r} is not of type {kind.__name__}")


def _check_finished(folder: Path) -> None:
    """Refuse what is not the folder of a finished run."""
    if not folder.exists():
        raise InputError(f"there is no run folder {folder}; name one that gridnn.train wrote")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; name the run folder that gridnn.train wrote")
    if not (folder / SUMMARY).exists():
        if (folder / STEPS).exists():
            raise InputError(
                f"the run in {folder} is not finished (it has no {SUMMARY}); wait for it, or run it again"
            )
        raise InputError(f"{folder} is no run: it has no {SUMMARY}; name a folder that gridnn.train wrote")
