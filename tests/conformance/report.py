"""report.py DOCUMENT [--update] RESULTS...: judges the results and holds the document to them.

Fails when vmrun fails what crun and runc pass and the case gives no reason; when a reason
is given for a case that passes; when a peer fails without a reason; when DOCUMENT is not
what these results make. With --update it writes DOCUMENT.
"""

import json
import sys
from pathlib import Path

from cases import RUNTIMES, Case, load

HEAD = """# Conformance

What the OCI runtime specification and runc's command line promise, tried on three runtimes in one run. This page is made by
`tests/conformance/run --update` and checked by `make conformance`. The cases are the tables in
[tests/conformance/cases](../tests/conformance/cases); their form is at the top of `tests/conformance/cases.py`.

"""


def first_words(text: str) -> str:
    """One line: the runner has shown the rest."""
    return " ".join(text.split())[:160]


def judge(case: Case, results: dict) -> list[str]:
    wrong = []
    for runtime in RUNTIMES:
        passed, excused = results[runtime] is True, runtime in case.why
        if not passed and not excused:
            wrong.append(f"{case.name}: {runtime} fails and no reason is given: {first_words(results[runtime])}")
        if passed and excused:
            wrong.append(f"{case.name}: {runtime} passes; take its reason out of the table")
    return wrong


def document(cases: list[Case], results: dict) -> str:
    counts = ", ".join(
        f"{name} {sum(results[case.name][name] is True for case in cases)}" for name in RUNTIMES
    )
    text = f"{HEAD}{len(cases)} cases; passed: {counts}.\n"
    for area in dict.fromkeys(case.area for case in cases):
        text += f"\n## {area}\n\n| case | {' | '.join(RUNTIMES)} |\n|---|{'---|' * len(RUNTIMES)}\n"
        for case in (case for case in cases if case.area == area):
            cells = ["yes" if results[case.name][name] is True else "no" for name in RUNTIMES]
            reasons = "".join(f"<br>{name}: {why}" for name, why in sorted(case.why.items()))
            text += f"| {case.name}{reasons} | {' | '.join(cells)} |\n"
    return text


def main() -> None:
    update, path = "--update" in sys.argv, Path(sys.argv[1])
    results = {}
    for part in (word for word in sys.argv[2:] if word != "--update"):
        results |= json.loads(Path(part).read_text())
    cases = load()
    text = document(cases, results)
    wrong = [line for case in cases for line in judge(case, results[case.name])]
    if update:
        path.write_text(text)
    elif not path.exists() or path.read_text() != text:
        wrong.append(f"{path} is stale; run tests/conformance/run --update and look at the difference")
    for line in wrong:
        print(f"FAIL {line}")
    print(f"conformance: {len(cases)} cases, {len(wrong)} complaints")
    sys.exit(bool(wrong))


main()
