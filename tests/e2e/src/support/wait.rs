//! Waiting for conditions, never for time.

use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Longer than anything takes on an emulated CPU with a busy host.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// Asks until there is an answer. What has no event to wait for is asked again soon.
///
/// # Panics
/// When there is none in time.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "timed out after {} s waiting for {what}", LIMIT.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}

/// The same for a question that can say what is still in the way.
///
/// # Panics
/// When something still is when the time is over.
#[track_caller]
pub(crate) fn until_or(what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + LIMIT;
    while let Err(hindrance) = ask() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}: {hindrance}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until an answer has stayed the same for two seconds and gives it.
#[track_caller]
pub(crate) fn settled<T: PartialEq>(what: &str, mut ask: impl FnMut() -> T) -> T {
    let mut last = (ask(), Instant::now());
    until(what, || {
        let now = ask();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(2)).then_some(())
    });
    last.0
}

/// The child's end; `None` when it still runs after `limit`.
pub(crate) fn end_of(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // Not reaped before this returns, so the pid is the child's.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) if left.is_zero() => return None,
            other => {
                other.unwrap();
                if let Some(status) = child.try_wait().unwrap() {
                    return Some(status);
                }
            }
        }
    }
}
