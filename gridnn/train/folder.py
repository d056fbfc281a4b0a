"""The folder of a run while it runs: made, filled and finished, and never that of another.

open_folder -> Record: config, plan -> a line a step, at once -> spans, traffic -> summary: the run is finished

A run that goes on from step s keeps the lines of the steps before s: each step has one line, whatever happened.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from gridnn.errors import InputError, RunError
from gridnn.train.record import CONFIG, PLAN, RECORD_VERSION, STEPS, SUMMARY, TRAFFIC, RunTraffic, Summary
from gridnn.train.spans import SPANS


class Record:
    """The folder of a run, from its start to its summary; a context manager that closes its file.

    Parameters
    ----------
    folder : Path
        A folder from `open_folder`.
    config, plan : str
        Texts of ``config.toml`` and ``plan.json``.
    start : int
        Steps that were made before; their lines stay.
    """

    def __init__(self, folder: Path, config: str, plan: str, start: int = 0) -> None:
        self.folder = folder
        with _said(folder):
            kept = _lines_before(folder / STEPS, start)
            # first, because it marks the folder as that of a run, to be replaced if this one is cut short
            _write_durably(folder / STEPS, "".join(kept))
            self._steps = (folder / STEPS).open("a", encoding="utf-8")
            (folder / CONFIG).write_text(config, encoding="utf-8")
            (folder / PLAN).write_text(plan, encoding="utf-8")
            for name in (
                SPANS,
                TRAFFIC,
                SUMMARY,
            ):  # of a run that was cut short at its end, or is made longer
                (folder / name).unlink(missing_ok=True)

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # of lines that found no room: said when they were written
            self._steps.close()

    def step(
        self,
        *,
        step: int,
        epoch: int,
        loss: float,
        lr: float,
        step_s: float,
        phases_s: Mapping[str, float],
        counted_bytes: int,
        **more: float | int | str | None,
    ) -> None:
        """Write the line of one step; it is on its way to the disk before the next step begins."""
        line = {
            "step": step, "epoch": epoch, "loss": loss, "lr": lr, "step_s": step_s,
            "phases_s": dict(phases_s), "counted_bytes": counted_bytes, **more,
        }  # fmt: skip
        with _said(self.folder):
            self._steps.write(_json(line) + "\n")
            self._steps.flush()

    def traffic(self, traffic: RunTraffic) -> Path:
        """Write ``traffic.json``, whole or not at all, and return its path."""
        rows = [row._asdict() for row in traffic.rows]
        return self._write_whole(TRAFFIC, {**traffic._asdict(), "rows": rows})

    def finish(self, summary: Summary) -> Path:
        """Write ``summary.json``, whole or not at all, and return its path."""
        return self._write_whole(SUMMARY, asdict(summary))

    def _write_whole(self, name: str, table: Mapping[str, Any]) -> Path:
        path = self.folder / name
        with _said(self.folder):
            _write_durably(path, _json({"record_version": RECORD_VERSION, **table}, indent=2) + "\n")
        return path


def open_folder(
    run_dir: str | None,
    name: str,
    now: datetime,
    parent: Path = Path("runs"),
    may_be_finished: bool = False,
) -> Path:
    """Make the folder of a run.

    Parameters
    ----------
    run_dir : str or None
        The folder to use.  None makes a new one, ``<parent>/<name>-<time>``, with a number after it
        if there is one already.
    may_be_finished : bool
        Let the folder of a finished run pass: it may be made longer.

    Raises
    ------
    InputError
        When the folder holds a finished run or files that are no run's, or cannot be made.
    """
    try:
        if run_dir is not None:
            folder = Path(run_dir)
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_to_overwrite(folder, may_be_finished)
            return folder
        parent.mkdir(parents=True, exist_ok=True)
        return _new_folder(parent, f"{name}-{now:%Y%m%d-%H%M%S}")
    except OSError as error:
        raise InputError(
            f"the run folder {run_dir or parent} cannot be made ({error.strerror}); "
            "name one that can be written with --run-dir"
        ) from None


def versions(**more: str) -> dict[str, str]:
    """Return the versions of gridnn, Python, NumPy and the machine's kind; `more` adds to them."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("gridnn", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a clone that runs without being installed
            found[package] = "not installed"
    return found | more


def _new_folder(parent: Path, name: str) -> Path:
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()  # making it is the test: two runs that start together get two folders
        except FileExistsError:
            number += 1
        else:
            return folder


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Say in words why a record cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the record in {folder} cannot be written ({error.strerror}); make room, and go on with --resume auto"
        ) from None


def is_finished(folder: Path) -> bool:
    """Return whether a run folder has the summary of a run that ended."""
    return (folder / SUMMARY).exists()


def _lines_before(path: Path, step: int) -> list[str]:
    """Return the lines of steps before `step`, without what a killed run left of its last line."""
    if step == 0 or not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] < step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _write_durably(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _refuse_to_overwrite(folder: Path, may_be_finished: bool) -> None:
    """Let an empty folder or an unfinished run pass."""
    if is_finished(folder) and not may_be_finished:
        raise InputError(
            f"the run folder {folder} holds a finished run ({SUMMARY}); "
            "name another with --run-dir, or make it longer with --resume auto and more epochs"
        )
    ours = [name for name in (CONFIG, PLAN, TRAFFIC, SPANS) if (folder / name).exists()]
    if ours and not (folder / STEPS).exists():
        raise InputError(
            f"the run folder {folder} holds a {ours[0]} that no run wrote and this one would overwrite; "
            "name another folder with --run-dir"
        )


def _json(table: Mapping[str, Any], indent: int | None = None) -> str:
    """Write standard JSON, which knows no NaN: a number that is not finite becomes null."""
    return json.dumps(_finite(table), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
