"""System calls that a thread which its guest has taken over must not be able to make, and the scripts of them.

A script has a call a line, for the kernel in `guest/src/attacks/planted.rs`.
"""

from dataclasses import dataclass
from pathlib import Path

# The threads that make calls: a vCPU's, the event loop, the file server, a disk's and a network interface's.
DOORS = ("vcpu", "events", "files", "disk", "card")
# The answer of a filter that is only to tell (vmm/devices/src/planted.rs).
NOT_ON_THE_LIST = -4000
# So many descriptors are tried, one after the other.
DESCRIPTORS = 64
# Up to the root from anywhere.
UP = "../" * 16

GETPID = 39


@dataclass(frozen=True)
class Call:
    """A call that must come to nothing."""

    name: str
    # Number and arguments, as a script has them.
    words: str
    # Without the walls it is carried out; where not (its arguments are none), the list itself must forbid it.
    works: bool = True
    # Doors at which the class needs the call for its work, so that something else must hold it.
    needed: tuple[str, ...] = ()

    def lines(self, door: str) -> list[str]:
        """One for each descriptor where it has a `#`."""
        if "#" not in self.words:
            return [f"{door} {self.words}"]
        return [f"{door} {self.words.replace('#', str(number))}" for number in range(DESCRIPTORS)]


def text(value: object) -> str:
    return f'"{value}"'


def bytes_of(*fields: int, width: int = 4) -> str:
    return "@" + b"".join(field.to_bytes(width, "little") for field in fields).hex()


def unix_address(path: Path) -> str:
    """A socket's, and its length: two arguments."""
    address = b"\1\0" + bytes(path)
    return f"@{address.hex()} {len(address)}"


def of_processes(victim: int, script: Path) -> list[Call]:
    return [
        Call("execve", f"59 {text(script)} 0 0", works=False),
        Call("execveat", f"322 -100 {text(script)} 0 0 0", works=False),
        Call("fork", "57", works=False),
        Call("vfork", "58", works=False),
        Call("clone", "56 17 0 0 0 0", works=False),
        Call("kill", f"62 {victim} 19"),
        Call("tkill", f"200 {victim} 0"),
        Call("tgkill", f"234 {victim} {victim} 0"),
        Call("rt_sigqueueinfo", f"129 {victim} 19 {bytes_of(*[0] * 32)}", works=False),
        Call("pidfd_open", f"434 {victim} 0"),
        Call("pidfd_send_signal", "424 3 19 0 0", works=False),
        Call("pidfd_getfd", "438 3 0 0", works=False),
        Call("ptrace", f"101 {0x4206} {victim} 0 0"),
        Call("process_vm_readv", f"310 {victim} 0 0 0 0 0"),
        Call("process_vm_writev", f"311 {victim} 0 0 0 0 0"),
        Call("prlimit64", f"302 {victim} 7 0 {bytes_of(0, 0)}"),
        Call("setpriority", f"141 0 {victim} 5"),
        Call("sched_setaffinity", f"203 {victim} 8 {bytes_of(1, 0)}"),
        Call("ioprio_set", f"251 1 {victim} {0x4000}"),
        Call("F_SETOWN", f"72 1 8 {victim}"),
        Call("F_SETSIG", "72 1 10 9"),
        Call("FIOSETOWN", f"16 1 {0x8901} {bytes_of(victim)}", works=False),
        Call("PR_SET_PDEATHSIG", "157 1 0", works=False),
        Call("PR_SET_DUMPABLE", "157 4 1"),
        Call("timer_create", f"222 0 0 {bytes_of(0, 0)}"),
    ]


def of_connections(socket: Path) -> list[Call]:
    return [
        Call("socket", "41 1 1 0"),
        Call("connect", f"42 $ {unix_address(socket)}"),
        Call("socket, internet", "41 2 1 0"),
        Call("socket, netlink", "41 16 3 0"),
        Call("socket, packets", "41 17 3 0"),
        Call("socketpair", f"53 1 1 0 {bytes_of(0, 0)}"),
        Call("connect of what is open", f"42 # {unix_address(socket)}", works=False),
        Call("bind", f"49 # {unix_address(Path('hole'))}", works=False),
        Call("sendmsg", f"46 3 {bytes_of(*[0] * 14)} 0", works=False),
        Call("TIOCSTI", f"16 0 {0x5412} {text('x')}", works=False),
    ]


def of_the_kernel() -> list[Call]:
    return [
        Call("mount", f"165 {text('none')} {text('/')} 0 {1 << 18} 0"),
        Call("umount2", f"166 {text('/proc')} 0", works=False),
        Call("open_tree", f"428 -100 {text('/')} 0"),
        Call("move_mount", f"429 -100 {text('/proc')} -100 {text('/mnt')} 0", works=False),
        Call("fsopen", f"430 {text('tmpfs')} 0"),
        Call("mount_setattr", f"442 -100 {text('/')} 0 {bytes_of(*[0] * 8)} 32", works=False),
        Call("pivot_root", f"155 {text('/')} {text('/')}", works=False),
        Call("chroot", f"161 {text('/')}"),
        Call("setns", "308 3 0", works=False),
        Call("unshare, mounts", f"272 {1 << 17}"),
        Call("unshare, users", f"272 {1 << 28}", works=False),
        Call("bpf", f"321 0 {bytes_of(2, 4, 4, 1)} 16"),
        Call("io_uring_setup", f"425 1 {bytes_of(*[0] * 30)}"),
        # There is a ring, which is disabled and holds the virtual machine (vmm/machine/src/virtual_machine.rs).
        Call("io_uring_enter", "426 # 1 0 0 0 0", works=False),
        Call("io_uring_register, to enable", "427 # 12 0 0", works=False),
        Call("perf_event_open", f"298 {bytes_of(1, 64, *[0] * 14)} 0 -1 -1 0"),
        Call("userfaultfd", "323 0"),
        Call("keyctl", "250 0 -3 1"),
        Call("add_key", f"248 {text('user')} {text('hole')} {text('x')} 1 -3"),
        Call("request_key", f"249 {text('user')} {text('hole')} 0 -3"),
        Call("memfd_create", f"319 {text('hole')} 0"),
        Call("mmap of code", f"9 0 4096 4 {0x22} -1 0"),
        Call("mprotect to code", "10 0 4096 4", works=False),
        Call("fanotify_init", "300 0 0", works=False),
        Call("seccomp", f"317 2 0 {bytes_of(0x7fff0000)}"),
        Call("setuid", "105 0"),
        Call("capset", f"126 {bytes_of(0x20080522, 0)} {bytes_of(*[0xFFFFFFFF] * 6)}", needed=("files",)),
        Call("shmget", "29 0 4096 896"),
        Call("iopl", "172 3"),
        Call("personality", f"135 {0xFFFFFFFF}"),
        Call("sethostname", f"170 {text('hole')} 4"),
        Call("init_module", f"175 {text('x')} 1 {text('')}", works=False),
        Call("kexec_load", "246 0 0 0 0", works=False),
        Call("reboot", "169 0 0 0 0", works=False),
        Call("swapon", f"167 {text('/')} 0", works=False),
        Call("acct", f"163 {text('/')}", works=False),
        Call("clock_settime", f"227 0 {bytes_of(*[0] * 4)}", works=False),
    ]


def of_files(outside: Path) -> list[Call]:
    """`outside` has a file `secret`; those that make something end with it gone."""
    by_name = ("files",)
    target, made, other = (text(UP + str(outside / name)[1:]) for name in ("secret", "made", "other"))
    return [
        Call("open", f"2 {text('/etc/shadow')} 0", needed=by_name),
        Call("creat", f"85 {made} 384", works=False),
        Call("openat", f"257 -100 {text('/etc/shadow')} 0", needed=by_name),
        Call("openat, upwards", f"257 -100 {target} 0", needed=by_name),
        Call("openat2", f"437 -100 {target} {bytes_of(*[0] * 6)} 24", needed=by_name),
        Call("open_by_handle_at", f"304 -100 {bytes_of(8, 1, 2, 0)} 0", works=False),
        Call("name_to_handle_at", f"303 -100 {target} {bytes_of(128, 0)} {bytes_of(0)} 0", needed=by_name),
        Call("openat, from what is open", f"257 # {target} 0", needed=by_name),
        Call("newfstatat", f"262 # {target} {bytes_of(0)} 0", needed=by_name),
        Call("statx", f"332 # {target} 0 2047 {bytes_of(0)}", needed=by_name),
        Call("faccessat", f"269 # {target} 4", needed=by_name),
        Call("fchmodat", f"268 # {target} 384", needed=by_name),
        Call("fchownat", f"260 # {target} 0 0 0", needed=by_name),
        Call("utimensat", f"280 # {target} 0 0", needed=by_name),
        Call("mkdirat", f"258 # {made} 448", needed=by_name),
        Call("unlinkat, a directory", f"263 # {made} 512", needed=by_name),
        Call("mknodat", f"259 # {made} {0o100600} 0", needed=by_name),
        Call("renameat", f"264 # {made} # {other}", needed=by_name),
        Call("linkat", f"265 # {other} # {made} 0", needed=by_name),
        Call("unlinkat", f"263 # {other} 0", needed=by_name),
        Call("unlinkat, the other name", f"263 # {made} 0", needed=by_name),
    ]


def descriptors_attributes() -> list[str]:
    """What the file server's thread may do to whatever is open in its process: it may succeed, and must change nothing of the host's."""
    words = (f"91 # {0o777}", "93 # 65534 65534", f"190 # {text('user.hole')} {text('x')} 1 0", "280 # 0 0 0")
    return [line for each in words for line in Call("", each).lines("files")]
