//! What the thread of a network interface may do besides what every thread may.

use libc::{
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_ioctl, SYS_timerfd_settime,
};

use super::tap::{GET_HEADER_BYTES, GET_INTERFACE, SET_OFFLOAD};
use crate::confine::{Call, ThreadClass};

pub(crate) const NET: ThreadClass = ThreadClass::without_capabilities(CALLS);

/// What whoever makes an interface does to its tap, besides.
pub const TAP: &[Call] = &[Call::OneOf(SYS_ioctl, 1, &[GET_HEADER_BYTES, GET_INTERFACE])];

/// Waiting, and the tap's offloads. Frames go by `readv` and `writev`.
pub const CALLS: &[Call] = &[
    Call::Any(SYS_epoll_create1),
    Call::Any(SYS_epoll_wait),
    Call::Any(SYS_epoll_pwait),
    Call::Any(SYS_epoll_ctl),
    Call::Any(SYS_timerfd_settime),
    Call::OneOf(SYS_ioctl, 1, &[SET_OFFLOAD]),
];
