"""lives.py VMRUN ROOTFS KEPT SECONDS KIND [KERNEL]: the lives, where KVM works. Called by `lives`."""

import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from place import QUIET, Place

# Seconds that one verb may take, and that a killed container may take to stop.
VERB_LIMIT = 60
STOP_LIMIT = 30

PR_SET_CHILD_SUBREAPER = 36

# Every way in which the guest reads from the host: data, programs, directories, links; nothing cached.
BUSY = """
dd if=/dev/zero of=/volume/big bs=64k count=64 2>/dev/null
rounds=0
while :; do
    echo 3 >/proc/sys/vm/drop_caches
    cat /volume/big >/dev/null &
    ls -lR /bin /etc /volume >/dev/null &
    find / -xdev >/dev/null &
    cat /bin/busybox >/dev/null &
    readlink /bin/sh >/dev/null
    wait
    rounds=$((rounds + 1))
    echo $rounds >/volume/rounds
done
"""

# A kernel that looks for its own errors remembers each allocation and what was freed.
MEMORY_TO_DEBUG = "768"

# What the guest's kernel prints when something is wrong with it.
MARKS = ("Kernel panic", "BUG:", "WARNING:", "Oops", "general protection", "unable to handle")


class Lives:
    """The place in which they happen, and what became of them."""

    def __init__(self, vmrun: Path, rootfs: Path, kept: Path, kind: str, kernel: list[str]) -> None:
        # The caches are dropped through a path that is read-only otherwise.
        program, linux = (BUSY, {"readonlyPaths": []}) if kind == "busy" else (QUIET, {})
        self.place = Place(vmrun, rootfs, program, linux)
        self.kept, self.kind = kept, kind
        self.machine = [word for file in kernel for word in ("--kernel", file, "--memory", MEMORY_TO_DEBUG)]
        self.lived = self.died = self.rounds = 0

    def verb(self, *words: str) -> str:
        """What went wrong, if anything did."""
        with tempfile.TemporaryFile(dir=self.place.path) as said:
            try:
                ended = subprocess.run(
                    self.place.command(*words), stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=VERB_LIMIT, check=False
                )
            except subprocess.TimeoutExpired:
                return f"`{words[0]}` did not end in {VERB_LIMIT} s"
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
        return f"`{words[0]}` ended with {ended.returncode}: {text}" if ended.returncode else ""

    def is_stopped(self, name: str) -> bool:
        state = subprocess.run(self.place.command("state", name), capture_output=True, text=True, check=False).stdout
        return not state or json.loads(state)["status"] == "stopped"

    def carry_out(self, name: str) -> str:
        """A life; what went wrong in it, if anything did."""
        create = ("create", *self.machine, "--bundle", str(self.place.bundle), name)
        verbs = [create, ("start", name), ("exec", name, "true")]
        for words in verbs:
            if wrong := self.verb(*words):
                return wrong
        if self.kind == "busy":
            time.sleep(random.uniform(0.5, 8))
            if wrong := self.verb("exec", name, "true"):
                return wrong
        if wrong := self.verb("kill", name, "KILL"):
            return wrong
        deadline = time.monotonic() + STOP_LIMIT
        while not self.is_stopped(name):
            if time.monotonic() > deadline:
                return f"it has not stopped {STOP_LIMIT} s after the kill"
            time.sleep(0.05)
        return ""

    def live(self) -> None:
        self.lived += 1
        name = f"life-{self.lived}"
        wrong = self.carry_out(name)
        log = self.place.store / name / "console.log"
        console = log.read_text(errors="replace") if log.exists() else ""
        if wrong or any(mark in console for mark in MARKS):
            self.died += 1
            kept = self.kept / f"{self.kind}-{int(time.time())}-{name}.log"
            kept.write_text(f"{wrong}\n{console}")
            print(f"{name}: {wrong or 'its kernel complains'}; see {kept}", flush=True)
        self.verb("delete", "--force", name)
        self.count_rounds()
        self.reap()

    def count_rounds(self) -> None:
        counter = self.place.volume / "rounds"
        if counter.exists() and (text := counter.read_text().strip()):
            self.rounds += int(text)
            counter.unlink()

    def reap(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def tell(self, seconds: float) -> None:
        busy = f", {self.rounds} rounds in them" if self.kind == "busy" else ""
        print(f"{self.lived} {self.kind} lives in {seconds:.0f} s{busy}: {self.died} died", flush=True)


def main() -> int:
    vmrun, rootfs, kept = (Path(word) for word in sys.argv[1:4])
    seconds, kind = int(sys.argv[4]), sys.argv[5]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    lives = Lives(vmrun, rootfs, kept, kind, sys.argv[6:])
    begun = time.monotonic()
    while (elapsed := time.monotonic() - begun) < seconds:
        lives.live()
        if lives.lived % 20 == 0:
            lives.tell(elapsed)
    lives.tell(elapsed)
    lives.place.remove()
    return 1 if lives.died else 0


sys.exit(main())
