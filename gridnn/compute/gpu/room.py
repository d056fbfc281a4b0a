"""The memory of a device, as far as it is a rank's: how much there is, a limit, and the error where it ends.

|<----------------------- total, of all who use the device ----------------------->|
|<------- limit of this rank ------->|          other ranks, other programs        |
|  arrays in use  |   asked for ...........|  no room: `MemoryShortError`
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from gridnn.errors import RunError


class Room(NamedTuple):
    """The memory of a device, as far as it is a rank's.

    Parameters
    ----------
    identity : str
        Of the device, the same in all processes of its host; "" where nobody asked.
    total_bytes : int
        All that it has, 0 where nobody asked.
    limit_bytes : int or None
        What this rank's arrays may take; None is all there is.
    """

    identity: str = ""
    total_bytes: int = 0
    limit_bytes: int | None = None


class MemoryShortError(RunError):
    """A device has no room for an array.

    Parameters
    ----------
    message
        For people.
    asked_bytes, used_bytes
        Of the array, and of this rank's arrays before it; 0 where only the words of another rank are known.
    room
        The memory of the device.
    device
        Its name.
    """

    def __init__(
        self, message: str, asked_bytes: int = 0, used_bytes: int = 0, room: Room | None = None, device: str = ""
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.asked_bytes, self.used_bytes, self.room, self.device = (
            asked_bytes,
            used_bytes,
            room or Room(),
            device,
        )


def no_room(asked_bytes: int, used_bytes: int, room: Room, device: str) -> MemoryShortError:
    """Return what a device raises that has no room for so many bytes."""
    limit = room.limit_bytes
    most = f"{room.total_bytes:,} of the device" if limit is None else f"its limit of {limit:,}"
    words = f"{device}: no memory for {asked_bytes:,} bytes; this rank's arrays have {used_bytes:,} bytes, of {most}"
    return MemoryShortError(words, asked_bytes, used_bytes, room, device)


def limit_of(limit: float | None, total_bytes: int) -> int | None:
    """Return a limit in bytes: a share of all there is up to 1, bytes above, and never more than there is."""
    if limit is None:
        return None
    return int(limit * total_bytes) if limit <= 1 else min(int(limit), total_bytes)


def free_bytes(load: Callable[[str], Any] = import_module) -> int | None:
    """Return what nobody has now of the device that the calling thread uses; None where CuPy cannot tell.

    What CuPy's pool keeps for later counts as taken; when it finds no room it has given that back.

    Parameters
    ----------
    load
        Imports a module.
    """
    try:
        free, _ = load("cupy").cuda.runtime.memGetInfo()
    except Exception:  # no CuPy, or its own classes, which cannot be named without it
        return None
    return int(free)
