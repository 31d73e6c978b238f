//! The system calls of the classes.

use libc::c_long;

/// A system call that a class may make; what is not listed ends the process.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// With any arguments.
    Any(c_long),
    /// With one of these values as the argument of this index.
    OneOf(c_long, u8, &'static [u64]),
    /// With none of these bits in the argument of this index.
    Without(c_long, u8, u64),
}

impl Call {
    /// Its number.
    pub(crate) fn number(&self) -> c_long {
        match *self {
            Self::Any(number) | Self::OneOf(number, ..) | Self::Without(number, ..) => number,
        }
    }
}

/// `PROT_EXEC`: no thread makes code.
const EXECUTABLE: u64 = 4;
/// `SIGABRT`: what is left of `tgkill` is to end oneself.
const ABORT: u64 = 6;
/// `AF_UNIX`
const UNIX: u64 = 1;
/// `FIONBIO`
const NON_BLOCKING: u64 = 0x5421;

/// What the allocator, locks, clocks and the end of a thread come down to, and what is done
/// with open descriptors.
pub(super) const EVERYWHERE: &[Call] = &[
    Call::Any(libc::SYS_read),
    Call::Any(libc::SYS_write),
    Call::Any(libc::SYS_readv),
    Call::Any(libc::SYS_writev),
    Call::Any(libc::SYS_close),
    Call::Any(libc::SYS_dup),
    Call::Any(libc::SYS_fcntl),
    Call::Any(libc::SYS_futex),
    Call::Without(libc::SYS_mmap, 2, EXECUTABLE),
    Call::Without(libc::SYS_mprotect, 2, EXECUTABLE),
    Call::Any(libc::SYS_munmap),
    Call::Any(libc::SYS_mremap),
    Call::Any(libc::SYS_madvise),
    Call::Any(libc::SYS_brk),
    Call::Any(libc::SYS_rt_sigaction),
    Call::Any(libc::SYS_rt_sigprocmask),
    Call::Any(libc::SYS_rt_sigreturn),
    Call::Any(libc::SYS_sigaltstack),
    Call::Any(libc::SYS_restart_syscall),
    Call::OneOf(libc::SYS_tgkill, 2, &[ABORT]),
    Call::Any(libc::SYS_getpid),
    Call::Any(libc::SYS_gettid),
    Call::Any(libc::SYS_sched_yield),
    // The allocator counts the processors once many threads have come.
    Call::Any(libc::SYS_sched_getaffinity),
    Call::Any(libc::SYS_clock_gettime),
    Call::Any(libc::SYS_clock_nanosleep),
    Call::Any(libc::SYS_nanosleep),
    Call::Any(libc::SYS_gettimeofday),
    Call::Any(libc::SYS_getrandom),
    Call::Any(libc::SYS_exit),
    Call::Any(libc::SYS_exit_group),
];

pub(super) const EVENT_LOOP: &[Call] = &[
    Call::Any(libc::SYS_epoll_wait),
    Call::Any(libc::SYS_epoll_pwait),
    Call::Any(libc::SYS_epoll_ctl),
    // The sockets behind vsock. Descriptors do not travel: neither `sendmsg` nor `recvmsg`.
    Call::Any(libc::SYS_accept4),
    Call::OneOf(libc::SYS_socket, 0, &[UNIX]),
    Call::Any(libc::SYS_connect),
    Call::Any(libc::SYS_recvfrom),
    Call::Any(libc::SYS_sendto),
    Call::Any(libc::SYS_shutdown),
    Call::Any(libc::SYS_getsockopt),
    Call::OneOf(libc::SYS_ioctl, 1, &[NON_BLOCKING]),
    // Patience with a request of vsock.
    Call::Any(libc::SYS_timerfd_settime),
];
