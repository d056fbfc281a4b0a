"""What rank 0 says to a log and to a terminal, and that others say nothing."""

from __future__ import annotations

import io

import pytest

from gridnn.train.console import Console, PlanRow, bytes_text, seconds_text, shape_text
from gridnn.train.record import Summary

ROWS = [
    PlanRow("conv1", "2 x 2", "n2 k2", (32, 8, 8, 8), (64, 16, 8, 8), 160, 2048, 2048),
    PlanRow("mixed_5b_branch_of_a_long_name", "16 x 128", "n128 k4 h2 w2", (2, 512, 149, 149),
            (256, 2048, 299, 299), 102_764_544, 3 * 2**30, None),
]  # fmt: skip
SUMMARY = Summary(
    0.0123456789, 0.98765, 1200, 0.0123, 12345678, 12345678, "n2 k2", 4, {"compute": 6.0, "halo": 2.0}
)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


class _Time:
    """A clock on which every reading is `tick` later than the one before."""

    def __init__(self, tick):
        self.now_s, self.tick = 0.0, tick

    def __call__(self):
        self.now_s += self.tick
        return self.now_s


def _everything(console):
    console.say("hello")
    console.warn("careful")
    console.plan_table(ROWS, "plan")
    console.summary_table(SUMMARY, "runs/x")
    with console.progress(2, 0.0, _Time(1.0)) as progress:
        progress.update(step=1, epoch=0, loss=1.0, lr=0.1, samples=8)


@pytest.mark.parametrize("kind", [io.StringIO, _Terminal])
def test_other_ranks_are_silent(kind):
    stream = kind()
    _everything(Console(1, stream))
    assert stream.getvalue() == ""


def test_a_log_has_no_escapes_and_a_fixed_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # rich would fold to it
    stream = io.StringIO()
    _everything(Console(0, stream))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    assert max(map(len, text.split("\n"))) <= 120


def test_the_plan_shows_every_layer_and_the_sums():
    stream = io.StringIO()
    Console(0, stream).plan_table(ROWS)
    lines = [line.split() for line in stream.getvalue().split("\n") if line.strip()]
    assert "counted" in lines[0]
    assert [
        "conv1",
        "2",
        "x",
        "2",
        "n2",
        "k2",
        "32x8x8x8",
        "64x16x8x8",
        "160",
        "2.0",
        "KiB",
        "2.0",
        "KiB",
    ] in lines
    assert ["all", "102,764,704", "3.0", "GiB", "2.0", "KiB"] in lines


def test_before_a_run_there_is_no_counted_column():
    stream = io.StringIO()
    Console(0, stream).plan_table(ROWS[1:])
    assert "counted" not in stream.getvalue()


def test_text_is_not_markup_and_long_lines_stay_whole():
    stream = io.StringIO()
    console = Console(0, stream)
    console.say("plan [bold]n2[/bold] :smile: " + "x" * 300)
    assert stream.getvalue() == "plan [bold]n2[/bold] :smile: " + "x" * 300 + "\n"


def test_a_warning_is_said_once():
    stream = io.StringIO()
    console = Console(0, stream)
    for text in ("one", "two", "one"):
        console.warn(text)
    assert stream.getvalue() == "warning: one\nwarning: two\n"


def test_a_log_gets_the_first_line_the_last_and_some_between():
    stream = io.StringIO()
    with Console(0, stream).progress(12, 5.0, _Time(1.0)) as progress:
        for step in range(1, 13):
            progress.update(step=step, epoch=step // 6, loss=2.5, lr=0.05, samples=64)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/12", "6/12", "11/12", "12/12"]
    assert lines[1] == "step  6/12  epoch 1  loss 2.50000  lr 0.05  1000.0 ms/step  64 samples/s"


def test_a_pause_is_left_out_of_the_rates():
    stream, time = io.StringIO(), _Time(1.0)
    with Console(0, stream).progress(3, 0.0, time) as progress:
        progress.update(step=1, epoch=0, loss=1.0, lr=0.1, samples=10)
        time.now_s += 100.0
        progress.pause()
        progress.update(step=2, epoch=0, loss=1.0, lr=0.1, samples=10)
    assert "1000.0 ms/step  10 samples/s" in stream.getvalue().splitlines()[1]


def test_a_terminal_gets_a_bar_and_lines_above_it():
    stream = _Terminal()
    console = Console(0, stream)
    with console.progress(2, 5.0, _Time(1.0)) as progress:
        progress.update(step=1, epoch=0, loss=1.25, lr=0.1, samples=8)
        console.say("epoch 0: test accuracy 50 %")
        progress.update(step=2, epoch=0, loss=1.0, lr=0.1, samples=8)
    text = stream.getvalue()
    assert "step 1/2" not in text
    assert "2/2" in text
    assert "loss 1.25000" in text
    assert "epoch 0: test accuracy 50 %" in text


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (SUMMARY, "bytes: predicted 12,345,678 = counted 12,345,678 (11.8 MiB)"),
        (Summary(1.0, None, 1, 0.1, 5, 6, "n1", 1), "bytes: predicted 5 IS NOT counted 6 (6 B)"),
    ],
)
def test_the_summary_compares_bytes(summary, said):
    stream = io.StringIO()
    Console(0, stream).summary_table(summary, "runs/x")
    assert said in stream.getvalue()


def test_the_summary_tells_results_and_phases():
    stream = io.StringIO()
    Console(0, stream).summary_table(SUMMARY, "runs/x")
    lines = [" ".join(line.split()) for line in stream.getvalue().split("\n")]
    wanted = ["loss 0.0123457", "test accuracy 98.77 %", "median step 12.3 ms", "compute 6.00 s 75.0 %",
              "halo 2.00 s 25.0 %", "record: runs/x"]  # fmt: skip
    assert [line for line in wanted if line not in lines] == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (12 * 2**20, "12.0 MiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_bytes(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 us"),
        (35e-6, "35 us"),
        (0.0123, "12.3 ms"),
        (4.56, "4.56 s"),
        (125, "2 min 05 s"),
        (3725, "1 h 02 min"),
    ],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


def test_shapes():
    assert (shape_text((64, 16, 8)), shape_text(())) == ("64x16x8", "-")
