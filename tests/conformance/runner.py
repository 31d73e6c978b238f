"""runner.py PLACE RESULTS PART/PARTS RUNTIME=PATH... [-- WORD...]: runs the cases, in the testbed.

PLACE holds a root file system for each runtime, PLACE/rootfs-NAME. RESULTS gets a JSON
object, case -> runtime -> true or what was wrong. With WORDs, only the cases with one of
them in their areas or names run. Of those, this is one part of several, each in its boot.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bundle
from cases import HERE, Case, load

# Seconds that one call of a runtime, or one wait, may take; and all steps of a case.
LIMIT = 30
CASE_LIMIT = 90


def steps(case: Case, place: Path, runtime: str, path: str, number: str) -> str | None:
    """Runs the steps; None when they did what they should, else what was wrong."""
    name = f"{runtime}-{number}"
    work = place / name
    work.mkdir()
    bundle.write(case, work / "bundle", place / f"rootfs-{runtime}", name)
    (work / "cwd").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "RUNTIME": path,
        "STATE": str(place / f"state-{runtime}"),
        "LIMIT": str(LIMIT),
        "bundle": str(work / "bundle"),
        "rootfs": str(place / f"rootfs-{runtime}"),
        "id": name,
        "here": str(HERE),
    }
    # A step that fails ends the case: what comes after it would only wait in vain.
    script = f"set -e\n. {HERE}/prelude.sh\n{case.host}\n"
    # Files, not pipes: containers that live on hold their outputs open.
    with open(work / "out", "wb") as out, open(work / "err", "wb") as err:
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=work / "cwd", env=environment,
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
        )
        try:
            code = process.wait(CASE_LIMIT)
        except subprocess.TimeoutExpired:
            code = None
        delete(path, environment["STATE"], name)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    said = (work / "out").read_text(errors="replace").strip()
    complaint = (work / "err").read_text(errors="replace").strip()[-600:]
    if code is None:
        return f"not done after {CASE_LIMIT} s; it said {said!r}; {complaint}"
    if said != case.out.strip():
        return f"said {said!r} with code {code}, not {case.out.strip()!r}; {complaint}"
    return None if code == case.code else f"exit code {code}, not {case.code}; {complaint}"


def tried(case: Case, place: Path, runtime: str, path: str, number: int) -> str | bool:
    """True, or what was wrong. A peer is tried once more: we know of its races only from occasional failures."""
    wrong = steps(case, place, runtime, path, str(number))
    if wrong and runtime != "vmrun" and runtime not in case.why:
        print(f"    {runtime}, which is tried once more: {wrong}", flush=True)
        wrong = steps(case, place, runtime, path, f"{number}-again")
    return wrong or True


def delete(path: str, state: str, name: str) -> None:
    """Whatever became of the container, the next case must not meet it."""
    command = [path, "--root", state, "delete", "--force", name]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        print(f"    {name}: delete --force did not end in {LIMIT} s", flush=True)


def main() -> None:
    place, results = Path(sys.argv[1]), Path(sys.argv[2])
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    part, parts = (int(number) for number in sys.argv[3].split("/"))
    runtimes = dict(word.split("=", 1) for word in sys.argv[4:] if "=" in word and word not in words)
    cases = [case for case in load() if not words or any(word in f"{case.area}: {case.name}" for word in words)]
    found = {}
    for number, case in list(enumerate(cases))[part::parts]:
        before = time.monotonic()
        found[case.name] = {
            runtime: tried(case, place, runtime, path, number) for runtime, path in runtimes.items()
        }
        verdicts = " ".join(f"{name}={'ok' if what is True else 'FAIL'}" for name, what in found[case.name].items())
        print(f"{case.area}: {case.name}: {verdicts} ({time.monotonic() - before:.1f} s)", flush=True)
        for name, what in found[case.name].items():
            if what is not True and name not in case.why:
                print(f"    {name}: {what}", flush=True)
    results.write_text(json.dumps(found))


main()
