"""What a hostile guest does to its host, seen from outside: outside.py VMRUN ROOTFS KERNEL SECONDS SEED [CASE...].

A life is one sandbox whose kernel attacks (tests/hostile/guest), until it says that it is done and stands still, or vmrun has ended the
machine with a reason. Of each life is asked:

  nothing has changed   no process, mount, socket, cgroup, interface, open device or file is left; files next to the bundle are as they were
  nothing was told      no reply shows the guest what lies in them
  nothing grows         memory of both processes, the console's log
  nothing spins         a host whose guest stands still stands still, too
  it can be ended       `state` answers under attack, and `delete --force` ends it
"""

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "leaks"))
from place import Place
from traces import Traces, look, new_since

# Rounds of each attack: a second or two of an emulated processor's. Seeds are many, so none need be long.
CASES = {
    "registers": 8000,
    "queues": 200,
    "chains": 60,
    "requests": 1200,
    "packets": 700,
    "agent": 200,
    "disk": 400,
    "frames": 300,
    "ports": 8000,
    "addresses": 4000,
    "console": 20,
}

# How the message of a machine begins that was ended for what its guest did.
REASONS = re.compile(r"virtio-\w+: |the guest |the agent|KVM ")
# What no guest may bring about.
FAULTS = re.compile(r"panicked|SIGSYS|SIGSEGV|SIGABRT|killed by signal|bug", re.IGNORECASE)

GUEST_MIB = 64
# Most memory of the machine's process beside the guest's, and of the monitor's.
MACHINE_KIB, MONITOR_KIB = 24 << 10, 24 << 10
CONSOLE_BYTES = (4 << 20) + (64 << 10)
# A host that stands still: so many ticks of a hundredth of a second at most, in this time.
QUIET_TICKS, QUIET_SECONDS = 5, 0.5
# Seconds that anything may take.
PATIENCE = 90

NAME = "hostile"
NETWORK = "hostile"
SECRET = b"SECRET-OF-THE-HOST\n"


class Failure(Exception):
    """What a host must not look like."""


class Leak(Failure):
    """The guest has seen what it should not."""


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL)


def await_that(what: str, is_so) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise Failure(f"timed out after {PATIENCE} s waiting for {what}")
        time.sleep(0.02)


class Host:
    """Where the sandboxes are, and what lies beside them that is not theirs."""

    def __init__(self, vmrun: Path, rootfs: Path) -> None:
        namespaces = [{"type": name} for name in ("pid", "ipc", "uts", "mount")]
        namespaces.append({"type": "network", "path": f"/run/netns/{NETWORK}"})
        self.place = Place(vmrun, rootfs, "exit", {"namespaces": namespaces})
        self.outside = self.place.path / "outside"
        self.outside.mkdir(mode=0o700)
        (self.outside / "secret").write_bytes(SECRET)
        self.rootfs = self.place.bundle / "rootfs"
        disk = self.place.path / "disk.img"
        disk.touch()
        os.truncate(disk, 8 << 20)
        run("mkfs.ext4", "-qF", disk)
        self._add_mount({"destination": "/media", "type": "ext4", "source": str(disk)})
        run("ip", "netns", "add", NETWORK)
        for words in (
            "link add eth0 type dummy",
            "addr add 192.0.2.2/24 dev eth0",
            "link set eth0 up",
        ):
            run("ip", "-n", NETWORK, *words.split())
        self.untouched = self._look_outside()

    def _add_mount(self, mount: dict) -> None:
        path = self.place.bundle / "config.json"
        config = json.loads(path.read_text())
        config["mounts"].append(mount)
        path.write_text(json.dumps(config))

    def _look_outside(self) -> list:
        """Whatever can be known of the files that are no guest's, but when they were read."""
        found = []
        for path in (self.outside, self.outside / "secret", self.place.bundle, self.place.vmrun, Path("/etc/shadow")):
            seen = path.lstat()
            what = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            found.append((str(path), *what))
        found.append((self.outside / "secret").read_bytes())
        return found

    def prepare(self, shown: bytes) -> None:
        """The same root file system for each life, so that a seed does the same; `shown` is what its guest may read."""
        for path in self.rootfs.iterdir():
            run("rm", "-rf", path)
        for name in "bin", "etc":
            (self.rootfs / name).mkdir()
            (self.rootfs / name / "new").write_bytes(shown)
        for name in "new", "newer", "user.x":
            (self.rootfs / name).write_bytes(shown)
        (self.rootfs / "escape").symlink_to(self.outside)

    def check(self) -> None:
        if self._look_outside() != self.untouched:
            raise Failure(f"files of the host's have changed: {self.untouched} is now {self._look_outside()}")
        for top in self.rootfs, self.place.volume:
            for folder, _, names in os.walk(top):
                for name in names:
                    mode = (Path(folder) / name).lstat().st_mode
                    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                        raise Failure(f"a device has been made: {folder}/{name}")

    def remove(self) -> None:
        run("ip", "netns", "delete", NETWORK)
        self.place.remove()


class Life:
    """One sandbox under attack from within."""

    def __init__(self, host: Host, kernel: Path, case: str, seed: int) -> None:
        self.host = host
        order = host.place.path / "order"
        order.write_text(f"{case} {seed} {CASES[case]}\n")
        self.console = host.place.store / NAME / "console.log"
        # What the guest sends as its program's output is its own; what vmrun says is not.
        self.output = open(host.place.path / "output", "wb")
        self.log = host.place.path / "log"
        self.log.write_bytes(b"")
        options = ["--cold", "--vcpus", "1", "--memory", str(GUEST_MIB), "--kernel", str(kernel), "--initramfs", str(order)]
        command = host.place.command(
            "run", "--log", str(self.log), "--log-format", "json", "--bundle", str(host.place.bundle), *options, NAME
        )
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, start_new_session=True
        )
        self.processes: list[int] = []

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def printed(self) -> bytes:
        try:
            size = self.console.stat().st_size
            if size > CONSOLE_BYTES:
                raise Failure(f"the console's log has {size} bytes")
            return self.console.read_bytes()
        except FileNotFoundError:
            return b""

    def has_printed(self, *words: bytes) -> bool:
        text = self.printed()
        told = re.search(rb"hostile: (LEAK|FAULT).*\n.*", text)
        if told:
            raise (Leak if told[1] == b"LEAK" else Failure)(told[0].decode(errors="replace"))
        return any(word in text for word in words)

    def carry(self) -> str:
        """How it ended."""
        await_that("the attack to begin", lambda: self.has_ended() or self.has_printed(b"hostile: begins"))
        if not self.has_ended():
            self._find()
        # A console that is full does not show the last words.
        ends = (b"hostile: done", b"the guest has printed 4 MiB")
        await_that("the attack's end", lambda: self.has_ended() or self.has_printed(*ends))
        if self.has_ended():
            return self._reason()
        self._check_reached()
        self._check_memory()
        await_that("the host to stand still", lambda: self.has_ended() or self._is_quiet())
        if self.has_ended():
            return self._reason()
        self.delete()
        return "lived"

    def _find(self) -> None:
        """Its processes; `state` must tell them under attack."""
        asked = self.host.place.command("state", NAME)
        answer = subprocess.run(asked, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
        if answer.returncode != 0:
            await_that("the end of a sandbox that `state` does not find", self.has_ended)
            return
        monitor = json.loads(answer.stdout)["pid"]
        if monitor == 0:
            return
        found = Path(f"/proc/{monitor}/task").glob("*/children")
        try:
            self.processes = [monitor, *(int(word) for file in found for word in file.read_text().split())]
        except (FileNotFoundError, ProcessLookupError):
            await_that("the end of a sandbox without a process", self.has_ended)

    def _check_reached(self) -> None:
        """An attack that counts what its device did for it has come to something."""
        counted = re.search(rb"hostile: reached\r?\n ?([0-9a-f]{16})", self.printed())
        if counted is not None and int(counted[1], 16) == 0:
            raise Failure("the device did nothing of what it was asked")

    def _check_memory(self) -> None:
        for pid, most in zip(self.processes, (MONITOR_KIB, (GUEST_MIB << 10) + MACHINE_KIB)):
            try:
                seen = Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            peak = re.search(r"^VmHWM:\s+(\d+) kB", seen, re.MULTILINE)
            if peak is not None and int(peak[1]) > most:
                raise Failure(f"process {pid} has had {peak[1]} KiB, which is more than {most}")

    def _is_quiet(self) -> bool:
        before = self._ticks()
        time.sleep(QUIET_SECONDS)
        return self._ticks() - before <= QUIET_TICKS

    def _ticks(self) -> int:
        """Hundredths of a second that its processes have run."""
        total = 0
        for pid in self.processes:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            total += int(fields[11]) + int(fields[12])
        return total

    def delete(self) -> None:
        asked = self.host.place.command("delete", "--force", NAME)
        answer = subprocess.run(asked, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
        if answer.returncode != 0:
            raise Failure(f"`delete --force` failed: {answer.stderr.decode(errors='replace')}")
        await_that("the end of what was deleted", self.has_ended)

    def words(self) -> str:
        """What vmrun has told of it, a message a line."""
        lines = self.log.read_text().splitlines()
        return "\n".join(json.loads(line)["msg"] for line in lines)

    def _reason(self) -> str:
        words = self.words()
        first = words.strip().partition("\n")[0]
        if self.process.returncode != 1 or FAULTS.search(words) or not REASONS.search(words):
            raise Failure(f"it ended with {self.process.returncode} and no good reason: {words}")
        if "\x1b" in words:
            raise Failure(f"a control character of the guest's was shown: {words!r}")
        return first

    def end(self) -> None:
        """Whatever became of it."""
        if not self.has_ended():
            self.process.kill()
            self.process.wait()
        subprocess.run(
            self.host.place.command("delete", "--force", NAME), capture_output=True, stdin=subprocess.DEVNULL
        )
        self.output.close()


def left_since(host: Host, before: Traces) -> list[str]:
    """What a sandbox has left, but for what its guest made of its own root file system."""
    own = f"file: {host.rootfs}/"
    return [line for line in new_since(before, look(host.place.path)) if not line.startswith(own)]


def live(host: Host, kernel: Path, case: str, seed: int, shown: bytes = b"nothing\n") -> str:
    host.prepare(shown)
    for name in "order", "output", "log":
        (host.place.path / name).touch()
    before = look(host.place.path)
    life = Life(host, kernel, case, seed)
    try:
        ended = life.carry()
        await_that("what is left to go", lambda: not left_since(host, before))
        host.check()
        return ended
    except Failure as failure:
        left = left_since(host, before)
        raise type(failure)(f"{failure}\nwhat vmrun said: {life.words()}\nwhat is left: {left}") from failure
    finally:
        life.end()


def prove_sight(host: Host, kernel: Path, seed: int) -> None:
    """A secret that lies where the guest may read it is found, so one that it finds elsewhere would be."""
    try:
        live(host, kernel, "requests", seed, SECRET)
    except Leak:
        return
    raise SystemExit("hostile: the attack finds no secret that it may read: it would find none that it may not")


def attack(host: Host, kernel: Path, case: str, seed: int, seconds: float) -> bool:
    """Lives for so long, one at least; whether the host held."""
    ends: dict[str, int] = {}
    deadline = time.monotonic() + seconds
    while not ends or time.monotonic() < deadline:
        try:
            ended = live(host, kernel, case, seed)
        except Failure as failure:
            print(f"hostile {case:10} FAILED with seed {seed}: {failure}", flush=True)
            return False
        ends[ended] = ends.get(ended, 0) + 1
        seed += 1
    print(f"hostile {case:10} {sum(ends.values())} lives, the last seed {seed - 1}", flush=True)
    for ended, count in sorted(ends.items()):
        print(f"    {count:4} {ended}", flush=True)
    return True


def main() -> None:
    vmrun, rootfs, kernel = map(Path, sys.argv[1:4])
    seconds, seed = map(int, sys.argv[4:6])
    cases = sys.argv[6:] or list(CASES)
    unknown = [case for case in cases if case not in CASES]
    if unknown:
        sys.exit(f"there is no case {unknown[0]}; there are: {' '.join(CASES)}")
    host = Host(vmrun, rootfs)
    try:
        prove_sight(host, kernel, seed)
        held = [attack(host, kernel, case, seed, seconds / len(cases)) for case in cases]
    finally:
        host.remove()
    print(f"hostile: {sum(held)} of {len(held)} cases held", flush=True)
    sys.exit(0 if all(held) else 1)


main()
