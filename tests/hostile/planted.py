"""The walls behind the first one: a program with holes does what its guest says, and comes to nothing with it.

Three ways to run it (vmm/devices/src/planted.rs):

  walls down   each call is carried out, and seen from outside: so it would be seen if one came through
  told         the filters tell in place of ending the process, so that all calls are tried in one life
  as it is     the process ends by SIGSYS
"""

import contextlib
import itertools
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import calls
from calls import DOORS, NOT_ON_THE_LIST, Call
from host import Changed, Failure, Host, Life, await_that, live

# Rounds of the attack on the file server whose check of names is off.
ROUNDS = 1200
# What ends the process itself, and not just by one list's word.
ENDS = ("openat", "execve", "kill", "socket", "ptrace")
# What lies outside.
SOCKET, PROGRAM = "socket", "program"
EFAULT, EINVAL = 14, 22


class Obeying(Life):
    """One whose console is kept."""

    text = b""

    def printed(self) -> bytes:
        self.text = super().printed() or self.text
        return self.text

    def answers(self) -> list[int]:
        """Of the calls of its script."""
        found = re.findall(rb"hostile: call\r?\n ?([0-9a-f]{16})\r?\n\r?\nhostile: answer\r?\n ?([0-9a-f]{16})", self.text)
        if [int(number, 16) for number, _ in found] != list(range(len(found))):
            raise Failure("the console has lost answers")
        values = (int(answer, 16) for _, answer in found)
        return [value - (1 << 64) if value >> 63 else value for value in values]


class Free(Obeying):
    """One without walls."""

    is_free = True


class Ending(Obeying):
    """One that ends by SIGSYS."""

    def reason(self) -> str:
        words = self.words()
        if "SIGSYS" not in words:
            raise Failure(f"it did not end by SIGSYS: {words}")
        return "SIGSYS"


@dataclass
class Outside:
    """What a call that came through would reach: a process, a socket, a program."""

    host: Host
    victim: subprocess.Popen
    listener: socket.socket
    ran: Path

    def calls(self) -> list[Call]:
        where = self.host.outside
        return [
            *calls.of_files(where),
            *calls.of_processes(self.victim.pid, where / PROGRAM),
            *calls.of_connections(where / SOCKET),
            *calls.of_the_kernel(),
        ]

    def restore(self) -> None:
        """As it was before calls came through."""
        self.ran.unlink()
        self.host.untouched = self.host.look_outside()

    def is_stopped(self) -> bool:
        state = Path(f"/proc/{self.victim.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "Tt"

    def was_reached(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def check(self) -> None:
        """Nothing has come through."""
        if self.victim.poll() is not None or self.is_stopped():
            raise Failure("a process of the host's was signalled")
        if self.was_reached():
            raise Failure("a socket of the host's was connected to")
        if self.ran.exists():
            raise Failure("a program of the host's was started")


@contextlib.contextmanager
def things_outside(host: Host) -> Iterator[Outside]:
    ran, program = host.outside / "ran", host.outside / PROGRAM
    program.write_text(f"#!/bin/sh\n: >{ran}\n")
    program.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener, subprocess.Popen(["sleep", "infinity"]) as victim:
        listener.bind(str(host.outside / SOCKET))
        listener.listen()
        listener.setblocking(False)
        host.untouched = host.look_outside()
        try:
            yield Outside(host, victim, listener, ran)
        finally:
            victim.kill()


def script(lines: list[str]) -> str:
    return "\n".join(["planted 1 1", *lines, ""])


def obey(outside: Outside, kernel: Path, lines: list[str], walls: str) -> list[int]:
    """What each line's call answers."""
    kind = Free if walls == "down" else Obeying
    life = live(outside.host, kernel, script(lines), kind=kind, VMRUN_PLANTED_WALLS=walls)
    answers = life.answers()
    if len(answers) != len(lines):
        raise Failure(f"{len(answers)} of {len(lines)} calls were answered; it ended so: {life.ended}")
    return answers


def by_call(asked: list[tuple[str, Call]], answers: list[int]) -> Iterator[tuple[str, Call, list[int]]]:
    """The answers of each call, at its door."""
    rest = iter(answers)
    for door, call in asked:
        yield door, call, list(itertools.islice(rest, len(call.lines(door))))


def prove_sight(outside: Outside, kernel: Path) -> None:
    """Without the walls the same calls are carried out, and are seen: their arguments are right."""
    try:
        live(outside.host, kernel, "requests 1 40\n", VMRUN_PLANTED_WALLS="down")
    except Changed:
        outside.host.untouched = outside.host.look_outside()
    else:
        raise Failure("names that nobody checks lead nowhere even without walls")
    asked = [("vcpu", call) for call in outside.calls() if call.works]
    answers = obey(outside, kernel, [line for door, call in asked for line in call.lines(door)], "down")
    idle = [call.name for _, call, answered in by_call(asked, answers) if max(answered) < 0]
    if idle:
        raise Failure(f"not even without walls do these calls work: {', '.join(idle)}")
    await_that("a stopped process to be seen", outside.is_stopped)
    outside.victim.send_signal(signal.SIGCONT)
    await_that("it to go on", lambda: not outside.is_stopped())
    if not outside.was_reached():
        raise Failure("a connection is not seen")
    with contextlib.suppress(Failure):
        live(outside.host, kernel, script([f"vcpu 59 {calls.text(outside.host.outside / PROGRAM)} 0 0"]), VMRUN_PLANTED_WALLS="down")
    await_that("a program to be seen", outside.ran.exists)
    outside.restore()


def try_all(outside: Outside, kernel: Path) -> int:
    """All calls at all doors come to nothing; how many there were."""
    asked = [(door, call) for door in DOORS for call in outside.calls()]
    lines = [line for door, call in asked for line in call.lines(door)]
    answers = obey(outside, kernel, lines, "told")
    wrong = [
        f"{call.name} at {door}: {answered if len(answered) == 1 else max(answered)}"
        for door, call, answered in by_call(asked, answers)
        if not is_held(door, call, answered)
    ]
    if wrong:
        raise Failure(f"what should come to nothing did not: {'; '.join(wrong)}")
    return len(lines)


def is_held(door: str, call: Call, answers: list[int]) -> bool:
    """By the list; or where the class needs the call, by what it leads to."""
    if door not in call.needed:
        return all(answer == NOT_ON_THE_LIST for answer in answers)
    # An argument that is no good would prove nothing.
    return all(answer < 0 and answer not in (-EFAULT, -EINVAL) for answer in answers)


def try_ends(outside: Outside, kernel: Path) -> int:
    """One call ends the whole process; how many did."""
    ends = [(door, call) for door in DOORS for call in outside.calls() if call.name in ENDS and door not in call.needed]
    for door, call in ends:
        lines = [f"{door} {calls.GETPID}", *call.lines(door)]
        try:
            ended = live(outside.host, kernel, script(lines), kind=Ending).ended
        except Failure as failure:
            raise Failure(f"{call.name} at {door}: {failure}") from failure
        if ended != "SIGSYS":
            raise Failure(f"{call.name} at {door}: {ended}")
    return len(ends)


def hold(planted: Path, rootfs: Path, kernel: Path) -> None:
    """All of it; fails where a wall does not hold."""
    host = Host(planted, rootfs, kernel)
    try:
        with things_outside(host) as outside:
            prove_sight(outside, kernel)
            live(host, kernel, f"requests 1 {ROUNDS}\n")
            obey(outside, kernel, calls.descriptors_attributes(), "told")
            tried = try_all(outside, kernel)
            ended = try_ends(outside, kernel)
            outside.check()
    finally:
        host.remove()
    print(f"hostile planted    {tried} calls of {len(DOORS)} threads came to nothing; {ended} ended the process", flush=True)
