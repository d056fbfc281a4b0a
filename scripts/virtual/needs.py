"""What a machine must have for virtual hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


def missing() -> str | None:
    """Return what this machine lacks for a cluster, and what to try; None if nothing."""
    if not sys.platform.startswith("linux"):
        return "virtual hosts are namespaces of Linux; run this on a Linux machine"
    if os.geteuid() != 0:
        return "only root may make network namespaces; try: sudo"
    for tool, package in (("nsenter", "util-linux"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; it is part of {package}"
    if compiler() is None:
        return "the links are a C program, and there is no C compiler (cc, gcc or clang); try: apt-get install gcc"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}; try: modprobe tun (in a container: --device /dev/net/tun)"
    tried = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "mount", "-t", "sysfs", "sysfs", "/sys"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode:
        return f"namespaces are not allowed here ({tried.stderr.strip()}); in a container: --privileged"
    return None


def compiler() -> str | None:
    """Return the C compiler."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
