"""The protocol of the benchmark's workers: one JSON line is asked, one JSON line is answered.

    {"do": "conv", "case": {...}}           ->   {"samples": {...}}          prepare, warm up
    {"do": "time", "least_s": 0.1}          ->   {"seconds": {"forward": 0.012, ...}}
    {"do": "memory"}                        ->   {"bytes": 812345678}
    what fails                              ->   {"error": "ValueError: ..."}

A worker waits in a read, so it takes no core while another one computes.  Of several ranks every one reads the
same lines, rank 0 from its standard input and the others from a pipe or their own input; rank 0 alone answers.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Answer = dict[str, Any]
Verb = Callable[..., Answer]


def serve(verbs: Mapping[str, Verb], commands: Iterable[str], answers: bool = True) -> None:
    """Do what each line of `commands` asks until they end.

    Parameters
    ----------
    verbs
        What can be asked: the name under ``do`` to a function of the line's other entries.
    commands
        Lines of JSON, such as ``sys.stdin``.
    answers
        Whether this process answers: rank 0 does.

    Notes
    -----
    Libraries print where they like, so standard output becomes standard error, and only answers go out.
    A process that fails ends at once after its answer, without finalising anything: other ranks may wait for it in a
    collective for ever, and so would it for them.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in commands:
        asked = json.loads(line)
        try:
            answer = verbs[asked.pop("do")](**asked)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answers:
            out.write(json.dumps(answer) + "\n")
            out.flush()
        if "error" in answer:
            os._exit(1)
