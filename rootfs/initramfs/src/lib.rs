//! The guest boot image: an uncompressed cpio archive in the `newc` format with
//! the agent as `/init`, the mount points it needs, and three device nodes.
//!
//! The image depends on the agent's bytes and on nothing else: no times, no
//! owners, no inode numbers of the machine that writes it.
//!
//! ```
//! let image = vmrun_initramfs::image(b"agent").unwrap();
//! assert_eq!(&image[..6], b"070701");
//! assert_eq!(image, vmrun_initramfs::image(b"agent").unwrap());
//! ```

mod archive;

pub use archive::{Archive, ArchiveError};

/// Empty directories: what the agent mounts on, and its own state.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "root", "run"];

/// Character devices that are needed before devtmpfs is mounted: name, major, minor.
///
/// The kernel opens `/dev/console` for `/init`'s standard streams and complains
/// when it is missing.
const DEVICES: [(&str, u32, u32); 3] = [("dev/console", 5, 1), ("dev/kmsg", 1, 11), ("dev/null", 1, 3)];

/// The boot image with `agent` as `/init`.
pub fn image(agent: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let mut archive = Archive::default();
    for path in DIRECTORIES {
        archive.directory(path, 0o755)?;
    }
    for (path, major, minor) in DEVICES {
        archive.character_device(path, 0o600, major, minor)?;
    }
    archive.file("init", 0o755, agent)?;
    archive.finish()
}
