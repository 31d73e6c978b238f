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
    /// With an answer as of a kernel that does not have it (`ENOSYS`).
    Missing(c_long),
    /// `tgkill` to a thread of this process, with one of these signals.
    Signals(&'static [u64]),
}

impl Call {
    /// Its number.
    pub(crate) fn number(&self) -> c_long {
        match *self {
            Self::Any(number)
            | Self::OneOf(number, ..)
            | Self::Without(number, ..)
            | Self::Missing(number) => number,
            Self::Signals(_) => libc::SYS_tgkill,
        }
    }
}

/// `PROT_EXEC`: no thread makes code.
const EXECUTABLE: u64 = 4;
/// `SIGABRT`: what is left of `tgkill` is to end oneself.
const ABORT: u64 = 6;
/// `FIONBIO`
const NON_BLOCKING: u64 = 0x5421;
/// `SIGRTMIN` of the C library: it ends a call that waits.
const INTERRUPTS: u64 = 34;
/// What the C library makes a thread with: the memory, the files and the signals of the process are its.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID)
    .cast_unsigned() as u64;
/// `F_DUPFD`, `F_GETFD`, `F_SETFD` and `F_DUPFD_CLOEXEC`. None may say whom a descriptor signals, and by which
/// signal (`F_SETOWN`, `F_SETSIG`): the kernel sends that with the rights of whoever has said so.
const DESCRIPTORS: &[u64] = &[0, 1, 2, 1030];
/// `F_GETFL`, and `F_OFD_GETLK`, `F_OFD_SETLK` and `F_OFD_SETLKW`.
pub(super) const OPEN_FILES: &[u64] = &[3, 36, 37, 38];
/// `PR_SET_NAME`, of the thread.
const NAME: u64 = 15;
/// `PR_SET_NO_NEW_PRIVS` and `SECCOMP_SET_MODE_FILTER`: what a thread does to itself when it is confined.
const NO_NEW_PRIVILEGES: u64 = 38;
const FILTER: u64 = 1;

/// What the allocator, locks, clocks and the end of a thread come down to, and what is done
/// with open descriptors.
pub(super) const EVERYWHERE: &[Call] = &[
    Call::Any(libc::SYS_read),
    Call::Any(libc::SYS_write),
    Call::Any(libc::SYS_readv),
    Call::Any(libc::SYS_writev),
    Call::Any(libc::SYS_close),
    Call::Any(libc::SYS_dup),
    Call::OneOf(libc::SYS_fcntl, 1, DESCRIPTORS),
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
    Call::Signals(&[ABORT]),
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
    // The sockets behind vsock: those of clients. None is made or connected here, and descriptors do not
    // travel: neither `sendmsg` nor `recvmsg`.
    Call::Any(libc::SYS_accept4),
    Call::Any(libc::SYS_recvfrom),
    Call::Any(libc::SYS_sendto),
    Call::Any(libc::SYS_shutdown),
    Call::Any(libc::SYS_getsockopt),
    Call::OneOf(libc::SYS_ioctl, 1, &[NON_BLOCKING]),
    // Patience with a request of vsock.
    Call::Any(libc::SYS_timerfd_settime),
];

/// Threads that wait for locks of open files or for these to reach the disk, and the one that starts them. The C library starts
/// them by `clone`, whose flags a filter can see, where there is no `clone3`.
pub(super) const LOCKS: &[Call] = &[
    Call::Any(libc::SYS_flock),
    Call::Any(libc::SYS_fsync),
    Call::Any(libc::SYS_fdatasync),
    Call::Any(libc::SYS_syncfs),
    Call::OneOf(libc::SYS_fcntl, 1, OPEN_FILES),
    Call::Signals(&[INTERRUPTS]),
    Call::Missing(libc::SYS_clone3),
    Call::OneOf(libc::SYS_clone, 0, &[THREAD]),
    Call::Any(libc::SYS_set_robust_list),
    Call::Any(libc::SYS_rseq),
    Call::OneOf(libc::SYS_prctl, 0, &[NAME]),
];

/// The owner of a machine: it does what it is told over a socket, and makes devices with their threads, which confine
/// themselves further. Of descriptors it may receive some, and pass none on.
pub(super) const OWNER: &[Call] = &[
    Call::Any(libc::SYS_poll),
    Call::Any(libc::SYS_recvmsg),
    Call::Any(libc::SYS_sendto),
    // What devices are made of.
    Call::Any(libc::SYS_eventfd2),
    Call::Any(libc::SYS_timerfd_create),
    Call::OneOf(libc::SYS_ioctl, 1, &[NON_BLOCKING]),
    // Their threads.
    Call::Signals(&[INTERRUPTS]),
    Call::Missing(libc::SYS_clone3),
    Call::OneOf(libc::SYS_clone, 0, &[THREAD]),
    Call::Any(libc::SYS_set_robust_list),
    Call::Any(libc::SYS_rseq),
    Call::OneOf(libc::SYS_prctl, 0, &[NAME, NO_NEW_PRIVILEGES]),
    Call::OneOf(libc::SYS_seccomp, 0, &[FILTER]),
    Call::Any(libc::SYS_capget),
    Call::Any(libc::SYS_capset),
];
