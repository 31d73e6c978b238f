"""What the processes of a sandbox may do, as Markdown tables: look.py VMRUN ROOTFS.

Of each thread what the kernel says of it in /proc, and of each process what it has open.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# include/uapi/linux/capability.h, by their numbers.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
# Names in /proc/PID/limits, and what the table calls them.
LIMITS = {
    "Max core file size": "most of a core file, bytes",
    "Max locked memory": "of locked memory, bytes",
    "Max open files": "of descriptors",
    "Max file size": "of a file, bytes",
}
NAMESPACES = "cgroup ipc mnt net pid user uts".split()

# A thread that runs in the kernel alone, such as KVM's since Linux 6.12 (include/linux/sched.h).
PF_USER_WORKER = 0x4000

# Seconds that something of the sandbox may take to happen.
PATIENCE = 60

# A network namespace with an interface, and what makes it.
NETWORK = "wall"
MADE = (
    f"netns add {NETWORK}",
    f"-n {NETWORK} link add eth0 type dummy",
    f"-n {NETWORK} addr add 192.0.2.2/24 dev eth0",
    f"-n {NETWORK} link set eth0 up",
)


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def start(vmrun: Path, rootfs: Path, place: Path) -> tuple[subprocess.Popen, str]:
    """A sandbox with a volume, a socket, a disk and an interface that has said that it runs, and the directory of its record."""
    bundle, store, volume, disk = (place / name for name in ("bundle", "store", "volume", "disk.img"))
    for directory in bundle, store, volume:
        directory.mkdir(mode=0o700)
    (bundle / "rootfs").symlink_to(rootfs)
    subprocess.run([vmrun, "spec", "--bundle", bundle], check=True, stdin=subprocess.DEVNULL)
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"].update(terminal=False, args=["sh", "-c", "echo up; sleep 1000"])
    config["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(volume), "options": ["rbind"]})
    # Bound is enough: nobody connects to it.
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "socket"))
    config["mounts"].append({"destination": "/run/socket", "type": "bind", "source": str(place / "socket"), "options": ["bind"]})
    disk.touch()
    os.truncate(disk, 8 << 20)
    subprocess.run(["mkfs.ext4", "-qF", disk], check=True, stdin=subprocess.DEVNULL)
    config["mounts"].append({"destination": "/media", "type": "ext4", "source": str(disk)})
    for words in MADE:
        ip(words)
    network = {"type": "network", "path": f"/run/netns/{NETWORK}"}
    others = (namespace for namespace in config["linux"]["namespaces"] if namespace["type"] != "network")
    config["linux"]["namespaces"] = [*others, network]
    path.write_text(json.dumps(config))
    command = [vmrun, "--root", store, "run", "--bundle", bundle, "--cold", "wall"]
    # What is its own then is told from what it has of its caller.
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    sandbox = subprocess.Popen(command, start_new_session=True, **streams)
    assert sandbox.stdout.readline() == b"up\n", "the container does not run"
    return sandbox, str(store / "wall")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in found for word in file.read_text().split()]


def status(path: Path) -> dict[str, str]:
    lines = (path / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def names_of_threads(pid: int) -> list[str]:
    names = []
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        # One may have ended meanwhile.
        with contextlib.suppress(OSError):
            names.append(path.read_text().strip())
    return names


def await_follower(monitor: int) -> None:
    """The thread that follows the namespace is there from the first news on."""
    ip(f"-n {NETWORK} addr add 192.0.2.3/24 dev eth0")
    deadline = time.monotonic() + PATIENCE
    while "network" not in names_of_threads(monitor):
        assert time.monotonic() < deadline, f"timed out after {PATIENCE} s waiting for the monitor's thread `network`"
        time.sleep(0.01)


def capabilities(mask: int, everything: int) -> str:
    if mask == everything:
        return "all"
    return ", ".join(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1) or "none"


def root(path: Path, directory: str) -> str:
    where = os.readlink(path / "root")
    return {"/": "the host's", f"{directory}/share": "the shared tree"}.get(where, where)


def thread(path: Path, directory: str, everything: int) -> list[str]:
    seen = status(path)
    own = [name for name in NAMESPACES if os.readlink(path / "ns" / name) != os.readlink(f"/proc/self/ns/{name}")]
    return [
        "root" if seen["Uid"].split() == ["0"] * 4 else f"uid {seen['Uid'].split()[1]}",
        capabilities(int(seen["CapEff"], 16), everything),
        {"0": "no", "2": "yes"}.get(seen["Seccomp"], seen["Seccomp"]),
        {"0": "no", "1": "yes"}[seen["NoNewPrivs"]],
        root(path, directory),
        ", ".join(own) or "the host's",
    ]


def is_the_kernels(path: Path) -> bool:
    # The fields behind the name, of which the flags are the seventh (proc_pid_stat(5)).
    fields = (path / "stat").read_text().rpartition(")")[2].split()
    return int(fields[6]) & PF_USER_WORKER != 0


def threads(name: str, pid: int, directory: str, everything: int) -> list[str]:
    """A row for each kind of thread: those that are alike in name and all else are one."""
    rows = []
    for path in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        if is_the_kernels(path):
            continue
        called = re.sub(r"\d+$", "", (path / "comm").read_text().strip())
        called = "first" if int(path.name) == pid else f"`{called}`"
        row = " | ".join([name, called, *thread(path, directory, everything)])
        if row not in rows:
            rows.append(row)
    return rows


def descriptors(pid: int, directory: str) -> str:
    kinds = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            where = os.readlink(entry)
        except FileNotFoundError:
            continue
        where = where.replace(directory, "RECORD").removesuffix(" (deleted)")
        where = re.sub(r"^(socket|pipe):.*", r"\1", where)
        where = re.sub(r"^anon_inode:\[?(.*?)\]?(:\d+)?$", r"\1", where)
        where = re.sub(r"^RECORD/share/.*|^/(volumes|rootfs)(/.*)?$", "files of the shared tree", where)
        where = re.sub(r"^/proc/\d+/fd$", "/proc/PID/fd", where)
        kinds.add(re.sub(r"^/tmp/wall\.[^/]*/", "", where))
    return ", ".join(f"`{kind}`" if " " not in kind else kind for kind in sorted(kinds))


def limits(pid: int) -> str:
    """The soft and the hard one of each, or one where they are the same."""
    text = Path(f"/proc/{pid}/limits").read_text()
    rows = (re.search(rf"^{limit}\s+(\S+)\s+(\S+)", text, re.MULTILINE) for limit in LIMITS)
    return " | ".join(row[1] if row[1] == row[2] else f"{row[1]} of {row[2]}" for row in rows)


def main() -> None:
    vmrun, rootfs = Path(sys.argv[1]), Path(sys.argv[2])
    place = Path(tempfile.mkdtemp(prefix="wall."))
    program = Path(shutil.copy2(vmrun, place / "vmrun"))
    everything = int(status(Path("/proc/self"))["CapEff"], 16)
    sandbox = None
    try:
        sandbox, directory = start(program, rootfs, place)
        state = subprocess.run(
            [program, "--root", place / "store", "state", "wall"], check=True, capture_output=True
        )
        monitor = json.loads(state.stdout)["pid"]
        await_follower(monitor)
        (machine,) = children(monitor)
        processes = [("monitor", monitor), ("`vmrun-machine`", machine)]
        print("| process | thread | user | capabilities | seccomp | `no_new_privs` | root directory | namespaces of its own |")
        print("|---|---|---|---|---|---|---|---|")
        for name, pid in processes:
            for row in threads(name, pid, directory, everything):
                print(f"| {row} |")
        print()
        print(f"| process | open | {' | '.join(LIMITS.values())} |")
        print(f"|---|---|{'---|' * len(LIMITS)}")
        for name, pid in processes:
            print(f"| {name} | {descriptors(pid, directory)} | {limits(pid)} |")
    finally:
        subprocess.run([program, "--root", place / "store", "delete", "--force", "wall"], capture_output=True)
        if sandbox is not None:
            sandbox.wait()
            ip(f"netns delete {NETWORK}")
        shutil.rmtree(place)


main()
