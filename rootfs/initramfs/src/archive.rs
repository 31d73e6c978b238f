//! The cpio `newc` format (Linux: `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! ```text
//!   entry   = header  path NUL  pad to 4  contents  pad to 4
//!   header  = "070701" and 13 numbers of 8 hexadecimal digits
//!   archive = entries, then one entry with the path "TRAILER!!!"
//! ```

/// File type bits of a mode.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
const ALIGNMENT: usize = 4;

/// Archives are padded to this by custom, so that they can be joined.
const BLOCK_BYTES: usize = 512;

/// Why an entry cannot be written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArchiveError {
    /// Paths are relative, not empty, and no trailer.
    #[error("cannot put the path {0:?} into the boot image")]
    Path(String),
    /// The format has 32 bits for sizes.
    #[error("cannot put {path:?} into the boot image: {bytes} bytes are more than the format can hold")]
    Size {
        /// Of the entry.
        path: String,
        /// Its size.
        bytes: usize,
    },
}

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    /// Number of the last entry.
    inode: u32,
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    device: (u32, u32),
    contents: &'a [u8],
}

impl Archive {
    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str, permissions: u32) -> Result<(), ArchiveError> {
        self.entry(&Entry {
            path: checked(path)?,
            mode: DIRECTORY | permissions,
            device: (0, 0),
            contents: &[],
        })
    }

    /// Adds a character device node.
    pub fn character_device(
        &mut self,
        path: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), ArchiveError> {
        let mode = CHARACTER_DEVICE | permissions;
        self.entry(&Entry { path: checked(path)?, mode, device: (major, minor), contents: &[] })
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) -> Result<(), ArchiveError> {
        self.entry(&Entry { path: checked(path)?, mode: REGULAR | permissions, device: (0, 0), contents })
    }

    /// Writes the trailer and returns the archive.
    pub fn finish(mut self) -> Result<Vec<u8>, ArchiveError> {
        self.inode = 0;
        self.write(&Entry { path: TRAILER, mode: 0, device: (0, 0), contents: &[] }, 0)?;
        self.pad(BLOCK_BYTES);
        Ok(self.bytes)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), ArchiveError> {
        self.inode += 1;
        self.write(entry, self.inode)
    }

    fn write(&mut self, entry: &Entry<'_>, inode: u32) -> Result<(), ArchiveError> {
        let too_large = |bytes: usize| ArchiveError::Size { path: entry.path.to_owned(), bytes };
        let size = u32::try_from(entry.contents.len()).map_err(|_| too_large(entry.contents.len()))?;
        let path_size = u32::try_from(entry.path.len() + 1).map_err(|_| too_large(entry.path.len()))?;
        let links = if entry.mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let (owner, group, time, on_device, checksum) = (0, 0, 0, (0, 0), 0);
        let header: [u32; 13] = [
            inode,
            entry.mode,
            owner,
            group,
            links,
            time,
            size,
            on_device.0,
            on_device.1,
            entry.device.0,
            entry.device.1,
            path_size,
            checksum,
        ];
        self.bytes.extend_from_slice(MAGIC);
        for number in header {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.path.as_bytes());
        self.bytes.push(0);
        self.pad(ALIGNMENT);
        self.bytes.extend_from_slice(entry.contents);
        self.pad(ALIGNMENT);
        Ok(())
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

fn checked(path: &str) -> Result<&str, ArchiveError> {
    let usable = !path.is_empty() && !path.starts_with('/') && !path.contains('\0') && path != TRAILER;
    if usable { Ok(path) } else { Err(ArchiveError::Path(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Read {
        path: String,
        mode: u32,
        device: (u32, u32),
        inode: u32,
        contents: Vec<u8>,
    }

    /// Reads an archive the way the kernel does.
    fn read(archive: &[u8]) -> Vec<Read> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % ALIGNMENT, 0);
            assert_eq!(&archive[at..at + 6], MAGIC);
            let number = |index: usize| {
                let from = at + 6 + index * 8;
                u32::from_str_radix(std::str::from_utf8(&archive[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (size, path_size) = (number(6) as usize, number(11) as usize);
            let path = std::str::from_utf8(&archive[at + 110..at + 110 + path_size - 1]).unwrap();
            assert_eq!(archive[at + 110 + path_size - 1], 0);
            let start = (at + 110 + path_size).next_multiple_of(ALIGNMENT);
            if path == TRAILER {
                assert!(archive[start..].iter().all(|byte| *byte == 0));
                return entries;
            }
            assert_eq!((number(2), number(3), number(5)), (0, 0, 0), "owner, group and time");
            entries.push(Read {
                path: path.to_owned(),
                mode: number(1),
                device: (number(9), number(10)),
                inode: number(0),
                contents: archive[start..start + size].to_vec(),
            });
            at = (start + size).next_multiple_of(ALIGNMENT);
        }
    }

    proptest! {
        #[test]
        fn files_come_back_whole_and_aligned(
            files in prop::collection::vec(("[a-z]{1,9}(/[a-z]{1,9}){0,2}", 0u32..0o10000, prop::collection::vec(any::<u8>(), 0..600)), 0..8),
        ) {
            let mut archive = Archive::default();
            for (path, permissions, contents) in &files {
                archive.file(path, *permissions, contents).unwrap();
            }
            let bytes = archive.finish().unwrap();
            prop_assert_eq!(bytes.len() % BLOCK_BYTES, 0);
            let seen = read(&bytes);
            prop_assert_eq!(seen.len(), files.len());
            for (index, (entry, (path, permissions, contents))) in seen.iter().zip(&files).enumerate() {
                prop_assert_eq!(&entry.path, path);
                prop_assert_eq!(entry.mode, REGULAR | permissions);
                prop_assert_eq!(&entry.contents, contents);
                prop_assert_eq!(entry.inode as usize, index + 1);
            }
        }
    }

    #[test]
    fn image_holds_the_agent_the_mount_points_and_the_devices() {
        let entries = read(&crate::image(b"the agent").unwrap());
        let find = |path: &str| entries.iter().find(|entry| entry.path == path).unwrap();
        assert_eq!(find("init").mode, 0o100_755);
        assert_eq!(find("init").contents, b"the agent");
        assert_eq!(find("proc").mode, 0o040_755);
        assert_eq!((find("dev/console").mode, find("dev/console").device), (0o020_600, (5, 1)));
        let position = |path: &str| entries.iter().position(|entry| entry.path == path).unwrap();
        assert!(position("dev") < position("dev/null"), "a directory comes before what lies in it");
    }

    #[test]
    fn unusable_paths_are_refused() {
        for path in ["", "/init", "a\0b", TRAILER] {
            let refused = Archive::default().file(path, 0o644, b"");
            assert_eq!(refused, Err(ArchiveError::Path(path.to_owned())));
        }
    }
}
