//! Which closes of files the server need not hear of.
//!
//! A FUSE client tells of each `close` (`FUSE_FLUSH`), and waits for the answer, unless the server says when the
//! file is opened that it need not (`FOPEN_NOFLUSH`). What hangs on it is locks, of which the guest's kernel tells all the
//! same, and errors: file systems of other machines write when a file is closed, and may fail then.

use rustix::fs::fstatfs;
use virtiofsd::filesystem::Context;

use super::handle_file::with_file;
use super::host::Host;
use super::ids::{Handle, Node};

/// Those of this machine, on which `close` writes nothing: tmpfs, ext2 to 4, XFS, btrfs, F2FS, overlayfs, ramfs, bcachefs,
/// EROFS, squashfs, ZFS (`linux/magic.h`).
const LOCAL: [u32; 11] = [
    0x0102_1994,
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x794c_7630,
    0x8584_58f6,
    0xca45_1a4e,
    0xe0f5_e1e2,
    0x7371_7368,
    0x2fc1_2fc1,
];

/// Whether nothing comes of closing `handle`, which is open as `flags` say.
pub(super) fn needs_no_flush(
    host: &Host,
    ctx: Context,
    node: Node,
    handle: Option<Handle>,
    flags: u32,
) -> bool {
    if !host.has_quiet_closes() {
        return false;
    }
    let access = flags & libc::O_ACCMODE.cast_unsigned();
    if access == libc::O_RDONLY.cast_unsigned() {
        return true;
    }
    let Some(handle) = handle else { return false };
    let kind = with_file(host, ctx, node, handle, |file| Ok(fstatfs(file)?.f_type));
    kind.is_ok_and(|kind| u32::try_from(kind).is_ok_and(|kind| LOCAL.contains(&kind)))
}
