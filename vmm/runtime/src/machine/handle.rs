//! The machine, as its owner sees it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::MsgFlags;
use vmrun_machine::{MachineState, PageRun};
use vmrun_spec::{DiskSlot, DiskSpec, Frames, NetSpec, NicSlot};

use super::message::{Counted, Ending, Fault, FramesKind, Order, Report, Stamped, VERSION};
use super::process::{Child, Status};
use super::socket::{self, SocketError};
use super::{End, StartError, console};

/// How long a machine may take to be built.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long an order may take that waits for nobody else.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a guest may take to its checkpoint, and its pages to the page cache.
const SAVE_LIMIT: Duration = Duration::from_secs(60);

/// More is no machine's state: a vCPU takes some 7 KiB.
const MOST_STATE: u64 = 4 << 20;

/// A machine in its process. When the last of these is dropped, both are gone.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    child: Child,
    line: Mutex<Line>,
    /// Why its owner ended it.
    found: OnceLock<String>,
    end: OnceLock<End>,
    console: PathBuf,
}

/// The conversation.
#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// Of the last order.
    number: u64,
    /// Of one that was given up, whose reply may still come.
    given_up: Option<u64>,
    /// The process's last word.
    last: Option<(Ending, Vec<String>)>,
}

/// Why an order came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// The machine has ended: [`Machine::end`] says how.
    #[error("the machine has ended")]
    Ended,
    /// What its owner watches has become readable.
    #[error("interrupted")]
    Interrupted,
    /// It does not do it.
    #[error("{0}")]
    Refused(String),
}

/// Why a machine was not saved.
#[derive(Debug)]
pub(crate) enum SaveError {
    /// It has not come to its checkpoint.
    NotThere,
    /// There is no room for it.
    Full,
    /// Another.
    Failed(String),
}

impl Machine {
    /// Waits until the guest of a new process runs.
    pub(super) fn started(child: Child, socket: OwnedFd, console: &Path) -> Result<Self, StartError> {
        let line = Line { socket, number: 0, given_up: None, last: None };
        let inner = Inner {
            child,
            line: Mutex::new(line),
            found: OnceLock::new(),
            end: OnceLock::new(),
            console: console.to_owned(),
        };
        let machine = Self { inner: Arc::new(inner) };
        match machine.inner.hear_first()? {
            Report::Hello { version: VERSION } => {}
            Report::NotStarted { cause, .. } => return Err(StartError::Refused(cause)),
            _ => return Err(StartError::Ended("the machine's process speaks another version".to_owned())),
        }
        match machine.inner.hear_first()? {
            Report::Started => Ok(machine),
            Report::NotStarted { cause, fault: Fault::Template } => Err(StartError::Template(cause)),
            Report::NotStarted { cause, fault: Fault::Other } => Err(StartError::Refused(cause)),
            _ => Err(StartError::Ended("the machine's process spoke out of turn".to_owned())),
        }
    }

    /// Readable once it has ended, by itself or not.
    pub(crate) fn ended_fd(&self) -> BorrowedFd<'_> {
        self.inner.child.as_fd()
    }

    /// Whether it has when this time is over: its connections break a moment before.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        self.inner.child.ends_within(limit)
    }

    /// How it ended, once it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.inner.end()
    }

    /// Ends it for a reason that its owner has found, from any thread.
    pub(crate) fn failing(&self) -> impl Fn(String) + Send + Sync + 'static {
        let inner = Arc::clone(&self.inner);
        move |why| inner.fail(why)
    }

    /// Ends it, and waits for nothing.
    pub(crate) fn kill(&self) {
        self.inner.child.kill();
    }

    /// Ends it, and waits until nothing of it is left; says whether that is so when the time is over, which a host's file
    /// system that hangs can prevent.
    pub(crate) fn stop(&self) -> bool {
        self.inner.child.kill();
        let is_gone = self.inner.child.ends_within(crate::process::END_LIMIT);
        if is_gone {
            self.inner.child.status();
        }
        is_gone
    }

    /// The last lines that the guest printed, at most `lines`, oldest first.
    pub(crate) fn console_tail(&self, lines: u8) -> Vec<String> {
        if let Ok(Report::Tail(tail)) = self.inner.order(&Order::Tail { lines }, None, LIMIT, &[]) {
            return tail.into_iter().take(lines.into()).collect();
        }
        // It may have been its last word.
        let _ = self.inner.end();
        let said = self.inner.line().last.as_ref().map(|(_, console)| console.clone()).unwrap_or_default();
        if said.is_empty() {
            return console::tail(&self.inner.console, lines.into());
        }
        said.into_iter().take(lines.into()).collect()
    }

    /// Holds every vCPU: the guest stands still. Its devices go on with what they have. A machine that
    /// has ended stands still, too.
    pub(crate) fn hold(&self) {
        let _ = self.inner.order(&Order::Hold, None, LIMIT, &[]);
    }

    /// Lets the vCPUs go on.
    pub(crate) fn release(&self) {
        let _ = self.inner.order(&Order::Release, None, LIMIT, &[]);
    }

    /// Puts a network interface into an empty slot. The guest does not see it by itself:
    /// somebody in it has to announce the slot, or to bind it again.
    pub(crate) fn plug(&self, slot: NicSlot, device: NetSpec, frames: &Frames) -> Result<(), OrderError> {
        let (frames, beside) = match frames {
            Frames::Tap(descriptor) => (FramesKind::Tap, descriptor),
            Frames::Stream(descriptor) => (FramesKind::Stream, descriptor),
        };
        self.inner.done(&Order::Plug { slot, device, frames }, Some(beside.as_fd()))
    }

    /// Puts the balloon into its slot; somebody in the guest has to announce it there.
    pub(crate) fn plug_balloon(&self) -> Result<(), OrderError> {
        self.inner.done(&Order::PlugBalloon, None)
    }

    /// Puts a disk on `file` into an empty slot; somebody in the guest has to announce it there.
    pub(crate) fn plug_disk(
        &self,
        slot: DiskSlot,
        device: DiskSpec,
        file: BorrowedFd<'_>,
    ) -> Result<(), OrderError> {
        self.inner.done(&Order::PlugDisk { slot, device }, Some(file))
    }

    /// Takes the device out of a slot. When this returns its descriptors are closed there.
    pub(crate) fn unplug(&self, slot: NicSlot) -> Result<(), OrderError> {
        self.inner.done(&Order::Unplug { slot }, None)
    }

    /// Sets the link of the network interface in a slot up or down; the guest's driver is told.
    pub(crate) fn set_link(&self, slot: NicSlot, up: bool) -> Result<(), OrderError> {
        self.inner.done(&Order::SetLink { slot, up }, None)
    }

    /// What the devices have counted by now; nothing of a machine that has ended.
    pub(crate) fn counters(&self) -> Vec<Counted> {
        match self.inner.order(&Order::Counters, None, LIMIT, &[]) {
            Ok(Report::Counters(counted)) => counted,
            _ => Vec::new(),
        }
    }

    /// When the guest was how far, if it was to say; nothing of a machine that has ended.
    pub(crate) fn stamps(&self) -> Vec<Stamped> {
        match self.inner.order(&Order::Stamps, None, LIMIT, &[]) {
            Ok(Report::Stamps(stamps)) => stamps,
            _ => Vec::new(),
        }
    }

    /// Which of the template's pages the guest has written by now; an error says why that is not known.
    pub(crate) fn working_set(&self) -> Result<Vec<PageRun>, OrderError> {
        match self.inner.order(&Order::WorkingSet, None, LIMIT, &[])? {
            Report::WorkingSet(set) => Ok(set),
            Report::Refused { cause } => Err(OrderError::Refused(cause)),
            other => Err(self.inner.broken(&format!("answered an order with {other:?}"))),
        }
    }

    /// Waits until the guest is at its checkpoint, and has it saved there; its state is read from `state`. It stands still
    /// until it is let pass. What is readable in `watch` ends the wait.
    pub(crate) fn save(&self, state: &File, watch: &[BorrowedFd<'_>]) -> Result<MachineState, SaveError> {
        match self.inner.order(&Order::Save, None, SAVE_LIMIT, watch) {
            Ok(Report::Done) => read_state(state).map_err(|error| SaveError::Failed(error.to_string())),
            Ok(Report::NotSaved { full: true, .. }) => Err(SaveError::Full),
            Ok(Report::NotSaved { cause, .. } | Report::Refused { cause }) => Err(SaveError::Failed(cause)),
            Ok(_) | Err(_) => Err(SaveError::NotThere),
        }
    }

    /// Lets the guest go on behind the checkpoint, or not stop there at all.
    pub(crate) fn pass_checkpoint(&self) {
        if let Err(OrderError::Refused(why)) = self.inner.done(&Order::PassCheckpoint, None) {
            self.inner.fail(format!("it cannot go on behind its checkpoint: {why}"));
        }
    }
}

/// What the process has written, which is checked as a file of anybody's is.
fn read_state(mut file: &File) -> io::Result<MachineState> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MOST_STATE).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

impl Inner {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the process says before its guest runs.
    fn hear_first(&self) -> Result<Report, StartError> {
        let line = self.line();
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match line.hear() {
                Ok(Some((0, report))) => return Ok(report),
                Ok(None) => {}
                Err(SocketError::Closed) => break,
                Ok(Some(_)) | Err(_) => {
                    self.child.kill();
                    return Err(StartError::Ended("the machine's process spoke out of turn".to_owned()));
                }
            }
            match self.wait(&line, deadline, &[]) {
                Ok(Wake::Said | Wake::Again) => {}
                // What it has said is there by now.
                Ok(Wake::Ended) => match line.hear() {
                    Ok(Some((0, report))) => return Ok(report),
                    _ => break,
                },
                Ok(Wake::Interrupted | Wake::Late) | Err(_) => {
                    let seconds = START_LIMIT.as_secs();
                    let text =
                        format!("timed out after {seconds} s waiting for the machine's process to start");
                    return Err(StartError::Ended(text));
                }
            }
        }
        // It has closed the conversation, and so is about to end.
        if !self.child.ends_within(LIMIT) {
            self.child.kill();
            return Err(StartError::Ended("the machine's process does not end".to_owned()));
        }
        Err(match self.child.status() {
            Some(Status::Signal(signal)) => StartError::Killed(signal),
            other => {
                let how = told(other.unwrap_or(Status::Unknown));
                StartError::Ended(format!("the machine's process {how} before its guest ran"))
            }
        })
    }

    fn done(&self, order: &Order, beside: Option<BorrowedFd<'_>>) -> Result<(), OrderError> {
        match self.order(order, beside, LIMIT, &[])? {
            Report::Done => Ok(()),
            Report::Refused { cause } => Err(OrderError::Refused(cause)),
            other => Err(self.broken(&format!("answered an order with {other:?}"))),
        }
    }

    /// Gives an order and waits for the reply. A process that breaks the rules, or is late, is ended.
    fn order(
        &self,
        order: &Order,
        beside: Option<BorrowedFd<'_>>,
        limit: Duration,
        watch: &[BorrowedFd<'_>],
    ) -> Result<Report, OrderError> {
        let mut line = self.line();
        let deadline = Instant::now() + limit;
        match line.tell(order, beside) {
            Ok(()) => {}
            Err(SocketError::Closed) => return Err(self.ends()),
            Err(error) => return Err(self.broken(&format!("does not take orders: {error}"))),
        }
        let mut ended = false;
        loop {
            match line.hear() {
                Ok(Some((number, report))) if number == line.number => return Ok(report),
                Ok(Some((number, _))) if line.given_up == Some(number) => {
                    line.given_up = None;
                    continue;
                }
                Ok(Some((0, Report::Ended { how, console }))) if line.last.is_none() => {
                    line.last = Some((how, console));
                    return Err(self.ends());
                }
                Ok(None) if ended => return Err(OrderError::Ended),
                Ok(None) => {}
                Ok(Some(_)) => return Err(self.broken("spoke out of turn")),
                Err(SocketError::Closed) => return Err(self.ends()),
                Err(error) => return Err(self.broken(&error.to_string())),
            }
            match self.wait(&line, deadline, watch) {
                Ok(Wake::Said | Wake::Again) => {}
                // What it has said is there by now.
                Ok(Wake::Ended) => ended = true,
                Ok(Wake::Interrupted) => return Err(line.give_up()),
                // A guest may take its time to the checkpoint.
                Ok(Wake::Late) if *order == Order::Save => return Err(line.give_up()),
                Ok(Wake::Late) | Err(_) => {
                    return Err(self.broken(&format!("has not answered for {} s", limit.as_secs())));
                }
            }
        }
    }

    fn wait(&self, line: &Line, deadline: Instant, watch: &[BorrowedFd<'_>]) -> Result<Wake, Errno> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
        let mut polled: Vec<_> = [line.socket.as_fd(), self.child.as_fd()]
            .iter()
            .chain(watch)
            .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => return Ok(Wake::Again),
            Err(errno) => return Err(errno),
            Ok(_) => {}
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let said = polled.first().is_some_and(is_ready);
        Ok(match polled.get(1).is_some_and(is_ready) {
            true => Wake::Ended,
            false if said => Wake::Said,
            false if polled.iter().skip(2).any(is_ready) => Wake::Interrupted,
            false if left.is_zero() => Wake::Late,
            false => Wake::Again,
        })
    }

    /// It has closed the conversation, and so is about to end.
    fn ends(&self) -> OrderError {
        if !self.child.ends_within(LIMIT) {
            self.fail("its process has closed the conversation and does not end".to_owned());
        }
        OrderError::Ended
    }

    /// It breaks the rules: nothing of it is wanted any more.
    fn broken(&self, how: &str) -> OrderError {
        self.fail(format!("its process {how}"));
        // Killed, it ends at once, or the host is in no state to tell.
        self.child.ends_within(LIMIT);
        OrderError::Ended
    }

    fn fail(&self, why: String) {
        // One that has ended by itself has its own reason.
        if self.child.status().is_none() && self.found.set(why).is_ok() {
            self.child.kill();
        }
    }

    fn end(&self) -> Option<End> {
        let status = self.child.status()?;
        Some(self.end.get_or_init(|| self.find_end(status)).clone())
    }

    fn find_end(&self, status: Status) -> End {
        if let Some(why) = self.found.get() {
            return self.noted(End::Failed(why.clone()));
        }
        let mut line = self.line();
        while line.last.is_none() {
            match line.hear() {
                Ok(Some((0, Report::Ended { how, console }))) => line.last = Some((how, console)),
                // A reply that nobody waits for.
                Ok(Some((number, _))) if number != 0 && number <= line.number => {}
                _ => break,
            }
        }
        match (&line.last, status) {
            (Some((Ending::Reset, _)), _) => End::Reset,
            (Some((Ending::Panicked, _)), _) => End::Panicked,
            // It has noted that itself.
            (Some((Ending::Device(why), _)), _) => End::Device(why.clone()),
            (Some((Ending::Failed(why), _)), _) => End::Failed(why.clone()),
            (None, Status::Signal(signal)) => self.noted(End::Killed(signal)),
            (None, status @ (Status::Code(_) | Status::Unknown)) => {
                self.noted(End::Failed(format!("its process {} without a word", told(status))))
            }
        }
    }

    /// What the machine's process cannot have told is in the console's log, too.
    fn noted(&self, end: End) -> End {
        // A log that is gone or full says less.
        let _ = console::note(&self.console, &end.to_string());
        end
    }
}

/// What a wait has come to.
enum Wake {
    /// Something is there to hear.
    Said,
    Ended,
    Interrupted,
    Late,
    Again,
}

impl Line {
    fn tell(&mut self, order: &Order, beside: Option<BorrowedFd<'_>>) -> Result<(), SocketError> {
        self.number += 1;
        socket::tell(&self.socket, self.number, order, beside, MsgFlags::MSG_DONTWAIT)
    }

    fn give_up(&mut self) -> OrderError {
        self.given_up = Some(self.number);
        OrderError::Interrupted
    }

    fn hear(&self) -> Result<Option<(u64, Report)>, SocketError> {
        let heard = socket::hear::<Report>(&self.socket)?;
        Ok(heard.map(|heard| (heard.number, heard.message.cleaned())))
    }
}

fn told(status: Status) -> String {
    match status {
        Status::Signal(signal) => format!("was killed by {}", Named(signal)),
        Status::Code(code) => format!("ended with code {code}"),
        Status::Unknown => "ended, nobody can say how,".to_owned(),
    }
}

/// A signal's number, with its name if it has one.
pub(crate) struct Named(pub(crate) i32);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signal {}", self.0)?;
        Signal::try_from(self.0).map_or(Ok(()), |signal| write!(f, " ({signal})"))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("the guest reset itself"),
            Self::Panicked => f.write_str("the guest kernel panicked"),
            Self::Device(why) | Self::Failed(why) => f.write_str(why),
            Self::Killed(signal) => write!(f, "the machine's process was killed by {}", Named(*signal)),
        }
    }
}
