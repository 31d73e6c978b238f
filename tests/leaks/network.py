"""network.py VMRUN ROOTFS ROUNDS SEED: lives with a network, where KVM works. Called by `network`."""

import ctypes
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import inside
import traces
from inside import Failed, GuestDied, Host, killed_life, nothing_is_left, reap, whole_life

# The sandbox's namespace, and the one at the other end of its cables.
NEAR, FAR = "leaks-near", "leaks-far"
CARDS = ["eth0", "eth1"]

# Each third monitor is killed at one of these moments, in turn.
MOMENTS = ["while running", "during create", "during delete", "before start"]


def said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def remove_namespaces() -> None:
    for namespace in (NEAR, FAR):
        subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL, check=False)


class Networked(Host):
    """Its sandboxes have two network cards. The namespace is there before and after each of them."""

    def __init__(self, vmrun: Path, rootfs: Path) -> None:
        remove_namespaces()
        for namespace in (NEAR, FAR):
            said("ip", "netns", "add", namespace)
        for number, card in enumerate(CARDS):
            said("ip", "-n", NEAR, "link", "add", card, "type", "veth", "peer", "name", card, "netns", FAR)
            said("ip", "-n", NEAR, "addr", "add", f"10.{number}.0.2/24", "dev", card)
            for namespace in (NEAR, FAR):
                said("ip", "-n", namespace, "link", "set", card, "up")
        kinds = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
        network = {"type": "network", "path": f"/run/netns/{NEAR}"}
        super().__init__(vmrun, rootfs, {"namespaces": [*kinds, network]})

    def look(self) -> traces.Traces:
        return super().look() + network_traces()


def network_traces() -> Counter:
    """Interfaces, queues and filters of the namespace, and all namespaces there are."""
    found = Counter(f"interface: {line}" for line in said("ip", "-n", NEAR, "-o", "link").splitlines())
    found.update(f"queue: {line}" for line in said("tc", "-n", NEAR, "qdisc", "show").splitlines())
    for card in CARDS:
        found.update(
            f"filter of {card}: {line}" for line in said("tc", "-n", NEAR, "filter", "show", "dev", card, "ingress").splitlines()
        )
    found.update(f"namespace: {line}" for line in set(said("lsns", "--noheadings", "-t", "net", "-o", "NS").split()))
    return found


def unseen() -> set[str]:
    """The kinds of what a network leaves that are not found though they are there on purpose."""
    before = network_traces()
    said("ip", "-n", NEAR, "tuntap", "add", "mode", "tap", "name", "left")
    said("tc", "-n", NEAR, "qdisc", "add", "dev", CARDS[1], "ingress")
    words = ["matchall", "action", "mirred", "egress", "redirect", "dev", "left"]
    said("tc", "-n", NEAR, "filter", "add", "dev", CARDS[1], "ingress", *words)
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE) as sleeper:
        sleeper.stdout.readline()
        found = traces.new_since(before, network_traces())
        sleeper.kill()
    said("tc", "-n", NEAR, "qdisc", "del", "dev", CARDS[1], "ingress")
    said("ip", "-n", NEAR, "link", "delete", "left")
    kinds = {"interface", "queue", f"filter of {CARDS[1]}", "namespace"}
    return kinds - {line.split(":")[0] for line in found}


# What the host's kernel loads for a sandbox with an interface, and would not find.
MODULES = ["sch_ingress", "cls_matchall"]


def unnamed(host: Host) -> list[str]:
    """The modules of which a start does not say that they are missing. They are not loaded in this boot before."""
    forbidden = Path("/etc/modprobe.d/leaks.conf")
    forbidden.parent.mkdir(exist_ok=True)
    missed = []
    for module in MODULES:
        forbidden.write_text(f"install {module} /bin/false\n")
        code, said = host.end(host.start("run", "--bundle", str(host.bundle), f"without-{module}"))
        if code != 1 or "cannot join eth" not in said or f"modprobe {module}" not in said.replace("-a ", ""):
            missed.append(f"{module}: {code}: {said}")
    forbidden.unlink()
    return missed


def first_life(host: Host) -> dict[str, float]:
    """How long verbs take; and that there are cards in the guest."""
    host.do("run", "--detach", "--bundle", str(host.bundle), "first")
    host.do("exec", "first", "ls", *(f"/sys/class/net/{card}" for card in CARDS))
    host.do("delete", "--force", "first")
    return whole_life(host, "second")


def main() -> int:
    vmrun, rootfs = Path(sys.argv[1]), Path(sys.argv[2])
    rounds, seed = int(sys.argv[3]), int(sys.argv[4])
    ctypes.CDLL(None).prctl(inside.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    host = Networked(vmrun, rootfs)
    try:
        if missed := unnamed(host):
            print(f"FAILED: what the kernel lacks is not told: {missed}", flush=True)
            return 1
        if missed := unseen():
            print(f"FAILED: what is left on purpose is not found: {', '.join(sorted(missed))}", flush=True)
            return 1
        return 0 if live(host, rounds, random.Random(seed)) else 1
    finally:
        host.place.remove()
        remove_namespaces()


def live(host: Host, rounds: int, chance: random.Random) -> bool:
    """Whether all rounds left nothing, and few guests died."""
    took = first_life(host)
    reap()
    before = host.look()

    def wait(verb: str) -> float:
        return chance.uniform(0, 1.2 * took[verb])

    failures = deaths = killed = 0
    begun = time.monotonic()
    for number in range(rounds):
        name = f"round-{number}"
        try:
            try:
                if number % 3 == 1:
                    name = f"{name}-{MOMENTS[killed % len(MOMENTS)].replace(' ', '-')}"
                    killed += 1
                    killed_life(host, name, MOMENTS[(killed - 1) % len(MOMENTS)], wait)
                else:
                    whole_life(host, name)
            except GuestDied as why:
                deaths += 1
                print(f"the guest died: {name}: {why}", flush=True)
                host.do("delete", "--force", name)
            nothing_is_left(before, host)
        except Failed as why:
            failures += 1
            print(f"FAILED: {name}: {why}", flush=True)
            host.end(host.start("delete", "--force", name))
            reap()
            before = host.look()
    print(f"{rounds} rounds, {killed} of them killed, {failures} failed, {time.monotonic() - begun:.0f} s", flush=True)
    if deaths > 1 + rounds // 100:
        print(f"FAILED: {deaths} guests died", flush=True)
        return False
    return not failures


sys.exit(main())
