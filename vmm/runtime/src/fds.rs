//! File descriptors that cross an `exec`. The only module that makes an owner
//! out of a number.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

/// Takes over a descriptor that the parent left open for this process.
///
/// # Errors
/// The number is one of the standard streams, or is not open.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: called once for each number that the launcher passed on the
    // command line, before anything else in this process opens a descriptor,
    // so nobody else owns it; the check below refuses a number that is not open
    // while the value is still forgettable.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, as `fcntl` has just shown, and has no other owner, as above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets a descriptor survive the next `exec`, and gives its number.
pub(crate) fn pass_on(fd: impl AsFd) -> io::Result<RawFd> {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(fd.as_fd().as_raw_fd())
}

/// Most descriptors that this process may want: one for each file of the shared
/// tree that the guest's kernel remembers, and it remembers what it has seen.
const MOST_DESCRIPTORS: u64 = 1_000_000;

/// Lets this process have as many descriptors as it may: the usual 1024 are used
/// up by listing one large directory in the container.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Nobody may have more than this, root included.
    let ceiling = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let ceiling = ceiling.and_then(|text| text.trim().parse().ok()).unwrap_or(hard);
    let wanted = MOST_DESCRIPTORS.min(ceiling).max(soft);
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)) {
        // Only root may raise the upper limit.
        Err(nix::errno::Errno::EPERM) => Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?),
        other => Ok(other?),
    }
}

/// Points the standard streams of this process at `/dev/null`, so that whoever
/// holds the other ends sees only the relays' copies.
pub(crate) fn release_standard_streams(stderr_too: bool) -> io::Result<()> {
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    if stderr_too {
        nix::unistd::dup2_stderr(&null)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_limit_is_what_this_user_may_have() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise_descriptor_limit().unwrap();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= hard.min(MOST_DESCRIPTORS), "{soft} of {hard}");
        raise_descriptor_limit().unwrap();
    }
}
