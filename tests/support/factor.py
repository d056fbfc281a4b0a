"""Every way to write a number of processes as a product over axes."""

from __future__ import annotations

from collections.abc import Iterator


def factorisations(procs: int, axes: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Yield every assignment of sizes to `axes` with product `procs`, the first axis largest first."""
    if not axes:
        if procs == 1:
            yield {}
        return
    for size in range(procs, 0, -1):
        if procs % size == 0:
            for rest in factorisations(procs // size, axes[1:]):
                yield {axes[0]: size, **rest}
