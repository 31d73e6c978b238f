//! What tells of changes in a namespace, of several kinds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use vmrun_netlink::Netlink;

use super::netfilter::RuleNews;
use super::own_taps::{Heard, Taps};

/// `RTMGRP_LINK`, `_NEIGH`, `_TC`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`,
/// and the groups of IPv6's rules, of both families' settings and of next hops.
const GROUPS: u32 =
    0x1 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000 | 0x80_0000 | 0x100_0000 | 0x8000_0000;

/// Of the namespace of the thread that has opened it. Readable when there are some.
#[derive(Debug)]
pub(crate) struct News {
    any: Arc<Epoll>,
    network: Netlink,
    taps: Taps,
    rules: RuleNews,
}

impl News {
    /// Hears of what happens from now on; of rules once somebody has looked at them.
    pub(crate) fn listen() -> io::Result<Self> {
        let any = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let network = Netlink::listen(GROUPS)?;
        any.add(network.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { any: Arc::new(any), network, taps: Taps::default(), rules: RuleNews::default() })
    }

    /// Takes all; says what they are about, but for the monitor's own taps.
    pub(super) fn drain(&mut self) -> io::Result<Heard> {
        let mut heard = Vec::new();
        let lost = self.network.drain(|answer| {
            heard.push(answer.clone());
            false
        })?;
        let of_network = self.taps.leave_news(&heard);
        let is_any = self.rules.drain()? || lost;
        Ok(if is_any { Heard::Changes } else { of_network })
    }

    /// Where news of rules are to come.
    pub(super) fn of_rules(&self) -> (RuleNews, Arc<Epoll>) {
        (self.rules.clone(), Arc::clone(&self.any))
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.0.as_fd()
    }
}
