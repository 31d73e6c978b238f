"""Asks the kernel for everything that containers may count on: a line each, "name: ok"."""
import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
ALL = []


def probe(function):
    ALL.append(function)
    return function


def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(
        ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def mount(kind, at, options='', source='none', flags=0):
    os.makedirs(at, exist_ok=True)
    if libc.mount(source.encode(), at.encode(), kind.encode(), flags, options.encode()) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f'mount {kind}: {os.strerror(error)}')


def in_child(function, *arguments):
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException as error:
            print(f'in the child: {error}', file=sys.stderr, flush=True)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, 'see standard error'


def text(path):
    with open(path) as file:
        return file.read()


def known_file_system(name):
    assert any(line.split()[-1] == name for line in text('/proc/filesystems').splitlines()), 'not in /proc/filesystems'


# Namespaces

def unshare(flag):
    in_child(call, 272, flag)


@probe
def mount_namespace():
    unshare(0x20000)


@probe
def uts_namespace():
    unshare(0x4000000)


@probe
def ipc_namespace():
    unshare(0x8000000)


@probe
def user_namespace():
    unshare(0x10000000)


@probe
def pid_namespace():
    unshare(0x20000000)


@probe
def network_namespace():
    unshare(0x40000000)


@probe
def cgroup_namespace():
    unshare(0x2000000)


@probe
def time_namespace():
    unshare(0x80)


@probe
def unprivileged_user_namespace_can_mount():
    def work():
        os.setgid(1000)
        os.setuid(1000)
        # A process that gave up root may not write its own maps until it is dumpable again.
        call(157, 4, 1)
        call(272, 0x10000000 | 0x20000)
        for name, line in (('setgroups', 'deny'), ('uid_map', '0 1000 1'), ('gid_map', '0 1000 1')):
            with open('/proc/self/' + name, 'w') as file:
                file.write(line)
        mount('tmpfs', '/mnt')
        for name in ('up', 'work'):
            os.mkdir('/mnt/' + name)
        mount('overlay', '/mnt/up', 'lowerdir=/etc,upperdir=/mnt/up,workdir=/mnt/work')
    in_child(work)


# Control groups

@probe
def cgroup_controllers():
    found = set(text('/sys/fs/cgroup/cgroup.controllers').split())
    missing = {'cpu', 'memory', 'pids', 'io', 'cpuset'} - found
    assert not missing, f'missing {missing}'


@probe
def cgroup_hierarchy_can_be_extended():
    os.mkdir('/sys/fs/cgroup/own')
    with open('/sys/fs/cgroup/own/cgroup.procs', 'w') as file:
        file.write('0')
    with open('/sys/fs/cgroup/cgroup.subtree_control', 'w') as file:
        file.write('+cpu +memory +pids +io +cpuset')
    os.mkdir('/sys/fs/cgroup/limited')
    for name, value in {'pids.max': '10', 'memory.max': '16777216', 'cpu.max': '10000 100000', 'cpuset.cpus': '0',
                        'cgroup.freeze': '1', 'cgroup.kill': '1'}.items():
        with open('/sys/fs/cgroup/limited/' + name, 'w') as file:
            file.write(value)


# Security

class Filter(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]


def seccomp(action, flags):
    # Loads the number of the call; 400 gets the action, all else passes.
    code = b''.join(struct.pack('HBBI', *row) for row in (
        (0x20, 0, 0, 0), (0x15, 0, 1, 400), (0x06, 0, 0, action), (0x06, 0, 0, 0x7fff0000)))
    buffer = ctypes.create_string_buffer(code)
    program = Filter(4, ctypes.cast(buffer, ctypes.c_void_p))
    return call(317, 1, flags, ctypes.byref(program))


@probe
def seccomp_filter():
    def work():
        seccomp(0x00050000 | 77, 0)
        try:
            call(400)
        except OSError as error:
            assert error.errno == 77
            return
        raise AssertionError('the filter does nothing')
    in_child(work)


@probe
def seccomp_user_notification():
    def work():
        assert seccomp(0x7fc00000, 8) > 2
    in_child(work)


@probe
def landlock():
    assert call(444, 0, 0, 1) >= 4


@probe
def keyrings():
    key = call(248, b'user', b'name', b'secret', 6, ctypes.c_long(-3))
    buffer = ctypes.create_string_buffer(6)
    assert call(250, 11, key, buffer, 6) == 6 and buffer.raw == b'secret'


@probe
def file_capabilities():
    with open('/tmp/capable', 'w'):
        pass
    os.setxattr('/tmp/capable', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))


# File systems

@probe
def overlayfs():
    for name in ('lower', 'upper', 'work'):
        os.makedirs('/tmp/overlay/' + name)
    with open('/tmp/overlay/lower/file', 'w') as file:
        file.write('below')
    mount('overlay', '/tmp/overlay/merged', 'lowerdir=/tmp/overlay/lower,upperdir=/tmp/overlay/upper,workdir=/tmp/overlay/work')
    assert text('/tmp/overlay/merged/file') == 'below'
    os.unlink('/tmp/overlay/merged/file')
    assert os.stat('/tmp/overlay/upper/file').st_rdev == 0


@probe
def tmpfs_with_attributes():
    mount('tmpfs', '/tmp/attributes', 'size=1m')
    with open('/tmp/attributes/file', 'w'):
        pass
    for name in ('user.note', 'trusted.note', 'security.note'):
        os.setxattr('/tmp/attributes/file', name, b'value')
    # An access control list: owner, user 7, group, mask, others.
    entries = ((1, 6, 0xffffffff), (2, 4, 7), (4, 4, 0xffffffff), (16, 4, 0xffffffff), (32, 4, 0xffffffff))
    os.setxattr('/tmp/attributes/file', 'system.posix_acl_access',
                struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries))


@probe
def fuse():
    known_file_system('fuse')
    os.mknod('/tmp/fuse', 0o20666, os.makedev(10, 229))
    fd = os.open('/tmp/fuse', os.O_RDWR)
    mount('fuse', '/tmp/fused', f'fd={fd},rootmode=40000,user_id=0,group_id=0')
    # The kernel asks first: its request has the number 26.
    assert struct.unpack('II', os.read(fd, 1 << 17)[:8])[1] == 26


@probe
def virtiofs():
    known_file_system('virtiofs')


@probe
def ext4():
    known_file_system('ext4')


@probe
def erofs():
    known_file_system('erofs')


@probe
def squashfs():
    known_file_system('squashfs')


@probe
def idmapped_mounts():
    mount('tmpfs', '/tmp/mapped')
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        call(272, 0x10000000)
        os.write(ready[1], b'x')
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    for name in ('uid_map', 'gid_map'):
        with open(f'/proc/{child}/{name}', 'w') as file:
            file.write('0 1000 10')
    namespace = os.open(f'/proc/{child}/ns/user', os.O_RDONLY)
    tree = call(428, -100, b'/tmp/mapped', 1 | 0x80000)
    attributes = struct.pack('QQQQ', 0x100000, 0, 0, namespace)
    call(442, tree, b'', 0x1000, ctypes.create_string_buffer(attributes), len(attributes))
    os.write(go[1], b'x')
    os.waitpid(child, 0)


@probe
def binfmt_misc():
    mount('binfmt_misc', '/tmp/binfmt')
    with open('/tmp/binfmt/register', 'w') as file:
        file.write(':probe:E::probe::/bin/echo:')
    with open('/tmp/it.probe', 'w') as file:
        file.write('anything')
    os.chmod('/tmp/it.probe', 0o755)
    assert os.popen('/tmp/it.probe').read() == '/tmp/it.probe\n'


@probe
def binfmt_script():
    with open('/tmp/script', 'w') as file:
        file.write('#!/bin/sh\necho script\n')
    os.chmod('/tmp/script', 0o755)
    assert os.popen('/tmp/script').read() == 'script\n'


# Processes talking to each other

@probe
def posix_message_queue():
    real = ctypes.CDLL('librt.so.1', use_errno=True)
    queue = real.mq_open(b'/probe', os.O_CREAT | os.O_RDWR, 0o600, None)
    assert queue >= 0, os.strerror(ctypes.get_errno())
    assert real.mq_send(queue, b'hello', 5, 1) == 0
    assert os.path.exists('/dev/mqueue/probe')


@probe
def sysv_shared_memory():
    call(29, 0, 4096, 0o1600)


@probe
def sysv_semaphores():
    call(64, 0, 1, 0o1600)


@probe
def sysv_message_queue():
    call(68, 0, 0o1600)


@probe
def futexes_and_pidfds():
    fd = os.pidfd_open(os.getpid())
    signal.pidfd_send_signal(fd, 0)
    word = ctypes.c_uint32(1)
    try:
        call(202, ctypes.byref(word), 128, 0, 0)
    except OSError as error:
        assert error.errno == errno.EAGAIN, error


@probe
def tracing_of_children():
    child = os.fork()
    if child == 0:
        call(101, 0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    call(101, 7, child, 0, 0)
    os.waitpid(child, 0)


@probe
def memory_of_other_processes():
    source = ctypes.create_string_buffer(b'remote')
    target = ctypes.create_string_buffer(6)
    local = struct.pack('PN', ctypes.addressof(target), 6)
    remote = struct.pack('PN', ctypes.addressof(source), 6)
    assert call(310, os.getpid(), local, 1, remote, 1, 0) == 6 and target.raw == b'remote'


# Input and output

@probe
def io_uring():
    parameters = ctypes.create_string_buffer(120)
    os.close(call(425, 8, parameters))


@probe
def asynchronous_io():
    context = ctypes.c_ulong(0)
    call(206, 8, ctypes.byref(context))
    call(207, context)


@probe
def event_signal_and_timer_descriptors():
    fd = os.eventfd(1)
    assert os.eventfd_read(fd) == 1
    call(289, -1, struct.pack('Q', 1 << 9), 8, 0)
    timer = call(283, 1, 0)
    call(286, timer, 0, struct.pack('qqqq', 0, 0, 0, 1000000), 0)
    assert struct.unpack('Q', os.read(timer, 8))[0] >= 1


@probe
def epoll():
    import select
    fd = select.epoll()
    read, write = os.pipe()
    fd.register(read, select.EPOLLIN)
    os.write(write, b'x')
    assert fd.poll(1) == [(read, select.EPOLLIN)]


@probe
def inotify():
    fd = libc.inotify_init1(0)
    assert fd >= 0 and libc.inotify_add_watch(fd, b'/tmp', 0x100) >= 0


@probe
def fanotify():
    fd = call(300, 0, os.O_RDONLY)
    call(301, fd, 1, ctypes.c_ulong(0x20), -100, b'/tmp')


@probe
def userfaultfd():
    os.close(call(323, os.O_CLOEXEC))


@probe
def memory_files():
    fd = os.memfd_create('probe', os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, 1033, 2)
    try:
        os.ftruncate(fd, 0)
    except PermissionError:
        return
    raise AssertionError('the seal does not hold')


# BPF

def bpf(command, attributes):
    return call(321, command, ctypes.create_string_buffer(attributes.ljust(128, b'\0')), 128)


def load(kind, attach=0):
    code = ctypes.create_string_buffer(struct.pack('BBHi', 0xb7, 0, 0, 1) + struct.pack('BBHi', 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b'GPL')
    attributes = struct.pack('IIQQIIQII16sII', kind, 2, ctypes.addressof(code), ctypes.addressof(licence),
                             0, 0, 0, 0, 0, b'', 0, attach)
    return bpf(5, attributes)


@probe
def bpf_maps_and_programs():
    bpf(0, struct.pack('IIII', 1, 4, 4, 8))
    load(1)


@probe
def bpf_cgroup_devices():
    program = load(15, 6)
    os.makedirs('/sys/fs/cgroup/devices')
    group = os.open('/sys/fs/cgroup/devices', os.O_RDONLY)
    bpf(8, struct.pack('IIII', group, program, 6, 2))


# Network

def netlink(family, *messages):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as sock:
        sock.settimeout(10)
        sock.bind((0, 0))
        sock.send(b''.join(
            struct.pack('IHHII', 16 + len(body), kind, flags, number, 0) + body
            for number, (kind, flags, body) in enumerate(messages)))
        waiting = sum(1 for _, flags, _ in messages if flags & 4)
        while waiting:
            data = sock.recv(65536)
            while data:
                length, kind = struct.unpack('IH', data[:6])
                assert kind == 2, 'not an acknowledgement'
                error = -struct.unpack('i', data[16:20])[0]
                if error:
                    raise OSError(error, os.strerror(error))
                waiting -= 1
                data = data[(length + 3) & ~3:]


def attribute(kind, body):
    if isinstance(body, str):
        body = body.encode() + b'\0'
    return struct.pack('HH', 4 + len(body), kind) + body + b'\0' * (-len(body) % 4)


def first_answer(family, kind, flags, body):
    """The kind of the first message that comes back; an error is raised."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as sock:
        sock.settimeout(10)
        sock.bind((0, 0))
        sock.send(struct.pack('IHHII', 16 + len(body), kind, 1 | flags, 1, 0) + body)
        data = sock.recv(65536)
        answer = struct.unpack('IH', data[:6])[1]
        if answer == 2:
            error = -struct.unpack('i', data[16:20])[0]
            raise OSError(error, os.strerror(error))
        return answer


def make_link(kind, data=b'', on=None):
    name = kind + '7'
    info = attribute(1, kind) + (attribute(0x8002, data) if data else b'')
    below = attribute(5, struct.pack('I', socket.if_nametoindex(on))) if on else b''
    body = struct.pack('BxHiII', 0, 0, 0, 0, 0) + attribute(3, name) + below + attribute(0x8012, info)
    netlink(0, (16, 0x605, body))
    assert os.path.isdir('/sys/class/net/' + name)
    return name


@probe
def ipv4_and_ipv6():
    for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as sock:
                sock.bind((address, 0))


@probe
def raw_sockets():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@probe
def packet_sockets():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()


@probe
def unix_sockets():
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(one, [b'x'], [0])
    assert socket.recv_fds(two, 1, 1)[1]


@probe
def vsock():
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


@probe
def veth():
    peer = struct.pack('BxHiII', 0, 0, 0, 0, 0) + attribute(3, 'peer7')
    make_link('veth', attribute(1, peer))


@probe
def bridge():
    make_link('bridge')


@probe
def links_on_links():
    make_link('dummy')
    make_link('vlan', attribute(1, struct.pack('H', 5)), on='dummy7')
    make_link('macvlan', on='dummy7')
    make_link('ipvlan', on='vlan7')


@probe
def socket_diagnostics():
    for protocol in socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_RAW:
        wanted = struct.pack('BBxxI48x', socket.AF_INET, protocol, 0xffffffff)
        assert first_answer(4, 20, 0x300, wanted) in (3, 20)
    for family in socket.AF_UNIX, socket.AF_PACKET, socket.AF_NETLINK:
        # Of all protocols; only AF_UNIX's request is longer than others.
        wanted = struct.pack('BBxxI', family, 0xff if family == socket.AF_NETLINK else 0, 0xffffffff)
        assert first_answer(4, 20, 0x300, wanted + b'\0' * 16) in (3, 20)


@probe
def xtables_extensions():
    matches = 'addrtype comment conntrack connmark iprange limit mac mark multiport owner pkttype recent state statistic tcp'
    targets = 'CONNMARK DNAT LOG MARK MASQUERADE REDIRECT REJECT SNAT TCPMSS'
    for family in socket.AF_INET, socket.AF_INET6:
        for kind, names in enumerate((matches, targets)):
            for name in names.split():
                asked = attribute(1, name) + attribute(2, b'\0' * 4) + attribute(3, struct.pack('>I', kind))
                try:
                    first_answer(12, 0xb00, 4, struct.pack('BBH', family, 0, 0) + asked)
                except OSError as error:
                    # Of another revision than 0.
                    assert error.errno == errno.EPROTONOSUPPORT, f'{name}, {family}: {error}'


@probe
def tun():
    os.mknod('/tmp/tun', 0o20666, os.makedev(10, 200))
    fd = os.open('/tmp/tun', os.O_RDWR)
    for name, flags in ((b'tun7', 0x1001), (b'tap7', 0x1002)):
        fd = os.open('/tmp/tun', os.O_RDWR)
        fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22s', name, flags, b''))
        assert os.path.isdir('/sys/class/net/' + name.decode())


NFT_TABLE, NFT_CHAIN, NFT_RULE = 0xa00, 0xa03, 0xa06


def nft(*messages):
    header = struct.pack('BBH', 2, 0, 0)
    ends = struct.pack('BBH', 0, 0, socket.htons(10))
    netlink(12, (16, 1, ends), *((kind, 0xc05, header + body) for kind, body in messages), (17, 1, ends))


def rule(chain, *expressions):
    body = b''.join(attribute(0x8001, attribute(1, name) + (attribute(0x8002, data) if data else b''))
                    for name, data in expressions)
    return (NFT_RULE, attribute(1, 'probe') + attribute(2, chain) + attribute(0x8004, body))


@probe
def nftables_filter_and_nat():
    def big(number):
        return struct.pack('>I', number)

    def chain(name, kind, hook, priority):
        place = attribute(1, big(hook)) + attribute(2, big(priority))
        return (NFT_CHAIN, attribute(1, 'probe') + attribute(3, name) + attribute(0x8004, place) + attribute(7, kind))

    nft((NFT_TABLE, attribute(1, 'probe')),
        chain('filter', 'filter', 1, 0),
        chain('source', 'nat', 4, 100),
        chain('target', 'nat', 0, 0xffffff9c))
    nft(rule('source', ('masq', b'')))
    nft(rule('filter', ('ct', attribute(2, big(0)) + attribute(1, big(1)))))
    nft(rule('filter', ('counter', b'')))


# Time

@probe
def clock_is_good():
    path = '/sys/devices/system/clocksource/clocksource0/'
    assert text(path + 'current_clocksource').strip() in ('kvm-clock', 'tsc')
    assert 'kvm-clock' in text(path + 'available_clocksource').split()


@probe
def timers_have_high_resolution():
    assert time.clock_getres(time.CLOCK_MONOTONIC) <= 1e-9
    best = min(one_sleep() for _ in range(50))
    # A tick is at least 1 ms.
    assert 50e-6 <= best < 900e-6, best


def one_sleep():
    start = time.perf_counter()
    time.sleep(50e-6)
    return time.perf_counter() - start


# For programs

@probe
def random_numbers():
    assert len(os.getrandom(32, os.GRND_NONBLOCK)) == 32
    with open('/dev/hwrng' if os.path.exists('/dev/hwrng') else '/dev/urandom', 'rb') as file:
        assert len(file.read(8)) == 8


@probe
def ping_sockets():
    with open('/proc/sys/net/ipv4/ping_group_range', 'w') as file:
        file.write('0 2147483647')
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()


for function in ALL:
    try:
        function()
        result = 'ok'
    except BaseException as error:
        result = f'{type(error).__name__}: {error}'
    print(f'{function.__name__}: {result}', flush=True)
