"""A client of the model: client.py DIRECTORY does to files there what each line of its input says, and tells what came of it.

A line is a JSON list: who, the operation's name, its arguments. `who` owns the files that are opened: one client can play two.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_FLAGS = {"plain": 0, "noreplace": 1, "exchange": 2}
FALLOC_FLAGS = {"allocate": 0, "keep size": 1, "punch": 3, "zero": 16}
# Of what is opened, by who has it and its number.
files: dict[tuple[str, int], int] = {}


def attributes(found: os.stat_result) -> list:
    """What does not depend on where a file is and when."""
    kind = stat.S_IFMT(found.st_mode)
    # How long a directory is, is its file system's business.
    size = None if kind == stat.S_IFDIR else found.st_size
    return [kind, stat.S_IMODE(found.st_mode), found.st_nlink, found.st_uid, found.st_gid, size]


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def to_file(path: str, flags: int, act) -> object:
    descriptor = os.open(path, flags)
    try:
        return act(descriptor)
    finally:
        os.close(descriptor)


def open_file(who: str, number: int, path: str, flags: int) -> None:
    close_file(who, number)
    files[who, number] = os.open(path, flags, 0o640)


def close_file(who: str, number: int) -> None:
    if (who, number) in files:
        os.close(files.pop((who, number)))


def descriptor(who: str, number: int) -> int:
    if (who, number) not in files:
        raise OSError(errno.EBADF, "")
    return files[who, number]


def write_mapping(path: str, offset: int, text: str) -> None:
    def act(file: int) -> None:
        size = os.fstat(file).st_size
        if size < offset + len(text):
            raise OSError(errno.ENXIO, "")
        with mmap.mmap(file, size) as mapping:
            mapping[offset : offset + len(text)] = text.encode()
            mapping.flush()

    to_file(path, os.O_RDWR, act)


def copy_range(source: str, target: str, start: int, count: int, end: int) -> int:
    def act(file: int) -> int:
        return to_file(target, os.O_WRONLY, lambda other: os.copy_file_range(file, other, count, start, end))

    return to_file(source, os.O_RDONLY, act)


def rename(kind: str, path: str, other: str) -> None:
    checked(libc.renameat2(AT_FDCWD, path.encode(), AT_FDCWD, other.encode(), RENAME_FLAGS[kind]))


def fallocate(path: str, kind: str, offset: int, length: int) -> None:
    places = ctypes.c_long(offset), ctypes.c_long(length)
    to_file(path, os.O_RDWR, lambda file: checked(libc.fallocate(file, FALLOC_FLAGS[kind], *places)))


def look_at_all() -> list:
    """Everything there is, with its content."""
    seen = []
    for folder, names, others in os.walk("."):
        for name in sorted(names + others):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            content = None
            if stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:
                    content = file.read().hex()
            elif stat.S_ISLNK(found.st_mode):
                content = os.readlink(path)
            marks = [(mark, os.getxattr(path, mark, follow_symlinks=False).hex()) for mark in user_marks(path)]
            seen.append([path, attributes(found), content, marks])
    return sorted(seen)


def user_marks(path: str) -> list[str]:
    return sorted(mark for mark in os.listxattr(path, follow_symlinks=False) if mark.startswith("user."))


OPERATIONS = {
    # By name.
    "make": lambda who, path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)),
    "mkdir": lambda who, path: os.mkdir(path, 0o755),
    "rmdir": lambda who, path: os.rmdir(path),
    "unlink": lambda who, path: os.unlink(path),
    "link": lambda who, path, other: os.link(path, other, follow_symlinks=False),
    "symlink": lambda who, path, other: os.symlink(other, path),
    "readlink": lambda who, path: os.readlink(path),
    "rename": lambda who, kind, path, other: rename(kind, path, other),
    "stat": lambda who, path: attributes(os.lstat(path)),
    "follow": lambda who, path: attributes(os.stat(path)),
    "list": lambda who, path: sorted(os.listdir(path)),
    "chmod": lambda who, path, mode: os.chmod(path, mode),
    "chown": lambda who, path, user, group: os.lchown(path, user, group),
    "truncate": lambda who, path, size: os.truncate(path, size),
    "write": lambda who, path, offset, text: to_file(path, os.O_WRONLY, lambda file: os.pwrite(file, text.encode(), offset)),
    "append": lambda who, path, text: to_file(path, os.O_WRONLY | os.O_APPEND, lambda file: os.write(file, text.encode())),
    "read": lambda who, path, offset, count: to_file(path, os.O_RDONLY, lambda file: os.pread(file, count, offset).hex()),
    "write mapping": lambda who, path, offset, text: write_mapping(path, offset, text),
    "copy": lambda who, source, target, start, count, end: copy_range(source, target, start, count, end),
    "fallocate": lambda who, path, kind, offset, length: fallocate(path, kind, offset, length),
    "mark": lambda who, path, name, text: os.setxattr(path, f"user.{name}", text.encode(), follow_symlinks=False),
    "unmark": lambda who, path, name: os.removexattr(path, f"user.{name}", follow_symlinks=False),
    "marks": lambda who, path: user_marks(path),
    "set times": lambda who, path, time: (os.utime(path, ns=(time, time)), os.stat(path).st_mtime_ns)[1],
    # By what was opened before, whatever became of its name since.
    "open": lambda who, number, path, flags: open_file(who, number, path, flags),
    "close": lambda who, number: close_file(who, number),
    "write open": lambda who, number, offset, text: os.pwrite(descriptor(who, number), text.encode(), offset),
    "read open": lambda who, number, offset, count: os.pread(descriptor(who, number), count, offset).hex(),
    "truncate open": lambda who, number, size: os.ftruncate(descriptor(who, number), size),
    "stat open": lambda who, number: attributes(os.fstat(descriptor(who, number))),
    "sync open": lambda who, number: os.fsync(descriptor(who, number)),
    "lock open": lambda who, number, how: fcntl.flock(descriptor(who, number), how | fcntl.LOCK_NB),
    # At the end.
    "all": lambda who: look_at_all(),
}


def answer(line: str) -> object:
    who, operation, *arguments = json.loads(line)
    try:
        return ["done", OPERATIONS[operation](who, *arguments)]
    except OSError as error:
        return ["failed", errno.errorcode.get(error.errno, error.errno)]


os.umask(0o022)
os.chdir(sys.argv[1])
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(line)), flush=True)
