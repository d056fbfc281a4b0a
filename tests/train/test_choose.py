"""What a configuration makes of "auto", of a machine, and of a network that is only a description."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridnn.cost.machine import dumps, load_machine
from gridnn.errors import InputError
from gridnn.network import zoo
from gridnn.plan.problem import Job
from gridnn.plan.search import MODEL_ERROR, search
from gridnn.train.choose import choose, choose_plan, machine_of, widths
from gridnn.train.config import load_config
from gridnn.train.data import open_data
from gridnn.train.sections import Config

NETWORK = zoo.usual("digits-cnn")


def config(*settings: str) -> Config:
    return load_config(None, ["train.epochs=1", *settings])


def test_auto_is_the_planners_plan_where_that_gains() -> None:
    found = search(Job(NETWORK, load_machine("p100-cluster"), 4, 4))
    assert found.margin > MODEL_ERROR
    plan = choose_plan(config("train.batch=4", "plan.machine=p100-cluster"), NETWORK, 4)
    assert dict(plan.schemes) == dict(found.schemes)
    assert plan.origin.startswith("auto: a grid for each layer on machine p100-cluster, ")


def test_auto_is_a_known_plan_where_a_gain_may_be_an_error() -> None:
    job = Job(NETWORK, load_machine("laptop"), 4, 64)
    found = search(job)
    assert 0 < found.margin < MODEL_ERROR
    plan = choose_plan(config("train.batch=64"), NETWORK, 4)
    assert dict(plan.schemes) == dict(search(job, found.runner_up[0]).schemes) != dict(found.schemes)
    assert plan.origin.startswith(
        f"auto: {found.runner_up[0]} on machine laptop; a grid for each layer gains "
    )


def test_a_machine_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(dumps(load_machine("h100")).replace('name = "h100"', 'name = "mine"', 1))
    given = config("train.batch=4", f"plan.machine={path}")
    job = choose(given, open_data("digits", "train", given.data.options), 2)
    assert "on machine mine" in job.plan.origin
    assert (job.plan.machine, job.plan.predicted["machine"]) == (str(path), "mine")
    with pytest.raises(InputError, match='machine "cray" is not known'):
        choose_plan(config("plan.machine=cray"), NETWORK, 2)


def test_a_profile_in_another_precision_is_told_once(tmp_path: Path) -> None:
    """And where it is the run's nothing is said; the planner's rates are for the widths of the run."""
    words = ["train.batch=4", "train.dtype=float32", "compute.device=gpu"]
    for measured in ("float32", "bf16"):
        (tmp_path / "p.json").write_text(
            f'{{"version": 1, "source": "s", "date": "d", "precision": "{measured}", "layers": []}}'
        )
        path = tmp_path / f"{measured}.toml"
        path.write_text(f'profile = "p.json"\n{dumps(load_machine("h100"))}')
        for asked in ("float32", "tf32", "bf16"):
            given = config(*words, f"plan.machine={path}", f"compute.precision={asked}")
            job = choose(given, open_data("digits", "train", given.data.options), 2)
            told = [
                line
                for line in job.said
                if line.startswith("WARNING: plan.machine: machine h100 was measured in")
            ]
            assert len(told) == len(job.said) == (asked != measured)
            assert all(f"in {measured}, and this computes in {asked}" in line for line in told)
            machine = machine_of(given)
            rate_s = load_machine("h100").touch_s_per_element * (2 if measured == "bf16" else 1)
            assert machine.touch_s_per_element == pytest.approx(rate_s)
            assert machine.widths == widths(given)


@pytest.mark.parametrize("name", ["rnntc", "rnnlm", "nmt"])
def test_a_description_is_refused_at_once(name: str) -> None:
    given = config(f"model.name={name}")
    with pytest.raises(InputError, match=f"network {name} is a description for planning only"):
        choose(given, open_data("digits", "train", given.data.options), 1)
