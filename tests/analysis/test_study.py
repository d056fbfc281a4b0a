"""Studies, and the words a question of the analysis tool is asked in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from gridnn.analysis.chart import Lines, Series
from gridnn.analysis.study import schemes_of, study
from gridnn.analysis.table import Column, Table
from gridnn.commands.analyze import QUESTIONS, main
from gridnn.commands.analyze.words import (
    add_answer,
    add_grid,
    add_procs,
    add_study,
    answer,
    check_pictures,
    parser,
    plan_of,
    several,
    study_of,
)
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape
from gridnn.plan.plan import uniform_plan


def asked(*words: str) -> argparse.Namespace:
    found = parser("x", "", "")
    add_study(found)
    add_procs(found)
    add_grid(found)
    add_answer(found)
    return found.parse_args(words)


def test_a_study_makes_jobs_of_any_size() -> None:
    found = study("lenet", 64, "laptop")
    assert found.job(8).procs == 8
    assert found.job(8, batch=128).batch == 128
    assert found.job(1).batch == 64


@pytest.mark.parametrize("grid", ["data", "uniform", "fc-only", "dynamic", "n4", "k2 n2"])
def test_a_grid_is_a_strategy_or_written_out(grid: str) -> None:
    job = study("lenet", 64, "laptop").job(4)
    schemes = schemes_of(job, grid)
    assert set(schemes) == {node.name for node in job.network.nodes}
    if grid[0] in "nk":
        assert {s.grid for s in schemes.values()} == {GridShape.parse(grid)}


@pytest.mark.parametrize(
    ("grid", "words"),
    [("best", "use|write"), ("n8", "8 processes"), ("n2 n2", "n"), ("z4", "z"), ("n128", "needs 128")],
)
def test_a_grid_that_cannot_be(grid: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        schemes_of(study("lenet", 64, "laptop").job(4), grid)


def test_a_batch_smaller_than_its_cut() -> None:
    with pytest.raises(InputError):
        schemes_of(study("lenet", 2, "laptop").job(4), "n4")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("8", (8,)), ("32,8", (8, 32)), ("8-64", (8, 16, 32, 64)), ("3-13", (3, 6, 12, 13))],
)
def test_several_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert several(text) == numbers


@pytest.mark.parametrize("text", ["", "0", "8,", "64-8", "a-b", "-4", "99999999999"])
def test_numbers_that_cannot_be(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        several(text)


def test_a_plan_file_and_a_grid(tmp_path: Path) -> None:
    arguments = asked("lenet", "--batch", "64", "--procs", "4", "--machine", "laptop", "--grid", "n4")
    job = study_of(arguments).job(arguments.procs)
    assert plan_of(arguments, job)[1] == "n4"
    path = tmp_path / "plan.json"
    path.write_text(uniform_plan(job.network, GridShape.parse("k4"), 64, 4, "by hand").dumps())
    arguments = asked("lenet", "-b", "64", "-p", "4", "-m", "laptop", "--plan", str(path))
    schemes, name = plan_of(arguments, job)
    assert name == "plan.json"
    assert {str(s) for s in schemes.values()} == {"k4"}
    with pytest.raises(InputError, match="8"):
        plan_of(arguments, study_of(arguments).job(8))


TABLE = Table("t", (Column("p", "count"), Column("x_s", "s")), ((1, 2.0), (2, 1.0)))
CHART = Lines("a title", "processes", "seconds", (1.0, 2.0), (Series("a line", (2.0, 1.0)),))


def said(*words: str, charts: tuple[Lines, ...] = ()) -> str:
    lines: list[str] = []
    answer(lines.append, asked("lenet", "-b", "1", "-p", "1", *words), [TABLE], charts, {"key": 3})
    return "\n".join(lines)


def test_the_forms_of_an_answer(tmp_path: Path) -> None:
    found = json.loads(said("--json"))
    assert found["key"] == 3
    assert found["rows"][1] == {"p": 2, "x_s": 1.0}
    assert said("--csv").splitlines() == ["p,x_s", "1,2.0", "2,1.0"]
    assert "2 s" in said()
    picture = tmp_path / "p.svg"
    assert str(picture) in said("--svg", str(picture), charts=(CHART,))
    assert "a line" in picture.read_text()


def test_pictures_that_cannot_be_written() -> None:
    with pytest.raises(InputError, match="no folder"):
        check_pictures(asked("lenet", "-b", "1", "-p", "1", "--png", "/nowhere/at/all.png"))


def test_every_question_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for question in QUESTIONS:
        with pytest.raises(SystemExit) as ended:
            main([question, "--help"], print)
        assert ended.value.code == 0
        assert f"gridnn analyze {question}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["nothing"], ["layers"], ["layers", "lenet", "--batch", "0", "--procs", "1"]]
)
def test_words_that_mean_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words, print)
    assert ended.value.code == 2
    assert capsys.readouterr().err
