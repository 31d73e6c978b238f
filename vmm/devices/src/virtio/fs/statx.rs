//! `FUSE_STATX`, which virtiofsd does not know: attributes with the time at which a file was made.

use std::io::{self, Write};

use rustix::fs::{AtFlags, StatxFlags, statx};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{InHeader, OutHeader};
use virtiofsd::soft_idmap::Id;

use super::handle_file::with_file;
use super::host::Host;
use super::ids::{Handle, Node};
use super::requests::STATX;

/// `FUSE_GETATTR_FH`: the handle counts.
const HAS_HANDLE: u32 = 1;

/// Size of `struct fuse_out_header`.
const HEADER_BYTES: usize = 16;
/// Size of `struct fuse_statx_out`.
const STATX_BYTES: usize = 288;

/// What is asked for: of which file, and by which of its handles.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatxRequest {
    ctx: Context,
    unique: u64,
    node: Node,
    handle: Option<Handle>,
}

impl StatxRequest {
    /// The request, if it is one.
    pub(super) fn read(header: &InHeader, reader: &Reader<'_>) -> Option<Self> {
        if header.opcode != STATX {
            return None;
        }
        let mut reader = reader.clone();
        reader.read_obj::<InHeader>().ok()?;
        // Flags, padding, the handle, and what is asked for: all is told.
        let [flags, _, low, high, _, _] = reader.read_obj::<[u32; 6]>().ok()?;
        let handle = u64::from(low) | u64::from(high) << 32;
        let handle = (flags & HAS_HANDLE != 0).then_some(handle);
        Some(Self { ctx: Context::from(*header), unique: header.unique, node: header.nodeid, handle })
    }

    /// Replies; returns the reply's length.
    pub(super) fn reply(&self, host: &Host, mut writer: Writer<'_>) -> u32 {
        let (bytes, error) = match self.look(host) {
            Ok(bytes) => (bytes, 0),
            Err(error) => (Vec::new(), -error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let len = u32::try_from(HEADER_BYTES + bytes.len()).unwrap_or(0);
        let written = writer.write_obj(OutHeader { len, error, unique: self.unique });
        written.and_then(|()| writer.write_all(&bytes)).map_or(0, |()| len)
    }

    fn look(&self, host: &Host) -> io::Result<Vec<u8>> {
        let (attr, valid) = host.getattr(self.ctx, self.node, self.handle)?;
        let born = self.born(host);
        let mut mask = StatxFlags::BASIC_STATS;
        mask.set(StatxFlags::BTIME, born.is_some());
        let mut out = Vec::with_capacity(STATX_BYTES);
        put64(&mut out, &[valid.as_secs()]);
        put32(&mut out, &[valid.subsec_nanos(), 0]);
        put64(&mut out, &[0, 0]);
        put32(&mut out, &[mask.bits(), attr.blksize]);
        put64(&mut out, &[0]);
        put32(&mut out, &[attr.nlink, attr.uid.into_inner(), attr.gid.into_inner(), attr.mode & 0xffff]);
        put64(&mut out, &[attr.ino, attr.size, attr.blocks, 0]);
        let accessed = (attr.atime, attr.atimensec);
        let (changed, modified) = ((attr.ctime, attr.ctimensec), (attr.mtime, attr.mtimensec));
        for (seconds, nanoseconds) in [accessed, born.unwrap_or((0, 0)), changed, modified] {
            put64(&mut out, &[seconds]);
            put32(&mut out, &[nanoseconds, 0]);
        }
        let device = u64::from(attr.rdev);
        put32(&mut out, &[libc::major(device), libc::minor(device), 0, 0]);
        out.resize(STATX_BYTES, 0);
        Ok(out)
    }

    /// When the file was made: unknown of what is neither a regular file nor a directory, which the server
    /// never opens, and on file systems that do not keep it.
    fn born(&self, host: &Host) -> Option<(u64, u32)> {
        let (handle, is_own) = match self.handle {
            Some(handle) => (handle, false),
            None => (host.open(self.ctx, self.node, false, libc::O_PATH.cast_unsigned()).ok()?.0?, true),
        };
        let found = with_file(host, self.ctx, self.node, handle, |file| {
            Ok(statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?)
        });
        if is_own {
            // Nobody else has known of it.
            let _ = host.release(self.ctx, self.node, 0, handle, false, false, None);
        }
        let found = found.ok().filter(|found| found.stx_mask & StatxFlags::BTIME.bits() != 0)?;
        Some((found.stx_btime.tv_sec.cast_unsigned(), found.stx_btime.tv_nsec))
    }
}

fn put32(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

fn put64(out: &mut Vec<u8>, words: &[u64]) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}
