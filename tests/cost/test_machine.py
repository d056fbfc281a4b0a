"""Machine files: those shipped, a round trip, and one clear message for every one that cannot be."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gridnn.cost.collectives import allgather_s, allreduce_s
from gridnn.cost.machine import Level, Machine, dumps, load_machine, machine_names
from gridnn.errors import InputError
from gridnn.geometry.traffic import Widths

GOOD = """
name = "pair"
source = "thought of"
date = "2026-01-01"
[rank]
flops_per_s = 1e12
touch_s_per_element = 1e-10
layer_s = 0
memory_bytes = 8e9
[[level]]
name = "socket"
ranks = 4
alpha_s = 1e-6
beta_s_per_byte = 1e-10
[[level]]
name = "node"
ranks = 8
alpha_s = 2e-6
beta_s_per_byte = 2e-10
links = 2
[[level]]
name = "network"
alpha_s = 5e-6
beta_s_per_byte = 1e-9
links = 1
[algorithms]
allreduce = "ring"
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_file_becomes_a_machine(tmp_path: Path) -> None:
    machine = load_machine(written(tmp_path, GOOD))
    assert machine == Machine(
        "pair", "thought of", "2026-01-01", 1e12, 1e-10, 0.0, 8_000_000_000,
        (Level("socket", 4, 1e-6, 1e-10), Level("node", 8, 2e-6, 2e-10, 2), Level("network", 0, 5e-6, 1e-9, 1)),
        {"allreduce": "ring", "allgather": "best", "reduce_scatter": "best"},
    )  # fmt: skip
    assert machine.units == (4, 8) and isinstance(machine.memory_bytes, int)


@pytest.mark.parametrize("name", machine_names())
def test_shipped_machines_load_under_their_names_and_come_back(tmp_path: Path, name: str) -> None:
    machine = load_machine(name)
    assert machine.name == name and machine.source and machine.date
    assert load_machine(written(tmp_path, dumps(machine))) == machine


def test_what_goes_on_beside_arithmetic(tmp_path: Path) -> None:
    free, half = (
        load_machine(written(tmp_path, GOOD.replace("= 8e9", f"= 8e9{x}"))) for x in ("", "\noverlap = 0.5")
    )
    assert (free.overlap, half.overlap) == (1.0, 0.5)
    assert [free.beside(4.0, c) for c in (0.0, 3.0, 5.0)] == [4.0, 4.0, 5.0]
    assert [half.beside(4.0, c) for c in (0.0, 1.0, 3.0, 5.0)] == [4.0, 4.0, 5.0, 7.0]


def test_collectives_may_be_faster_than_their_formulas(tmp_path: Path) -> None:
    plain = load_machine(written(tmp_path, GOOD))
    fast = load_machine(written(tmp_path, GOOD + "[speeds]\nallreduce = 2\n"))
    assert load_machine(written(tmp_path, dumps(fast))) == fast and fast.speeds == {"allreduce": 2.0}
    group, large = ((4, 8, 16), 1e9)
    assert allreduce_s(fast, group, large, 16) == pytest.approx(
        float(allreduce_s(plain, group, large / 2, 16))
    )
    assert allgather_s(fast, group, large, 16) == allgather_s(plain, group, large, 16)
    assert not fast.only_bytes().speeds


def test_the_machines_of_the_issue_are_there() -> None:
    assert {"cori-knl", "p100-cluster", "k80-cluster", "h100", "laptop"} <= set(machine_names())
    (cori,) = load_machine("cori-knl").levels
    assert cori.alpha_s == 2e-6 and math.isclose(1 / cori.beta_s_per_byte, 6e9, rel_tol=1e-6)
    assert [level.ranks for level in load_machine("p100-cluster").levels] == [4, 0]
    assert [level.links for level in load_machine("h100").levels] == [0, 8]
    assert load_machine("k80-cluster").units[-1] == 4


def test_texts_with_quotes_and_letters_come_back(tmp_path: Path) -> None:
    text = dumps(load_machine("laptop")).replace('name = "laptop"', r'name = "a \"b\" \\ é \u007f"')
    machine = load_machine(written(tmp_path, text))
    assert machine.name == 'a "b" \\ é \x7f'
    assert load_machine(written(tmp_path, dumps(machine))) == machine


BAD = {
    "not TOML": ("name = ", "", "is not TOML"),
    "a key too few": ("layer_s = 0\n", "", r"\[rank\] needs the key 'layer_s'"),
    "no table": ("[rank]", "[ranks]", "needs the key 'rank'"),
    "a key too many": ("layer_s = 0", "layer_s = 0\nspeed = 1", r"\[rank\] has an unknown key 'speed'"),
    "unknown at the top": ('date = "2026-01-01"', 'date = "x"\ncolour = "red"', "unknown key 'colour'"),
    "unknown in a level": ("links = 2", "lanes = 2", r"\[\[level\]\] 2 has an unknown key 'lanes'"),
    "negative": ("alpha_s = 1e-6", "alpha_s = -1e-6", r"\[\[level\]\] 1 alpha_s = -1e-06"),
    "zero": ("flops_per_s = 1e12", "flops_per_s = 0", "flops_per_s = 0; write a finite number above zero"),
    "no number": ("flops_per_s = 1e12", "flops_per_s = true", "flops_per_s = True"),
    "infinite": ("beta_s_per_byte = 1e-9", "beta_s_per_byte = inf", "beta_s_per_byte = inf"),
    "not a number": ("beta_s_per_byte = 1e-9", "beta_s_per_byte = nan", "beta_s_per_byte = nan"),
    "below zero": ("layer_s = 0", "layer_s = -1", "zero or more"),
    "a text that is none": ('name = "pair"', "name = 7", "name = 7"),
    "not growing": ("ranks = 8", "ranks = 4", "use a multiple of 4"),
    "not dividing": ("ranks = 8", "ranks = 10", 'level "node": ranks = 10'),
    "no ranks inside": ("ranks = 4\n", "", 'level "socket": ranks = 0'),
    "a limit outside": ('name = "network"', 'name = "network"\nranks = 64', "outermost level has no limit"),
    "half a rank": ("ranks = 8", "ranks = 8.5", "write a whole number"),
    "too many links": ("links = 2", "links = 5", "links = 5, but a unit below it has 4 ranks"),
    "more than all": ("layer_s = 0", "layer_s = 0\noverlap = 1.5", r"\[rank\] overlap = 1.5; write a share, 0 to 1"),
    "less than nothing": ("layer_s = 0", "layer_s = 0\noverlap = -0.1", r"\[rank\] overlap = -0.1"),
    "no speed": ('allreduce = "ring"', 'allreduce = "ring"\n[speeds]\nallreduce = 0', r"\[speeds\] allreduce = 0"),
    "speed of nothing known": ('allreduce = "ring"', '[speeds]\nbcast = 1', "unknown key 'bcast'"),
    "unknown algorithm": ('"ring"', '"star"', "allreduce = 'star'; use one of ring"),
    "unknown collective": ('allreduce = "ring"', 'bcast = "ring"', "unknown key 'bcast'"),
    "level no list": ("[[level]]\nname", "level = 3\n[x]\nname", "unknown key|not TOML|at least one"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_message_that_names_the_file(tmp_path: Path, case: str) -> None:
    old, new, message = BAD[case]
    assert old in GOOD
    text = GOOD.replace(old, new, 1) if new else GOOD.replace(old, "[[" if case == "not TOML" else "", 1)
    with pytest.raises(InputError, match=message) as raised:
        load_machine(written(tmp_path, text))
    assert "mine.toml" in str(raised.value) and raised.value.exit_code == 2


def test_no_such_machine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'machine "moon" is not known; known: cori-knl, .*laptop'):
        load_machine("moon")
    with pytest.raises(InputError, match="cannot be read"):
        load_machine(str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match="at least one"):
        load_machine(
            written(tmp_path, GOOD[: GOOD.index("[[level]]")].replace("[rank]", "level = []\n[rank]"))
        )


def test_a_profile_is_read_from_beside_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layers\.json"):
        load_machine(written(tmp_path, 'profile = "layers.json"\n' + GOOD))
    (tmp_path / "layers.json").write_text('{"version": 1, "source": "s", "date": "d", "layers": []}')
    machine = load_machine(written(tmp_path, 'profile = "layers.json"\n' + GOOD))
    assert machine.profile is not None and machine.profile.source == "s"
    assert load_machine(written(tmp_path, dumps(machine, "layers.json"))) == machine
    assert machine.element_bytes == 4 and machine.widths == Widths(4, 4)


def of_bf16(folder: Path) -> Machine:
    """A machine whose profile was measured in bf16."""
    (folder / "bf16.json").write_text(
        '{"version": 1, "source": "s", "date": "d", "precision": "bf16", "layers": []}'
    )
    return load_machine(written(folder, 'profile = "bf16.json"\n' + GOOD))


def test_rates_are_of_elements_as_wide_as_the_profiles(tmp_path: Path) -> None:
    machine = of_bf16(tmp_path)
    assert (machine.touch_s_per_element, machine.element_bytes) == (1e-10, 2)
    assert machine.widths == Widths(2, 2), "of the file: nobody said what a job has"
    priced = machine.at(Widths(2, 4))
    assert (priced.touch_s_per_element, priced.widths) == (2e-10, Widths(2, 4))
    assert priced.narrower(priced.element_bytes) == 0.5 and machine.narrower(2) == 1
    assert priced.at(Widths(2, 4)) is priced and priced.at(Widths(2, 2)).touch_s_per_element == 1e-10
    assert load_machine("h100").at(Widths(4, 4)) == load_machine("h100"), "nothing changes for float32"


def test_a_file_has_the_rates_that_its_reader_takes(tmp_path: Path) -> None:
    """As wide as the profile's elements, or of four bytes without one, whatever they were priced for."""
    machine = of_bf16(tmp_path)
    for priced in (machine, machine.at(Widths(2, 4)), machine.at(Widths(4, 4))):
        assert load_machine(written(tmp_path, dumps(priced, "bf16.json"))) == replace(
            machine, activation_bytes=0
        )
        bare = load_machine(written(tmp_path, dumps(priced)))
        assert bare.profile is None and (bare.touch_s_per_element, bare.element_bytes) == (2e-10, 4)
        assert bare.at(Widths(2, 4)).widths == Widths(2, 4)


def test_another_precision_than_the_profiles_is_told(tmp_path: Path) -> None:
    machine = of_bf16(tmp_path)
    assert machine.mismatch("bf16") == machine.at(Widths(4, 4)).mismatch("bf16") == ""
    told = machine.mismatch("tf32")
    assert "machine pair was measured in bf16, and this computes in tf32" in told
    assert told.endswith("gridnn calibrate --precision tf32")
    assert "float64" in machine.mismatch("float64") and "calibrate" not in machine.mismatch("float64")
    assert load_machine("h100").mismatch("bf16") == "", (
        "rates of a data sheet say themselves what they are of"
    )
