"""Leaves one trace of each kind on purpose: a look that misses one would find every life clean."""

import fcntl
import os
import socket
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

import traces

KINDS = {"process", "open device", "mount", "unix socket", "network interface", "cgroup", "file"}

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
IFF_TAP_WITHOUT_HEADER = 0x1002


def unseen(place: Path) -> set[str]:
    """The kinds of traces that are not found; all of them are gone when this returns."""
    before = traces.look(place)
    with ExitStack() as left:
        leave(place, left)
        found = traces.new_since(before, traces.look(place))
    return KINDS - {line.split(":")[0] for line in found}


def leave(place: Path, left: ExitStack) -> None:
    sleeper = left.enter_context(subprocess.Popen(["sleep", "1000"]))
    left.callback(sleeper.kill)

    target = place / "mounted"
    target.mkdir()
    left.callback(target.rmdir)
    subprocess.run(["mount", "-t", "tmpfs", "leak", target], check=True)
    left.callback(subprocess.run, ["umount", target], check=True)

    path = place / "socket"
    left.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
    left.callback(path.unlink)

    # Gone with its descriptor, which is that of an open device.
    tap = left.enter_context(open("/dev/net/tun", "r+b", buffering=0))
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"leak", IFF_TAP_WITHOUT_HEADER))

    cgroup = "/sys/fs/cgroup/leak"
    os.mkdir(cgroup)
    left.callback(os.rmdir, cgroup)
