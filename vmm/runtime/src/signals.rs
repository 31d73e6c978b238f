//! Signals as file descriptor events.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that mean something to this process alone and are never taken off it.
const OWN: &[Signal] = &[
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGKILL,
    Signal::SIGPIPE,
    Signal::SIGSEGV,
    Signal::SIGSTOP,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// Signals that do not end a process which takes no care of them.
const HARMLESS: &[Signal] = &[
    Signal::SIGCHLD,
    Signal::SIGCONT,
    Signal::SIGURG,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Every other signal of this thread, and of the threads it starts, as a stream.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    /// Shares the queue, and looks at those only that end a process.
    ending: SignalFd,
}

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) number: i32,
    /// The terminal sent it, to every process of its foreground group.
    pub(crate) from_terminal: bool,
}

impl Signals {
    /// Takes the signals: from here on none of them ends the process.
    pub(crate) fn take() -> io::Result<Self> {
        let mut set = forwardable();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&set, flags)?;
        for harmless in HARMLESS {
            set.remove(*harmless);
        }
        Ok(Self { fd, ending: SignalFd::with_flags(&set, flags)? })
    }

    /// Readable while a signal waits that ends a process: what may interrupt a wait before there
    /// is anybody to take signals. The others stay in the queue until there is.
    pub(crate) fn ending(&self) -> BorrowedFd<'_> {
        self.ending.as_fd()
    }

    /// The next signal, if one has arrived.
    pub(crate) fn next(&self) -> io::Result<Option<Arrived>> {
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        let number = i32::try_from(info.ssi_signo).unwrap_or_default();
        Ok(Some(Arrived { number, from_terminal: info.ssi_code == libc::SI_KERNEL }))
    }
}

/// The end that its user wants of a command which goes on until then: ctrl-C does not end this process any more.
#[derive(Debug)]
pub struct Interruption(SignalFd);

impl Interruption {
    /// Takes the signal of ctrl-C, for this thread and those that it starts.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn take() -> io::Result<Self> {
        let mut interrupt = SigSet::empty();
        interrupt.add(Signal::SIGINT);
        interrupt.thread_block()?;
        Ok(Self(SignalFd::with_flags(&interrupt, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for it.
    pub fn wait(&self) {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // An error that cannot be is no reason to go on for ever.
        while poll(&mut polled, PollTimeout::NONE) == Err(Errno::EINTR) {}
    }
}

/// All signals but [`OWN`] and the first real-time one, with which the machine
/// interrupts its vCPU threads: they inherit this thread's mask.
fn forwardable() -> SigSet {
    let mut set = SigSet::all();
    for signal in OWN {
        set.remove(*signal);
    }
    let mut raw = *set.as_ref();
    // SAFETY: `raw` is an initialised set that this function owns; the call
    // fails, changing nothing, for a number that is no signal.
    unsafe { libc::sigdelset(&raw mut raw, libc::SIGRTMIN()) };
    // SAFETY: `raw` is an initialised set; it may hold real-time signals, which
    // `SigSet` only cannot name when it is iterated, and nobody iterates it.
    unsafe { SigSet::from_sigset_t_unchecked(raw) }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Lets a program start with every signal free: it would inherit what [`Signals::take`] has
/// blocked, and few programs look.
pub(crate) fn free_in(command: &mut Command) -> &mut Command {
    let free = || Ok(SigSet::empty().thread_set_mask()?);
    // SAFETY: runs in the child between fork and exec, where one thread is left and only
    // async-signal-safe calls are allowed: `pthread_sigmask` is one. It captures nothing,
    // allocates nothing and takes no lock.
    unsafe { command.pre_exec(free) }
}

/// Sends any signal; those in real time have no name in `nix`. A process that
/// has ended takes none, and its end is noticed elsewhere.
pub(crate) fn send(pid: i32, number: i32) {
    // SAFETY: takes two numbers and touches no memory of ours; what it does to
    // the other process is its purpose.
    unsafe { libc::kill(pid, number) };
}

/// Whether the signal's default action ends a process: while a sandbox boots
/// there is nobody else to take it.
pub(crate) fn ends_a_process(number: i32) -> bool {
    !HARMLESS.iter().any(|harmless| *harmless as i32 == number)
}

/// Whether the signal is for the container. SIGCHLD speaks of our own hooks.
pub(crate) fn is_forwarded(number: i32) -> bool {
    number != libc::SIGCHLD
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::pthread::{pthread_kill, pthread_self};

    use super::*;

    fn is_readable(fd: BorrowedFd<'_>) -> bool {
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn harmless_signal_waits_and_does_not_interrupt() {
        let signals = Signals::take().unwrap();
        pthread_kill(pthread_self(), Signal::SIGWINCH).unwrap();
        assert!(!is_readable(signals.ending()));
        assert!(is_readable(signals.as_fd()));
        pthread_kill(pthread_self(), Signal::SIGTERM).unwrap();
        assert!(is_readable(signals.ending()));
        let numbers = [(); 2].map(|()| signals.next().unwrap().map(|arrived| arrived.number));
        assert!(numbers.contains(&Some(libc::SIGWINCH)) && numbers.contains(&Some(libc::SIGTERM)));
        assert!(!is_readable(signals.ending()));
    }
}
