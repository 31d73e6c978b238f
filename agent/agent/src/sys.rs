//! System calls that need `unsafe`, each behind a safe function.
//!
//! Invariant of the whole agent: it has one thread. `fork` relies on it.

use std::io::{self, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use vmrun_proto::{ConsoleSize, ExitStatus};

/// Ends the process at once, without destructors or exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Forks; `None` in the child, the child's pid in the parent.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the agent has one thread (module invariant), so no lock can be
    // held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Forks, as a child of this process's parent, in a cgroup, if one is given; `None` in the child, its pid here.
pub(crate) fn clone_sibling(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<i32>> {
    // SAFETY: all zeros is a value of it: a fork that tells nobody when it ends.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    // The signal that says so is that of the parent's other children.
    args.flags = u64::from(libc::CLONE_PARENT.cast_unsigned());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(positive(cgroup)?);
    }
    // SAFETY: the arguments are read for the size that is given. Without a stack and without shared memory it is
    // a fork, and the process has one thread (module invariant).
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, mem::size_of_val(&args)) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => i32::try_from(pid).map(Some).map_err(io::Error::other),
    }
}

/// `linux/sched.h`; libc's constant is of a type that has no room for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Sends any signal, real-time ones included.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers and touches no memory.
    check(unsafe { libc::kill(pid, signal) })
}

/// Gives the signals their default action and unblocks all: a child must not
/// inherit the agent's `signalfd` mask, nor `SIGPIPE` as Rust's runtime leaves it.
pub(crate) fn reset_signals() {
    // SAFETY: SIG_DFL installs no handler; the set is initialised by sigemptyset
    // before it is read.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Closes every descriptor from 3 up that is not in `keep`.
///
/// Only a forked child may call it, and it must leave by [`exit_now`] or
/// `execve`: values that own the closed descriptors are never dropped then.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// Has `execve` close every descriptor from 3 up.
pub(crate) fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes descriptors only; the caller's contract (close_all_but)
    // says that no owner of them runs again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Makes `fd` the descriptor `target` as well.
pub(crate) fn duplicate_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 on a borrowed, hence open, descriptor; what target was is
    // one of the standard streams, which nothing in Rust owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) })
}

/// Raises this process's hard limit to `wanted`, where it is lower; `resource` is one of the kernel's numbers.
pub(crate) fn raise_hard_limit(resource: u32, wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the value in, or refuses a resource that it does not know.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    if limit.rlim_max >= wanted {
        return Ok(());
    }
    limit.rlim_max = wanted;
    // SAFETY: reads the value, which lives until the call is over.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// Sets a limit of this process; `resource` is one of the kernel's numbers.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads the value, which lives until the call is over.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// How the kernel schedules a process (`struct sched_attr`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedulerAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Has this process scheduled so.
pub(crate) fn set_scheduler(attributes: &SchedulerAttributes) -> io::Result<()> {
    let size = u32::try_from(mem::size_of_val(attributes)).map_err(io::Error::other)?;
    let attributes = SchedulerAttributes { size, ..*attributes };
    // SAFETY: reads the value, which is as long as it says and lives until the call is over.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// Sets the class and priority of this process's I/O.
pub(crate) fn set_io_priority(class: i64, priority: i64) -> io::Result<()> {
    const WHO_PROCESS: libc::c_long = 1;
    const CLASS_SHIFT: i64 = 13;
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, (class << CLASS_SHIFT) | priority) })
}

/// Sets what the kernel shows this process of itself.
pub(crate) fn set_personality(persona: libc::c_ulong) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::personality(persona) })
}

/// Clears some attributes of a mount and sets others; `recursive`: of all mounts below, too.
pub(crate) fn change_mount(mount: &OwnedFd, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string with its end, the structure is read for the size that is
    // given, and both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            mem::size_of_val(&attributes),
        )
    })
}

/// Writes a byte to an I/O port. Children do not get the right to.
pub(crate) fn write_port(port: u16, byte: u8) -> io::Result<()> {
    // SAFETY: gives the right to one port, whose use touches no memory.
    check(unsafe { libc::ioperm(port.into(), 1, 1) })?;
    // SAFETY: the line above has just allowed it.
    unsafe {
        std::arch::asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags));
    };
    // SAFETY: takes the right back.
    check(unsafe { libc::ioperm(port.into(), 1, 0) })
}

/// Puts `bytes`, which nobody knows, into the kernel's pool of randomness, and has it make all of its keys anew.
pub(crate) fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    const BITS_IN_A_BYTE: usize = 8;
    // `_IOW(R, 3, int[2])` and `_IO(R, 7)` of linux/random.h.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let pool = std::fs::File::open("/dev/urandom")?;
    let too_many = |_| io::Error::from(io::ErrorKind::InvalidInput);
    // `struct rand_pool_info`: how many bits they count for, how many bytes they are, and the bytes.
    let mut info = Vec::with_capacity(8 + bytes.len());
    info.extend(i32::try_from(bytes.len() * BITS_IN_A_BYTE).map_err(too_many)?.to_ne_bytes());
    info.extend(i32::try_from(bytes.len()).map_err(too_many)?.to_ne_bytes());
    info.extend(bytes);
    // SAFETY: reads the structure, which is as long as it says.
    check(unsafe { libc::ioctl(pool.as_raw_fd(), RNDADDENTROPY, info.as_ptr()) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(pool.as_raw_fd(), RNDRESEEDCRNG) })
}

/// Lets the wall clock run faster or slower until it has made up this much.
pub(crate) fn slew_clock(us: i64) -> io::Result<()> {
    // SAFETY: all zeros is a value of it, and the kernel fills it in.
    let mut change: libc::timex = unsafe { mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    change.offset = us;
    adjust_clock(&mut change)
}

/// Sets the wall clock forward by `seconds` and `ns`, of which the former may be negative.
pub(crate) fn step_clock(seconds: i64, ns: i64) -> io::Result<()> {
    // SAFETY: as above.
    let mut change: libc::timex = unsafe { mem::zeroed() };
    change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    change.time = libc::timeval { tv_sec: seconds, tv_usec: ns };
    adjust_clock(&mut change)
}

fn adjust_clock(change: &mut libc::timex) -> io::Result<()> {
    // SAFETY: reads and writes the value, which lives until the call is over. It gives the clock's state,
    // which is no error: nobody has synchronized it by NTP.
    check(unsafe { libc::adjtimex(change) }.min(0))
}

/// Receives one datagram and the first descriptor that came with it, without waiting.
pub(crate) fn receive_with_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!(RawFd);
    let mut pieces = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut pieces, Some(&mut space), flags)?;
    let mut received = message.cmsgs()?.flat_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors,
        _ => Vec::new(),
    });
    // SAFETY: the kernel has just installed it for this call; nobody else knows
    // it, and space has room for one only.
    let descriptor = received.next().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    drop(received);
    Ok((message.bytes, descriptor))
}

/// Waits for a byte on a descriptor that the process has; false at its end.
pub(crate) fn read_byte(fd: RawFd) -> io::Result<bool> {
    let mut byte = 0u8;
    loop {
        // SAFETY: writes one byte to one that lives here.
        match unsafe { libc::read(fd, (&raw mut byte).cast(), 1) } {
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
            -1 => return Err(io::Error::last_os_error()),
            length => return Ok(length > 0),
        }
    }
}

/// Accepts one connection, non-blocking; `None` when there is none now.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    loop {
        // SAFETY: with null pointers accept4 stores no address.
        let fd =
            unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        match owned(fd.into()) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                Some(libc::EINTR | libc::ECONNABORTED) => {}
                _ => return Err(error),
            },
        }
    }
}

/// Sets the size of a terminal.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, size: ConsoleSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives until the call returns.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Opens the other side of a pseudo-terminal, wherever its devpts is mounted.
pub(crate) fn terminal_peer(controlling_side: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a descriptor.
    let fd = unsafe { libc::ioctl(controlling_side.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    owned(fd.into())
}

/// Lets the other side of a pseudo-terminal be opened.
pub(crate) fn unlock_terminal(controlling_side: BorrowedFd<'_>) -> io::Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which lives until the call returns.
    check(unsafe { libc::ioctl(controlling_side.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })
}

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: socket takes three integers.
    let socket =
        owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: ifreq is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// Marks the process so that processes of the namespaces it joins cannot look into it.
pub(crate) fn set_dumpable(dumpable: bool) -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes an integer.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) })
}

/// Loads a program that decides on device accesses and attaches it to a cgroup.
///
/// `program` is a sequence of 8-byte BPF instructions.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[[u8; 8]]) -> io::Result<()> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_ATTACH: libc::c_long = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;

    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }

    let license = c"Apache-2.0";
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        insns: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        ..Load::default()
    };
    // SAFETY: the attributes have the kernel's layout and the size given; the
    // instructions and the license outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, mem::size_of::<Load>()) };
    let loaded = owned(fd)?;
    let attach = Attach {
        target_fd: positive(cgroup)?,
        attach_bpf_fd: positive(loaded.as_fd())?,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: as above; both descriptors are open.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, mem::size_of::<Attach>())
    })
}

/// Filters the process's system calls from now on; it must have given up new
/// privileges or have `CAP_SYS_ADMIN`.
///
/// `program` is a sequence of 8-byte BPF instructions.
pub(crate) fn load_seccomp_filter(program: &[[u8; 8]], flags: libc::c_ulong) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const [u8; 8],
    }

    let program = Program {
        length: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: program.as_ptr(),
    };
    // SAFETY: the program has the kernel's layout (struct sock_fprog), and its
    // instructions outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
}

/// What a system call that reads no arguments fails with, or zero.
#[cfg(test)]
pub(crate) fn call_without_arguments(call: libc::c_long) -> i32 {
    // SAFETY: the callers' calls read no arguments, or do not exist.
    let result = unsafe { libc::syscall(call, 0, 0, 0) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

fn positive(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    check(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just returned it, so it is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reaps one child that has ended, whoever it was; `None` when there is none now.
pub(crate) fn reap() -> Option<(i32, ExitStatus)> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes the status to an integer that lives here.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
        if pid > 0 {
            return Some((pid, exit_status(status)));
        }
        if pid == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

/// Whether there are children, dead ones that have not been reaped included.
pub(crate) fn has_children() -> bool {
    // SAFETY: waitid may be given no place for what it finds out.
    let found = unsafe {
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        libc::waitid(libc::P_ALL, 0, std::ptr::null_mut(), flags)
    };
    found == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ECHILD)
}

fn exit_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        return ExitStatus::Signal(libc::WTERMSIG(status));
    }
    ExitStatus::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
}
