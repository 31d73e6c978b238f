//! Mounts of the shared tree whose attributes are not the usual ones.

use serde::{Deserialize, Serialize};

/// A mount that the host has in the shared tree, as the guest shall show it.
///
/// virtio-fs carries no attributes of mounts: the guest would give each one those of the mount
/// above it. The host holds them all the same; what they mean for programs alone, like `noexec`,
/// only the guest can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMount {
    /// Absolute path in the guest; a mount comes behind the one that it lies in.
    pub path: String,
    /// All that it has, in the bits of `mount_setattr(2)`.
    pub attributes: u64,
}

/// The bits of `mount_setattr(2)`, by the names of its manual page.
pub mod mount_attr {
    /// May not be written to.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id programs are ordinary ones.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes open no device.
    pub const NODEV: u64 = 0x4;
    /// No programs.
    pub const NOEXEC: u64 = 0x8;
    /// The bits of which one of the next two, or none for `relatime`, may be set.
    pub const ATIME: u64 = 0x70;
    /// Reading leaves no trace.
    pub const NOATIME: u64 = 0x10;
    /// Each reading leaves a trace.
    pub const STRICTATIME: u64 = 0x20;
    /// Reading a directory leaves no trace.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// All of them.
    pub const ALL: u64 = RDONLY | NOSUID | NODEV | NOEXEC | ATIME | NODIRATIME | NOSYMFOLLOW;
}
