"""Suites of others: how each is run in a column, and what its cases gave."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from columns import Host

# Seconds that one suite may take in one column, at most.
PATIENCE = 900

PJDFSTEST = """
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"""

# What fsx does with its file, and how often beside the others. Each is one case.
FSX = {
    "reads and writes": "truncate = 1\nclose_open = 1\nfsync = 1\nmapread = 0\nmapwrite = 0",
    "mappings": "invalidate = 1\nclose_open = 1\nfsync = 1\nfdatasync = 1",
    "holes": "posix_fallocate = 5\npunch_hole = 5\ncopy_file_range = 5\nsendfile = 5\nposix_fadvise = 5",
}

# Operations of each of stress-ng's file system class; one second where it counts none that end.
STRESSORS = {
    "access": 20, "chdir": 20, "chmod": 20, "chown": 20, "copy-file": 10, "dentry": 200, "dir": 100, "dirdeep": 100, "dirmany": 100,
    "dnotify": 5, "dup": 20, "eventfd": 20, "fallocate": 10, "fanotify": 5, "fcntl": 100, "fiemap": 50, "file-ioctl": 20,
    "filename": 50, "flock": 20, "fpunch": 10, "fsize": 10, "fstat": 100, "getdent": 20, "handle": 20, "hdd": 20, "inode-flags": 10,
    "inotify": 5, "io": 5, "iomix": 50, "ioprio": 20, "lease": 20, "link": 4, "locka": 20, "lockf": 20, "lockofd": 20, "mknod": 20,
    "open": 100, "rename": 100, "symlink": 20, "sync-file": 5, "touch": 50, "utime": 100, "verity": 5, "xattr": 10, "chattr": 10,
}
# Of these a sample is made: short ones, of which each does something else.
SAMPLED_STRESSORS = ("dentry", "fallocate", "rename", "xattr")

STRESS = """
import subprocess, sys
for argument in sys.argv[1:]:
    name, operations = argument.split("=")
    words = ["stress-ng", f"--{name}", "1", f"--{name}-ops", operations, "--verify", "--temp-path", "/data", "--timeout", "20"]
    ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"{name}: {ended.returncode}", flush=True)
    if ended.returncode == 2:
        print(*(f"# {line}" for line in ended.stdout.splitlines() if "fail" in line), sep="\\n", flush=True)
"""

FSX_PROGRAM = """
import hashlib, subprocess, sys
seed, operations, *cases = sys.argv[1:]
for case in cases:
    words = ["fsx", "-q", "-q", "-f", f"/suites/fsx {case}", "-S", seed, "-N", operations, "/data/file"]
    ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    content = hashlib.sha256(open("/data/file", "rb").read()).hexdigest()[:16]
    print(f"{case}: status {ended.returncode}, content {content}", flush=True)
    if ended.returncode:
        print(*(f"# {line}" for line in ended.stdout.splitlines()[:20]), sep="\\n", flush=True)
"""

# What their cases were called, and what they gave.
Results = dict[str, str]


@dataclass(frozen=True)
class Failed(Exception):
    """A suite that did not come to its end."""

    what: str


def _output(host: Host, column: str, directory: Path, program: list[str], codes: tuple[int, ...]) -> str:
    command = host.command(column, directory, program, {})
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    # Names of files may be any bytes.
    output, errors = (text.decode(errors="replace") for text in (ended.stdout, ended.stderr))
    if ended.returncode not in codes:
        raise Failed(f"{program[0]} ended with {ended.returncode} in {column}: {output[-2000:]}{errors[-2000:]}")
    return output


def pjdfstest(host: Host, column: str, directory: Path, sample: bool, seed: int) -> Results:
    (host.rootfs / "suites/pjdfstest.toml").write_text(PJDFSTEST)
    program = ["env", "NO_COLOR=1", "pjdfstest", "-c", "/suites/pjdfstest.toml", "-p", "/data"]
    # 1 says that cases have failed.
    output = _output(host, column, directory, program, (0, 1))
    results = dict(re.findall(r"^(\S+::\S+) +(ok|FAILED|skipped)$", output, re.MULTILINE))
    told = re.search(r"(\d+) total$", output, re.MULTILINE)
    if told is None or int(told[1]) != len(results):
        raise Failed(f"pjdfstest told of {len(results)} cases in {column}: {output[-2000:]}")
    return results


def fsx(host: Host, column: str, directory: Path, sample: bool, seed: int) -> Results:
    for case, weights in FSX.items():
        (host.rootfs / f"suites/fsx {case}").write_text(f"[weights]\n{weights}\n")
    operations = 500 if sample else 20000
    program = ["python3", "-c", FSX_PROGRAM, str(seed), str(operations), *FSX]
    return _lines(_output(host, column, directory, program, (0,)), column)


def stress_ng(host: Host, column: str, directory: Path, sample: bool, seed: int) -> Results:
    names = SAMPLED_STRESSORS if sample else STRESSORS
    program = ["python3", "-c", STRESS, *(f"{name}={STRESSORS[name]}" for name in names)]
    return _lines(_output(host, column, directory, program, (0,)), column)


def _lines(output: str, column: str) -> Results:
    """Of lines `case: what it gave`; others say more of the case before."""
    for line in output.splitlines():
        if line.startswith("# "):
            print(f"    {column} {line}", flush=True)
    return dict(line.split(": ", 1) for line in output.splitlines() if not line.startswith("# "))


SUITES = {"pjdfstest": pjdfstest, "fsx": fsx, "stress-ng": stress_ng}
