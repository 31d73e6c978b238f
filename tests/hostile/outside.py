"""What a hostile guest does to its host, seen from outside: outside.py VMRUN PLANTED ROOTFS KERNEL SECONDS SEED [CASE...].

A life is one sandbox whose kernel attacks (tests/hostile/guest), until it says that it is done and stands still, or vmrun has ended the
machine with a reason. Of each life is asked:

  nothing has changed   no process, mount, socket, cgroup, interface, open device or file is left; files next to the bundle are as they were
  nothing was told      no reply shows the guest what lies in them
  nothing grows         memory of both processes, the console's log
  nothing spins         a host whose guest stands still stands still, too
  it can be ended       `state` answers under attack, and `delete --force` ends it
"""

import sys
import time
from pathlib import Path

import planted
from host import SECRET, Failure, Host, Leak, live

# Rounds of each attack: a second or two of an emulated processor's. Seeds are many, so none need be long.
CASES = {
    "registers": 8000,
    "queues": 200,
    "chains": 60,
    "requests": 1200,
    "packets": 700,
    "agent": 200,
    "balloon": 200,
    "disk": 400,
    "frames": 300,
    "ports": 8000,
    "addresses": 4000,
    "console": 20,
}


# The case of a program with holes in its first wall, which takes the time that it takes.
PLANTED = "planted"


def order(case: str, seed: int) -> str:
    return f"{case} {seed} {CASES[case]}\n"


def prove_sight(host: Host, kernel: Path, seed: int) -> None:
    """A secret that lies where the guest may read it is found, so one that it finds elsewhere would be."""
    try:
        live(host, kernel, order("requests", seed), SECRET)
    except Leak:
        return
    raise SystemExit("hostile: the attack finds no secret that it may read: it would find none that it may not")


def attack(host: Host, kernel: Path, case: str, seed: int, seconds: float) -> bool:
    """Lives for so long, one at least; whether the host held."""
    ends: dict[str, int] = {}
    deadline = time.monotonic() + seconds
    while not ends or time.monotonic() < deadline:
        try:
            ended = live(host, kernel, order(case, seed)).ended
        except Failure as failure:
            print(f"hostile {case:10} FAILED with seed {seed}: {failure}", flush=True)
            return False
        ends[ended] = ends.get(ended, 0) + 1
        seed += 1
    print(f"hostile {case:10} {sum(ends.values())} lives, the last seed {seed - 1}", flush=True)
    for ended, count in sorted(ends.items()):
        print(f"    {count:4} {ended}", flush=True)
    return True


def attack_all(host: Host, kernel: Path, cases: list[str], seed: int, seconds: float) -> list[bool]:
    try:
        prove_sight(host, kernel, seed)
        return [attack(host, kernel, case, seed, seconds / len(cases)) for case in cases]
    finally:
        host.remove()


def try_holes(program: Path, rootfs: Path, kernel: Path) -> bool:
    try:
        planted.hold(program, rootfs, kernel)
    except Failure as failure:
        print(f"hostile {PLANTED:10} FAILED: {failure}", flush=True)
        return False
    return True


def main() -> None:
    vmrun, with_holes, rootfs, kernel = map(Path, sys.argv[1:5])
    seconds, seed = map(int, sys.argv[5:7])
    known = [*CASES, PLANTED]
    cases = sys.argv[7:] or known
    unknown = [case for case in cases if case not in known]
    if unknown:
        sys.exit(f"there is no case {unknown[0]}; there are: {' '.join(known)}")
    attacks = [case for case in cases if case != PLANTED]
    held = attack_all(Host(vmrun, rootfs, kernel), kernel, attacks, seed, seconds) if attacks else []
    if PLANTED in cases:
        held.append(try_holes(with_holes, rootfs, kernel))
    print(f"hostile: {sum(held)} of {len(held)} cases held", flush=True)
    sys.exit(0 if all(held) else 1)


main()
