"""Two clients of one directory against one of a plain one.

A program in a sandbox and another on the host change the same volume, in turns that a seed decides, and look at it. Each
operation is done in a plain directory as well, by one process for both. What it gives there it must give here, at once: the
volume is one of which nothing is kept (`dev.vmrun.volume.cache: none`).
"""

import fcntl
import json
import os
import random
import subprocess
import time
from pathlib import Path

from columns import UNCACHED, Host

CLIENT = Path(__file__).parent / "client.py"
WHO = ("sandbox", "host")
FOLDERS = (".", "a", "b", "a/c")
NAMES = ("one", "two", "three", "a", "c")
# Files that each has open.
OPEN_FILES = 3
FILE_BYTES = 20000
# Between two looks at everything.
STRETCH = 200


class Client:
    """The program that does operations, and the pipes to it."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear()

    def ask(self, operation: list) -> object:
        self.process.stdin.write(json.dumps(operation) + "\n")
        self.process.stdin.flush()
        return self._hear()

    def _hear(self) -> object:
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"a client of the model ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait()


class Operations:
    """What is done next, by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def next(self) -> list:
        who = self.random.choice(WHO)
        made = self.random.choice((self._of_a_name, self._of_a_name, self._of_content, self._of_content, self._of_an_open_file))
        return [who, *made()]

    def _path(self) -> str:
        return os.path.normpath(f"{self.random.choice(FOLDERS)}/{self.random.choice(NAMES)}")

    def _offset(self) -> int:
        return self.random.choice((0, self.random.randrange(FILE_BYTES), 4096 * self.random.randrange(5)))

    def _text(self) -> str:
        return self.random.choice("abcdefgh") * self.random.choice((1, 10, self.random.randrange(1, 9000)))

    def _of_a_name(self) -> list:
        path, other = self._path(), self._path()
        random = self.random
        return random.choice(
            (
                ["make", path],
                ["make", path],
                ["mkdir", path],
                ["mkdir", path],
                ["rmdir", path],
                ["unlink", path],
                ["link", path, other],
                ["symlink", path, other],
                ["readlink", path],
                ["rename", random.choice(("plain", "plain", "noreplace", "exchange")), path, other],
                ["stat", path],
                ["follow", path],
                ["list", os.path.dirname(path) or "."],
                ["chmod", path, random.choice((0o644, 0o600, 0o4755, 0o2755, 0o1777))],
                ["chown", path, random.choice((0, 1, 1000)), random.choice((0, 1, 1000))],
                ["mark", path, random.choice("xy"), self._text()[:100]],
                ["unmark", path, random.choice("xy")],
                ["marks", path],
                ["set times", path, random.randrange(10**9, 2 * 10**18)],
            )
        )

    def _of_content(self) -> list:
        path, other = self._path(), self._path()
        random = self.random
        return random.choice(
            (
                ["write", path, self._offset(), self._text()],
                ["write", path, self._offset(), self._text()],
                ["append", path, self._text()],
                ["truncate", path, self._offset()],
                ["read", path, self._offset(), FILE_BYTES],
                ["read", path, 0, FILE_BYTES],
                ["write mapping", path, self._offset(), self._text()],
                ["copy", path, other, self._offset(), self._offset(), self._offset()],
                ["fallocate", path, random.choice(("allocate", "keep size", "punch", "zero")), self._offset(), 1 + self._offset()],
            )
        )

    def _of_an_open_file(self) -> list:
        number = self.random.randrange(OPEN_FILES)
        random = self.random
        return random.choice(
            (
                ["open", number, self._path(), random.choice((os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC))],
                ["open", number, self._path(), os.O_RDWR | os.O_CREAT | os.O_EXCL],
                ["open", number, self._path(), os.O_RDWR | os.O_CREAT],
                ["close", number],
                ["write open", number, self._offset(), self._text()],
                ["read open", number, 0, FILE_BYTES],
                ["truncate open", number, self._offset()],
                ["stat open", number],
                ["sync open", number],
                ["lock open", number, random.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN))],
            )
        )


def run(host: Host, count: int, seed: int) -> list[str]:
    """What is wrong after `count` operations."""
    begun = time.monotonic()
    (host.rootfs / "suites/client.py").write_bytes(CLIENT.read_bytes())
    shared, plain = host.directory("model/shared"), host.directory("model/plain")
    program = ["python3", "/suites/client.py", "/data"]
    clients = {
        "sandbox": Client(host.command("vmrun", shared, program, UNCACHED)),
        "host": Client(host.command("plain", shared, program, {})),
    }
    model = Client(host.command("plain", plain, program, {}))
    problems = _compare(clients, model, count, seed)
    problems += [f"model: a client ended with {code}" for client in (*clients.values(), model) if (code := client.end())]
    print(f"model: {count} operations with seed {seed}, {time.monotonic() - begun:.1f} s", flush=True)
    return problems


def _compare(clients: dict[str, Client], model: Client, count: int, seed: int) -> list[str]:
    operations, done = Operations(seed), []
    for number in range(1, count + 1):
        operation = operations.next()
        done.append(operation)
        wanted, found = model.ask(operation), clients[operation[0]].ask(operation)
        if found != wanted:
            return [_told(seed, number, done, found, wanted)]
        if number % STRETCH == 0 or number == count:
            wanted = model.ask(["host", "all"])
            for who, client in clients.items():
                look = [who, "all"]
                if (found := client.ask(look)) != wanted:
                    return [_told(seed, number, [*done, look], *_first_difference(found, wanted))]
    return []


def _first_difference(found: list, wanted: list) -> tuple[object, object]:
    pairs = zip([*found[1], None], [*wanted[1], None])
    return next(((here, there) for here, there in pairs if here != there), (found, wanted))


def _told(seed: int, number: int, done: list[list], found: object, wanted: object) -> str:
    def short(value: object) -> str:
        text = json.dumps(value)
        return text if len(text) < 300 else f"{text[:300]}…"

    last = "".join(f"\n    {short(operation)}" for operation in done[-12:])
    return f"model: seed {seed}, operation {number}: {short(found)} in place of {short(wanted)}; the last operations:{last}"
