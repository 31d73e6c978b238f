"""inside.py VMRUN ROOTFS ROUNDS KILLS SEED: the rounds, where KVM works. Called by `run`.

Containers are our own grandchildren: we reap what their verbs leave behind, as an engine does.
"""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import probe
import traces
from place import QUIET, Place

# Seconds that one verb may take, and that what is left may take to vanish.
VERB_LIMIT = 40
VANISH_LIMIT = 15

PR_SET_CHILD_SUBREAPER = 36


class Failed(Exception):
    """What was not as promised."""


class GuestDied(Failed):
    """The guest's kernel has panicked by itself."""


class Host:
    """The verbs, carried out in their place."""

    def __init__(self, vmrun: Path, rootfs: Path, linux: dict | None = None, program: str = QUIET) -> None:
        self.place = Place(vmrun, rootfs, program, {"cgroupsPath": "/leaks/container"} | (linux or {}))
        self.bundle = self.place.bundle

    def look(self) -> traces.Traces:
        """What there is now."""
        return traces.look(self.place.path)

    def start(self, *words: str) -> subprocess.Popen:
        """Starts a verb. Its outputs go to a file without a name: what lives on would hold a pipe open."""
        err = tempfile.TemporaryFile(dir=self.place.path)
        process = subprocess.Popen(self.place.command(*words), stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        process.said = err
        process.words = " ".join(words)
        return process

    def end(self, process: subprocess.Popen) -> tuple[int, str]:
        """Waits for a verb: its exit code and all that it said."""
        try:
            code = process.wait(VERB_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed(f"`{process.words}` did not end in {VERB_LIMIT} s") from None
        process.said.seek(0)
        said = process.said.read().decode(errors="replace").strip()
        process.said.close()
        return code, said

    def do(self, *words: str) -> str:
        """A verb that must succeed."""
        code, said = self.end(self.start(*words))
        if code != 0:
            kind = GuestDied if "the guest kernel panicked" in said else Failed
            raise kind(f"`{' '.join(words)}` ended with {code}: {said}")
        return said

    def status(self, name: str) -> str:
        """The container's state, "gone" when there is none."""
        code, said = self.end(self.start("state", name))
        if code == 0:
            return json.loads(said)["status"]
        if "does not exist" in said:
            return "gone"
        raise Failed(f"`state {name}` ended with {code}: {said}")

    def await_status(self, name: str, wanted: str) -> None:
        deadline = time.monotonic() + VANISH_LIMIT
        while (status := self.status(name)) != wanted:
            if time.monotonic() > deadline:
                raise Failed(f"{name} is {status} after {VANISH_LIMIT} s, not {wanted}")
            time.sleep(0.05)


def reap() -> None:
    """Takes in what our grandchildren left to us; a Popen's child is never waited for here."""
    for pid in traces.zombies(os.getpid()):
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def nothing_is_left(before: traces.Traces, host: Host) -> None:
    deadline = time.monotonic() + VANISH_LIMIT
    while True:
        reap()
        left = traces.new_since(before, host.look())
        if not left:
            return
        if time.monotonic() > deadline:
            raise Failed("left behind:\n    " + "\n    ".join(left))
        time.sleep(0.05)


def whole_life(host: Host, name: str) -> dict[str, float]:
    """From create to delete; how long each verb took."""
    took = {}

    def timed(verb: str, *words: str) -> None:
        begun = time.monotonic()
        host.do(verb, *words)
        took[verb] = time.monotonic() - begun

    timed("create", "--bundle", str(host.bundle), name)
    timed("start", name)
    timed("exec", name, "true")
    timed("kill", name, "KILL")
    host.await_status(name, "stopped")
    timed("delete", name)
    return took


def monitor_of(name: str, launcher: subprocess.Popen) -> int | None:
    """The monitor's pid; waits for it as long as the launcher lives."""
    while True:
        for pid in traces.processes_with(["__monitor", name]):
            return pid
        if launcher.poll() is not None:
            return None


def kill_now(pid: int | None) -> None:
    """It may have ended already."""
    try:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def killed_life(host: Host, name: str, moment: str, wait: Callable[[str], float]) -> None:
    """Kills the monitor in the midst of a verb, or between two; what is left must be deletable."""
    create = host.start("create", "--bundle", str(host.bundle), name)
    monitor = monitor_of(name, create)
    if moment == "during create":
        time.sleep(wait("create"))
        kill_now(monitor)
        code, said = host.end(create)
        if code != 0 and (host.status(name) != "gone" or "killed" not in said):
            raise Failed(f"create ended with {code}, the container is {host.status(name)}: {said}")
    else:
        code, said = host.end(create)
        if code != 0:
            raise Failed(f"create ended with {code}: {said}")
        verbs = {
            "before start": [],
            "during start": [("start", name)],
            "while running": [("start", name)],
            "during exec": [("start", name), ("exec", name, "sleep", "1")],
            "during exec --detach": [("start", name), ("exec", "--detach", name, "sleep", "1")],
            "during kill": [("start", name), ("kill", name, "TERM")],
            "during delete": [("start", name), ("delete", "--force", name)],
        }[moment]
        last = None
        if moment.startswith("during"):
            *verbs, last = verbs
        for words in verbs:
            host.do(*words)
        verb = host.start(*last) if last else None
        time.sleep(wait(last[0] if last else "start"))
        # The end of a kill or delete may have been faster.
        if monitor in traces.processes_with(["__monitor", name]):
            kill_now(monitor)
        if verb:
            host.end(verb)
    reap()
    status = host.status(name)
    if status not in ("stopped", "gone"):
        raise Failed(f"the monitor is dead and the container is {status}")
    if status == "stopped":
        host.do("delete", name)
    if host.status(name) != "gone":
        raise Failed(f"the container was deleted and is {host.status(name)}")


MOMENTS = [
    "during create", "during create", "before start", "during start", "while running",
    "during exec", "during exec --detach", "during kill", "during delete", "during delete",
]


def main() -> int:
    vmrun, rootfs = Path(sys.argv[1]), Path(sys.argv[2])
    rounds, kills, seed = (int(word) for word in sys.argv[3:6])
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    host = Host(vmrun, rootfs)
    chance = random.Random(seed)
    # The first one loads modules and fills caches; it also tells how long verbs take here.
    took = whole_life(host, "first")
    reap()
    if unseen := probe.unseen(host.place.path):
        print(f"FAILED: what is left on purpose is not found: {', '.join(sorted(unseen))}", flush=True)
        return 1
    before = host.look()
    print("verbs take " + ", ".join(f"{verb} {seconds:.2f} s" for verb, seconds in took.items()), flush=True)

    failures = deaths = 0
    # Each moment comes equally often, in an order of chance.
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(kills)]
    chance.shuffle(moments)
    plan = [("whole life", number) for number in range(rounds)]
    plan += [(moment, number) for number, moment in enumerate(moments)]
    begun = time.monotonic()
    for done, (moment, number) in enumerate(plan, 1):
        waits = []

        def wait(verb: str) -> float:
            waits.append(chance.uniform(0, 1.2 * took[verb]))
            return waits[-1]

        name = f"{moment.replace(' ', '-').replace('--', '')}-{number}"
        try:
            try:
                if moment == "whole life":
                    whole_life(host, name)
                else:
                    killed_life(host, name, moment, wait)
            except GuestDied as why:
                # That is one more end of a life, of which nothing may be left either.
                deaths += 1
                print(f"the guest died: {name}: {why}", flush=True)
                host.do("delete", "--force", name)
            nothing_is_left(before, host)
        except Failed as why:
            failures += 1
            after = "".join(f", killed after {seconds:.3f} s" for seconds in waits)
            print(f"FAILED: {name}{after}: {why}", flush=True)
            host.end(host.start("delete", "--force", name))
            reap()
            # What is left is told once.
            before = host.look()
        if done % 10 == 0 or done == len(plan):
            elapsed = time.monotonic() - begun
            print(f"{done} of {len(plan)} rounds, {failures} failed, {elapsed:.0f} s", flush=True)
    host.place.remove()
    # An emulated CPU is not quite a real one, see the testbed's README; but not so bad.
    bearable = 1 + len(plan) // 100
    if deaths > bearable:
        print(f"FAILED: {deaths} guests died by themselves, more than {bearable}", flush=True)
    return 1 if failures or deaths > bearable else 0


if __name__ == "__main__":
    sys.exit(main())
