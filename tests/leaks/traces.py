"""What a container could leave behind on this host, as sets of lines that can be compared."""

import os
from collections import Counter
from pathlib import Path

Traces = Counter


def processes() -> list[tuple[int, list[str]]]:
    """Pids and arguments; a kernel thread's or zombie's name stands in brackets."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            arguments = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
            if arguments:
                found.append((int(name), arguments.rstrip("\0").split("\0")))
            else:
                found.append((int(name), [f"[{Path(f'/proc/{name}/comm').read_text().strip()}]"]))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def processes_with(arguments: list[str]) -> list[int]:
    """Those that have each of these among their arguments."""
    return [pid for pid, line in processes() if all(argument in line for argument in arguments)]


def zombies(parent: int) -> list[int]:
    """Children that have ended and nobody has waited for."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] == "Z" and int(fields[1]) == parent:
            found.append(int(name))
    return found


def look(place: Path) -> Traces:
    """Everything there is now. Equal lines are counted: one more of them is a trace, too."""
    found = Counter()
    for pid, arguments in processes():
        # The kernel's workers come and go; its threads for a virtual machine must not stay.
        name = arguments[0]
        if not name.startswith("[") or name.startswith("[kvm") or is_zombie(pid):
            found[f"process: {' '.join(arguments)}"] += 1
        found.update(open_devices(pid))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        found[f"mount: {line}"] += 1
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        # Flags, type, state and path; counters and addresses change.
        fields = line.split(maxsplit=7)
        found[f"unix socket: {' '.join(fields[3:6] + fields[7:])}"] += 1
    for interface in os.listdir("/sys/class/net"):
        found[f"network interface: {interface}"] += 1
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        found[f"cgroup: {folder}"] += 1
    for top in {Path("/run"), Path("/tmp"), Path("/dev/shm"), place}:
        found.update(files(top, place / "bundle" / "rootfs"))
    return found


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_devices(pid: int) -> list[str]:
    """Its machines and taps, and how many descriptors it holds."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if "kvm" in target or target in ("/dev/net/tun", "/dev/vhost-vsock", "/dev/vhost-net"):
                found.append(f"open device: {target} in process {pid}")
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def files(top: Path, but: Path) -> list[str]:
    found = []
    for folder, folders, names in os.walk(top):
        if Path(folder) == but:
            # The sample's own files; the container's root directory is looked at, no deeper.
            folders.clear()
        found += [f"file: {folder}/{name}" for name in [*folders, *names]]
    return found


def new_since(before: Traces, now: Traces) -> list[str]:
    """What there is more of; and less, for what is missing is no less of a surprise."""
    more = [f"{line} (+{count})" for line, count in (now - before).items()]
    less = [f"{line} (-{count})" for line, count in (before - now).items()]
    return sorted(more + less)
