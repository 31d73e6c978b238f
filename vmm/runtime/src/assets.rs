//! Kernel and boot image: where they come from.
//!
//! The option, else the file in `VMRUN_ASSETS`, else the one inside the binary.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmrun_machine::MappedPages;
use vmrun_spec::Image;

/// What the binary carries; empty when it was built without.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// ELF `vmlinux`, without the pages below.
    pub kernel: &'static [u8],
    /// The kernel's text.
    pub kernel_pages: &'static [MappedPages],
    /// cpio archive.
    pub initramfs: &'static [u8],
    /// Stands for the content of both.
    pub digest: u64,
}

/// What the command line and the environment say.
#[derive(Clone, Debug, Default)]
pub struct AssetOptions {
    /// `--kernel`.
    pub kernel: Option<PathBuf>,
    /// `--initramfs`.
    pub initramfs: Option<PathBuf>,
    /// `VMRUN_ASSETS`: a directory with `vmlinux` and `initramfs.cpio`.
    pub directory: Option<PathBuf>,
}

/// Why there is no boot image.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// Neither given nor carried.
    #[error("this vmrun carries no {what}; build it with `make build`, or name one with {option}")]
    Missing {
        /// Kernel or boot image.
        what: &'static str,
        /// The flag.
        option: &'static str,
    },
    /// The file cannot be read.
    #[error("{what} {}", .path.display())]
    Read {
        /// Kernel or boot image.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What one of the two images is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    what: &'static str,
    option: &'static str,
    file: &'static str,
}

pub(crate) const KERNEL: Kind = Kind { what: "guest kernel", option: "--kernel", file: "vmlinux" };
pub(crate) const INITRAMFS: Kind = Kind { what: "boot image", option: "--initramfs", file: "initramfs.cpio" };

/// Chooses kernel and boot image.
pub(crate) fn choose(options: &AssetOptions, embedded: Embedded) -> Result<(Image, Image), AssetError> {
    let directory = options.directory.as_deref();
    let kernel = choose_one(KERNEL, options.kernel.as_deref(), directory, embedded.kernel)?;
    let initramfs = choose_one(INITRAMFS, options.initramfs.as_deref(), directory, embedded.initramfs)?;
    Ok((kernel, initramfs))
}

fn choose_one(
    kind: Kind,
    given: Option<&Path>,
    directory: Option<&Path>,
    embedded: &[u8],
) -> Result<Image, AssetError> {
    let path = match (given, directory) {
        (Some(path), _) => path.to_owned(),
        (None, Some(directory)) => directory.join(kind.file),
        (None, None) if embedded.is_empty() => {
            return Err(AssetError::Missing { what: kind.what, option: kind.option });
        }
        (None, None) => return Ok(Image::Embedded),
    };
    // The monitor works in another directory, and a missing file shall be known before anything is made.
    let absolute =
        path.canonicalize().map_err(|source| AssetError::Read { what: kind.what, path, source })?;
    Ok(Image::File(absolute))
}

/// The bytes of an image.
pub(crate) fn load(
    kind: Kind,
    image: &Image,
    embedded: &'static [u8],
) -> Result<Cow<'static, [u8]>, AssetError> {
    match image {
        Image::Embedded => Ok(Cow::Borrowed(embedded)),
        Image::File(path) => match fs::read(path) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(source) => Err(AssetError::Read { what: kind.what, path: path.clone(), source }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_beats_directory_beats_embedded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for name in ["vmlinux", "initramfs.cpio", "other"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let embedded = Embedded { kernel: b"k", kernel_pages: &[], initramfs: b"", digest: 0 };
        let mut options = AssetOptions::default();
        assert!(matches!(choose(&options, embedded), Err(AssetError::Missing { .. })));
        options.directory = Some(dir.clone());
        let (kernel, _) = choose(&options, embedded).unwrap();
        assert_eq!(kernel, Image::File(dir.join("vmlinux")));
        options.kernel = Some(dir.join("other"));
        let (kernel, initramfs) = choose(&options, embedded).unwrap();
        assert_eq!(load(KERNEL, &kernel, b"").unwrap().as_ref(), b"other");
        assert_eq!(initramfs, Image::File(dir.join("initramfs.cpio")));
        options.kernel = Some(dir.join("none"));
        assert!(matches!(choose(&options, embedded), Err(AssetError::Read { .. })));
    }
}
