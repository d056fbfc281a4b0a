"""The links as plain sockets find them, to hold what was configured against.

round trip    8 bytes there and back, many times            2 x delay, and what two kernels and the switch take
one way       a large message, answered by one byte         bytes / (seconds - half a round trip)
both ways     one in each direction at once                 a link is full duplex

Both ends run ahead of what computes, as the switch does: the links are measured, not how busy the machine is.

python3 wire.py serve                     on one host, for one client
python3 wire.py measure ADDRESS BYTES     on another; prints JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import sys
import threading
import time

PORT = 7077
ROUNDS, WARM, REPEATS = 200, 20, 3
_HEAD = 9  # what the client asks for: a letter and a number of bytes


def serve() -> None:
    """Answer one client."""
    with socket.create_server(("", PORT)) as server:
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := _receive(connection, _HEAD):
                nbytes = int.from_bytes(head[1:], "big")
                if head[:1] == b"p":
                    connection.sendall(_receive(connection, nbytes))
                elif head[:1] == b"o":
                    _receive(connection, nbytes)
                    connection.sendall(b"!")
                else:
                    _both(connection, nbytes)


def measure(host: str, nbytes: int) -> dict[str, float]:
    """Return seconds of a round trip, and bytes per second of a large message alone and against another."""
    with socket.create_connection((host, PORT), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips_s = []
        for _ in range(WARM + ROUNDS):
            started_s = time.perf_counter()
            connection.sendall(_head(b"p", 8) + bytes(8))
            _receive(connection, 8)
            trips_s.append(time.perf_counter() - started_s)
        trips_s = trips_s[WARM:]
        one_s, both_s = [], []
        for _ in range(REPEATS):
            started_s = time.perf_counter()
            connection.sendall(_head(b"o", nbytes))
            connection.sendall(bytes(nbytes))
            _receive(connection, 1)
            one_s.append(time.perf_counter() - started_s)
            started_s = time.perf_counter()
            connection.sendall(_head(b"b", nbytes))
            _both(connection, nbytes)
            both_s.append(time.perf_counter() - started_s)
    least_s = min(trips_s)
    return {
        "round_trip_min_s": least_s,
        "round_trip_median_s": statistics.median(trips_s),
        "one_way_bytes_per_s": nbytes / (min(one_s) - least_s),
        "both_ways_bytes_per_s": nbytes / (min(both_s) - least_s / 2),
    }


def _head(letter: bytes, nbytes: int) -> bytes:
    return letter + nbytes.to_bytes(_HEAD - 1, "big")


def _both(connection: socket.socket, nbytes: int) -> None:
    sender = threading.Thread(target=connection.sendall, args=(bytes(nbytes),))
    sender.start()
    _receive(connection, nbytes)
    sender.join()


def _receive(connection: socket.socket, nbytes: int) -> bytes:
    """Return so many bytes, or none if the other end has closed."""
    into = bytearray(nbytes)
    view, at = memoryview(into), 0
    while at < nbytes:
        count = connection.recv_into(view[at:])
        if not count:
            return b""
        at += count
    return bytes(into)


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # not allowed here
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        sys.stdout.write(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
