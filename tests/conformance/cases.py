"""The table: reads the files of `cases`, one area each, and checks their form.

A case is a TOML table:

    name      what is promised, in words; unique
    program   script for the container's shell; or set "/process/args" in config
    config    JSON pointer -> value, put over the ordinary bundle; "/list/-" appends
    remove    JSON pointers, taken out of the ordinary bundle
    host      the steps, for bash with prelude.sh and set -e; default: run the container
    out       what the steps and the container write to standard output
    code      exit code of the steps; default 0
    why       runtime -> why it fails this case, which then is no error
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

RUNTIMES = ("crun", "runc", "vmrun")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    area: str
    name: str
    out: str
    program: str = "true"
    host: str = "run"
    code: int = 0
    config: dict = field(default_factory=dict)
    remove: tuple = ()
    why: dict = field(default_factory=dict)


def load() -> list[Case]:
    cases = []
    for path in sorted((HERE / "cases").glob("*.toml")):
        document = tomllib.loads(path.read_text())
        cases += [Case(area=document["area"], **entry) for entry in document["case"]]
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SystemExit(f"conformance: two cases have the name {twice.pop()!r}")
    for case in cases:
        unknown = set(case.why) - set(RUNTIMES)
        if unknown:
            raise SystemExit(f"conformance: {case.name!r} gives a reason for {unknown.pop()!r}, which is not compared")
    return cases
