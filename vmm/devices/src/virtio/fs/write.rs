//! `FUSE_WRITE` of what a program writes: the reply says how much of it the host has taken.
//!
//! virtiofsd goes on after a part was written, and where the rest fails, as on a full disk, tells the error alone: the program
//! would write the part again. What the guest writes back from its cache is left to it, since the guest's kernel takes a short
//! reply to that for a full one.

use std::fs::File;
use std::io;

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::{Context, ZeroCopyReader};
use virtiofsd::fuse::{
    InHeader, Opcode, OutHeader, WRITE_CACHE, WRITE_KILL_PRIV, WRITE_LOCKOWNER, WriteIn, WriteOut,
};
use virtiofsd::oslib::WritevFlags;

use super::host::Host;
use super::ids::Node;

/// Size of `struct fuse_out_header`.
const HEADER_BYTES: u32 = 16;
/// With `struct fuse_write_out` behind it.
const REPLY_BYTES: u32 = HEADER_BYTES + 8;

/// What is to be written, and where.
pub(super) struct WriteRequest<'a> {
    ctx: Context,
    unique: u64,
    node: Node,
    arguments: WriteIn,
    bytes: Reader<'a>,
}

impl<'a> WriteRequest<'a> {
    /// The request, if it is one of a program's.
    pub(super) fn read(header: &InHeader, reader: &Reader<'a>) -> Option<Self> {
        if header.opcode != Opcode::Write as u32 {
            return None;
        }
        let mut bytes = reader.clone();
        bytes.read_obj::<InHeader>().ok()?;
        let arguments: WriteIn = bytes.read_obj().ok()?;
        let is_cached = arguments.write_flags & WRITE_CACHE != 0;
        let (ctx, unique, node) = (Context::from(*header), header.unique, header.nodeid);
        (!is_cached).then_some(Self { ctx, unique, node, arguments, bytes })
    }

    /// Writes by one call, and replies; returns the reply's length.
    pub(super) fn reply(self, host: &Host, mut writer: Writer<'_>) -> u32 {
        let WriteIn { fh, offset, size, write_flags, lock_owner, flags, .. } = self.arguments;
        let owner = (write_flags & WRITE_LOCKOWNER != 0).then_some(lock_owner);
        let kill_priv = write_flags & WRITE_KILL_PRIV != 0;
        let from = AtOnce(self.bytes);
        let written = host.write(self.ctx, self.node, fh, from, size, offset, owner, false, kill_priv, flags);
        let (len, error) = match &written {
            Ok(_) => (REPLY_BYTES, 0),
            Err(error) => (HEADER_BYTES, -error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let replied = writer.write_obj(OutHeader { len, error, unique: self.unique });
        let replied = replied.and_then(|()| match written {
            // No more than was asked for, which has 32 bits.
            Ok(count) => writer
                .write_obj(WriteOut { size: u32::try_from(count).unwrap_or(size), ..WriteOut::default() }),
            Err(_) => Ok(()),
        });
        replied.map_or(0, |()| len)
    }
}

/// What is read of a request by one call.
struct AtOnce<'a>(Reader<'a>);

impl ZeroCopyReader for AtOnce<'_> {
    fn write_to_file_at(
        &mut self,
        file: &File,
        count: usize,
        offset: u64,
        flags: Option<WritevFlags>,
    ) -> io::Result<usize> {
        self.0.write_to_file_at(file, count, offset, flags)
    }
}
