//! Following the namespace: whatever engines change in it later reaches the guest.
//!
//! The kernel's news wake the monitor's loop, which only passes the word on. A thread, which is there
//! from the first news on, looks and tells the guest, over a connection of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use vmrun_plan::VSOCK_SOCKET;
use vmrun_proto::Request;

use super::mirror::{Change, Mirror};
use super::news::News;
use crate::agent_client::{AgentClient, AgentError, Wait, Watch};
use crate::error::chain;
use crate::log::{self, Log};

const CHANGE: Wait = Wait { what: "the agent to change the network", limit: Duration::from_secs(60) };
const SETTLE: Wait = Wait { what: "the network to reach the guest", limit: Duration::from_secs(90) };

/// Changes come in bursts: they are waited for until there are none for so long, and not longer
/// than that.
const QUIET: Duration = Duration::from_millis(30);
const LONGEST: Duration = Duration::from_millis(300);

const STACK_BYTES: usize = 512 << 10;

/// The namespace's news, heard from before the mirror has looked, and who sees to them.
#[derive(Debug)]
pub(crate) struct Follower {
    news: News,
    log: Log,
    state: State,
}

#[derive(Debug)]
enum State {
    /// There were no news yet.
    Resting(Box<Mirror>),
    Following(Worker),
    Over,
}

#[derive(Debug)]
struct Worker {
    orders: Sender<Order>,
    settled: Receiver<Result<(), String>>,
    /// Readable once there is something in `settled`.
    is_settled: EventFd,
    /// Its end interrupts the thread.
    stop: UnixStream,
    thread: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// There were news.
    Look,
    /// Look now, and say when it is done.
    Settle,
}

impl Follower {
    pub(crate) fn new(news: News, mirror: Mirror, log: Log) -> Self {
        Self { news, log, state: State::Resting(Box::new(mirror)) }
    }

    /// The guest has what the mirror has begun with.
    pub(super) fn begun(&mut self, watch: Watch<'_>) -> Result<(), AgentError> {
        match &mut self.state {
            State::Resting(mirror) => mirror.serve_names(watch),
            State::Following(_) | State::Over => Ok(()),
        }
    }

    /// What has come is passed on.
    pub(crate) fn news_came(&mut self) -> io::Result<()> {
        if self.news.drain()? {
            self.order(Order::Look)?;
        }
        Ok(())
    }

    /// Returns when the guest has what the namespace holds now. The inner error says what it
    /// cannot have.
    pub(crate) fn settle(&mut self, watch: Watch<'_>) -> Result<Result<(), String>, AgentError> {
        let failed = |source| AgentError::Io { act: "follow the network namespace", source };
        let any = self.news.drain().map_err(failed)?;
        if !any && !matches!(self.state, State::Following(_)) {
            return Ok(Ok(()));
        }
        self.order(Order::Settle).map_err(failed)?;
        let State::Following(worker) = &self.state else { return Ok(Ok(())) };
        SETTLE.readable(worker.is_settled.as_fd(), SETTLE.deadline(), watch)?;
        let _ = worker.is_settled.read();
        Ok(worker.settled.try_recv().unwrap_or(Ok(())))
    }

    fn order(&mut self, order: Order) -> io::Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Resting(mirror) => State::Following(Worker::start(*mirror, self.log.clone())?),
            other => other,
        };
        if let State::Following(worker) = &self.state {
            // A thread that has ended has said why.
            let _ = worker.orders.send(order);
        }
        Ok(())
    }
}

impl Drop for Follower {
    /// Lets the interfaces go.
    fn drop(&mut self) {
        if let State::Following(worker) = std::mem::replace(&mut self.state, State::Over) {
            let Worker { orders, stop, thread, .. } = worker;
            drop((orders, stop));
            // The runtime has reported its panic.
            let _ = thread.join();
        }
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

impl Worker {
    fn start(mirror: Mirror, log: Log) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let (sender, settled) = mpsc::channel();
        let (stop, stopped) = UnixStream::pair()?;
        let is_settled = EventFd::new()?;
        let seat = Seat {
            mirror,
            log,
            orders: received,
            stopped,
            settled: sender,
            is_settled: is_settled.as_fd().try_clone_to_owned()?.into(),
            complained: String::new(),
        };
        let thread = thread::Builder::new().name("network".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || seat.work())?;
        Ok(Self { orders, settled, is_settled, stop, thread })
    }
}

/// What the thread has.
struct Seat {
    mirror: Mirror,
    log: Log,
    orders: Receiver<Order>,
    stopped: UnixStream,
    settled: Sender<Result<(), String>>,
    is_settled: std::fs::File,
    /// What was complained of last: news that change nothing of it come often.
    complained: String,
}

impl Seat {
    /// Until nobody orders any more.
    fn work(mut self) {
        while let Ok(order) = self.orders.recv() {
            let settle = order == Order::Settle || self.gather();
            let result = self.follow();
            let complaint = result.as_ref().err().cloned().unwrap_or_default();
            if !complaint.is_empty() && complaint != self.complained {
                self.complain(&complaint);
            }
            self.complained = complaint;
            if settle {
                // Who does not wait any more needs no answer.
                let _ = self.settled.send(result);
                let _ = io::Write::write_all(&mut &self.is_settled, &1u64.to_ne_bytes());
            }
        }
    }

    /// Waits until a burst of news is over; says whether somebody waits for the end of it.
    fn gather(&self) -> bool {
        let longest = Instant::now() + LONGEST;
        while Instant::now() < longest {
            match self.orders.recv_timeout(QUIET) {
                Ok(Order::Look) => {}
                Ok(Order::Settle) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    fn follow(&mut self) -> Result<(), String> {
        let about = |error: &dyn std::error::Error| {
            format!("the guest's network does not follow that of its namespace: {}", chain(error))
        };
        let Some(Change { network, complaints, warnings }) =
            self.mirror.look().map_err(|error| about(&error))?
        else {
            // Its connection may have ended meanwhile, or was not to be had.
            return self.mirror.serve_names(&[self.stopped.as_fd()]).map_err(|error| about(&error));
        };
        if !warnings.is_empty() {
            self.complain(&warnings.join("; "));
        }
        let mut agent = AgentClient::connect(Path::new(VSOCK_SOCKET), &[self.stopped.as_fd()])
            .map_err(|error| about(&error))?;
        let container = self.mirror.container().to_owned();
        let request = Request::Network { container, network: Box::new(network.clone()) };
        match agent.call(request, CHANGE, &[self.stopped.as_fd()]) {
            Ok(_) => {
                self.mirror.told(network);
                self.mirror.serve_names(&[self.stopped.as_fd()]).map_err(|error| about(&error))?;
                if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
            }
            // It has done what it could, and tries the rest again with the next change.
            Err(error @ AgentError::Refused(_)) => {
                self.mirror.told(network);
                // Names are none of that.
                let served = self.mirror.serve_names(&[self.stopped.as_fd()]);
                let failures: Vec<_> =
                    std::iter::once(error).chain(served.err()).map(|error| about(&error)).collect();
                Err(failures.join("; "))
            }
            Err(error) => Err(about(&error)),
        }
    }

    fn complain(&self, complaint: &str) {
        // There is nobody left to tell when it is not writable.
        if crate::monitor::open_log(&self.log).is_ok() {
            log::warn(complaint);
        }
    }
}
