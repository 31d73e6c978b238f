//! The process's terminal, made in the container's own devpts.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, major, minor, open};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::words;
use crate::sys;

const DEVPTS_MAGIC: i64 = 0x1cd1;
/// `ptmx` of a devpts: its inode, and the device.
const PTMX_INODE: u64 = 2;
const PTMX: (u32, u32) = (5, 2);

const CONSOLE: &str = "/dev/console";

/// Makes it, sends its controlling side to `console`, and makes the other one this process's streams. The container's
/// first process has it as `/dev/console`, too.
pub(super) fn set_up(console: &OwnedFd, first: bool) -> Result<(), String> {
    make(console, first)
        .map_err(|error| format!("process.terminal: cannot make the terminal: {}", words(error)))
}

fn make(console: &OwnedFd, first: bool) -> io::Result<()> {
    let controlling = open_controlling()?;
    sys::unlock_terminal(controlling.as_fd())?;
    let terminal = sys::terminal_peer(controlling.as_fd())?;
    if first {
        mount_console(&terminal)?;
    }
    let rights = [controlling.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(
        console.as_raw_fd(),
        &[IoSlice::new(b"/dev/ptmx")],
        &control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    (0..3).try_for_each(|stream| sys::duplicate_onto(terminal.as_fd(), stream))
}

/// Whatever the container has at `/dev/ptmx`, only that of a devpts is believed.
fn open_controlling() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let controlling = open("/dev/ptmx", flags, Mode::empty())?;
    let (stat, file_system) = (fstat(&controlling)?, fstatfs(&controlling)?);
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == PTMX
        && stat.st_ino == PTMX_INODE
        && file_system.f_type == DEVPTS_MAGIC;
    if is_ptmx { Ok(controlling) } else { Err(io::Error::other("/dev/ptmx is not that of a devpts")) }
}

fn mount_console(terminal: &OwnedFd) -> io::Result<()> {
    // A FIFO there would be waited for.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = flags | OFlags::CLOEXEC;
    let place = open(CONSOLE, flags, Mode::from_raw_mode(0o666))?;
    drop(place);
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(terminal, "", flags)?;
    Ok(move_mount(tree, "", CWD, CONSOLE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
