"""Making faulthandler's stacks readable: the frames of the test and of gridnn, and no others."""

from __future__ import annotations

import re

# Paragraphs of threads that only serve the test machinery.
_OUR_THREADS = (" in _listen\n", " in _give_up\n")
_OUR_FILES = r".*/_pytest/|.*/pluggy/|.*/pytest/__main__|.*tests/support/worker\.py|<frozen runpy>"
_OUR_FRAMES = re.compile(rf'^  File "({_OUR_FILES}).*\n?', re.M)


def readable(text: str) -> str:
    """`text`, which may hold stacks, without the frames of pytest and of the test machinery."""
    paragraphs = [each for each in text.split("\n\n") if not any(name in each for name in _OUR_THREADS)]
    return _OUR_FRAMES.sub("", "\n\n".join(paragraphs)).rstrip("\n")
