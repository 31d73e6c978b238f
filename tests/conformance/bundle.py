"""Bundles: an ordinary configuration, and what a case changes in it."""

import json
from pathlib import Path

from cases import Case

NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")
CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")


def mount(destination: str, kind: str, *options: str) -> dict:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def ordinary(rootfs: Path, program: str, name: str) -> dict:
    """What an engine gives a container of which nobody asked anything."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", program],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": str(rootfs), "readonly": False},
        "hostname": "sandbox",
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": {
            "cgroupsPath": f"/conformance/{name}",
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def put(config: dict, pointer: str, value: object) -> None:
    """Sets the value at a JSON pointer; makes objects and lists on the way."""
    *way, last = pointer.split("/")[1:]
    place = config
    for name, following in zip(way, [*way[1:], last]):
        if isinstance(place, list):
            place = place[int(name)]
        else:
            place = place.setdefault(name, [] if following == "-" else {})
    if last == "-" or isinstance(place, list) and int(last) == len(place):
        place.append(value)
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value


def take_out(config: dict, pointer: str) -> None:
    *way, last = pointer.split("/")[1:]
    place = config
    for name in way:
        place = place[int(name)] if isinstance(place, list) else place[name]
    del place[int(last) if isinstance(place, list) else last]


def expand(value: object, words: dict[str, str]) -> object:
    """Puts in the names that are known only when the case runs: {bundle}, {here}, {rootfs}."""
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace("{" + word + "}", text)
    elif isinstance(value, list):
        return [expand(item, words) for item in value]
    elif isinstance(value, dict):
        return {key: expand(item, words) for key, item in value.items()}
    return value


def write(case: Case, folder: Path, rootfs: Path, name: str) -> None:
    folder.mkdir()
    config = ordinary(rootfs, case.program, name)
    for pointer in case.remove:
        take_out(config, pointer)
    words = {"bundle": str(folder), "rootfs": str(rootfs)}
    for pointer, value in case.config.items():
        put(config, pointer, expand(value, words))
    (folder / "config.json").write_text(json.dumps(config))
