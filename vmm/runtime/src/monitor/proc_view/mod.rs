//! The container's processes for those who enter the monitor's mount namespace.
//!
//! `podman top` enters the mount namespace of the container's process and reads `/proc` there. The
//! processes are in the guest, so a small FUSE file system stands in that place, which asks for them
//! when somebody looks. A thread serves it; what it needs it asks of the monitor like any verb.
//!
//! It is mounted once the program runs, when nobody waits for it. Where that cannot be, the place
//! stays the empty directory that it was.

mod files;
mod place;
mod wire;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{getegid, geteuid};

use self::files::{Clock, Files, Kind, ROOT};
use self::wire::{Ask, Request};
use super::MonitorRequest;
use crate::control::{self, ControlReply, ControlRequest};
use crate::process::ProcessIdentity;
use crate::status::Status;
use crate::step;
use crate::store::{Entry, State, Store};

/// How old what is told may be: a reader opens several files of each process.
const FRESH: Duration = Duration::from_secs(1);

/// Files that may be open at a time.
const MOST_HANDLES: usize = 1024;

const STACK_BYTES: usize = 128 << 10;

/// Mounts it and serves it from now on.
pub(super) fn start(request: &MonitorRequest) {
    match mount(request) {
        Ok(true) => step!("processes are shown at /proc of the container's files"),
        Ok(false) => step!("no place to show processes at"),
        Err(error) => step!("processes are not shown at /proc of the container's files: {error}"),
    }
}

fn mount(request: &MonitorRequest) -> io::Result<bool> {
    let Some(places) = place::find()? else { return Ok(false) };
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let mount = place::mount_of(&device)?;
    let source = Source::new(request)?;
    let thread = thread::Builder::new().name("proc-view".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(move || Server::new(source).serve(&device))?;
    places.take(&mount)?;
    Ok(true)
}

/// Where the processes are asked for.
struct Source {
    entry: Entry,
    state: State,
}

impl Source {
    fn new(request: &MonitorRequest) -> io::Result<Self> {
        let id = request.state.id.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let entry = Store::new(Some(&request.root)).open(&id).map_err(io::Error::other)?;
        let me = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap_or_default())?;
        Ok(Self { entry, state: request.state.state(Status::Running, me) })
    }

    /// A container that ends has no processes.
    fn files(&self) -> Files {
        let processes = match control::ask(&self.entry, &self.state, &ControlRequest::Processes) {
            Ok(ControlReply::Processes(processes)) => processes,
            _ => Vec::new(),
        };
        Files::new(processes, clock())
    }
}

fn clock() -> Clock {
    let uptime_ms = clock_gettime(ClockId::CLOCK_BOOTTIME).ok().and_then(|time| {
        let seconds = u64::try_from(time.tv_sec()).ok()?;
        Some(seconds * 1000 + u64::try_from(time.tv_nsec()).ok()? / 1_000_000)
    });
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    Clock { booted: line.and_then(|line| line.parse().ok()).unwrap_or(0), uptime_ms: uptime_ms.unwrap_or(0) }
}

/// Answers the kernel.
struct Server {
    source: Source,
    files: Files,
    asked: Option<Instant>,
    /// What was opened holds what it held then.
    handles: BTreeMap<u64, Vec<u8>>,
    next_handle: u64,
    owner: (u32, u32),
}

type Answer = Result<Vec<u8>, i32>;

impl Server {
    fn new(source: Source) -> Self {
        let owner = (geteuid().as_raw(), getegid().as_raw());
        Self { source, files: Files::default(), asked: None, handles: BTreeMap::new(), next_handle: 1, owner }
    }

    /// Until the mount is gone.
    fn serve(&mut self, mut device: &File) {
        let mut buffer = vec![0; wire::REQUEST_BYTES];
        loop {
            let request = match device.read(&mut buffer) {
                Ok(count) => buffer.get(..count).and_then(Request::parse),
                // The one who asked has left, or a signal came.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN)) =>
                {
                    continue;
                }
                Err(_) => return,
            };
            let Some(request) = request else { return };
            if request.ask == Ask::Nothing {
                continue;
            }
            let body = self.answer(&request);
            let answer = wire::answer(request.unique, body.as_deref().map_err(|errno| *errno));
            // The one who asked may have left.
            let _ = device.write(&answer);
        }
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let node = request.node;
        match &request.ask {
            Ask::Init => Ok(wire::init()),
            Ask::StatFs => Ok(wire::statfs()),
            Ask::Lookup(name) => {
                if node == ROOT {
                    self.refresh(FRESH);
                }
                let found = self.files.lookup(node, name).ok_or(libc::ENOENT)?;
                Ok(wire::entry(found, self.mode(found)?, self.owner))
            }
            Ask::GetAttributes => Ok(wire::attributes(node, self.mode(node)?, self.owner)),
            Ask::ReadLink => self.files.content(node).map(String::into_bytes).ok_or(libc::ENOENT),
            Ask::Open => {
                let content = self.files.content(node).ok_or(libc::ENOENT)?;
                self.open(content.into_bytes())
            }
            Ask::OpenDirectory => {
                if node == ROOT {
                    self.refresh(Duration::ZERO);
                }
                let listing = self.listing(node)?;
                self.open(listing)
            }
            Ask::Read { handle, offset, size } => {
                let content = self.handles.get(handle).ok_or(libc::EBADF)?;
                let rest = content.get(*offset..).unwrap_or_default();
                Ok(rest.get(..*size).unwrap_or(rest).to_owned())
            }
            Ask::ReadDirectory { handle, offset, size } => {
                let listing = self.handles.get(handle).ok_or(libc::EBADF)?;
                Ok(whole_entries(listing.get(*offset..).unwrap_or_default(), *size).to_owned())
            }
            Ask::Release(handle) => {
                self.handles.remove(handle);
                Ok(Vec::new())
            }
            Ask::Nothing | Ask::Unknown => Err(libc::ENOSYS),
        }
    }

    fn refresh(&mut self, age: Duration) {
        if self.asked.is_none_or(|asked| asked.elapsed() >= age) {
            self.files = self.source.files();
            self.asked = Some(Instant::now());
        }
    }

    fn mode(&self, node: u64) -> Result<u32, i32> {
        match self.files.kind(node) {
            Some(Kind::Directory) => Ok(libc::S_IFDIR | 0o555),
            Some(Kind::File) => Ok(libc::S_IFREG | 0o444),
            Some(Kind::Link) => Ok(libc::S_IFLNK | 0o777),
            None => Err(libc::ENOENT),
        }
    }

    fn open(&mut self, content: Vec<u8>) -> Answer {
        if self.handles.len() >= MOST_HANDLES {
            return Err(libc::ENFILE);
        }
        let handle = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(handle, content);
        Ok(wire::opened(handle))
    }

    /// All entries, each with the place of the next one.
    fn listing(&self, node: u64) -> Answer {
        let mut bytes = Vec::new();
        for (number, name) in self.files.list(node).ok_or(libc::ENOTDIR)? {
            let mode = self.mode(number)?;
            let length = wire::directory_entry(number, 0, mode, &name).len();
            let next = u64::try_from(bytes.len() + length).unwrap_or(u64::MAX);
            bytes.extend(wire::directory_entry(number, next, mode, &name));
        }
        Ok(bytes)
    }
}

/// As many entries as fit.
fn whole_entries(listing: &[u8], size: usize) -> &[u8] {
    /// What an entry holds besides its name; the name's length is at its end.
    const FIXED: usize = 24;
    let mut end = 0;
    while let Some(length) = listing.get(end + 16..end + 20).and_then(|bytes| bytes.try_into().ok()) {
        let name = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(usize::MAX);
        let next = end + FIXED.saturating_add(name).next_multiple_of(8);
        if next > size || next > listing.len() {
            break;
        }
        end = next;
    }
    listing.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_is_cut_between_entries() {
        let entries = [
            wire::directory_entry(2, 32, 0o100_444, "stat"),
            wire::directory_entry(3, 64, 0o100_444, "uptime"),
        ];
        let listing = entries.concat();
        assert_eq!(whole_entries(&listing, 4096), listing);
        assert_eq!(whole_entries(&listing, listing.len() - 1), entries[0]);
        assert_eq!(whole_entries(&listing, 3), [0; 0]);
        assert_eq!(whole_entries(&[], 100), [0; 0]);
    }
}
