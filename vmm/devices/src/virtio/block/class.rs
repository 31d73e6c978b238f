//! What the threads of a disk may do besides what every thread may.

use libc::{
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_fallocate, SYS_fdatasync,
    SYS_ioctl, SYS_preadv2, SYS_pwrite64, SYS_pwritev2, SYS_timerfd_settime,
};

use super::backend::{BLKDISCARD, BLKZEROOUT};
use crate::confine::{Call, ThreadClass};

pub(crate) const BLOCK: ThreadClass = ThreadClass::without_capabilities(CALLS);

/// Waiting, and what a file and a block device do that are open.
pub const CALLS: &[Call] = &[
    Call::Any(SYS_epoll_create1),
    Call::Any(SYS_epoll_wait),
    Call::Any(SYS_epoll_pwait),
    Call::Any(SYS_epoll_ctl),
    Call::Any(SYS_timerfd_settime),
    Call::Any(SYS_preadv2),
    Call::Any(SYS_pwritev2),
    Call::Any(SYS_pwrite64),
    Call::Any(SYS_fdatasync),
    Call::Any(SYS_fallocate),
    Call::OneOf(SYS_ioctl, 1, &[BLKDISCARD, BLKZEROOUT]),
];
