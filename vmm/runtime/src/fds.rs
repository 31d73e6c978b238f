//! File descriptors that cross an `exec`. The only module that makes an owner
//! out of a number.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use crate::error::Error;
use crate::launch::LaunchError;

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

/// Owners of descriptors that have come with a message.
pub(crate) fn received(numbers: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: the kernel has just made them for this process, as the message says, and nobody else knows of them.
    numbers.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) }).collect()
}

/// Closes every descriptor but the standard streams and those of `keep`: what the caller left open
/// by mistake may lead to anything on the host.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    gaps(keep).into_iter().try_for_each(|(first, last)| {
        // SAFETY: called as one of the first acts of a process that was started with the numbers of
        // `keep`, or forked from one and uses no others: no other descriptor has an owner that uses it.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
    })
}

/// The ranges of numbers above the standard streams' that are not in `keep`.
fn gaps(keep: &[RawFd]) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    for number in kept.into_iter().filter(|number| *number > 2) {
        if number > first {
            gaps.push((first, number - 1));
        }
        first = number + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

/// Keeps descriptors that the caller left open from the programs that this process starts: hooks,
/// and the processes of its own. The standard streams are passed on, as is what
/// [`pass_on`] names.
///
/// # Errors
/// The kernel is older than 5.11.
pub fn keep_from_children() -> Result<(), Error> {
    // SAFETY: sets a flag of descriptors, whoever owns them.
    let kept =
        check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) });
    // Before Linux 5.11 it does not know the flag.
    kept.or_else(|_| keep_each_from_children())
        .map_err(|source| LaunchError::io("keep open files from the programs that it starts")(source).into())
}

fn keep_each_from_children() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            // SAFETY: as above. One that is closed by now, like that of this listing, is refused.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

/// How many descriptors a process has room for from its start: as many as most containers' files take.
const ROOM: u64 = 1024;

/// Makes room in the table of descriptors while the process has one thread. A table that grows later waits for the
/// kernel's readers of it (`synchronize_rcu` in `expand_files`, fs/file.c): some milliseconds in which a thread does nothing.
pub(crate) fn make_room() -> io::Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let last = RawFd::try_from(ROOM.min(soft).saturating_sub(1)).map_err(io::Error::other)?;
    let null = nix::fcntl::open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let number = fcntl(&null, FcntlArg::F_DUPFD_CLOEXEC(last))?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(())
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

/// Leaves this process nothing at its standard streams: there is an end to read, and what is written goes nowhere, which the standard
/// library takes for success. No device, of which others depend on the mode and the owner.
pub(crate) fn empty_standard_streams() -> io::Result<()> {
    let (end, _) = pipe2(OFlag::O_CLOEXEC)?;
    nix::unistd::dup2_stdin(&end)?;
    nix::unistd::dup2_stdout(&end)?;
    Ok(nix::unistd::dup2_stderr(&end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_between_the_kept_ones_are_closed() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[3, 4]), [(5, u32::MAX)]);
        assert_eq!(gaps(&[9, 5, 0, -1]), [(3, 4), (6, 8), (10, u32::MAX)]);
    }

    #[test]
    fn descriptor_without_its_flag_is_kept_from_children() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let number = pass_on(&null).unwrap();
        keep_from_children().unwrap();
        let flags = fcntl(&null, FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC), "{number}");
    }

    #[test]
    fn room_is_made_and_left_free() {
        let size = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            size.trim().parse::<u64>().unwrap()
        };
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        make_room().unwrap();
        assert!(size() >= ROOM.min(soft), "{}", size());
        let last = ROOM.min(soft) - 1;
        assert!(!std::path::Path::new(&format!("/proc/self/fd/{last}")).exists());
    }

    #[test]
    fn descriptor_limit_is_what_this_user_may_have() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise_descriptor_limit().unwrap();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= hard.min(MOST_DESCRIPTORS), "{soft} of {hard}");
        raise_descriptor_limit().unwrap();
    }
}
