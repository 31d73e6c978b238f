//! Rules of netfilter in the namespace: packets of the guest do not pass the host's kernel there, so the
//! guest's has to have them.
//!
//! ```text
//!   tables, chains, sets, rules ─dump─▶ plan (pure) ─▶ description ─▶ agent
//! ```

mod dump;
mod expressions;
mod legacy;
mod plan;
#[cfg(test)]
mod plan_tests;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use vmrun_netlink::Netlink;
use vmrun_proto::netfilter::Table;

use super::error::NetworkError;
pub(super) use legacy::{Legacy, are_there as has_legacy_tables};

/// The group that hears of nf_tables' changes (`NFNLGRP_NFTABLES`), as a bit.
const TABLES: u32 = 1 << 6;

/// What the namespace's rules are to the guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) tables: Vec<Table>,
    /// What cannot be carried.
    pub(super) unfit: Vec<UnfitRule>,
}

/// A rule that the guest cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnfitRule {
    /// Which one.
    pub(super) rule: String,
    pub(super) why: &'static str,
}

/// News of rules, once somebody is interested in them.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleNews(Arc<Mutex<Option<Netlink>>>);

impl RuleNews {
    /// Takes all that there are; says whether there were any.
    pub(super) fn drain(&self) -> io::Result<bool> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(news) => news.drain(|_| true),
            None => Ok(false),
        }
    }

    /// Hears of what happens from now on.
    fn listen(&self, wakes: &Epoll) -> io::Result<()> {
        let news = Netlink::listen_netfilter(TABLES)?;
        wakes.add(news.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(news);
        Ok(())
    }
}

/// The rules of the namespace of the thread that looks first.
pub(super) struct Rules {
    state: State,
    news: RuleNews,
    /// Wakes up who waits for news.
    wakes: Arc<Epoll>,
}

enum State {
    /// Nobody has looked.
    Unread,
    /// The host's kernel has none.
    Absent,
    Open(Netlink),
}

impl Rules {
    pub(super) fn new(news: RuleNews, wakes: Arc<Epoll>) -> Self {
        Self { state: State::Unread, news, wakes }
    }

    /// What there is, but for what serves only the name servers `servers`, which are asked another way.
    /// `names` are those of interfaces by their numbers. Beside it are those of the interface before nf_tables, which are
    /// not carried.
    pub(super) fn read(
        &mut self,
        names: &BTreeMap<u32, String>,
        servers: &[IpAddr],
    ) -> Result<(Listing, Legacy), NetworkError> {
        if matches!(self.state, State::Unread) {
            // News first: then nothing is missed.
            let opened = self.news.listen(&self.wakes).and_then(|()| Netlink::open_netfilter());
            self.state = match opened {
                Ok(netlink) => State::Open(netlink),
                Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => State::Absent,
                Err(error) => return Err(NetworkError::Rules(error)),
            };
        }
        let listing = match &mut self.state {
            State::Open(netlink) => {
                plan::plan(&dump::read(netlink).map_err(NetworkError::Rules)?, names, servers)
            }
            State::Unread | State::Absent => Listing::default(),
        };
        Ok((listing, legacy::tables(servers)))
    }
}
