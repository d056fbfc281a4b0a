"""Settings of a study: the job where alpha, beta, batch, image or processes have other values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gridnn.analysis.parts import scaled
from gridnn.analysis.study import Study
from gridnn.errors import InputError
from gridnn.network.graph import INPUT, Network
from gridnn.network.source import Source, open_network
from gridnn.plan.job import Job

LABELS = {
    "alpha": "alpha, times the machine's",
    "beta": "beta, times the machine's",
    "batch": "batch",
    "image": "image, pixels",
    "procs": "processes",
}
"""What may be varied, and how it is called on an axis."""
SHORT = {**LABELS, "alpha": "alpha x", "beta": "beta x", "image": "image"}
"""The same at the head of a column."""
OVER = tuple(LABELS)
MACHINE = ("alpha", "beta")
"""Those that change the machine only."""
FACTORS = tuple(2.0**power for power in range(-4, 5))
IMAGE_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
MOST = 10_000_000


def values_of(
    study: Study, procs: int, over: str, values: Sequence[float] | None, source: Source | str | None,
    factors: Sequence[float] = FACTORS,
) -> tuple[float, tuple[float, ...]]:  # fmt: skip
    """Return the study's value of a quantity, and those asked for, ascending, or a series around it.

    Raises
    ------
    InputError
        If the quantity is not known, a value cannot be, or images cannot be varied.
    """
    if over not in OVER:
        raise InputError(f'"{over}" cannot be varied; use one of {", ".join(OVER)}')
    usual = {"alpha": 1.0, "beta": 1.0, "batch": study.batch, "procs": procs}.get(over, 0.0)
    if over == "image":
        usual = float(_image(study.network)[1])
        _source(study, source)
    if values is None:
        return usual, _series(study, over, usual, source, factors)
    found = tuple(sorted(set(map(float, values))))
    if not found:
        raise InputError(f"no values of {over} are given; give some, such as 1, 2, 4")
    for value in found:
        if not (math.isfinite(value) and 0 < value <= MOST):
            raise InputError(f"{over} {value:g}: give numbers above 0 and up to {MOST:,}")
        if over not in MACHINE and value != int(value):
            raise InputError(f"{over} {value:g}: give whole numbers")
    return usual, found


def title_of(study: Study, procs: int, *varied: str) -> str:
    """Return what is studied: the network, the machine, and what is not varied."""
    fixed = {"procs": f"P = {procs}", "batch": f"batch {study.batch}"}
    rest = [text for over, text in fixed.items() if over not in varied]
    return ", ".join([f"{study.network.name} on {study.machine.name}", *rest])


def job_at(study: Study, procs: int, at: Mapping[str, float], source: Source | str | None = None) -> Job:
    """Return the job with some quantities at other values.

    Raises
    ------
    InputError
        If there is no such job: a batch that passes do not split, an image the network cannot read.
    """
    machine = scaled(study.machine, at.get("alpha", 1.0), at.get("beta", 1.0))
    found = study.on(machine).job(int(at.get("procs", procs)), int(at.get("batch", study.batch)))
    if "image" not in at or int(at["image"]) == _image(study.network)[1]:
        return found
    return replace(
        found, network=resized(_source(study, source), study.network.shapes[INPUT], int(at["image"]))
    )


def resized(source: Source, shape: tuple[int, ...], pixels: int) -> Network:
    """Return the network for images whose first space extent is `pixels`, the others in proportion."""
    extents = tuple(max(1, round(extent * pixels / shape[1])) for extent in shape[1:])
    return open_network(replace(source, input_shape=(shape[0], *extents)))


def _source(study: Study, source: Source | str | None) -> Source:
    if source is None:
        raise InputError(
            f"network {study.network.name} is given as it is: to vary the image, say where it comes from, such as "
            'source="alexnet"'
        )
    return Source(source) if isinstance(source, str) else source


def _image(network: Network) -> tuple[int, ...]:
    shape = network.shapes[INPUT]
    if len(shape) < 3:
        raise InputError(
            f"network {network.name} reads {shape}, no image of height and width; vary alpha, beta, batch or procs"
        )
    return shape


def _series(
    study: Study, over: str, usual: float, source: Source | str | None, factors: Sequence[float]
) -> tuple[float, ...]:
    if over in MACHINE:
        return tuple(factors)
    if over != "image":
        grain = study.passes if over == "batch" else 1
        whole = {f * usual for f in factors if (f * usual / grain).is_integer() and f * usual <= MOST}
        return tuple(sorted(whole))
    found = []
    for pixels in (round(f * usual) for f in IMAGE_FACTORS):
        try:
            resized(_source(study, source), study.network.shapes[INPUT], pixels)
        except InputError:  # too small for its windows, or a file for one size
            if pixels == usual:
                found.append(float(pixels))
            continue
        found.append(float(pixels))
    return tuple(found)
