//! What the guest calls files by: numbers that virtiofsd looks up.

use virtiofsd::filesystem::FileSystem;
use virtiofsd::passthrough::PassthroughFs;

/// A file or directory that it knows.
pub(super) type Node = <PassthroughFs as FileSystem>::Inode;

/// One that it has opened.
pub(super) type Handle = <PassthroughFs as FileSystem>::Handle;
