"""Something done behind training: a thread with a result or an error, and words of fixed size to tell others of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.train.checkpoint.save import DivergedError

WORDS_BYTES = 512
"""What a rank tells the others: JSON text, padded."""


class Task:
    """Something done in a thread of its own: its result, or what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._result = work, None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:
            self._error = error

    @property
    def done(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for it."""
        self._thread.join()

    def result(self) -> tuple[Any, Exception | None]:
        """Wait, and return what was made and what was raised."""
        self._thread.join()
        return self._result, self._error


def words_of(result: Any, error: Exception | None) -> NDArray[np.uint8]:
    """Return what a rank tells the others as bytes of fixed size."""
    told: dict[str, Any] = result if isinstance(result, dict) else {}
    if error is not None:
        told = {"error": _cause(error)} | ({"diverged": True} if isinstance(error, DivergedError) else {})
    text = json.dumps(told).encode()
    assert len(text) <= WORDS_BYTES, f"{len(text)} bytes to tell"
    return np.frombuffer(text.ljust(WORDS_BYTES), np.uint8).copy()


def heard(words: NDArray[np.uint8]) -> dict[str, Any]:
    """Return what a rank told."""
    told: dict[str, Any] = json.loads(words.tobytes())
    return told


def _cause(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror or error}"
    elif isinstance(error, DivergedError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    # The end says what happened, the beginning of a path is known.  JSON may write a character as twelve.
    kept = text
    while len(json.dumps(kept)) > WORDS_BYTES - 40:
        kept = "..." + kept[3 + max(1, len(kept) // 16) :]
    return kept
