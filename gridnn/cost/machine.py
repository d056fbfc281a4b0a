"""Machines: how long a message, a byte, a product and an element take.  Data files, not constants in code.

Ranks are counted through the machine, and levels of it hold units of equally many, from the inside out:

    level 1 "network"   |               no limit: ranks = 0               |
    level 0 "node"      |  0  1  2  3  |  4  5  6  7  |  8  9 10 11  | ...     ranks = 4

Between ranks 1 and 2 a message takes level 0's alpha and beta, between 3 and 4 level 1's: the innermost unit they
share decides.  `links` of level 1 are the streams that leave a node at full speed at once, its network cards.

A message that goes on beside arithmetic is not free where the rank's own cores carry it:

    overlap = 1      compute |=========|          overlap = 0.5    compute |##=========|       # carries bytes
                     wire    |......|                              wire       |...|

A rank's rates were measured with elements of some width, and a job may have others (`Machine.at`; what scales by which
width is in `cost.compute`):

    rate measured in     touch_s_per_element is of      a job of bf16: Widths(2, 4)
    float32, tf32        4 bytes                        activations half of it, parameters all of it
    bf16                 2 bytes                        activations all of it, parameters twice that
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridnn.errors import InputError
from gridnn.geometry.traffic import Widths

if TYPE_CHECKING:
    from gridnn.cost.profile import Profile

COLLECTIVES = ("allreduce", "allgather", "reduce_scatter")
ALGORITHMS = ("ring", "recursive", "hierarchical", "best")
BEST = dict.fromkeys(COLLECTIVES, "best")
RANK_KEYS = ("flops_per_s", "touch_s_per_element", "layer_s", "memory_bytes")
LEVEL_KEYS = ("name", "ranks", "alpha_s", "beta_s_per_byte", "links")


@dataclass(frozen=True)
class Level:
    """One level of a machine: alpha and beta as in Gholami et al. 2018, section 2.1, but per byte.

    Attributes
    ----------
    ranks
        Ranks in one unit of the level; 0 on the outermost, which has no limit.
    alpha_s
        Seconds of an empty message between ranks that share a unit of this level and none below.
    beta_s_per_byte
        Seconds of a byte in one such stream, both directions at once.
    links
        Streams out of one unit of the level below that run at full speed at once; 0: one for each of its ranks.
    """

    name: str
    ranks: int
    alpha_s: float
    beta_s_per_byte: float
    links: int = 0


@dataclass(frozen=True)
class Machine:
    """A machine: the rates of one rank, and the levels between ranks from the inside out.

    Attributes
    ----------
    source, date
        Where the numbers come from, and of when they are.
    flops_per_s
        Operations of matrix products, counted by definition (a Winograd convolution does fewer).
    touch_s_per_element
        Seconds in which an elementwise layer reads or writes an element.
    layer_s
        Seconds every pass of a layer takes however small its block: interpreter, launch.
    memory_bytes
        Memory of one rank.
    algorithms
        How each of `COLLECTIVES` runs, one of `ALGORITHMS`.
    profile
        Measured seconds of layers, asked before the rates.
    speeds
        How many times as fast as its formula says each of `COLLECTIVES` moves bytes; 1 where it says nothing.
        Formulas are made of swaps, and libraries cut and pipeline what is large.
    overlap
        Share, 0 to 1, of the seconds of a movement beside arithmetic in which the rank computes on; the rest it
        spends on carrying.  1 with a network card that needs no core, 0 where ranks copy through memory.
    element_bytes
        Of the element that `touch_s_per_element` is of; a file's is as wide as those of its profile.
    activation_bytes
        Of an element of the arrays between layers that are priced; 0: the same.
    """

    name: str
    source: str
    date: str
    flops_per_s: float
    touch_s_per_element: float
    layer_s: float
    memory_bytes: int
    levels: tuple[Level, ...]
    algorithms: Mapping[str, str] = field(default_factory=lambda: dict(BEST))
    profile: Profile | None = None
    overlap: float = 1.0
    speeds: Mapping[str, float] = field(default_factory=dict)
    element_bytes: int = 4
    activation_bytes: int = 0

    @property
    def widths(self) -> Widths:
        """Bytes of the elements that are priced; `touch_s_per_element` is of a parameter's."""
        return Widths(self.activation_bytes or self.element_bytes, self.element_bytes)

    def at(self, widths: Widths) -> Machine:
        """Return the machine with its rate of touched elements for a job's widths; the same for those it has.

        An element takes as long as its bytes, the assumption of `cost.compute`.
        """
        if widths == self.widths:
            return self
        touch_s = self.touch_s_per_element * (widths.parameter / self.element_bytes)
        return replace(
            self, touch_s_per_element=touch_s, element_bytes=widths.parameter, activation_bytes=widths.activation
        )  # fmt: skip

    def narrower(self, measured_bytes: int) -> float:
        """Return how many times as wide as what was measured an element between layers is."""
        return self.widths.activation / measured_bytes

    def mismatch(self, precision: str) -> str:
        """Return what is to be said where a job's precision is not that of the profile; nothing where it is."""
        if self.profile is None or self.profile.precision == precision:
            return ""
        from gridnn.cost.profile import PRECISIONS

        return (
            f"machine {self.name} was measured in {self.profile.precision}, and this computes in {precision}: products "
            "are priced as they were measured, other layers by the width of their elements"
            + (f"; measure one: gridnn calibrate --precision {precision}" if precision in PRECISIONS else "")
        )

    def beside(self, moving_s: float, computing_s: float) -> float:
        """Return the seconds of a movement and of the arithmetic that goes on beside it."""
        carried_s = (1 - self.overlap) * moving_s
        return carried_s + max(moving_s - carried_s, computing_s)

    @property
    def units(self) -> tuple[int, ...]:
        """Ranks in a unit of every level but the outermost."""
        return tuple(level.ranks for level in self.levels[:-1])

    @property
    def slowest_s_per_byte(self) -> float:
        """Seconds of a byte on the slowest level."""
        return max(level.beta_s_per_byte for level in self.levels)

    def only_bytes(self) -> Machine:
        """Return the machine on which a byte received takes a second and a message nothing: costs are then bytes."""
        return replace(self, levels=(Level("all", 0, 0.0, 1.0),), algorithms=BEST, speeds={}, profile=None)


def machine_names() -> list[str]:
    """Return the names of the machines shipped with gridnn."""
    folder = files("gridnn.cost") / "machines"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def load_machine(name: str = "laptop") -> Machine:
    """Return a machine shipped with gridnn, or one of your own from a file whose name ends in ``.toml``.

    Raises
    ------
    InputError
        If there is no such machine, or its file is not one: not TOML, a key too many or too few, a number that
        cannot be, levels that do not hold each other.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in machine_names():
            known = ", ".join(machine_names())
            raise InputError(
                f'machine "{name}" is not known; known: {known}; or give a file that ends in .toml'
            )
        path = Path(str(files("gridnn.cost") / "machines" / f"{name}.toml"))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"machine file {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"machine file {path} is not TOML: {error}") from None
    return _Reader(path).machine(table)


def dumps(machine: Machine, profile: str | None = None) -> str:
    """Return the text of a machine file; `load_machine` reads the same machine back.

    Parameters
    ----------
    profile
        Name of the file that holds the machine's profile, relative to the machine file.  Rates are written for
        elements as wide as the profile's, or of 4 bytes without one: a reader takes them so.
    """
    width = _width(machine.profile if profile else None)
    machine = machine.at(Widths(width, width))
    lines = [f"{key} = {_quoted(getattr(machine, key))}" for key in ("name", "source", "date")]
    lines += [f"profile = {_quoted(profile)}"] if profile else []
    lines += ["", "[rank]", *(f"{key} = {getattr(machine, key)!r}" for key in (*RANK_KEYS, "overlap"))]
    for level in machine.levels:
        lines += ["", "[[level]]", f"name = {_quoted(level.name)}"]
        lines += [f"{key} = {getattr(level, key)!r}" for key in LEVEL_KEYS[1:]]
    lines += ["", "[algorithms]", *(f"{key} = {_quoted(how)}" for key, how in machine.algorithms.items())]
    if machine.speeds:
        lines += ["", "[speeds]", *(f"{key} = {speed!r}" for key, speed in machine.speeds.items())]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a TOML string: what JSON writes is one, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _width(profile: Profile | None) -> int:
    """Return the bytes of the element that a file's rates are of."""
    return 4 if profile is None else profile.element_bytes


class _Reader:
    """Checks a machine file on the way in; every complaint names the file and the place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def machine(self, table: dict[str, Any]) -> Machine:
        self._keys(
            table, "", ("name", "source", "date", "rank", "level"), ("algorithms", "speeds", "profile")
        )
        rank = self._table(table["rank"], "[rank]")
        self._keys(rank, "[rank]", RANK_KEYS, ("overlap",))
        entries = table["level"]
        if not isinstance(entries, list) or not entries:
            raise self._wrong("needs at least one [[level]], from the inside out")
        levels = tuple(self._level(entry, f"[[level]] {at}") for at, entry in enumerate(entries, 1))
        self._nested(levels)
        profile = self._profile(table)
        return Machine(
            self._text(table, "name", ""),
            self._text(table, "source", ""),
            self._text(table, "date", ""),
            self._number(rank, "flops_per_s", "[rank]"),
            self._number(rank, "touch_s_per_element", "[rank]"),
            self._number(rank, "layer_s", "[rank]", least="zero"),
            int(self._number(rank, "memory_bytes", "[rank]")),
            levels,
            self._algorithms(table.get("algorithms", {})),
            profile,
            self._share(rank, "overlap", "[rank]"),
            self._speeds(table.get("speeds", {})),
            _width(profile),
        )

    def _wrong(self, what: str) -> InputError:
        return InputError(f"machine file {self.path}: {what}")

    def _table(self, value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(f"{where} must be a table of keys and values, it is {value!r}")
        return value

    def _keys(
        self, table: dict[str, Any], where: str, needs: tuple[str, ...], may: tuple[str, ...] = ()
    ) -> None:
        place = f"{where} " if where else ""
        if missing := [key for key in needs if key not in table]:
            raise self._wrong(f"{place}needs the key {missing[0]!r}; all of it: {', '.join(needs)}")
        if unknown := [key for key in table if key not in (*needs, *may)]:
            raise self._wrong(f"{place}has an unknown key {unknown[0]!r}; known: {', '.join((*needs, *may))}")

    def _text(self, table: dict[str, Any], key: str, where: str) -> str:
        value = table[key]
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(f'{where} {key} = {value!r}; write a text in quotes, such as "node"'.lstrip())
        return value

    def _number(self, table: dict[str, Any], key: str, where: str, least: str = "more") -> float:
        value = table[key]
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < 0 or (value == 0 and least == "more"):
            wants = "above zero" if least == "more" else "zero or more"
            raise self._wrong(f"{where} {key} = {value!r}; write a finite number {wants}")
        return float(value)

    def _share(self, table: dict[str, Any], key: str, where: str) -> float:
        share = self._number(table, key, where, least="zero") if key in table else 1.0
        if share > 1:
            raise self._wrong(f"{where} {key} = {share!r}; write a share, 0 to 1")
        return share

    def _count(self, table: dict[str, Any], key: str, where: str) -> int:
        value = table.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._wrong(f"{where} {key} = {value!r}; write a whole number, 0 or more")
        return value

    def _level(self, value: object, where: str) -> Level:
        table = self._table(value, where)
        self._keys(table, where, ("name", "alpha_s", "beta_s_per_byte"), ("ranks", "links"))
        return Level(
            self._text(table, "name", where),
            self._count(table, "ranks", where),
            self._number(table, "alpha_s", where),
            self._number(table, "beta_s_per_byte", where),
            self._count(table, "links", where),
        )

    def _nested(self, levels: tuple[Level, ...]) -> None:
        """Refuse levels that do not hold whole units of the one below."""
        below = 1
        for level in levels:
            place, last = f'level "{level.name}":', level is levels[-1]
            if level.links > below:
                raise self._wrong(
                    f"{place} links = {level.links}, but a unit below it has {below} ranks; use 0 to {below}"
                )
            if last and level.ranks:
                raise self._wrong(
                    f"{place} ranks = {level.ranks}, but the outermost level has no limit; use 0"
                )
            if not last and (level.ranks <= below or level.ranks % below):
                raise self._wrong(
                    f"{place} ranks = {level.ranks}, but it holds whole units of {below} ranks, two or more; "
                    f"use a multiple of {below}"
                )
            below = level.ranks

    def _algorithms(self, value: object) -> dict[str, str]:
        table = self._table(value, "[algorithms]")
        self._keys(table, "[algorithms]", (), COLLECTIVES)
        for key, how in table.items():
            if how not in ALGORITHMS:
                raise self._wrong(f"[algorithms] {key} = {how!r}; use one of {', '.join(ALGORITHMS)}")
        return {**BEST, **table}

    def _speeds(self, value: object) -> dict[str, float]:
        table = self._table(value, "[speeds]")
        self._keys(table, "[speeds]", (), COLLECTIVES)
        return {key: self._number(table, key, "[speeds]") for key in table}

    def _profile(self, table: dict[str, Any]) -> Profile | None:
        if "profile" not in table:
            return None
        # Imported here because few machines have one.
        from gridnn.cost.profile import read_profile

        return read_profile(self.path.parent / self._text(table, "profile", ""))
