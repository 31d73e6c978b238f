"""What programs do with files, each line of output one thing: "name: ok"."""
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import struct
import threading

libc = ctypes.CDLL(None, use_errno=True)
os.chdir('/data')
ALL = []


def check(function):
    ALL.append(function)
    return function


def fails(number, function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno == number, error
        return
    raise AssertionError('it works')


def write(name, content=b'content'):
    with open(name, 'wb') as file:
        file.write(content)


def read(name):
    with open(name, 'rb') as file:
        return file.read()


@check
def append_goes_to_the_end():
    write('append', b'one')
    fds = [os.open('append', os.O_WRONLY | os.O_APPEND) for _ in range(2)]
    for fd in fds:
        os.write(fd, b'two')
    assert read('append') == b'onetwotwo'


@check
def positions_are_kept():
    fd = os.open('position', os.O_RDWR | os.O_CREAT)
    os.write(fd, b'0123456789')
    os.pwrite(fd, b'xy', 3)
    assert os.pread(fd, 4, 2) == b'2xy5'
    os.lseek(fd, -2, os.SEEK_END)
    assert os.read(fd, 9) == b'89'


@check
def exclusive_creation():
    os.close(os.open('exclusive', os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    fails(errno.EEXIST, os.open, 'exclusive', os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@check
def truncation():
    write('truncate', b'0123456789')
    os.truncate('truncate', 4)
    os.truncate('truncate', 6)
    assert read('truncate') == b'0123\0\0'
    os.close(os.open('truncate', os.O_WRONLY | os.O_TRUNC))
    assert os.stat('truncate').st_size == 0


@check
def rename_replaces():
    write('old', b'old')
    write('new', b'new')
    os.rename('new', 'old')
    assert read('old') == b'new' and not os.path.exists('new')
    os.mkdir('full')
    write('full/file')
    os.mkdir('empty')
    fails(errno.ENOTEMPTY, os.rename, 'empty', 'full')
    os.rename('full', 'empty')
    assert os.listdir('empty') == ['file']
    fails(errno.EINVAL, os.rename, 'empty', 'empty/below')


@check
def removed_file_lives_while_it_is_open():
    fd = os.open('removed', os.O_RDWR | os.O_CREAT)
    os.write(fd, b'still')
    os.unlink('removed')
    assert os.fstat(fd).st_nlink == 0
    os.ftruncate(fd, 3)
    assert os.pread(fd, 9, 0) == b'sti'
    os.fchmod(fd, 0o600)
    os.close(fd)


@check
def file_without_a_name():
    try:
        fd = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        # Not every file system has it, and programs know what to do then.
        assert error.errno == errno.EOPNOTSUPP, error
        return
    os.write(fd, b'unnamed')
    assert libc.linkat(-100, f'/proc/self/fd/{fd}'.encode(), -100, b'named', 0x400) == 0
    assert read('named') == b'unnamed'


@check
def directories():
    os.makedirs('a/b/c')
    fails(errno.ENOTEMPTY, os.rmdir, 'a')
    fails(errno.EEXIST, os.mkdir, 'a')
    assert os.stat('a').st_nlink >= 1
    os.removedirs('a/b/c')
    fails(errno.ENOENT, os.stat, 'a')
    write('plain')
    fails(errno.ENOTDIR, os.stat, 'plain/below')
    fails(errno.EISDIR, os.open, '.', os.O_WRONLY)


@check
def thousand_entries_are_listed_once():
    os.mkdir('many')
    names = {f'entry-{number:04}-{"x" * 40}' for number in range(1000)}
    for name in names:
        os.close(os.open('many/' + name, os.O_CREAT))
    listed = os.listdir('many')
    assert len(listed) == len(names) and set(listed) == names
    for name in names:
        os.unlink('many/' + name)
    assert os.listdir('many') == []
    os.rmdir('many')


@check
def names_of_any_kind():
    for name in (b'\xff\xfe', b'with\nline', b' ', b'x' * 255, '汉字'.encode()):
        write(name)
        assert name in os.listdir(b'.')
    fails(errno.ENAMETOOLONG, write, b'x' * 256)


@check
def paths_that_are_deep():
    top = os.open('.', os.O_RDONLY)
    for _ in range(60):
        os.mkdir('d' * 50)
        os.chdir('d' * 50)
    write('bottom')
    assert len(os.getcwd()) > 3000
    os.fchdir(top)


@check
def symbolic_links_that_turn_in_circles():
    os.symlink('circle', 'circle')
    fails(errno.ELOOP, os.stat, 'circle')


@check
def times_to_the_nanosecond():
    write('times')
    os.utime('times', ns=(1_000_000_001_000_000_002, 1_100_000_003_000_000_004))
    found = os.stat('times')
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001_000_000_002, 1_100_000_003_000_000_004)
    before = os.stat('times').st_mtime_ns
    write('times', b'again')
    assert os.stat('times').st_mtime_ns > before


@check
def modes_and_special_bits():
    write('mode')
    os.chown('mode', 1000, 1000)
    os.chmod('mode', 0o6755)
    assert stat.S_IMODE(os.stat('mode').st_mode) == 0o6755
    os.chown('mode', 1001, 1001)
    assert stat.S_IMODE(os.stat('mode').st_mode) == 0o0755, 'chown takes the bits away'


@check
def record_locks_exclude_each_other():
    write('locked')
    with open('locked', 'r+b') as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        child = os.fork()
        if child == 0:
            with open('locked', 'r+b') as other:
                fails(errno.EAGAIN, fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 20)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


@check
def whole_file_locks_exclude_each_other():
    write('flocked')
    with open('flocked') as one, open('flocked') as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        fails(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


@check
def shared_mapping_and_file_agree():
    write('mapped', b'\0' * 8192)
    with open('mapped', 'r+b') as file:
        view = mmap.mmap(file.fileno(), 8192)
        view[4096:4100] = b'view'
        assert os.pread(file.fileno(), 4, 4096) == b'view'
        os.pwrite(file.fileno(), b'file', 100)
        assert view[100:104] == b'file'
        view.close()


@check
def mapped_program_runs():
    # Execution maps the file, from the root file system and from a volume.
    with open('script', 'w') as file:
        file.write('#!/bin/sh\nexit 7\n')
    os.chmod('script', 0o755)
    assert os.waitstatus_to_exitcode(os.spawnl(os.P_WAIT, '/data/script', 'script') << 8) == 7


@check
def program_that_runs_is_not_written():
    with open('/bin/sleep', 'rb') as source, open('sleep', 'wb') as copy:
        copy.write(source.read())
    os.chmod('sleep', 0o755)
    child = os.spawnl(os.P_NOWAIT, '/data/sleep', 'sleep', '1000')
    while os.readlink(f'/proc/{child}/exe') != '/data/sleep':
        pass
    try:
        fails(errno.ETXTBSY, os.open, 'sleep', os.O_WRONLY)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@check
def room_is_reserved_and_holes_are_found():
    fd = os.open('reserved', os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 1 << 20)
    assert os.fstat(fd).st_size == 1 << 20
    sparse = os.open('holes', os.O_RDWR | os.O_CREAT)
    os.ftruncate(sparse, 1 << 24)
    os.pwrite(sparse, b'data', 1 << 22)
    assert os.lseek(sparse, 0, os.SEEK_DATA) == 1 << 22


@check
def copy_between_files_in_the_kernel():
    write('source', b'0123456789' * 1000)
    source, target = os.open('source', os.O_RDONLY), os.open('target', os.O_WRONLY | os.O_CREAT)
    left = 10000
    while left:
        left -= os.copy_file_range(source, target, left)
    assert read('target') == read('source')
    os.ftruncate(target, 0)
    out = os.open('sent', os.O_WRONLY | os.O_CREAT)
    assert os.sendfile(out, source, 0, 10000) == 10000
    assert read('sent') == read('source')


@check
def sizes_of_the_file_system_are_known():
    found = os.statvfs('.')
    assert found.f_blocks > 0 and found.f_bavail > 0 and found.f_namemax == 255
    os.sync()


@check
def socket_in_a_shared_directory():
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind('socket')
        server.listen()
        client.connect('socket')
        assert stat.S_ISSOCK(os.stat('socket').st_mode)


@check
def fifo_carries_bytes():
    os.mkfifo('fifo')
    thread = threading.Thread(target=write, args=('fifo', b'through'))
    thread.start()
    assert read('fifo') == b'through'
    thread.join()


@check
def changes_are_noticed():
    fd = libc.inotify_init1(0)
    assert libc.inotify_add_watch(fd, b'.', 0x100) >= 0
    write('noticed')
    event = os.read(fd, 4096)
    assert struct.unpack('iIII', event[:16])[1] == 0x100 and event[16:].startswith(b'noticed')


@check
def writers_side_by_side():
    def work(number):
        for turn in range(50):
            name = f'side-{number}-{turn}'
            write(name, name.encode() * 100)
            assert read(name) == name.encode() * 100
            os.rename(name, name + '-done')
            os.unlink(name + '-done')
        done.append(number)
    done = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4


for function in ALL:
    try:
        function()
        result = 'ok'
    except BaseException as error:
        result = f'{type(error).__name__}: {error}'
    print(f'{function.__name__}: {result}')
print('finished: ok')
