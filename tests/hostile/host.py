"""A sandbox whose kernel attacks, and the host around it."""

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
# Devices of the host's that the machine's process has open.
DEVICES = ("/dev/null", "/dev/kvm", "/dev/net/tun")
SECRET = b"SECRET-OF-THE-HOST\n"
# What its own files have in them.
NOTHING = b"nothing\n"


class Failure(Exception):
    """What a host must not look like."""


class Changed(Failure):
    """The guest has changed what is not its own."""


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

    def __init__(self, vmrun: Path, rootfs: Path, kernel: Path) -> None:
        namespaces = [{"type": name} for name in ("pid", "ipc", "uts", "mount")]
        namespaces.append({"type": "network", "path": f"/run/netns/{NETWORK}"})
        self.place = Place(vmrun, rootfs, "exit", {"namespaces": namespaces})
        self.kernel = kernel
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
        self.untouched = self.look_outside()

    def _add_mount(self, mount: dict) -> None:
        path = self.place.bundle / "config.json"
        config = json.loads(path.read_text())
        config["mounts"].append(mount)
        path.write_text(json.dumps(config))

    def look_outside(self) -> list:
        """Whatever can be known of the files that are no guest's, but when they were read."""
        found = []
        for path in (self.outside, self.outside / "secret", self.place.bundle, self.place.vmrun, self.kernel, Path("/etc/shadow")):
            seen = path.lstat()
            what = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
            found.append((str(path), *what))
        for path in map(Path, DEVICES):
            seen = path.stat()
            found.append((str(path), seen.st_mode, seen.st_uid, seen.st_gid))
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
        if self.look_outside() != self.untouched:
            raise Changed(f"files of the host's have changed: {self.untouched} is now {self.look_outside()}")
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

    # Whether its guest may change what is not its own, since nothing is there to hold it.
    is_free = False

    def __init__(self, host: Host, kernel: Path, words: str, environment: dict[str, str]) -> None:
        """`words` are the order of what the kernel does, and a script behind it, if that needs one."""
        self.host = host
        order = host.place.path / "order"
        order.write_text(words)
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
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        self.processes: list[int] = []
        self.ended = ""

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
            return self.reason()
        self._check_reached()
        self._check_memory()
        await_that("the host to stand still", lambda: self.has_ended() or self._is_quiet())
        if self.has_ended():
            return self.reason()
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

    def reason(self) -> str:
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


def live(
    host: Host, kernel: Path, order: str, shown: bytes = NOTHING, kind: type[Life] = Life, **environment: str
) -> Life:
    """A whole life, and what of it is checked; `ended` says how it ended."""
    host.prepare(shown)
    for name in "order", "output", "log":
        (host.place.path / name).touch()
    before = look(host.place.path)
    life = kind(host, kernel, order, environment)
    try:
        life.ended = life.carry()
        await_that("what is left to go", lambda: not left_since(host, before))
        if not life.is_free:
            host.check()
        return life
    except Failure as failure:
        left = left_since(host, before)
        raise type(failure)(f"{failure}\nwhat vmrun said: {life.words()}\nwhat is left: {left}") from failure
    finally:
        life.end()
