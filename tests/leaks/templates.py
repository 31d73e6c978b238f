"""templates.py VMRUN ROOTFS LIVES KILLS SEED: starts from templates, where KVM works. Called by `templates`."""

import ctypes
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import inside
import probe
from inside import Failed, GuestDied, Host, kill_now, monitor_of, nothing_is_left, reap

# What a start with --debug tells when its machine does not boot.
RESTORED = "machine restored"
SAID = "lived"

# How one with --debug warns, and how any does.
WARNED = ("level=warning", "vmrun: warning")


class Templated(Host):
    """Its starts have a directory of templates of their own."""

    def __init__(self, vmrun: Path, rootfs: Path) -> None:
        super().__init__(vmrun, rootfs, program=f"echo {SAID}")
        self.templates = self.place.path / "templates"

    def start(self, *words: str) -> subprocess.Popen:
        return super().start("--templates", str(self.templates), *words)

    def live(self, name: str) -> bool:
        """From start to end; whether it was a warm one. Nothing is wrong with any template."""
        said = self.do("run", "--debug", "--bundle", str(self.bundle), name)
        if SAID not in said or any(mark in said for mark in WARNED):
            raise Failed(f"a start has said: {said}")
        return RESTORED in said

    def live_warm(self, name: str) -> None:
        if not self.live(name):
            raise Failed("it has booted")


def kill_publisher(host: Templated, name: str, wait: Callable[[], float]) -> str:
    """Kills who makes the template, the monitor or the machine's process, sooner or later: then there is a whole one, or none."""
    shutil.rmtree(host.templates, ignore_errors=True)
    launcher = host.start("run", "--bundle", str(host.bundle), name)
    monitor = monitor_of(name, launcher)
    time.sleep(wait())
    kill_now(victim(monitor) if monitor else None)
    host.end(launcher)
    reap()
    if host.status(name) != "gone":
        host.do("delete", "--force", name)
    published = host.live(f"{name}-next")
    host.live_warm(f"{name}-then")
    if left := [entry for entry in os.listdir(host.templates) if entry.startswith(".")]:
        raise Failed(f"beside the template are {left}")
    return "killed, with a whole template" if published else "killed, without a template"


def victim(monitor: int) -> int:
    """The monitor, or every other time its first child, which is the machine's process and writes the pages."""
    try:
        children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        children = []
    return int(children[0]) if children and monitor % 2 else monitor


def plan(host: Templated, lives: int, kills: int, wait: Callable[[], float]) -> Iterator[tuple[str, Callable[[str], object]]]:
    for number in range(lives):
        yield f"life-{number}", host.live_warm
    for number in range(kills):
        yield f"kill-{number}", lambda name: kill_publisher(host, name, wait)


def first_lives(host: Templated) -> float:
    """Makes the template and the record of which pages a start writes; gives how long the cold one took."""
    begun = time.monotonic()
    if host.live("first"):
        raise Failed("a start without a template was a warm one")
    cold = time.monotonic() - begun
    host.live_warm("second")
    reap()
    return cold


def carry_out(host: Templated, rounds: list[tuple[str, Callable[[str], object]]]) -> tuple[Counter, int]:
    """How often each outcome came, and how many rounds failed."""
    outcomes, failures, before, begun = Counter(), 0, host.look(), time.monotonic()
    for done, (name, live) in enumerate(rounds, 1):
        try:
            outcomes[live(name) or "warm"] += 1
            nothing_is_left(before, host)
        except GuestDied as why:
            outcomes["dead"] += 1
            print(f"the guest died: {name}: {why}", flush=True)
        except Failed as why:
            failures += 1
            print(f"FAILED: {name}: {why}", flush=True)
            reap()
            # What is left is told once.
            before = host.look()
        if done % 50 == 0 or done == len(rounds):
            print(f"{done} of {len(rounds)} rounds, {failures} failed, {time.monotonic() - begun:.0f} s", flush=True)
    return outcomes, failures


def main() -> int:
    vmrun, rootfs = Path(sys.argv[1]), Path(sys.argv[2])
    lives, kills, seed = (int(word) for word in sys.argv[3:6])
    ctypes.CDLL(None).prctl(inside.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    host = Templated(vmrun, rootfs)
    chance = random.Random(seed)
    cold = first_lives(host)
    if unseen := probe.unseen(host.place.path):
        print(f"FAILED: what is left on purpose is not found: {', '.join(sorted(unseen))}", flush=True)
        return 1
    outcomes, failures = carry_out(host, list(plan(host, lives, kills, lambda: chance.uniform(0, 1.1 * cold))))
    host.place.remove()
    print(", ".join(f"{count} times: {outcome}" for outcome, count in outcomes.items()), flush=True)
    # As many as are borne in the other rounds: an emulated CPU is not quite a real one.
    return 1 if failures or outcomes["dead"] > 1 + (lives + kills) // 100 else 0


sys.exit(main())
