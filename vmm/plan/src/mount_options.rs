//! Options of mounts.

use oci_spec::runtime::{Mount, Spec};

use crate::validate::PlanError;
use crate::volumes::is_bind;

/// Those that have a meaning of their own; others are the mounted file system's.
pub const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Those by which mounts are given back to whoever the source is from.
const SHARED: &[&str] = &["shared", "rshared"];

/// Refuses options that would be dropped without a word.
pub(crate) fn check(spec: &Spec) -> Result<(), PlanError> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let refuse = |option: &str, problem| {
            Err(PlanError::invalid(format!("mounts[{index}].options: {option}"), problem))
        };
        if mount.typ().as_deref() != Some("tmpfs") && options(mount).any(|option| option == "tmpcopyup") {
            return refuse("tmpcopyup", "is for a mount of type tmpfs");
        }
        if let Some(option) = options(mount).find(|option| SHARED.contains(option)) {
            let problem = "what is mounted in the guest cannot appear on the host; use slave or private";
            return refuse(option, problem);
        }
        // The kernel does not look at a file system's options when it binds.
        if is_bind(mount)
            && let Some(option) = options(mount).find(|option| !MOUNT_OPTIONS.contains(option))
        {
            return refuse(option, "is no option of a bind mount; leave it out");
        }
    }
    Ok(())
}

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}
