//! `FUSE_TMPFILE`, which virtiofsd refuses: a file without a name.

use std::io;

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::{Context, OpenOptions};
use virtiofsd::fuse::{CreateIn, EntryOut, InHeader, Opcode, OpenOut, OutHeader};

use super::closing::needs_no_flush;
use super::host::Host;
use super::ids::Node;

/// Size of `struct fuse_out_header`.
const HEADER_BYTES: u32 = 16;
/// With `struct fuse_entry_out` and `struct fuse_open_out` behind it.
const REPLY_BYTES: u32 = HEADER_BYTES + 128 + 16;

/// What is asked for: in which directory, and how.
#[derive(Debug)]
pub(super) struct TmpfileRequest {
    ctx: Context,
    unique: u64,
    directory: Node,
    arguments: CreateIn,
}

impl TmpfileRequest {
    /// The request, if it is one.
    pub(super) fn read(header: &InHeader, reader: &Reader<'_>) -> Option<Self> {
        if header.opcode != Opcode::TmpFile as u32 {
            return None;
        }
        let mut reader = reader.clone();
        reader.read_obj::<InHeader>().ok()?;
        // The name that follows is a placeholder.
        let arguments = reader.read_obj().ok()?;
        Some(Self { ctx: Context::from(*header), unique: header.unique, directory: header.nodeid, arguments })
    }

    /// Makes the file and replies; returns the reply's length.
    pub(super) fn reply(&self, host: &Host, mut writer: Writer<'_>) -> u32 {
        let CreateIn { flags, mode, .. } = self.arguments;
        let made = host.tmpfile(self.ctx, self.directory, flags, mode).map(|(entry, handle)| {
            let mut options = OpenOptions::KEEP_CACHE;
            let is_quiet = needs_no_flush(host, self.ctx, entry.inode, Some(handle), flags);
            options.set(OpenOptions::NOFLUSH, is_quiet);
            let options = host.options(entry.inode, options);
            (entry, handle, options)
        });
        let (len, error) = match &made {
            Ok(_) => (REPLY_BYTES, 0),
            Err(error) => (HEADER_BYTES, -number(error)),
        };
        let header = OutHeader { len, error, unique: self.unique };
        let written = writer.write_obj(header).and_then(|()| match made {
            Ok((entry, fh, options)) => {
                let open_flags = options.bits();
                writer.write_obj(EntryOut::from(entry))?;
                writer.write_obj(OpenOut { fh, open_flags, ..OpenOut::default() })
            }
            Err(_) => Ok(()),
        });
        written.map_or(0, |()| len)
    }
}

/// The guest's kernel takes `ENOSYS` to be true of all file systems.
fn number(error: &io::Error) -> i32 {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => libc::EOPNOTSUPP,
        number => number.unwrap_or(libc::EIO),
    }
}
