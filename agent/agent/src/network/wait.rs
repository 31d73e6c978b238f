//! Waiting for what the kernel does to interfaces, by its news of them.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_netlink::Netlink;

/// `RTMGRP_LINK`.
const LINKS: u32 = 1;

/// What the kernel does at once takes no longer, unless the host stands still.
const LIMIT: Duration = Duration::from_secs(10);

/// Hears of the interfaces of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Listener(Netlink);

impl Listener {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::listen(LINKS).map(Self)
    }

    /// Looks until there is something to be seen, whenever there are news.
    pub(super) fn until<T>(
        &mut self,
        what: &dyn Fn() -> String,
        look: impl Fn() -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("timed out after {} s waiting for {}", LIMIT.as_secs(), what()));
            }
            let timeout =
                PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(format!("cannot wait for {}: {errno}", what())),
            }
            self.0.drain(|_| true).map_err(|error| format!("cannot wait for {}: {error}", what()))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_waited_for() {
        let mut listener = Listener::open().unwrap();
        let what = || "nothing".to_owned();
        assert_eq!(listener.until(&what, || Ok(Some(7))), Ok(7));
        assert_eq!(listener.until::<()>(&what, || Err("gone".to_owned())), Err("gone".to_owned()));
    }
}
