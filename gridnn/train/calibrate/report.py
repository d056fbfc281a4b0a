"""What calibration found: the file it writes, and the lines that say how well the numbers fit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from gridnn.cost.machine import Machine, dumps
from gridnn.cost.profile import Profile, write_profile
from gridnn.errors import InputError
from gridnn.train.calibrate.fit import Fitted, Line, Rate
from gridnn.train.calibrate.links import Message
from gridnn.train.calibrate.overlap import Overlap
from gridnn.train.console import bytes_text, seconds_text


def profile_path(path: Path) -> Path:
    """Return where the profile of a machine file lies: beside it."""
    return path.with_suffix(".profile.json")


def check_target(path: Path, force: bool) -> None:
    """Refuse a file that cannot be written, before minutes are spent on measuring.

    Raises
    ------
    InputError
    """
    if path.suffix != ".toml":
        raise InputError(
            f"-o {path}: a machine file ends in .toml; write, say, -o {path.stem or 'machine'}.toml"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            f"-o {path}: folder {path.parent} is missing or cannot be written to; make it, or name another"
        )
    for made in (path, profile_path(path)):
        if made.exists() and not force:
            raise InputError(f"{made} exists; name another file with -o, or give --force to replace it")


def write_machine(machine: Machine, profile: Profile, path: Path) -> None:
    """Write the profile and then the machine file that names it, each whole or not at all.

    Raises
    ------
    InputError
        If the disk does not take them.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_profile(profile, fresh)
        fresh.replace(profile_path(path))
        fresh.write_text(dumps(machine, profile_path(path).name), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise InputError(f"-o {path}: cannot be written ({error.strerror}); name another file") from None


def link_lines(machine: Machine, lines: Mapping[str, Line], messages: Sequence[Message]) -> list[str]:
    """Return a table of the measured levels, and what they leave out."""
    heads = (
        ("ranks", 6),
        ("alpha", 10),
        ("bandwidth", 14),
        ("links", 7),
        ("R2", 8),
        ("worst", 8),
        ("ping-pong", 11),
    )
    found = [f"{'level':<10}" + "".join(f"{head:>{width}}" for head, width in (*heads, ("mover", 9)))]
    for level in machine.levels:
        line = lines[level.name]
        beside = {
            m.how: m.seconds for m in messages if m.level == level.name and m.nbytes == 8 and m.streams == 1
        }
        found.append(
            f"{level.name:<10}{level.ranks or 'all':>6}{_micro(level.alpha_s):>10}"
            f"{bytes_text(round(1 / level.beta_s_per_byte)) + '/s':>14}{level.links or 'all':>7}{line.r2:>8.3f}"
            f"{100 * line.worst:>6.0f} %{_micro(beside['ping-pong']):>11}{_micro(beside['mover']):>9}"
        )
    return [*found, "mover: a swap of 8 bytes with gridnn's own Python around it, which alpha leaves out"]


def algorithm_lines(fitted: Mapping[str, Fitted]) -> list[str]:
    """Return a table of the collectives: the algorithm, and the error of every formula."""
    names = list(next(iter(fitted.values())).errors)
    heads = "".join(f"{name:>14}" for name in names)
    found = [f"{'collective':<16}{'taken':<14}{'speed':<8}{heads}   (error of each formula)"]
    for kind, fit in fitted.items():
        errors = "".join(f"{100 * fit.errors[name]:>12.0f} %" for name in names)
        found.append(f"{kind:<16}{fit.algorithm:<14}{fit.speed:<8.2f}{errors}")
    return found


def overlap_line(found: Overlap) -> str:
    """Return what was found of sums beside arithmetic."""
    parts = ((found.sums_s, "of sums"), (found.products_s, "of products"), (found.both_s, "for both at once"))
    told = ", ".join(f"{seconds_text(seconds)} {what}" for seconds, what in parts)
    return f"overlap: {100 * found.share:.0f} % of a sum is hidden behind arithmetic ({told})"


def layer_lines(
    product: Rate, touch: Rate, layer_s: float, profile: Profile, errors: Sequence[float]
) -> list[str]:
    """Return a table of the rates, and how well the profile tells a block from its others."""
    wide = f", {profile.element_bytes} bytes" * (profile.element_bytes != 4)
    rows = [
        ("products", f"{1e-9 / product.unit_s:.3g} Gflop/s", product),
        (f"elements{wide}", f"{1e9 * touch.unit_s:.3g} ns each", touch),
    ]
    found = [f"{'rate of a rank':<18}{'':>18}{'typical error':>16}{'worst':>10}"]
    found += [
        f"{name:<18}{text:>18}{100 * rate.typical:>14.0f} %{100 * rate.worst:>8.0f} %"
        for name, text, rate in rows
    ]
    found.append(f"{'a pass at least':<18}{_micro(layer_s):>18}")
    told = f"each told from the others within {100 * median(errors):.0f} % (median), {100 * max(errors):.0f} % (worst)"
    count = (
        f"profile: {len(profile.samples)} blocks of {len(profile.families)} families in {profile.precision}"
    )
    return [*found, f"{count}, {told}" if errors else count]


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:.2f} us" if seconds < 1e-4 else seconds_text(seconds)
