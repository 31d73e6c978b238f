//! Waiting for what the kernel does to interfaces, by its news of them.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_netlink::route::link::LinkFlags;
use vmrun_netlink::{Answer, Netlink};

/// `RTMGRP_LINK`.
const LINKS: u32 = 1;

/// `RTM_NEWLINK` and `RTM_DELLINK`.
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;

/// Where an interface's number and its flags are in the body of its message (`struct ifinfomsg`).
pub(super) const INDEX_AT: Range<usize> = 4..8;
pub(super) const FLAGS_AT: Range<usize> = 8..12;

/// `IFLA_ADDRESS`, `IFLA_IFNAME` and `IFLA_PARENT_DEV_NAME` behind an `ifinfomsg`.
const LINK_HEADER: usize = 16;
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const PARENT_DEVICE: u16 = 56;

/// An interface as the kernel has told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    /// The device that it is on.
    pub(super) device: Option<String>,
    pub(super) flags: LinkFlags,
}

impl Heard {
    pub(super) fn of(link: &Answer) -> Option<Self> {
        Some(Self {
            index: link.number(INDEX_AT)?,
            name: link.text(LINK_HEADER, NAME)?.to_owned(),
            mac: link.attribute(LINK_HEADER, ADDRESS).and_then(|mac| mac.try_into().ok()),
            device: link.text(LINK_HEADER, PARENT_DEVICE).map(str::to_owned),
            flags: LinkFlags::from_bits_retain(link.number(FLAGS_AT)?),
        })
    }
}

/// Hears of the interfaces of the namespace in which it was opened. What the kernel tells by itself need not be
/// asked for.
#[derive(Debug)]
pub(super) struct Listener {
    news: Netlink,
    heard: Vec<Heard>,
}

impl Listener {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { news: Netlink::listen(LINKS)?, heard: Vec::new() })
    }

    /// Takes what has been told by now. Where some of that was lost, nothing is known.
    fn hear(&mut self) -> io::Result<()> {
        let heard = &mut self.heard;
        let lost = self.news.drain(|answer| {
            take(heard, answer);
            false
        })?;
        if lost {
            self.heard.clear();
        }
        Ok(())
    }

    /// The interface on a device, if it was heard of.
    pub(super) fn on_device(&mut self, device: &str) -> io::Result<Option<&Heard>> {
        self.hear()?;
        Ok(self.heard.iter().find(|heard| heard.device.as_deref() == Some(device)))
    }

    /// What was told of an interface last.
    pub(super) fn of(&self, index: u32) -> Option<&Heard> {
        self.heard.iter().find(|heard| heard.index == index)
    }

    /// Looks until there is something to be seen, whenever there are news. None when it is late.
    pub(super) fn until<T>(
        &mut self,
        what: &dyn Fn() -> String,
        deadline: Instant,
        look: impl Fn(&Self) -> Result<Option<T>, String>,
    ) -> Result<Option<T>, String> {
        loop {
            self.hear().map_err(|error| format!("cannot wait for {}: {error}", what()))?;
            if let Some(found) = look(self)? {
                return Ok(Some(found));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout =
                PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.news.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(format!("cannot wait for {}: {errno}", what())),
            }
        }
    }
}

fn take(heard: &mut Vec<Heard>, answer: &Answer) {
    let Some(index) = answer.number(INDEX_AT) else { return };
    if [NEW_LINK, DEL_LINK].contains(&answer.kind()) {
        heard.retain(|one| one.index != index);
    }
    if answer.kind() == NEW_LINK {
        heard.extend(Heard::of(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link's message with this number, flags, name and device.
    fn link(kind: u16, index: u32, flags: u32, name: &[u8; 4], device: &[u8; 8]) -> Answer {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        for (kind, text) in [(NAME, &name[..]), (PARENT_DEVICE, device)] {
            body.extend(u16::try_from(text.len() + 5).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(text);
            body.extend([0; 4]);
        }
        Answer::new(kind, body)
    }

    #[test]
    fn what_was_told_last_of_an_interface_counts_until_it_goes() {
        let running = LinkFlags::Running;
        let mut listener = Listener::open().unwrap();
        take(&mut listener.heard, &link(NEW_LINK, 3, 1, b"eth0", b"virtio_7"));
        take(&mut listener.heard, &link(NEW_LINK, 3, 1 | running.bits(), b"eth1", b"virtio_7"));
        // Of another kind.
        take(&mut listener.heard, &link(20, 3, 0, b"eth2", b"virtio_7"));
        let heard = listener.of(3).unwrap();
        assert_eq!((&*heard.name, heard.device.as_deref()), ("eth1", Some("virtio_7")));
        assert!(heard.flags.contains(running));
        take(&mut listener.heard, &link(DEL_LINK, 3, 0, b"eth1", b"virtio_7"));
        assert_eq!(listener.of(3), None);
        assert_eq!(listener.on_device("virtio_7").unwrap(), None);
    }

    #[test]
    fn what_is_there_is_not_waited_for() {
        let mut listener = Listener::open().unwrap();
        let (what, now) = (|| "nothing".to_owned(), Instant::now());
        assert_eq!(listener.until(&what, now, |_| Ok(Some(7))), Ok(Some(7)));
        assert_eq!(listener.until::<()>(&what, now, |_| Err("gone".to_owned())), Err("gone".to_owned()));
        assert_eq!(listener.until::<()>(&what, now, |_| Ok(None)), Ok(None));
    }
}
