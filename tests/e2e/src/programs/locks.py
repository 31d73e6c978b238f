"""Does with locks what a line of its standard input says, and prints how that went, a line each.

    open NAME [ro|append]                           prints the number of the file, from 0 on
    flock FILE sh|ex|un [nb]
    posix|ofd FILE sh|ex|un START LENGTH [nb]
    get|ofdget FILE START LENGTH                    prints who keeps it from an exclusive lock
    pread FILE; pwrite FILE TEXT; sendfile FILE; dup FILE; close FILE; alarm SECONDS
    append FILE TEXT                                prints where that ends
    child ACT [; ACT…]                              does that in a process of its own
    reap [kill]                                     ends the first such process or waits, and prints its code
    exec FILE                                       goes on in a new program, where that file is number 0
    map FILE; mapread FILE; mapwrite FILE TEXT      the first two bytes, by a mapping
"""
import errno
import fcntl
import mmap
import os
import signal
import struct
import sys

OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38
KINDS = {'sh': fcntl.F_RDLCK, 'ex': fcntl.F_WRLCK, 'un': fcntl.F_UNLCK}
FLOCKS = {'sh': fcntl.LOCK_SH, 'ex': fcntl.LOCK_EX, 'un': fcntl.LOCK_UN}
LAYOUT = 'hhqqi4x'
files = [int(fd) for fd in os.environ.get('KEPT', '').split()]
children = []
maps = {}


def lock(command, fd, kind, start, length):
    packed = struct.pack(LAYOUT, kind, os.SEEK_SET, int(start), int(length), 0)
    return struct.unpack(LAYOUT, fcntl.fcntl(fd, command, packed))


def act(word, *rest):
    if word == 'open':
        flags = os.O_RDONLY if 'ro' in rest[1:] else os.O_RDWR | os.O_CREAT
        flags |= os.O_APPEND if 'append' in rest[1:] else 0
        path = rest[0]
        files.append(os.open(path, os.O_RDONLY if os.path.isdir(path) else flags, 0o666))
        return len(files) - 1
    if word == 'close':
        return os.close(files[int(rest[0])])
    if word == 'alarm':
        signal.setitimer(signal.ITIMER_REAL, float(rest[0]))
        return None
    if word == 'child':
        child = os.fork()
        if not child:
            for line in ' '.join(rest).split(';'):
                act(*line.split())
            os._exit(0)
        return children.append(child)
    if word == 'reap':
        child = children.pop(0)
        if 'kill' in rest:
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    fd, rest = files[int(rest[0])], rest[1:]
    if word == 'exec':
        os.set_inheritable(fd, True)
        os.execve(sys.executable, sys.orig_argv, os.environ | {'KEPT': str(fd)})
    if word == 'dup':
        files.append(os.dup(fd))
        return len(files) - 1
    if word == 'flock':
        return fcntl.flock(fd, FLOCKS[rest[0]] | (fcntl.LOCK_NB if 'nb' in rest else 0))
    if word in ('posix', 'ofd'):
        blocks = 'nb' not in rest and rest[0] != 'un'
        commands = {'posix': (fcntl.F_SETLK, fcntl.F_SETLKW), 'ofd': (OFD_SETLK, OFD_SETLKW)}
        lock(commands[word][blocks], fd, KINDS[rest[0]], *rest[1:3])
        return None
    if word in ('get', 'ofdget'):
        command = fcntl.F_GETLK if word == 'get' else OFD_GETLK
        kind, _, start, length, pid = lock(command, fd, fcntl.F_WRLCK, *rest[:2])
        name = {value: name for name, value in KINDS.items()}[kind]
        return name if name == 'un' else f'{name} {start} {length} {pid}'
    if word == 'pread':
        return os.pread(fd, 100, 0).decode()
    if word == 'pwrite':
        return os.pwrite(fd, rest[0].encode(), 0)
    if word == 'append':
        os.write(fd, rest[0].encode())
        return os.lseek(fd, 0, os.SEEK_CUR)
    if word == 'sendfile':
        reading, writing = os.pipe()
        os.sendfile(writing, fd, 0, 100)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            return pipe.read()
    if word == 'map':
        maps[fd] = mmap.mmap(fd, 2)
        return None
    if word == 'mapread':
        return maps[fd][:2].decode()
    if word == 'mapwrite':
        maps[fd][:2] = rest[0].encode()
        return None
    raise ValueError(word)


class Alarm(Exception):
    pass


def ring(*_):
    raise Alarm


signal.signal(signal.SIGALRM, ring)


def answer(line):
    try:
        result = act(*line.split())
        return 'ok' if result is None else f'ok {result}'
    except OSError as error:
        return errno.errorcode[error.errno]
    except Alarm:
        return 'alarm'


if __name__ == '__main__':
    print('up', flush=True)
    for line in sys.stdin:
        print(answer(line), flush=True)
