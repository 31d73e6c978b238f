"""What is told of files while somebody else changes them: one line for each event, by what is watched.

watching.py prepare DIRECTORY   makes what is there before
watching.py watch DIRECTORY     watches that, says "ready", and at the end what it was told
watching.py operate DIRECTORY   changes it, and makes the file that ends the watching
"""
import ctypes
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
BITS = ['ACCESS', 'MODIFY', 'ATTRIB', 'CLOSE_WRITE', 'CLOSE_NOWRITE', 'OPEN', 'MOVED_FROM', 'MOVED_TO', 'CREATE',
        'DELETE', 'DELETE_SELF', 'MOVE_SELF', '', 'UNMOUNT', 'Q_OVERFLOW', 'IGNORED']
NAMES = {1 << bit: name for bit, name in enumerate(BITS) if name} | {1 << 30: 'ISDIR'}
ALL = 0xfff
# What programs that wait for changes ask for.
CHANGES = ALL & ~(1 | 0x10 | 0x20)


def write(name, content='content', how='w'):
    with open(name, how) as file:
        file.write(content)


class Watching:
    def __init__(self):
        self.fd = libc.inotify_init1(os.O_CLOEXEC)
        assert self.fd >= 0
        self.labels, self.told, self.cookies = {}, {}, {}

    def add(self, name, mask=CHANGES, label=None):
        watch = libc.inotify_add_watch(self.fd, name.encode(), mask)
        if watch < 0:
            return ctypes.get_errno()
        self.labels[watch] = label or name
        self.told.setdefault(label or name, [])
        return 0

    def read(self):
        data = os.read(self.fd, 1 << 16)
        while data:
            watch, mask, cookie, length = struct.unpack_from('iIII', data)
            name = data[16:16 + length].rstrip(b'\0').decode()
            data = data[16 + length:]
            kinds = '|'.join(kind for bit, kind in NAMES.items() if mask & bit)
            if cookie:
                cookie = self.cookies.setdefault(cookie, len(self.cookies) + 1)
            line = ' '.join(filter(None, [kinds, name, cookie and f'#{cookie}']))
            told = self.told[self.labels[watch]]
            # Equal ones in a row may be one, as it happens.
            if told[-1:] != [line]:
                told.append(line)
            yield self.labels[watch], kinds, name

    def until(self, label, kind, name):
        while (label, kind, name) not in list(self.read()):
            pass

    def show(self):
        for label in sorted(self.told):
            for line in self.told[label]:
                print(f'{label}: {line}')


class Marks:
    """What fanotify tells of a directory, by names: what it merges is a matter of time."""

    def __init__(self, name):
        # FAN_REPORT_DFID_NAME, not waiting; names that come and go, content, also of directories and of what is in it.
        self.fd = libc.fanotify_init(0xc00 | 2, os.O_RDONLY)
        assert self.fd >= 0, ctypes.get_errno()
        mask = ctypes.c_uint64(0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 1 << 30 | 1 << 27)
        assert libc.fanotify_mark(self.fd, 1, mask, -100, name.encode()) == 0, ctypes.get_errno()

    def show(self):
        told = {}
        data = os.read(self.fd, 1 << 16)
        while data:
            length, _, _, start, mask, _, _ = struct.unpack_from('IBBHQii', data)
            handle, = struct.unpack_from('I', data, start + 12)
            name = data[start + 20 + handle:length].split(b'\0')[0].decode()
            told[name] = told.get(name, 0) | mask
            data = data[length:]
        for name in sorted(told):
            print('marked:', name, '|'.join(kind for bit, kind in NAMES.items() if told[name] & bit))


def prepare():
    for name in ['sub', 'old', 'empty', 'config', 'config/..v1', 'opened', 'marked']:
        os.mkdir(name)
    for name in ['single', 'replaced', 'removed', 'sub/file', 'kept', 'opened/file', 'config/..v1/key']:
        write(name)
    os.symlink('..v1', 'config/..data')
    os.symlink('..data/key', 'config/key')


def watch():
    watching = Watching()
    for name in ['.', 'sub', 'single', 'replaced', 'removed', 'empty', 'config']:
        assert watching.add(name) == 0, name
    assert watching.add('opened', ALL) == 0
    assert watching.add('kept', 0x2) == 0
    marks = Marks('marked')
    # What this program does itself is told once.
    os.mkdir('own')
    write('own-file')
    os.rename('own-file', 'own-moved')
    os.chmod('own-moved', 0o600)
    write('single', 'own')
    os.unlink('own-moved')
    os.rmdir('own')
    print('ready', flush=True)
    watching.until('.', 'CREATE|ISDIR', 'end')
    # A look after the event sees the change.
    print('config:', open('config/key').read())
    print('replaced:', open('replaced').read(), 'removed:', os.path.exists('removed'))
    watching.show()
    marks.show()


def operate():
    write('new')
    write('new', 'more', 'a')
    os.chmod('new', 0o640)
    os.utime('new', (1, 1))
    os.truncate('new', 3)
    os.mkdir('directory')
    os.symlink('new', 'symlink')
    os.link('new', 'hardlink')
    os.mkfifo('fifo')
    os.rename('new', 'renamed')
    os.rename('sub/file', 'moved-out')
    os.rename('renamed', 'sub/moved-in')
    os.rename('old', 'old-renamed')
    os.unlink('hardlink')
    os.rmdir('directory')
    write('sub/a')
    os.mkdir('sub/b')
    os.rmdir('sub/b')
    write('single', 'more', 'a')
    os.chmod('single', 0o600)
    write('kept', 'more', 'a')
    write('replacement', 'new content')
    os.rename('replacement', 'replaced')
    os.unlink('removed')
    os.rmdir('empty')
    with open('opened/file') as file:
        file.read()
    write('opened/other')
    os.listdir('opened')
    write('marked/a')
    os.rename('marked/a', 'marked/b')
    os.chmod('marked/b', 0o600)
    os.mkdir('marked/d')
    os.rmdir('marked/d')
    # As kubelet changes a ConfigMap.
    os.mkdir('config/..v2')
    write('config/..v2/key', 'version 2')
    os.symlink('..v2', 'config/..data_tmp')
    os.rename('config/..data_tmp', 'config/..data')
    os.unlink('config/..v1/key')
    os.rmdir('config/..v1')
    os.mkdir('end')


if __name__ == '__main__':
    os.umask(0o022)
    os.chdir(sys.argv[2])
    {'prepare': prepare, 'watch': watch, 'operate': operate}[sys.argv[1]]()
