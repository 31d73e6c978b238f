//! What tells of changes in a namespace, of several kinds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use vmrun_netlink::Netlink;

use super::netfilter::RuleNews;

/// `RTMGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`,
/// and the groups of IPv6's rules and of both families' settings.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000 | 0x80_0000 | 0x100_0000;

/// Of the namespace of the thread that has opened it. Readable when there are some.
#[derive(Debug)]
pub(crate) struct News {
    any: Arc<Epoll>,
    network: Netlink,
    rules: RuleNews,
}

impl News {
    /// Hears of what happens from now on; of rules once somebody has looked at them.
    pub(crate) fn listen() -> io::Result<Self> {
        let any = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let network = Netlink::listen(GROUPS)?;
        any.add(network.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { any: Arc::new(any), network, rules: RuleNews::default() })
    }

    /// Takes all; says whether there were any.
    pub(super) fn drain(&mut self) -> io::Result<bool> {
        Ok(self.network.drain()? | self.rules.drain()?)
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
