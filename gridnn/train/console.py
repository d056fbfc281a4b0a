"""The voice of rank 0: the plan, the progress, the summary.  Nothing else in training prints.

On a terminal there are colours and a bar; in a log or a pipe, plain lines of a fixed width.  Every
other rank has a console too, and says nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from rich import box
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from gridnn.train.record import PipelineRecord, Summary

# A log has no width of its own; the table of a plan fits.
_LOG_WIDTH = 120
# Seconds between redraws of the bar: it has no thread of its own, which would take time from the step.
_REDRAW_S = 0.2


@dataclass(frozen=True)
class PlanRow:
    """One layer of the plan's table.

    Parameters
    ----------
    grid : str
        As Pr x Pc.
    axes : str
        By axis, such as "n2 k2".
    block, output : tuple of int
        Shapes of a rank's largest block and of the whole output.
    weights : int
        Parameters of the layer.
    predicted_bytes, counted_bytes : int
        In one step over all ranks; counted is None before a run.
    """

    layer: str
    grid: str
    axes: str
    block: tuple[int, ...]
    output: tuple[int, ...]
    weights: int
    predicted_bytes: int
    counted_bytes: int | None = None


class Console:
    """What a rank says: everything on rank 0, nothing on others.

    Parameters
    ----------
    rank : int
    stream : text file
        Where it goes.
    may_be_terminal : bool
        False where a terminal of the stream is not the user's: Open MPI gives every rank one of its own.
    """

    def __init__(self, rank: int, stream: TextIO, may_be_terminal: bool = True) -> None:
        on_terminal = may_be_terminal and stream.isatty()
        size = (None, None) if on_terminal else (_LOG_WIDTH, 25)
        self._rich = RichConsole(
            file=stream, width=size[0], height=size[1], force_terminal=on_terminal,
            quiet=rank != 0, markup=False, highlight=False, emoji=False,
        )  # fmt: skip
        self._warned: set[str] = set()

    def say(self, text: str) -> None:
        """Say a line; long ones are not broken."""
        self._rich.print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say a warning, the same one only once."""
        if text not in self._warned:
            self._warned.add(text)
            self._rich.print(f"warning: {text}", style="yellow", soft_wrap=True)

    def plan_table(self, rows: Sequence[PlanRow], title: str = "") -> None:
        """Show a plan, one line a layer and their sums; counted bytes where any row has them."""
        counted = any(row.counted_bytes is not None for row in rows)
        heads = ["layer", "Pr x Pc", "grid", "block", "output", "weights", "predicted"]
        table = _table([*heads, "counted"] if counted else heads, left=3, title=title)
        for row in rows:
            cells = [row.layer, row.grid, row.axes, shape_text(row.block), shape_text(row.output)]
            cells += [f"{row.weights:,}", bytes_text(row.predicted_bytes)]
            table.add_row(*cells, *([_maybe_bytes(row.counted_bytes)] if counted else []))
        table.add_section()
        sums = ["all", "", "", "", "", f"{sum(row.weights for row in rows):,}"]
        sums.append(bytes_text(sum(row.predicted_bytes for row in rows)))
        if counted:
            sums.append(bytes_text(sum(row.counted_bytes or 0 for row in rows)))
        table.add_row(*sums)
        self._show(table)

    def progress(
        self, total_steps: int, log_every_s: float, now: Callable[[], float] = time.perf_counter
    ) -> Progress:
        """Return the progress of a run: a bar on a terminal, otherwise a line now and then."""
        return Progress(self._rich, total_steps, log_every_s, now)

    def summary_table(self, summary: Summary, folder: str) -> None:
        """Show what came out, where the time went, and whether the bytes were as predicted."""
        accuracy = (
            "not evaluated" if summary.test_accuracy is None else f"{100 * summary.test_accuracy:.2f} %"
        )
        equal = summary.predicted_bytes == summary.counted_bytes
        result = _table(["result", ""], left=1)
        for name, text in (
            ("loss", f"{summary.loss:.6g}"),
            ("test accuracy", accuracy),
            ("steps", f"{summary.steps:,}"),
            ("median step", seconds_text(summary.step_s)),
            ("predicted step", seconds_text(summary.predicted_step_s)),
            ("memory a process", bytes_text(summary.memory_bytes)),
            ("predicted memory", bytes_text(summary.predicted_memory_bytes)),
            ("processes", str(summary.ranks)),
            ("plan", summary.plan),
        ):
            result.add_row(name, text)
        self._show(result)
        if summary.pipeline is not None:
            self._show(_stages_table(summary.pipeline))
        total_s = sum(summary.phases_s.values())
        phases = _table(["phase", "time", "share"], left=1)
        for name, seconds in sorted(summary.phases_s.items(), key=lambda item: -item[1]):
            phases.add_row(name, seconds_text(seconds), f"{100 * seconds / total_s if total_s else 0:.1f} %")
        phases.add_section()
        phases.add_row("all", seconds_text(total_s), "")
        self._show(phases)
        self.say(
            f"bytes: predicted {summary.predicted_bytes:,} {'=' if equal else 'IS NOT'} "
            f"counted {summary.counted_bytes:,} ({bytes_text(summary.counted_bytes)})"
        )
        self.say(f"record: {folder}")

    def _show(self, table: RenderableType) -> None:
        self._rich.print(table)


class Progress:
    """The progress of a run.  Live; a context manager.

    Parameters
    ----------
    console : rich.console.Console
    total_steps : int
    log_every_s : float
        Seconds between lines where there is no bar.
    now : callable
        Seconds from any origin.
    """

    def __init__(
        self, console: RichConsole, total_steps: int, log_every_s: float, now: Callable[[], float]
    ) -> None:
        self._console, self._total, self._every_s, self._now = console, total_steps, log_every_s, now
        self._said_s = self._mark_s = now()
        self._steps = self._samples = 0
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._console.quiet:
            self._bar = RichProgress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), console=self._console, auto_refresh=False,
            )  # fmt: skip
            self._task = self._bar.add_task("starting", total=self._total)
            self._bar.start()
        self._said_s = self._mark_s = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, *, step: int, epoch: int, loss: float, lr: float, samples: int) -> None:
        """Note that a step is done; `step` counts from 1, `samples` is what this step learned from.

        Said are the first step, the last, and those that come when it is time; rates are means since
        the line before.
        """
        now_s = self._now()
        self._steps, self._samples = self._steps + 1, self._samples + samples
        every_s = _REDRAW_S if self._bar else self._every_s
        if step not in (1, self._total) and now_s - self._said_s < every_s:
            return
        spent_s = max(now_s - self._mark_s, 1e-9)
        rates = f"{1e3 * spent_s / self._steps:.1f} ms/step  {self._samples / spent_s:,.0f} samples/s"
        text = f"epoch {epoch}  loss {loss:.5f}  lr {lr:.3g}  {rates}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text, refresh=True)
        else:
            width = len(str(self._total))
            self._console.print(f"step {step:>{width}}/{self._total}  {text}", soft_wrap=True)
        self._said_s = self._mark_s = now_s
        self._steps = self._samples = 0

    def pause(self) -> None:
        """Leave the time until now out of the rates: after an evaluation, say."""
        self._mark_s = self._now()
        self._steps = self._samples = 0


def shout(text: str) -> None:
    """Say a line on the error stream from any rank: for what ends a run."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def bytes_text(count: int) -> str:
    """Write a number of bytes for people: ``0 B``, ``1.5 KiB``, ``12.0 MiB``."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def seconds_text(seconds: float) -> str:
    """Write a time for people: ``35 us``, ``12.3 ms``, ``4.56 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} us"
    if seconds < 1:
        return f"{1e3 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def shape_text(shape: Iterable[int]) -> str:
    """Write a shape: ``64x16x8x8``; an empty one is a dash."""
    return "x".join(map(str, shape)) or "-"


def _stages_table(pipeline: PipelineRecord) -> Table:
    """Return the stages of a run, one line each."""
    form = f" ({pipeline.form})" if pipeline.form else ""
    title = f"{pipeline.schedule}{form}, {pipeline.passes} passes in a step; waits are shares of a step"
    heads = ("stage", "from", "ranks", "steps late", "predicted wait", "waits", "predicted memory", "memory")
    table = _table(heads, left=2, title=title)
    for k, stage in enumerate(pipeline.stages):
        waits = "-" if stage.bubble is None else f"{100 * stage.bubble:.1f} %"
        table.add_row(
            str(k), stage.first, str(stage.ranks), str(stage.staleness), f"{100 * stage.predicted_bubble:.1f} %",
            waits, bytes_text(stage.predicted_memory_bytes), bytes_text(stage.memory_bytes),
        )  # fmt: skip
    return table


def _maybe_bytes(count: int | None) -> str:
    return "-" if count is None else bytes_text(count)


def _table(heads: Sequence[str], left: int, title: str = "") -> Table:
    """Return an empty table whose first column folds if it must, and whose others keep whole."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < left else "right", no_wrap=i > 0, overflow="fold")
    return table
