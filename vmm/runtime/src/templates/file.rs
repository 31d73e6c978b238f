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
pub(super) const FORMAT: u32 = 2;

/// What a file with a [`Saved`] begins with.
pub(super) const STATE: Magic = Magic(*b"vmrunTPL");

/// What one with a working set begins with.
pub(super) const WORKING_SET: Magic = Magic(*b"vmrunWST");

/// The first bytes of a file say what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Magic([u8; 8]);

const DAMAGED: &str = "is damaged";
const OTHER_FORMAT: &str = "has the format of another vmrun";

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

pub(super) fn write<T: Serialize>(mut file: &File, magic: Magic, content: &T) -> io::Result<()> {
    file.write_all(&encode(magic, &postcard::to_stdvec(content).map_err(io::Error::other)?))
}

pub(super) fn encode(Magic(magic): Magic, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend(magic);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(crc32fast::hash(payload).to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// What a file says, or what is wrong with it.
pub(super) fn read<T: DeserializeOwned>(file: &File, magic: Magic) -> Result<T, &'static str> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|_| "cannot be read")?;
    decode(&bytes, magic)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], expected: Magic) -> Result<T, &'static str> {
    let (magic, header) = bytes.split_first_chunk().ok_or(DAMAGED)?;
    let (format, header) = header.split_first_chunk().ok_or(DAMAGED)?;
    let (crc, header) = header.split_first_chunk().ok_or(DAMAGED)?;
    let (length, payload) = header.split_first_chunk().ok_or(DAMAGED)?;
    if *magic != expected.0 {
        return Err(DAMAGED);
    }
    if u32::from_le_bytes(*format) != FORMAT {
        return Err(OTHER_FORMAT);
    }
    let is_whole = u64::from_le_bytes(*length) == payload.len() as u64
        && u32::from_le_bytes(*crc) == crc32fast::hash(payload);
    if is_whole { postcard::from_bytes(payload).map_err(|_| DAMAGED) } else { Err(DAMAGED) }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    /// States as `vmrun template build` wrote them in the testbed, one of each format: `state-FORMAT`. From 1 to 2
    /// working sets have changed, and of states the number alone.
    fn golden() -> Vec<(String, PathBuf)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/template");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), file.path())).collect()
    }

    #[test]
    fn state_of_this_format_means_what_it_meant_and_others_are_refused_by_that() {
        let mut current = 0;
        for (name, path) in golden() {
            let read = super::read::<Saved>(&File::open(&path).unwrap(), STATE);
            if name != format!("state-{FORMAT}") {
                assert_eq!(read.unwrap_err(), OTHER_FORMAT, "{name}");
                continue;
            }
            current += 1;
            let saved = read.unwrap();
            let shape = saved.shape.info("", None);
            assert_eq!((shape.vcpus, shape.memory_mib), (1, 256));
            assert_eq!(saved.state.memory_bytes(), Some(saved.memory.bytes()));
            // Whoever changes what is written raises the format, and adds a file.
            let written = encode(STATE, &postcard::to_stdvec(&saved).unwrap());
            assert_eq!(written, std::fs::read(path).unwrap());
        }
        assert_eq!(current, 1);
        let mut newer = encode(STATE, &[]);
        newer[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        assert_eq!(decode::<Saved>(&newer, STATE).unwrap_err(), OTHER_FORMAT);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_template_and_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode::<Saved>(&payload, STATE).is_err());
            let bytes = encode(STATE, &payload);
            let _ = decode::<Saved>(&bytes, STATE);
            prop_assert!(decode::<Vec<u8>>(&bytes, WORKING_SET).is_err());
        }
    }
}
