"""The command line."""

from __future__ import annotations

import pytest

from gridnn.train.arguments import parse_arguments


def test_no_arguments_are_the_default_job():
    found = parse_arguments([])
    assert (found.config, found.overrides, found.plan, found.run_dir) == (None, [], None, None)
    assert (found.dry_run, found.print_config, found.write_plan) == (False, False, None)


def test_all_arguments():
    found = parse_arguments(
        [
            "job.toml",
            "--set",
            "a.b=1",
            "c.d=2",
            "--plan",
            "n2 k2",
            "--set",
            "e.f=3",
            "--run-dir",
            "x",
            "--dry-run",
            "--write-plan",
            "p.json",
        ]
    )
    assert (found.config, found.plan, found.run_dir) == ("job.toml", "n2 k2", "x")
    assert found.overrides == ["a.b=1", "c.d=2", "e.f=3"]
    assert (found.dry_run, found.print_config, found.write_plan) == (True, False, "p.json")
    assert parse_arguments([]).overrides == []  # the list of one call is not that of the next


@pytest.mark.parametrize("words", [["--plna", "auto"], ["--set"], ["a.toml", "b.toml"], ["--dry"]])
@pytest.mark.parametrize("quiet", [False, True])
def test_mistakes_exit_2_and_only_one_rank_tells(capsys, words, quiet):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(words, quiet=quiet)
    assert caught.value.code == 2
    assert ("usage:" in capsys.readouterr().err) is not quiet


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(["--help"])
    assert caught.value.code == 0
    assert "mpiexec -n 4 python -m gridnn.train" in capsys.readouterr().out
