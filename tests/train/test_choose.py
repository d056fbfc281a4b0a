"""What a configuration makes of "auto", of a machine, and of a network that is only a description."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridnn.cost.machine import dumps, load_machine
from gridnn.errors import InputError
from gridnn.network import zoo
from gridnn.plan.problem import Job
from gridnn.plan.search import MODEL_ERROR, search
from gridnn.train.choose import choose, choose_plan
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


@pytest.mark.parametrize("name", ["rnntc", "rnnlm", "nmt"])
def test_a_description_is_refused_at_once(name: str) -> None:
    given = config(f"model.name={name}")
    with pytest.raises(InputError, match=f"network {name} is a description for planning only"):
        choose(given, open_data("digits", "train", given.data.options), 1)
