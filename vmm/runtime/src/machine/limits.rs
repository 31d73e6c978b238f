//! What the host's kernel allows the machine's process of what it counts.
//!
//! | limit | is | why |
//! |---|---|---|
//! | core file | 1 byte | with 0 the kernel would still call a program that wants cores (core(5)) |
//! | locked memory | 0 | nothing is locked, and what is cannot be taken back from this process when memory is short |
//! | descriptors | the monitor's, for good | one for each file that the guest's kernel knows, with a share for each device |
//! | size of a file | the caller's | the container writes its files through this process |
//! | processes | the caller's | they are counted by the user, not by the process, and root's not at all; the filters allow threads alone |

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Sets them, for good.
pub(super) fn set() -> Result<(), Errno> {
    let limit = |resource, most| setrlimit(resource, most, most);
    // Whose limit is 0 may not be able to raise it.
    limit(Resource::RLIMIT_CORE, 1).or_else(|_| limit(Resource::RLIMIT_CORE, 0))?;
    limit(Resource::RLIMIT_MEMLOCK, 0)?;
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    limit(Resource::RLIMIT_NOFILE, descriptors)
}
