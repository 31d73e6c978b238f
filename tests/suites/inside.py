"""Runs the suites in each column and compares: inside.py ARCHIVE TOOLS VMRUN DOCUMENT full|sample SEED [SUITE...].

crun's column must be equal to the plain one, and vmrun's too, but for what the document lists. What it lists and does not differ
fails as well, where the case was run.
"""

import sys
import time
from pathlib import Path

import model
from columns import Host
from suites import SUITES, Failed, Results

COLUMNS = ("plain", "crun", "vmrun")


def listed(document: Path) -> set[str]:
    """Cases that are known to differ: the first cell of each row of the table of suites."""
    _, _, table = document.read_text().partition("| suite and case |")
    rows = [line for line in table.splitlines()[2:]]
    cases = set()
    for row in rows:
        if not row.startswith("|"):
            break
        cases.add(row.split("|")[1].strip().strip("`"))
    return cases


def compare(suite: str, columns: dict[str, Results], known: set[str]) -> list[str]:
    """What is wrong with these results."""
    plain = columns["plain"]
    problems = []
    for column in COLUMNS[1:]:
        for case in sorted(plain.keys() | columns[column].keys()):
            name = f"{suite} {case}"
            here, there = plain.get(case, "nothing"), columns[column].get(case, "nothing")
            if here != there and not (column == "vmrun" and name in known):
                problems.append(f"{name}: {there} in {column}, {here} in the directory itself")
            if here == there and column == "vmrun" and name in known:
                problems.append(f"{name}: is listed, and does not differ: {here}")
    return problems


def main() -> int:
    archive, tools, vmrun, document = (Path(word) for word in sys.argv[1:5])
    sample, seed, words = sys.argv[5] == "sample", int(sys.argv[6]), sys.argv[7:]
    host = Host(archive, tools, vmrun)
    known, problems = listed(document), []
    for suite, run in SUITES.items():
        if words and suite not in words:
            continue
        columns = {}
        for column in COLUMNS:
            begun = time.monotonic()
            columns[column] = run(host, column, host.directory(f"{suite}/{column}"), sample, seed)
            print(f"{suite}: {len(columns[column])} cases in {column}, {time.monotonic() - begun:.1f} s", flush=True)
        problems += compare(suite, columns, known)
    if not words or "model" in words:
        problems += model.run(host, 400 if sample else 20000, seed)
    host.remove()
    for problem in problems:
        print(f"FAIL {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(f"FAIL {failed.what}")
