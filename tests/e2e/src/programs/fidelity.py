"""What files do, each line one behaviour and what came of it: "behaviour: value". Where it runs makes no difference to any.

fidelity.py DIRECTORY: there, which shall be empty.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
os.umask(0o022)
ALL = []
PAGE = 4096


def check(function):
    ALL.append(function)
    return function


def call(name, *arguments):
    """A call of the C library; fails as one of python's would."""
    result = getattr(libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def of(function, *arguments, **named):
    """What it returns, or the name of its error."""
    try:
        return function(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]


def write(name, content=b'content'):
    with open(name, 'wb') as file:
        file.write(content)


def read(name):
    with open(name, 'rb') as file:
        return file.read()


def opened(name, flags=os.O_RDWR | os.O_CREAT, mode=0o644):
    return os.open(name, flags, mode)


def in_child(function):
    """What it returns in another process, an error's name or a small number."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, str(of(function)).encode())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 1000)
    os.waitpid(child, 0)
    os.close(ours)
    return said.decode()


def link_open(fd, name):
    return of(call, 'linkat', -100, f'/proc/self/fd/{fd}'.encode(), -100, name, 0x400)


@check
def nameless_file():
    fd = of(os.open, '.', os.O_TMPFILE | os.O_RDWR, 0o640)
    if isinstance(fd, str):
        yield fd
        return
    os.write(fd, b'without a name')
    found = os.fstat(fd)
    yield oct(found.st_mode), found.st_nlink, found.st_size, os.listdir('.')
    os.ftruncate(fd, 7)
    os.fchmod(fd, 0o600)
    os.setxattr(fd, 'user.note', b'kept')
    os.utime(fd, ns=(5, 1_000_000_007))
    yield os.pread(fd, 99, 0), os.getxattr(fd, 'user.note'), os.listxattr(fd)
    again = os.open(f'/proc/self/fd/{fd}', os.O_WRONLY | os.O_APPEND)
    os.write(again, b'!')
    yield os.pread(fd, 99, 0), of(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield of(fcntl.flock, again, fcntl.LOCK_EX | fcntl.LOCK_NB), of(os.fsync, fd)
    view = mmap.mmap(fd, 8)
    view[0:4] = b'MAPD'
    view.flush()
    yield link_open(fd, b'named'), os.fstat(fd).st_nlink
    yield read('named'), oct(os.stat('named').st_mode), os.getxattr('named', 'user.note')
    yield link_open(fd, b'named'), link_open(fd, b'twice'), os.stat('twice').st_nlink
    yield os.stat('named').st_ino == os.fstat(fd).st_ino
    private = os.open('.', os.O_TMPFILE | os.O_EXCL | os.O_RDWR)
    yield link_open(private, b'private')
    yield of(os.open, '.', os.O_TMPFILE | os.O_RDONLY), of(os.open, 'absent', os.O_TMPFILE | os.O_RDWR)
    source = os.open('.', os.O_TMPFILE | os.O_RDWR)
    os.write(source, b'0123456789')
    yield of(os.copy_file_range, source, private, 10, 0, 0), os.pread(private, 99, 0)
    os.posix_fallocate(private, 0, 1 << 16)
    yield os.fstat(private).st_size, os.lseek(private, 0, os.SEEK_END)
    os.mkdir('shared')
    os.chown('shared', 0, 77)
    os.chmod('shared', 0o2777)
    inherits = os.open('shared', os.O_TMPFILE | os.O_RDWR, 0o666)
    yield os.fstat(inherits).st_gid, oct(os.fstat(inherits).st_mode)


def rename2(old, new, flags):
    return of(call, 'renameat2', -100, old, -100, new, flags)


@check
def rename_in_every_way():
    write('one', b'1')
    write('two', b'2')
    os.mkdir('folder')
    yield rename2(b'one', b'two', 1), rename2(b'one', b'three', 1), sorted(os.listdir('.'))
    yield rename2(b'three', b'two', 2), read('two'), read('three')
    yield rename2(b'three', b'folder', 2), os.path.isdir('three'), read('folder')
    yield rename2(b'two', b'absent', 2), rename2(b'two', b'three', 3), rename2(b'absent', b'two', 0)
    yield rename2(b'two', b'moved', 4), os.path.exists('moved')
    if os.path.lexists('two'):
        found = os.lstat('two')
        yield stat.S_ISCHR(found.st_mode), found.st_rdev
    yield rename2(b'moved', b'moved', 0), rename2(b'three', b'three/below', 0), rename2(b'moved', b'three', 0)


def holes(fd):
    """Where data begins and ends."""
    size, at, found = os.fstat(fd).st_size, 0, []
    while at < size:
        start = of(os.lseek, fd, at, os.SEEK_DATA)
        if isinstance(start, str):
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


@check
def room_in_every_mode():
    fd = opened('room')
    fallocate = lambda mode, start, length: of(
        call, 'fallocate', fd, mode, ctypes.c_long(start), ctypes.c_long(length))
    yield fallocate(0, 0, 8 * PAGE), os.fstat(fd).st_size
    yield fallocate(1, 8 * PAGE, PAGE), os.fstat(fd).st_size
    os.pwrite(fd, b'x' * 8 * PAGE, 0)
    yield fallocate(3, PAGE, 2 * PAGE), holes(fd), os.pread(fd, 3, PAGE - 1)
    yield fallocate(3, 5 * PAGE + 10, 20), os.pread(fd, 40, 5 * PAGE).count(b'x')
    yield fallocate(16, 6 * PAGE, 10), os.pread(fd, 12, 6 * PAGE).count(b'x')
    yield fallocate(17, 8 * PAGE, PAGE), os.fstat(fd).st_size
    yield fallocate(8, 0, PAGE), os.fstat(fd).st_size
    yield fallocate(32, 0, PAGE), os.fstat(fd).st_size
    yield fallocate(2, 0, PAGE), fallocate(0, -1, 1), fallocate(0, 0, 0), fallocate(64, 0, PAGE)


@check
def sparse_and_large():
    fd = opened('sparse')
    os.pwrite(fd, b'far', 6 << 30)
    yield os.fstat(fd).st_size, holes(fd), os.fstat(fd).st_blocks <= 16
    yield os.pread(fd, 3, 6 << 30), os.pread(fd, 2, 5 << 30), of(os.lseek, fd, 7 << 30, os.SEEK_DATA)
    os.ftruncate(fd, 9 << 30)
    yield os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_END)
    yield of(os.ftruncate, fd, -1), of(os.pread, fd, 1, -1)


@check
def copies_in_the_kernel():
    write('source', bytes(range(256)) * 64)
    source, target = opened('source'), opened('target')
    yield of(os.copy_file_range, source, target, 10000, 100, 50), os.fstat(target).st_size
    yield read('target')[50:60], of(os.copy_file_range, source, target, 10, 1 << 20, 0)
    yield of(os.copy_file_range, source, source, 10, 0, 5), of(os.copy_file_range, source, source, 10, 0, 50)
    yield of(os.sendfile, target, source, 0, 1000)
    ours, theirs = os.pipe()
    yield of(os.splice, source, theirs, 100, offset_src=5), os.read(ours, 3)


@check
def times():
    write('times')
    os.utime('times', ns=(123_456_789, 2_000_000_000_987_654_321))
    found = os.stat('times')
    yield found.st_atime_ns, found.st_mtime_ns
    os.utime('times', ns=(-5_000_000_001, 1))
    found = os.stat('times')
    yield found.st_atime_ns, found.st_mtime_ns
    os.symlink('times', 'link')
    os.utime('link', ns=(7, 8), follow_symlinks=False)
    yield os.lstat('link').st_mtime_ns, os.stat('link').st_mtime_ns
    # Times of changes count in ticks.
    before, number = os.stat('.').st_mtime_ns, 0
    while os.stat('.').st_mtime_ns == before:
        number += 1
        write(f'another-{number}')
    yield os.stat('.').st_mtime_ns > before
    before = os.stat('times').st_ctime_ns
    while os.stat('times').st_ctime_ns == before:
        os.chmod('times', 0o600)
    yield os.stat('times').st_ctime_ns > before, os.stat('times').st_mtime_ns


def born(name):
    buffer = ctypes.create_string_buffer(256)
    call('statx', -100, name, 0x100, 0xfff, buffer)
    mask, = struct.unpack_from('I', buffer, 0)
    return mask & 0x800 != 0, struct.unpack_from('qI', buffer, 80)


@check
def birth():
    write('born')
    os.mkdir('born-directory')
    has, first = born(b'born')
    yield has, born(b'born-directory')[0]
    os.utime('born', ns=(1, 1))
    write('born', b'later')
    yield born(b'born')[1] == first, not has or first[0] > 1_000_000_000


@check
def names():
    for name in (b'\xff\xfe\x80', b'new\nline', b' ', b'-', b'~', b'x' * 255, b'\x01'):
        write(name)
    yield sorted(os.listdir(b'.'))
    yield of(write, b'x' * 256), of(os.stat, b'x' * 4096), of(os.stat, b''), of(os.mkdir, b'.'), of(os.rmdir, b'.')
    yield of(os.unlink, b'..'), of(os.rename, b'.', b'else'), of(os.stat, b'-/'), of(os.stat, b'absent/')


@check
def paths_beyond_the_limit():
    top = os.open('.', os.O_RDONLY)
    at = os.dup(top)
    for _ in range(30):
        os.mkdir('d' * 200, dir_fd=at)
        below = os.open('d' * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open('bottom', os.O_CREAT | os.O_WRONLY, dir_fd=at))
    yield os.stat('bottom', dir_fd=at).st_size, of(os.stat, '/'.join(['d' * 200] * 30))
    os.fchdir(top)


@check
def extended_attributes():
    write('attributes')
    os.mkdir('attributed')
    os.symlink('attributes', 'attributed-link')
    for name in ('attributes', 'attributed'):
        os.setxattr(name, 'user.one', b'\0\xff')
        os.setxattr(name, 'user.empty', b'')
        yield sorted(os.listxattr(name)), os.getxattr(name, 'user.one'), os.getxattr(name, 'user.empty')
        yield of(os.setxattr, name, 'user.one', b'', os.XATTR_CREATE), of(os.setxattr, name, 'user.two', b'', os.XATTR_REPLACE)
        yield of(os.removexattr, name, 'user.one'), of(os.removexattr, name, 'user.one'), of(os.getxattr, name, 'user.x')
    yield of(os.setxattr, 'attributes', 'user.big', b'x' * 3000), of(os.setxattr, 'attributes', 'user.big', b'x' * 65537)
    yield of(os.setxattr, 'attributes', 'nonsense', b''), of(os.setxattr, 'attributes', 'user.' + 'n' * 251, b'')
    yield of(os.setxattr, 'attributed-link', 'user.link', b'', follow_symlinks=False)


def acl(*entries):
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)


@check
def access_lists():
    write('listed')
    value = acl((1, 6, 0xffffffff), (2, 4, 1234), (4, 4, 0xffffffff), (16, 4, 0xffffffff), (32, 0, 0xffffffff))
    yield of(os.setxattr, 'listed', 'system.posix_acl_access', value), oct(os.stat('listed').st_mode)
    yield of(os.getxattr, 'listed', 'system.posix_acl_access')
    os.mkdir('default')
    yield of(os.setxattr, 'default', 'system.posix_acl_default', value)
    write('default/inherits')
    os.mkdir('default/below')
    yield oct(os.stat('default/inherits').st_mode), of(os.getxattr, 'default/inherits', 'system.posix_acl_access')
    yield oct(os.stat('default/below').st_mode), of(os.getxattr, 'default/below', 'system.posix_acl_default')
    os.chmod('.', 0o755)

    def as_listed():
        os.setgroups([])
        os.setresgid(1234, 1234, 1234)
        os.setresuid(1234, 1234, 1234)
        return read('listed'), of(os.open, 'listed', os.O_WRONLY)
    yield in_child(as_listed)


@check
def special_files():
    os.mkfifo('fifo', 0o620)
    yield oct(os.stat('fifo').st_mode), of(os.open, 'fifo', os.O_WRONLY | os.O_NONBLOCK)
    yield of(os.mknod, 'device', 0o600 | stat.S_IFCHR, os.makedev(1, 3)), os.stat('device').st_rdev
    yield of(os.mknod, 'plain', 0o600 | stat.S_IFREG), oct(os.stat('plain').st_mode)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind('socket')
        yield oct(os.stat('socket').st_mode), of(client.connect, 'socket')
        server.listen()
        yield of(client.connect, 'socket'), of(os.open, 'socket', os.O_RDONLY)
    yield of(socket.socket(socket.AF_UNIX).connect, 'socket'), of(socket.socket(socket.AF_UNIX).bind, 'socket')


def special_bits(act):
    write('special', b'x' * 100)
    os.chown('special', 1000, 1000)
    os.chmod('special', 0o6775)
    os.setxattr('special', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
    act()
    return oct(os.stat('special').st_mode), of(os.getxattr, 'special', 'security.capability') == 'ENODATA'


def as_owner(act):
    def child():
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        act()
    return lambda: in_child(child)


@check
def special_bits_go():
    yield special_bits(lambda: None)
    yield special_bits(lambda: write('special'))
    yield special_bits(as_owner(lambda: os.pwrite(os.open('special', os.O_WRONLY), b'y', 5)))
    yield special_bits(as_owner(lambda: os.truncate('special', 5)))
    yield special_bits(as_owner(lambda: os.close(os.open('special', os.O_WRONLY | os.O_TRUNC))))
    yield special_bits(lambda: os.chown('special', 1001, 1001))
    yield special_bits(lambda: os.chown('special', -1, -1))
    yield special_bits(lambda: os.chmod('special', 0o755))
    yield special_bits(as_owner(lambda: os.chmod('special', 0o2755)))


@check
def writers_who_append():
    write('appended', b'')
    lines = [b'%d' % number * 99 + b'\n' for number in range(4)]

    def child(line):
        fd = os.open('appended', os.O_WRONLY | os.O_APPEND)
        for _ in range(50):
            os.write(fd, line)
        os._exit(0)
    children = []
    for line in lines:
        child_id = os.fork()
        if child_id == 0:
            child(line)
        children.append(child_id)
    for child_id in children:
        os.waitpid(child_id, 0)
    found = read('appended').splitlines(True)
    yield len(found), sorted(set(found)) == lines
    fd = os.open('appended', os.O_RDWR | os.O_APPEND)
    os.pwrite(fd, b'end', 0)
    yield os.fstat(fd).st_size, os.pread(fd, 3, 20000), of(os.ftruncate, fd, 3), os.fstat(fd).st_size


@check
def around_the_cache():
    write('direct', b'x' * 3 * PAGE)
    fd = of(os.open, 'direct', os.O_RDWR | os.O_DIRECT)
    if isinstance(fd, str):
        yield fd
        return
    view = mmap.mmap(-1, PAGE)
    yield os.preadv(fd, [view], PAGE), view[:2]
    view[:] = b'y' * PAGE
    yield os.pwritev(fd, [view], 2 * PAGE), read('direct')[2 * PAGE - 1:2 * PAGE + 1]
    plain = opened('direct')
    os.pwrite(plain, b'zz', 0)
    yield os.preadv(fd, [view], 0), view[:3], os.fstat(fd).st_size


@check
def mappings():
    write('mapped', b'\0' * 2 * PAGE)
    fd = opened('mapped')
    shared, private = mmap.mmap(fd, 2 * PAGE), mmap.mmap(fd, 2 * PAGE, flags=mmap.MAP_PRIVATE)
    shared[0:3] = b'abc'
    private[PAGE:PAGE + 3] = b'xyz'
    yield os.pread(fd, 3, 0), private[0:3], os.pread(fd, 3, PAGE), shared[PAGE:PAGE + 3]
    os.pwrite(fd, b'def', 10)
    yield shared[10:13], of(shared.flush)
    os.ftruncate(fd, PAGE)

    def beyond():
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        return shared[PAGE]
    child = os.fork()
    if child == 0:
        beyond()
        os._exit(0)
    yield os.WTERMSIG(os.waitpid(child, 0)[1])
    readable = os.open('mapped', os.O_RDONLY)
    yield of(mmap.mmap, readable, PAGE), len(mmap.mmap(readable, PAGE, prot=mmap.PROT_READ))
    call('fallocate', fd, 3, ctypes.c_long(0), ctypes.c_long(PAGE))
    yield shared[0:3], private[0:3]


@check
def links():
    write('linked')
    os.link('linked', 'second')
    yield os.stat('linked').st_nlink, os.path.samefile('linked', 'second'), of(os.link, 'linked', 'second')
    os.mkdir('d')
    yield of(os.link, 'd', 'e'), of(os.link, 'absent', 'e'), of(os.symlink, '', 'e'), of(os.symlink, 'x' * 4096, 'e')
    os.symlink('x' * 4000, 'long')
    yield len(os.readlink('long')), os.lstat('long').st_size, of(os.readlink, 'linked'), oct(os.lstat('long').st_mode)
    os.link('long', 'hard', follow_symlinks=False)
    yield os.lstat('hard').st_nlink, of(os.open, 'long', os.O_RDONLY | os.O_NOFOLLOW), os.stat('d').st_nlink


@check
def removed_while_open():
    fd, at = opened('gone'), None
    os.write(fd, b'still here')
    os.unlink('gone')
    yield os.fstat(fd).st_nlink, os.pread(fd, 5, 0), of(os.ftruncate, fd, 5), of(os.fchmod, fd, 0o600)
    yield link_open(fd, b'back'), of(os.setxattr, fd, 'user.x', b'1'), os.readlink(f'/proc/self/fd/{fd}').endswith(' (deleted)')
    again = of(os.open, f'/proc/self/fd/{fd}', os.O_RDONLY)
    yield os.read(again, 99) if isinstance(again, int) else again
    os.mkdir('room')
    at = os.open('room', os.O_RDONLY)
    os.rmdir('room')
    yield os.listdir(at), of(os.mkdir, 'new', dir_fd=at), os.fstat(at).st_nlink


@check
def directory_streams():
    os.mkdir('stream')
    made = {f'entry-{number:05}' for number in range(400)}
    for name in made:
        os.close(opened('stream/' + name))
    with os.scandir('stream') as entries:
        seen = []
        for entry in entries:
            seen.append(entry.name)
            os.unlink('stream/' + entry.name)
    yield len(seen), set(seen) == made, of(os.rmdir, 'stream')
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long

    def next_name(stream):
        entry = libc.readdir(ctypes.c_void_p(stream))
        return ctypes.string_at(entry + 19) if entry else None
    os.mkdir('seek')
    for number in range(200):
        os.close(opened(f'seek/{number}'))
    stream = libc.opendir(b'seek')
    first = [next_name(stream) for _ in range(100)]
    at = libc.telldir(ctypes.c_void_p(stream))
    rest = list(iter(lambda: next_name(stream), None))
    libc.seekdir(ctypes.c_void_p(stream), ctypes.c_long(at))
    yield list(iter(lambda: next_name(stream), None)) == rest, len(set(first + rest))
    os.unlink('seek/7')
    os.close(opened('seek/new'))
    libc.rewinddir(ctypes.c_void_p(stream))
    now = set(iter(lambda: next_name(stream), None))
    yield b'7' in now, b'new' in now, len(now)


def lock(fd, command, kind, start=0, length=0):
    return of(fcntl.fcntl, fd, command, struct.pack('hhqqi4x', kind, 0, start, length, 0))


def granted(result):
    return 'granted' if isinstance(result, bytes) else result


@check
def locks():
    OFD_SETLK = 37
    write('locked', b'x' * 100)
    fd, other = opened('locked'), opened('locked')
    yield granted(lock(fd, OFD_SETLK, fcntl.F_WRLCK, 0, 10)), granted(lock(other, OFD_SETLK, fcntl.F_WRLCK, 5, 10))
    yield granted(lock(other, OFD_SETLK, fcntl.F_RDLCK, 10, 10)), granted(lock(fd, OFD_SETLK, fcntl.F_UNLCK))
    yield granted(lock(other, OFD_SETLK, fcntl.F_WRLCK, 0, 10))
    os.close(other)
    yield granted(lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 0, 50))
    yield in_child(lambda: granted(lock(opened('locked'), fcntl.F_SETLK, fcntl.F_WRLCK, 0, 1)))
    os.close(opened('locked'))
    yield in_child(lambda: granted(lock(opened('locked'), fcntl.F_SETLK, fcntl.F_WRLCK, 0, 1)))
    readable = os.open('locked', os.O_RDONLY)
    yield granted(lock(readable, fcntl.F_SETLK, fcntl.F_WRLCK)), granted(lock(fd, fcntl.F_SETLK, fcntl.F_WRLCK, 5, -5))


@check
def leases():
    write('leased')
    fd = os.open('leased', os.O_RDONLY)
    yield of(fcntl.fcntl, fd, 1024, fcntl.F_RDLCK), of(fcntl.fcntl, fd, 1025), of(fcntl.fcntl, fd, 1024, fcntl.F_UNLCK)


@check
def opening():
    write('opened')
    yield of(os.open, 'opened', os.O_CREAT | os.O_EXCL), of(os.open, 'opened', os.O_DIRECTORY), of(os.open, '.', os.O_RDWR)
    os.symlink('dangling-target', 'dangling')
    yield of(os.open, 'dangling', os.O_CREAT | os.O_EXCL), of(os.open, 'dangling', os.O_RDONLY)
    os.close(os.open('dangling', os.O_CREAT | os.O_WRONLY, 0o640))
    yield oct(os.stat('dangling-target').st_mode), of(os.open, 'opened/', os.O_CREAT | os.O_WRONLY)
    os.mkdir('locked-up', 0o755)
    write('locked-up/file', b'secret')
    os.chmod('locked-up/file', 0o600)
    os.chmod('.', 0o755)

    def stranger():
        os.setresuid(4321, 4321, 4321)
        results = [of(os.open, 'locked-up/' + name, flags) for name, flags in (
            ('file', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), ('file', os.O_RDONLY | os.O_CREAT),
            ('file', os.O_CREAT | os.O_EXCL), ('new', os.O_CREAT | os.O_WRONLY), ('new', os.O_RDONLY))]
        return results + [of(os.mkdir, 'locked-up'), of(os.mkdir, 'locked-up/new'), of(os.unlink, 'locked-up/file')]
    yield in_child(stranger)
    yield read('locked-up/file'), os.listdir('locked-up')
    write('again', b'first')
    with open('again', 'w') as file:
        file.write('2')
    with open('again', 'x' if not os.path.exists('again') else 'a') as file:
        file.write('3')
    yield read('again')


@check
def syncing():
    fd = opened('synced')
    os.write(fd, b'x')
    yield of(os.fsync, fd), of(os.fdatasync, fd), of(call, 'syncfs', fd), of(os.fsync, os.open('.', os.O_RDONLY))
    yield of(call, 'sync_file_range', fd, ctypes.c_long(0), ctypes.c_long(1), 2), of(os.posix_fadvise, fd, 0, 0, 4)


@check
def programs():
    with open('script', 'w') as file:
        file.write('#!/bin/sh\necho "$0"\n')
    yield of(subprocess.run, ['./script'], capture_output=True)
    os.chmod('script', 0o755)
    yield subprocess.run(['./script'], capture_output=True).stdout


@check
def reading_that_leaves_no_time():
    write('kept')
    for flags in os.O_NOATIME, 0:
        os.utime('kept', (1, 1))
        fd = os.open('kept', os.O_RDONLY | flags)
        yield os.read(fd, 1), os.fstat(fd).st_atime == 1
        os.close(fd)


@check
def descriptions_that_are_shared():
    fd = opened('shared-offset')
    os.write(fd, b'0123456789')
    os.lseek(fd, 2, os.SEEK_SET)
    in_child(lambda: os.read(fd, 3))
    yield os.read(fd, 2), fcntl.fcntl(fd, fcntl.F_GETFL) & ~0o100000
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.write(fd, b'end')
    yield os.fstat(fd).st_size, of(os.lseek, fd, -1, os.SEEK_SET), os.read(os.dup(fd), 1)


for function in ALL:
    place = function.__name__
    os.mkdir(place)
    top = os.open('.', os.O_RDONLY)
    os.chdir(place)
    number = 0
    try:
        for number, value in enumerate(function(), 1):
            print(f'{place} {number}: {value}', flush=True)
    except Exception as error:
        print(f'{place} {number + 1}: {type(error).__name__}: {error} at {error.__traceback__.tb_next.tb_lineno}', flush=True)
    os.fchdir(top)
    os.close(top)
print('end: 0')
