"""A plan by the equations of Gholami et al. 2018."""

from __future__ import annotations

import pytest

from gridnn.cost.machine import load_machine
from gridnn.cost.paper.gholami import eq8, eq9, moved_bytes
from gridnn.cost.paper.table import paper_layers
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import zoo
from gridnn.plan.explain.equations import equation_lines, paper_terms
from gridnn.plan.job import Job

ALEXNET = zoo.usual("alexnet")
JOB = Job(ALEXNET, load_machine("cori-knl"), 16, 64)


def schemes(grid: str, **others: str) -> dict[str, Scheme]:
    return {n.name: Scheme(GridShape.parse(others.get(n.name, grid))) for n in ALEXNET.nodes}


def test_one_grid_for_all_is_equation_8_and_with_a_cut_domain_9():
    layers = paper_layers(ALEXNET)
    assert sorted(paper_terms(JOB, schemes("n4 k4"))) == sorted(eq8(layers, 64, 4, 4))
    late = {f"fc{i}": "n4 k4" for i in (6, 7, 8)}
    domain = [layer.name for layer in layers if layer.name.startswith("conv")]
    mixed = paper_terms(JOB, schemes("n4 h4", **late))
    assert moved_bytes(mixed) == pytest.approx(moved_bytes(eq9(layers, 64, 4, 4, domain)), rel=1e-12)


def test_the_table_has_both():
    lines = equation_lines(JOB, schemes("n16", fc6="k16", fc7="k4 c4", fc8="k16"))
    assert len(lines) == 2 + 8 + 1 and lines[1].startswith("conv1") and lines[-2].startswith("all")
    assert "batch sum" in lines[0] and "exact" in lines[0] and "-" not in lines[1].split()
    large = Job(ALEXNET, load_machine("cori-knl"), 1024, 2048)
    assert " - " in equation_lines(large, schemes("n1024"))[1]  # too many ranks to count exactly


def test_what_the_equations_cannot_say():
    with pytest.raises(InputError, match="not both"):
        paper_terms(JOB, schemes("n4 k2 h2"))
