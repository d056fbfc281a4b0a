"""The line between pytest and one rank: one JSON object a line over a local socket.

pytest -> rank   {"job": [pytest arguments]}   once
                 {"run": node id, "next": node id or null}
                 {"quit": true}
rank -> pytest   {"hello": rank, "pid": pid}   {"ready": true, "errors": text}
                 {"report": pytest's report as a dict}   {"done": node id}
"""

from __future__ import annotations

import json
import socket
from typing import Any

Message = dict[str, Any]


class Link:
    """One end of the line.

    Parameters
    ----------
    sock : socket.socket
        A connected stream socket; the link closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def fileno(self) -> int:
        """The descriptor, so that a selector can wait on the link."""
        return self._sock.fileno()

    def send(self, message: Message) -> None:
        """Send one message; raises OSError when the other end is gone."""
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """Wait for bytes and return the messages they complete, or None when the other end is gone."""
        try:
            data = self._sock.recv(1 << 16)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
