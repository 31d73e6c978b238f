//! The files of a template that are not pages.
//!
//! ```text
//!   magic  format u32  CRC-32 of the rest u32  length of the rest u64, little-endian; then its content in postcard
//! ```

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::fstat;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vmrun_machine::MachineState;

use super::Shape;

/// Raised with every change of what is behind the header.
pub(super) const FORMAT: u32 = 1;

/// What a file with a [`Saved`] begins with.
pub(super) const STATE: Magic = Magic(*b"vmrunTPL");

/// What one with a working set begins with.
pub(super) const WORKING_SET: Magic = Magic(*b"vmrunWST");

/// The first bytes of a file say what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Magic([u8; 8]);

const HEADER_BYTES: usize = 24;

/// More is no template: a vCPU takes some 7 KiB.
const MOST_BYTES: u64 = 4 << 20;

/// What is in it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) shape: Shape,
    /// The file with the pages.
    pub(super) memory: FileIdentity,
    pub(super) state: MachineState,
}

/// A file and its content, as far as that can be told without reading it: nobody can write to it and leave
/// the time of its last change as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    pub(crate) fn of(file: &File) -> Result<Self, rustix::io::Errno> {
        let seen = fstat(file)?;
        let nanoseconds = |value| i64::try_from(value).unwrap_or(0);
        Ok(Self {
            device: seen.st_dev,
            inode: seen.st_ino,
            bytes: u64::try_from(seen.st_size).unwrap_or(0),
            modified: (seen.st_mtime, nanoseconds(seen.st_mtime_nsec)),
            changed: (seen.st_ctime, nanoseconds(seen.st_ctime_nsec)),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

pub(super) fn write<T: Serialize>(mut file: &File, Magic(magic): Magic, content: &T) -> io::Result<()> {
    let payload = postcard::to_stdvec(content).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend(magic);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(crc32fast::hash(&payload).to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(payload);
    file.write_all(&bytes)
}

/// What a file says, or what is wrong with it.
pub(super) fn read<T: DeserializeOwned>(file: &File, magic: Magic) -> Result<T, &'static str> {
    const DAMAGED: &str = "is damaged";
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|_| "cannot be read")?;
    decode(&bytes, magic).ok_or(DAMAGED)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], expected: Magic) -> Option<T> {
    let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
    let (magic, header) = header.split_first_chunk()?;
    let (format, header) = header.split_first_chunk()?;
    let (crc, header) = header.split_first_chunk()?;
    let (length, _) = header.split_first_chunk()?;
    let fits = *magic == expected.0
        && u32::from_le_bytes(*format) == FORMAT
        && u64::from_le_bytes(*length) == payload.len() as u64
        && u32::from_le_bytes(*crc) == crc32fast::hash(payload);
    if fits { postcard::from_bytes(payload).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_template_and_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode::<Saved>(&payload, STATE).is_none());
            let mut bytes = STATE.0.to_vec();
            bytes.extend(FORMAT.to_le_bytes());
            bytes.extend(crc32fast::hash(&payload).to_le_bytes());
            bytes.extend((payload.len() as u64).to_le_bytes());
            bytes.extend(payload);
            let _ = decode::<Saved>(&bytes, STATE);
            prop_assert!(decode::<Vec<u8>>(&bytes, WORKING_SET).is_none());
        }
    }
}
