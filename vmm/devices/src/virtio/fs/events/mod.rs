//! What others do to files that the guest watches: programs on the host, and other sandboxes.
//!
//! ```text
//!   WATCH ─▶ the host's inotify                  EVENTS ─▶ kept until there is something to tell
//!               │ events                                        ▲
//!               └─▶ those that come of the guest's own requests are dropped ─▶ told by nodes and names
//! ```
//!
//! The guest's kernel sends [`WATCH`](message::WATCH) for what its programs watch, and keeps one
//! [`EVENTS`](message::EVENTS) outstanding. What the guest does itself its own kernel tells, and on the host that is an
//! event as well, of the server's call: the events that are there before a request and those that it leaves behind are
//! told apart, so its own go ([`echo`]) and nobody else's. Until there is a watch there is nothing of all this, no
//! descriptor and no call.

mod echo;
mod message;
mod pending;
mod table;
mod watcher;

use std::io;

use virtiofsd::descriptor_utils::Reader;
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{InHeader, Opcode};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use self::echo::Echo;
use self::message::Told;
pub(super) use self::message::{EVENTS, Room, WATCH, WatchRequest};
use self::pending::Pending;
use self::table::{Left, Table};
use self::watcher::{Parent, Watcher};
use super::host::Host;
use super::ids::Node;
use super::lock_message::Place;

/// Nodes that are watched, at most: each has some memory of the host's kernel.
const MOST_WATCHED: usize = 65_536;

/// The guest's watches, and what is to be told of them.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Of the host, once something is watched.
    watcher: Option<Watcher>,
    table: Table,
    pending: Pending,
    /// The request that waits for events, and its number.
    asked: Option<(u64, Place, Room)>,
    /// Requests that wait no more.
    released: Vec<(u64, Place)>,
    is_listening: bool,
}

/// How often is looked at once which files are gone, while others go meanwhile. The rest is for the next time.
const MOST_ROUNDS: usize = 16;

/// A reply to a request that has waited.
pub(super) struct Reply {
    pub(super) unique: u64,
    pub(super) place: Place,
    /// Where the events go that it has, and these.
    pub(super) events: Option<(Room, Vec<u8>)>,
}

impl Events {
    /// Watches what is asked for, or no more.
    pub(super) fn watch(&mut self, host: &Host, request: &WatchRequest) -> io::Result<()> {
        let WatchRequest { ctx, node, mask, is_end } = *request;
        if is_end {
            self.end();
            return Ok(());
        }
        // What was told until now is told by what was watched until now.
        self.pull(host, None);
        match table::wanted(mask) {
            0 => self.unwatch(host, ctx, node),
            wanted => self.add(host, ctx, node, wanted),
        }
    }

    fn add(&mut self, host: &Host, ctx: Context, node: Node, wanted: u32) -> io::Result<()> {
        if !self.table.knows(node) && self.table.len().max(self.table.parents()) >= MOST_WATCHED {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(Watcher::new()?),
        };
        // A file that is mounted twice has two nodes, and one watch of the host's.
        if self.table.knows(node) {
            let watch = watcher.add(host, ctx, node, wanted | self.table.others(node), false)?;
            self.table.set(watch, node, wanted);
        } else {
            let (watch, parent) = watcher.add_new(host, ctx, node, wanted)?;
            match parent {
                Err(error) => {
                    if !self.table.watches(watch) {
                        watcher.remove(watch)?;
                    }
                    return Err(error);
                }
                Ok(None) => {}
                Ok(Some(Parent { watch, name })) => self.table.set_parent(node, watch, name),
            }
            self.table.set(watch, node, wanted);
        }
        Ok(())
    }

    fn unwatch(&mut self, host: &Host, ctx: Context, node: Node) -> io::Result<()> {
        let Self { watcher: Some(watcher), table, .. } = self else { return Ok(()) };
        for (watch, left) in [table.remove(node), table.remove_parent(node)].into_iter().flatten() {
            match left {
                Left::Nothing => watcher.remove(watch)?,
                // If it is for more than is wanted, so be it.
                Left::Node(other, mask) => drop(watcher.add(host, ctx, other, mask, false)),
                Left::Children => {}
            }
        }
        Ok(())
    }

    /// Nothing is watched any more, and nobody waits.
    pub(super) fn end(&mut self) {
        self.release();
        let Self { watcher, table, pending, is_listening, .. } = self;
        (*watcher, *table, *pending, *is_listening) = Default::default();
    }

    fn release(&mut self) {
        self.released.extend(self.asked.take().map(|(unique, place, _)| (unique, place)));
    }

    /// Whether anything has been watched since the beginning, or the last end.
    pub(super) fn has_watched(&self) -> bool {
        self.watcher.is_some()
    }

    /// The request of this number waits for events from now on, and one before it no more.
    pub(super) fn ask(&mut self, unique: u64, place: Place, room: Room) {
        self.release();
        self.asked = Some((unique, place, room));
    }

    /// Before a request is served: what it may leave behind, if anything comes of it that is watched.
    pub(super) fn before(&mut self, host: &Host, header: &InHeader, reader: &Reader<'_>) -> Option<Echo> {
        self.watcher.as_ref()?;
        if header.opcode == Opcode::Init as u32 {
            self.end();
        }
        if echo::kinds(header.opcode) & self.table.kinds() == 0 {
            return None;
        }
        self.pull(host, None);
        Some(Echo::of(header, reader))
    }

    /// After it was served.
    pub(super) fn after(&mut self, host: &Host, ctx: Context, mut echo: Echo) {
        self.pull(host, Some((ctx, &mut echo)));
    }

    /// The host has something to tell.
    pub(super) fn come(&mut self, host: &Host) {
        self.pull(host, None);
    }

    /// Takes what the host has to tell, but for what comes of the guest's own request.
    fn pull(&mut self, host: &Host, mut own: Option<(Context, &mut Echo)>) {
        self.read(host, &mut own);
        for _ in 0..MOST_ROUNDS {
            let Some(watcher) = &self.watcher else { return };
            let mut gone = self.pending.take_changed();
            gone.retain(|node| watcher.is_gone(host, *node));
            if gone.is_empty() {
                return;
            }
            // What was done to them before they lost their last names is there by now; and so may be what was done to others.
            self.read(host, &mut own);
            gone.into_iter().for_each(|node| self.pending.is_gone(node));
        }
    }

    fn read(&mut self, host: &Host, own: &mut Option<(Context, &mut Echo)>) {
        let Self { watcher: Some(watcher), table, pending, .. } = self else { return };
        let read = watcher.read(|raw| {
            if raw.mask & libc::IN_Q_OVERFLOW != 0 {
                return pending.lose(table);
            }
            if raw.mask & libc::IN_IGNORED != 0 {
                for (watch, left) in table.is_gone(raw.watch) {
                    if left == Left::Nothing {
                        // One that stays costs the host a little memory.
                        let _ = watcher.remove(watch);
                    }
                }
                return;
            }
            if raw.mask & table::OF_CHILDREN != 0 && raw.mask & libc::IN_ISDIR != 0 {
                // What comes of removing one itself, the guest tells.
                let is_own = own.as_ref().is_some_and(|(_, echo)| echo.removes(raw.name));
                for node in table.children(raw.watch, raw.name) {
                    if raw.mask & libc::IN_MOVED_FROM != 0 {
                        // One that cannot be watched where it is now is watched without.
                        let _ = follow(watcher, table, host, node);
                    } else if !is_own && watcher.is_gone(host, node) {
                        pending.push(Told::end(node), table);
                    }
                }
            }
            for node in table.told_of(raw.watch, raw.mask) {
                let told = Told { node, mask: raw.mask, cookie: raw.cookie, name: raw.name.into() };
                let is_own = own
                    .as_mut()
                    .is_some_and(|(ctx, echo)| echo.takes(&told, &|node| watcher.name(host, *ctx, node)));
                if !is_own {
                    pending.push(told, table);
                }
            }
        });
        if read.is_err() {
            pending.lose(table);
        }
    }

    /// A request that waits no more.
    pub(super) fn reply(&mut self) -> Option<Reply> {
        if let Some((unique, place)) = self.released.pop() {
            return Some(Reply { unique, place, events: None });
        }
        if self.pending.is_empty() {
            return None;
        }
        let (unique, place, room) = self.asked.take()?;
        let events = self.pending.take(room.bytes());
        Some(Reply { unique, place, events: Some((room, events)) })
    }

    /// Listens to the host while somebody waits to be told.
    pub(super) fn listen(&mut self, epoll: &Epoll, token: u64) -> io::Result<()> {
        let Some(watcher) = &self.watcher else { return Ok(()) };
        let listens = self.asked.is_some();
        if listens != self.is_listening {
            let how = if listens { ControlOperation::Add } else { ControlOperation::Delete };
            epoll.ctl(how, watcher.descriptor(), EpollEvent::new(EventSet::IN, token))?;
            self.is_listening = listens;
        }
        Ok(())
    }
}

/// Watches the directory that the directory `node` is in now.
fn follow(watcher: &Watcher, table: &mut Table, host: &Host, node: Node) -> io::Result<()> {
    let before = table.remove_parent(node);
    let parent = watcher.add_parent(host, Context::from(InHeader::default()), node);
    if let Ok(Some(Parent { watch, name })) = parent {
        table.set_parent(node, watch, name);
    }
    match before {
        Some((watch, Left::Nothing)) if !table.watches(watch) => watcher.remove(watch),
        _ => Ok(()),
    }
}
