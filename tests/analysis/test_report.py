"""The page as a file: whole, safe against the texts in it, and with the numbers of the commands."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gridnn.analysis.chart import Lanes
from gridnn.analysis.report import contents as all_of_it
from gridnn.analysis.report.contents import PARTS, Asked, contents, doublings, every_other
from gridnn.analysis.report.machine import machine_table
from gridnn.analysis.report.page import _scoped, page
from gridnn.analysis.report.sections import Section
from gridnn.analysis.report.step import lanes_of, shown_ranks, simulated_step
from gridnn.analysis.study import schemes_of, study
from gridnn.commands.analyze.report import main
from gridnn.cost.machine import load_machine
from gridnn.errors import InputError
from gridnn.plan.simulate.build import simulate_plan
from gridnn.plan.simulate.timeline import timeline
from tests.analysis import pages


class Reader(HTMLParser):
    """What a browser sees of a page: elements, texts of scripts, cells of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = attrs, text + data

    def json(self, key: str) -> Any:
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("id") == key)


@pytest.fixture(scope="module")
def html() -> str:
    return page(pages.contents())


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    found = Reader()
    found.feed(html)
    return found


def test_nothing_comes_from_elsewhere(html: str, read: Reader) -> None:
    sources = [
        v for _, attrs in read.elements for k, v in attrs.items() if k in ("src", "href", "data", "action")
    ]
    assert sources and all(source == "data:," or str(source).startswith("#") for source in sources)
    assert "@import" not in html and "url(http" not in html
    assert len(html.encode()) < 8_000_000


def test_the_policy_allows_these_scripts_and_no_network(read: Reader) -> None:
    policy = next(
        a["content"] or "" for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "connect-src" not in rules
    run = [text for attrs, text in read.scripts if attrs.get("type") != "application/json"]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in run}
    assert len(run) == 2 and set(rules["script-src"].split()) == hashes


def test_texts_stay_texts(read: Reader) -> None:
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert read.json("data")["answers"][1] == f"A second. {pages.EVIL}"


def test_the_data_are_the_tables(read: Reader) -> None:
    data = read.json("data")
    assert data == json.loads(json.dumps(pages.contents().data()))
    assert list(data["tables"]) == ["first", "second-words", "second-again"]
    assert data["tables"]["first"] == json.loads(json.dumps(pages.TABLE.as_json()))
    assert set(read.json("charts")) == set(pages.TRACES)


def test_cells_hold_exact_values(read: Reader) -> None:
    values = [attrs["data-value"] for _, attrs in read.elements if "data-value" in attrs]
    assert values[:5] == ["conv10", repr(0.1 + 0.2), "10", "Infinity", "1"]
    assert values[5:10] == ["conv2", "1e-09", "1536", "", "0"]
    assert str(2**40) in values and "secret" not in [a.get("data-key") for _, a in read.elements]


def test_tables_and_charts_are_named_for_those_who_do_not_see_them(read: Reader) -> None:
    tags = [tag for tag, _ in read.elements]
    assert tags.count("caption") == tags.count("table") == 3
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in read.elements if tag == "th")
    charts = [attrs for _, attrs in read.elements if attrs.get("class") == "chart"]
    assert len(charts) == 4 and all(attrs["aria-label"] for attrs in charts)
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for tag, attrs in read.elements if tag == "a"]
    assert {str(link)[1:] for link in links} <= set(ids)


def test_rules_of_a_drawing_stay_inside() -> None:
    found = _scoped(
        "<svg><style> .a, text { fill: red } @media print { .b { x: 1 } .c{y:2} }</style></svg>", "#here"
    )
    rules = re.sub(r"\s+", " ", found)
    assert (
        "#here .a, #here text {" in rules and "@media print { #here .b {" in rules and "#here .c {" in rules
    )


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install \"gridnn\[report\]\""):
        page(pages.contents())


@pytest.mark.parametrize(
    ("procs", "first", "last"),
    [(512, 8, 4096), (64, 8, 4096), (3, 3, 3072), (1, 1, 4096), (48, 12, 3072), (16384, 8, 16384)],
)
def test_the_scaling_study_goes_through_the_page_s_processes(procs: int, first: int, last: int) -> None:
    found = doublings(procs)
    assert procs in found and (found[0], found[-1]) == (first, last)
    assert all(b == 2 * a for a, b in pairwise(found))


def test_every_other_number_keeps_the_page_s_own() -> None:
    assert every_other((8, 16, 32, 64), 16) == (16, 64)
    assert every_other((8, 16, 32, 64), 32) == (8, 32)
    assert every_other((2, 4, 6), 5) == (2, 6)


# ---------------------------------------------------------------- one step


def test_ranks_are_spread_evenly() -> None:
    assert shown_ranks(1) == [0]
    assert shown_ranks(3) == [0, 1, 2]
    assert shown_ranks(512) == [0, 73, 146, 219, 292, 365, 438, 511]


def test_a_timeline_of_all_ranks_has_every_second_of_them() -> None:
    job = study("lenet", 64, "laptop").job(4)
    schemes = schemes_of(job, "n2 k2")
    found = timeline(simulate_plan(job, schemes))
    lanes, busy = lanes_of(found, 4), found.busy_ns()
    for lane, ns in busy.items():
        spans = sorted((s.start_s, s.end_s) for s in lanes.spans if s.lane == lane)
        assert sum(end - start for start, end in spans) == pytest.approx(ns / 1e9)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert "all ranks" in lanes.caption


def test_of_many_spans_the_longest_are_kept_and_the_rest_is_said() -> None:
    job = study("lenet", 64, "laptop").job(4)
    found = timeline(simulate_plan(job, schemes_of(job, "n2 k2")))
    every, few = lanes_of(found, 4), lanes_of(found, 4, most=5)
    least = min(s.end_s - s.start_s for s in few.spans)
    assert len(few.spans) == 5 and f"{len(every.spans) - 5} spans" in few.caption
    assert sum(s.end_s - s.start_s > least for s in every.spans) <= 5


def test_the_longest_chain_is_as_long_as_the_step() -> None:
    job = study("lenet", 64, "laptop").job(4)
    found = simulated_step(job, schemes_of(job, "data"))
    assert found is not None and isinstance(found.lanes, Lanes)
    assert sum(found.path.numbers("seconds")) == pytest.approx(found.seconds)
    assert sum(found.path.numbers("share")) == pytest.approx(1.0)


def test_too_many_processes_are_not_simulated() -> None:
    job = study("lenet", 65536, "cori-knl").job(65536)
    assert simulated_step(job, schemes_of(job, "n65536")) is None


def test_constants_of_a_machine_come_with_their_source() -> None:
    machine = load_machine("cori-knl")
    found = machine_table(machine)
    values = dict(zip(found.column("constant"), found.column("value"), strict=True))
    assert values["network: alpha_s"] == machine.levels[0].alpha_s
    assert values["flops_per_s"] == machine.flops_per_s
    assert machine.source in found.notes[0]


def test_a_question_without_an_answer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(asked: Asked) -> Section:
        raise InputError("7 processes: nothing fits")

    monkeypatch.setattr(all_of_it, "PARTS", {"grids": ("grids", ask), "machine": PARTS["machine"]})
    found = contents(study("lenet", 64, "laptop"), 4)
    by = {section.key: section for section in found.sections}
    assert "nothing fits" in by["grids"].text[0] and len(by["machine"].tables) == 1


def test_parts_of_a_section_come_together_in_their_order() -> None:
    parts = [
        Section("", "", ("a",), (("x", pages.TABLE),)),
        Section("", "", ("b",), (), (pages.MAP,), "<svg>"),
    ]
    found = all_of_it._section("grids", parts)
    assert (found.text, found.charts, found.drawing) == (("a", "b"), (pages.MAP,), "<svg>")
    assert found.tables == (("x", pages.TABLE),)


def test_several_processes_make_the_same_page_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: PARTS[name] for name in ("layers", "bounds", "machine", "assumptions")}
    monkeypatch.setattr(all_of_it, "PARTS", few)  # the others know all parts, and are asked for these
    alone, together = (contents(study("lenet", 64, "laptop"), 4, workers=w) for w in (1, 2))
    assert alone == together


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path, said = tmp_path_factory.mktemp("page") / "p.html", list[str]()
    main(
        ["lenet", "-b", "64", "-p", "4", "-m", "laptop", "--range", "2,4", "-o", str(path), "--json"],
        said.append,
    )
    return path, json.loads("\n".join(said))


SECTIONS = [
    "network",
    "grids",
    "scaling",
    "sensitivity",
    "layers",
    "bounds",
    "step",
    "machine",
    "assumptions",
]


def test_the_command_writes_the_page_and_says_its_data(made: tuple[Path, Any]) -> None:
    path, data = made
    found = Reader()
    found.feed(path.read_text())
    assert found.json("data") == data
    sections = [a["id"] for tag, a in found.elements if tag == "section"]
    assert sections == ["summary", *SECTIONS]
    assert "There is no answer" not in path.read_text()
    assert "-p 4 -m laptop --range 2,4" in data["command"]
    assert {"grids", "scaling-strong", "scaling-weak", "layers", "bounds", "step-busy", "machine"} <= set(
        data["tables"]
    )


@pytest.mark.parametrize(
    ("question", "name"), [("layers", "layers"), ("bounds", "bounds"), ("grids", "grids")]
)
def test_the_page_has_the_numbers_of_the_commands(question: str, name: str, made: tuple[Path, Any]) -> None:
    from importlib import import_module

    said: list[str] = []
    words = [
        "lenet",
        "-b",
        "64",
        "-p",
        "4",
        "-m",
        "laptop",
        "--json",
        *([] if question == "grids" else ["-g", "dynamic"]),
    ]
    import_module(f"gridnn.commands.analyze.{question}").main(words, said.append)
    alone = json.loads("\n".join(said))
    assert made[1]["tables"][name]["rows"] == alone["rows"]
    assert made[1]["tables"][name].get("totals") == alone.get("totals")


BAD = [
    (["nonet"], "nonet"),
    (["lenet", "-m", "nowhere"], "nowhere"),
    (["lenet", "-g", "k64"], "64"),
    (["lenet", "-o", "/nowhere/at/all/x.html"], "no folder"),
    (["lenet", "--png", "/nowhere/at/all/x.png"], "no folder"),
    (["lenet", "--plan", "/nowhere/plan.json"], "plan.json"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_what_cannot_be_is_refused_before_any_work(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = ["-o", "x.html"] if "-o" not in words else []
    with pytest.raises(InputError, match=said):
        main([*words, "-b", "64", "-p", "4", *rest], lambda line: None)
    assert not list(tmp_path.iterdir())


def test_a_page_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lenet", "-b", "64", "-p", "4"], print)
    assert ended.value.code == 2 and "--output" in capsys.readouterr().err
