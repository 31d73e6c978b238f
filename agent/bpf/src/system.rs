//! The system call, each command behind a safe function.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Instruction;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sorts the frames of an interface (`tc-bpf(8)`).
    TrafficFilter,
    /// Chooses the socket for a packet that begins something, in a network namespace.
    SocketLookup,
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROGRAM_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;

/// `BPF_MAP_TYPE_SOCKMAP`
const MAP_OF_SOCKETS: u32 = 15;
/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_SK_LOOKUP`
const TRAFFIC_FILTER: u32 = 3;
const SOCKET_LOOKUP: u32 = 30;
/// `BPF_SK_LOOKUP`
const ATTACH_SOCKET_LOOKUP: u32 = 36;

/// As much as the verifier may say of a program that it refuses.
const LOG_BYTES: usize = 64 << 10;

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct Map {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[repr(C)]
struct Update {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Has the kernel check a program and keep it for as long as the descriptor, or what it is attached to,
/// is there.
///
/// # Errors
/// No right to, or what the kernel does not like about it.
pub fn load(kind: Kind, program: &[Instruction]) -> io::Result<OwnedFd> {
    load_with(kind, program, &mut []).or_else(|error| {
        if error.raw_os_error() == Some(libc::EPERM) {
            return Err(error);
        }
        let mut log = vec![0; LOG_BYTES];
        load_with(kind, program, &mut log).map_err(|error| explained(error, &log))
    })
}

fn explained(error: io::Error, log: &[u8]) -> io::Error {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().rev().filter(|line| !line.starts_with("processed "));
    match lines.next() {
        Some(line) => io::Error::new(error.kind(), format!("{error}: {line}")),
        None => error,
    }
}

fn load_with(kind: Kind, program: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let (kind, attach_type) = match kind {
        Kind::TrafficFilter => (TRAFFIC_FILTER, 0),
        Kind::SocketLookup => (SOCKET_LOOKUP, ATTACH_SOCKET_LOOKUP),
    };
    let load = Load {
        kind,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr().expose_provenance() as u64 },
        attach_type,
        ..Load::default()
    };
    // SAFETY: the attributes are the command's; the kernel reads instructions and license, which outlive
    // the call, and writes at most as many bytes of the log as there are.
    owned(unsafe { call(PROGRAM_LOAD, &load) })
}

/// Sockets that a program can choose among, by their numbers.
#[derive(Debug)]
pub struct SocketMap(OwnedFd);

impl SocketMap {
    /// One with room for so many.
    ///
    /// # Errors
    /// The system's.
    pub fn new(entries: u32) -> io::Result<Self> {
        let map = Map { kind: MAP_OF_SOCKETS, key_size: 4, value_size: 8, entries };
        // SAFETY: the attributes are the command's, and hold no pointers.
        owned(unsafe { call(MAP_CREATE, &map) }).map(Self)
    }

    /// Puts a socket that is bound, and listens if it is one of TCP, in this place.
    ///
    /// # Errors
    /// The system's.
    pub fn put(&self, place: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let descriptor = u64::from(number(socket)?);
        let update = Update {
            map: number(self.0.as_fd())?,
            padding: 0,
            key: (&raw const place).expose_provenance() as u64,
            value: (&raw const descriptor).expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: the attributes are the command's; the kernel reads a key of 4 bytes and a value of 8,
        // which both live until the call returns.
        check(unsafe { call(MAP_UPDATE, &update) })
    }

    /// For [`Assembler::load_map`](crate::Assembler::load_map).
    pub fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Has a program of [`Kind::SocketLookup`] decide in a network namespace, for as long as the descriptor
/// that is returned is open.
///
/// # Errors
/// The system's.
pub fn attach_to_namespace(program: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let link = Link {
        program: number(program)?,
        target: number(namespace)?,
        attach_type: ATTACH_SOCKET_LOOKUP,
        flags: 0,
    };
    // SAFETY: the attributes are the command's, and hold no pointers.
    owned(unsafe { call(LINK_CREATE, &link) })
}

/// # Safety
/// `attributes` are those of the command, and what they point to lives and has the sizes that they say.
unsafe fn call<T>(command: libc::c_long, attributes: &T) -> libc::c_long {
    // SAFETY: the caller's contract; the size is that of the attributes.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), mem::size_of::<T>()) }
}

fn number(descriptor: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).map_err(io::Error::other)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    check(result)?;
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_of_the_verifier_is_in_the_error() {
        let refused = || io::Error::from_raw_os_error(libc::EACCES);
        let log = b"0: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n\0\0\0";
        assert!(explained(refused(), log).to_string().ends_with(": R0 !read_ok"));
        assert_eq!(explained(refused(), &[0; 8]).raw_os_error(), Some(libc::EACCES));
    }
}
