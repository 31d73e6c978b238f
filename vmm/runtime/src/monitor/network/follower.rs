//! Following the namespace: whatever engines change in it later reaches the guest.
//!
//! The kernel's news wake the monitor's loop, which only passes the word on. A thread, which is there
//! from the first news on, looks and tells the guest, over a connection of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use vmrun_plan::VSOCK_SOCKET;
use vmrun_proto::{Network, Request};

use super::hold::Hold;
use super::mirror::{Found, Mirror};
use super::news::News;
use super::own_taps::Heard;
use super::retries::Retries;
use crate::agent_client::{AgentClient, AgentError, Wait, Watch};
use crate::error::chain;
use crate::log::{self, Log};

const CHANGE: Wait = Wait { what: "the agent to change the network", limit: Duration::from_secs(60) };
const SETTLE: Wait = Wait { what: "the network to reach the guest", limit: Duration::from_secs(90) };

/// Changes come in bursts: they are waited for until there are none for so long, and not longer
/// than that.
const QUIET: Duration = Duration::from_millis(30);
const LONGEST: Duration = Duration::from_millis(300);

/// A start is not refused for what the namespace was only for a moment.
const AWAITED_TRIES: u32 = 3;

const STACK_BYTES: usize = 512 << 10;

/// The namespace's news, heard from before the mirror has looked, and who sees to them.
#[derive(Debug)]
pub(crate) struct Follower {
    news: News,
    log: Log,
    state: State,
    /// How often somebody has waited for the guest to have what there is.
    settles: u64,
}

#[derive(Debug)]
enum State {
    /// There were no news yet.
    Resting(Box<Mirror>),
    Following(Worker),
    /// The thread has been told to end.
    Leaving(JoinHandle<Mirror>),
    Over,
}

#[derive(Debug)]
struct Worker {
    orders: Sender<Order>,
    settled: Receiver<Settled>,
    /// Readable once there is something in `settled`, or nothing will come any more.
    is_settled: EventFd,
    /// Its end interrupts the thread.
    stop: UnixStream,
    hold: Hold,
    thread: JoinHandle<Mirror>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// There were news.
    Look,
    /// There were news of queues alone. What has failed is not tried again for them: those of the failure's own
    /// clean-up come after it.
    Mend,
    /// Look now, and say when it is done; by the number the answer is known.
    Settle(u64),
}

impl Order {
    /// What is to be done for such news.
    fn of(heard: Heard) -> Option<Self> {
        match heard {
            Heard::Nothing => None,
            Heard::Queues => Some(Self::Mend),
            Heard::Changes => Some(Self::Look),
        }
    }

    /// Whether it is carried out now that so much is `left` until what has failed is tried again. While the guest
    /// `is_held` nothing is: the end of that is an order.
    fn is_due(self, left: Option<Duration>, is_held: bool) -> bool {
        match self {
            Self::Settle(_) => true,
            Self::Look => !is_held,
            Self::Mend => !is_held && left.is_none_or(|left| left.is_zero()),
        }
    }
}

/// Which order was carried out, and what the guest cannot have.
type Settled = (u64, Result<(), String>);

impl Follower {
    pub(crate) fn new(news: News, mirror: Mirror, log: Log) -> Self {
        Self { news, log, state: State::Resting(Box::new(mirror)), settles: 0 }
    }

    /// The guest has what the mirror has begun with.
    pub(super) fn begun(&mut self, watch: Watch<'_>) -> Result<(), AgentError> {
        match &mut self.state {
            State::Resting(mirror) => mirror.serve_names(watch),
            State::Following(_) | State::Leaving(_) | State::Over => Ok(()),
        }
    }

    /// What has come is passed on.
    pub(crate) fn news_came(&mut self) -> io::Result<()> {
        let Some(order) = Order::of(self.news.drain()?) else { return Ok(()) };
        // A thread that has ended has said why.
        self.order(order).map(drop)
    }

    /// The machine's CPUs will be held: nothing is asked of the guest until it [goes on](Self::go_on).
    pub(super) fn hold(&self) -> io::Result<()> {
        match &self.state {
            State::Following(worker) => worker.hold.begin(),
            State::Resting(_) | State::Leaving(_) | State::Over => Ok(()),
        }
    }

    /// They run again. What was given up or put off is done.
    pub(super) fn go_on(&mut self) -> io::Result<()> {
        if let State::Following(worker) = &self.state {
            worker.hold.end()?;
            self.order(Order::Look)?;
        }
        Ok(())
    }

    /// Returns when the guest has what the namespace holds now. The inner error says what it
    /// cannot have.
    pub(crate) fn settle(&mut self, watch: Watch<'_>) -> Result<Result<(), String>, AgentError> {
        let failed = |source| AgentError::Io { act: "follow the network namespace", source };
        let heard = self.news.drain().map_err(failed)?;
        let is_known = match &self.state {
            State::Resting(mirror) => heard == Heard::Nothing && !mirror.may_lack_rules(),
            State::Following(_) => false,
            State::Leaving(_) | State::Over => heard == Heard::Nothing,
        };
        if is_known {
            return Ok(Ok(()));
        }
        self.settles = self.settles.wrapping_add(1);
        let number = self.settles;
        if !self.order(Order::Settle(number)).map_err(failed)? {
            return Err(failed(ended()));
        }
        let State::Following(worker) = &self.state else { return Ok(Ok(())) };
        let deadline = SETTLE.deadline();
        loop {
            SETTLE.readable(worker.is_settled.as_fd(), deadline, watch)?;
            let _ = worker.is_settled.read();
            if let Some(result) = worker.answer(number).map_err(failed)? {
                return Ok(result);
            }
        }
    }

    /// The guest is told of nothing any more, and nobody warns of what it does not have. Waits for nothing.
    pub(super) fn leave(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Following(Worker { orders, stop, thread, .. }) => {
                drop((orders, stop));
                State::Leaving(thread)
            }
            other => other,
        };
    }

    /// The machine is being killed, so that nobody misses the taps.
    pub(crate) fn let_go(mut self) {
        if let Some(mirror) = self.end() {
            mirror.let_go();
        }
    }

    /// What was followed, as it is now.
    fn end(&mut self) -> Option<Mirror> {
        self.leave();
        match std::mem::replace(&mut self.state, State::Over) {
            State::Resting(mirror) => Some(*mirror),
            // The runtime has reported a panic of its.
            State::Leaving(thread) => thread.join().ok(),
            State::Following(_) | State::Over => None,
        }
    }

    /// Says whether somebody takes it.
    fn order(&mut self, order: Order) -> io::Result<bool> {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Resting(mirror) => State::Following(Worker::start(*mirror, self.log.clone())?),
            other => other,
        };
        match &self.state {
            State::Following(worker) => Ok(worker.orders.send(order).is_ok()),
            State::Resting(_) | State::Leaving(_) | State::Over => Ok(false),
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that follows it has ended; see the log")
}

impl Drop for Follower {
    /// Lets the interfaces go.
    fn drop(&mut self) {
        drop(self.end());
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
        let hold = Hold::new()?;
        let seat = Seat {
            complained: mirror.warned().to_vec(),
            mirror,
            log,
            orders: received,
            stopped,
            hold: hold.clone(),
            answers: Answers { settled: Some(sender), bell: is_settled.as_fd().try_clone_to_owned()?.into() },
            unsure: false,
            retries: Retries::default(),
        };
        let thread = thread::Builder::new().name("network".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || seat.work())?;
        Ok(Self { orders, settled, is_settled, stop, hold, thread })
    }

    /// What has come of the order of this number, if it is known by now. Answers that nobody has waited for go.
    fn answer(&self, number: u64) -> io::Result<Option<Result<(), String>>> {
        loop {
            match self.settled.try_recv() {
                Ok((settled, result)) if settled == number => return Ok(Some(result)),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => return Err(ended()),
            }
        }
    }
}

/// Where it is said what has come of orders.
struct Answers {
    settled: Option<Sender<Settled>>,
    bell: std::fs::File,
}

impl Answers {
    fn say(&self, settled: Settled) {
        // Who does not wait any more needs no answer.
        let _ = self.settled.as_ref().map(|sender| sender.send(settled));
        self.ring();
    }

    fn ring(&self) {
        let _ = io::Write::write_all(&mut &self.bell, &1u64.to_ne_bytes());
    }
}

impl Drop for Answers {
    /// Whoever waits hears that there will be none, also of a thread that has panicked.
    fn drop(&mut self) {
        self.settled = None;
        self.ring();
    }
}

/// What the thread has.
struct Seat {
    mirror: Mirror,
    log: Log,
    orders: Receiver<Order>,
    stopped: UnixStream,
    hold: Hold,
    answers: Answers,
    /// The agent could not do all that it was told last, or has not answered: it is told again, whatever it was told before.
    unsure: bool,
    /// When what failed is tried again, if there are no news before.
    retries: Retries,
    /// What was complained of last: news that change nothing of it come often.
    complained: Vec<String>,
}

/// What has come of following.
#[derive(Debug, Default)]
struct Outcome {
    /// What the guest cannot have.
    missing: Vec<String>,
    warnings: Vec<String>,
    /// It may work another time.
    again: bool,
}

impl Outcome {
    fn failed(error: &dyn std::error::Error) -> Self {
        Self { missing: vec![about(error)], again: true, ..Self::default() }
    }

    /// The guest could not be told. Whoever has interrupted that knows why.
    fn untold(&mut self, error: &AgentError) {
        self.again = true;
        if !matches!(error, AgentError::Interrupted { .. }) {
            self.missing.push(about(error));
        }
    }
}

fn about(error: &dyn std::error::Error) -> String {
    format!("the guest's network does not follow that of its namespace: {}", chain(error))
}

impl Seat {
    /// Until nobody orders any more. The interfaces are left as they are.
    fn work(mut self) -> Mirror {
        self.carry_out();
        self.mirror
    }

    fn carry_out(&mut self) {
        while let Some(order) = next(&self.orders, &self.retries, &self.hold) {
            let awaited = match order {
                Order::Settle(number) => Some(number),
                Order::Look | Order::Mend => self.gather(),
            };
            if self.is_stopped() {
                return;
            }
            let outcome = self.follow_with(if awaited.is_some() { AWAITED_TRIES } else { 1 });
            // What failed then may have failed for that.
            if self.is_stopped() {
                return;
            }
            self.retries.note(outcome.again, Instant::now());
            let result = if outcome.missing.is_empty() { Ok(()) } else { Err(outcome.missing.join("; ")) };
            self.complain([outcome.missing, outcome.warnings].concat());
            if let Some(number) = awaited {
                self.answers.say((number, result));
            }
        }
    }

    fn is_stopped(&self) -> bool {
        let mut fds = [PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Waits until a burst of news is over; says who waits for the end of it.
    fn gather(&self) -> Option<u64> {
        let longest = Instant::now() + LONGEST;
        while Instant::now() < longest {
            match self.orders.recv_timeout(QUIET) {
                Ok(Order::Look | Order::Mend) => {}
                Ok(Order::Settle(number)) => return Some(number),
                Err(_) => return None,
            }
        }
        None
    }

    /// Follows up to so many times, while what the guest lacks may be had the next time.
    fn follow_with(&mut self, tries: u32) -> Outcome {
        let mut outcome = self.follow();
        for _ in 1..tries {
            if outcome.missing.is_empty() || !outcome.again || self.is_stopped() {
                break;
            }
            outcome = self.follow();
        }
        outcome
    }

    fn follow(&mut self) -> Outcome {
        let Found { network, is_told, missing, warnings, may_be_had_later } = match self.mirror.look() {
            Ok(found) => found,
            Err(error) => return Outcome::failed(&error),
        };
        let mut outcome = Outcome { missing, warnings, again: may_be_had_later };
        if (!is_told || self.unsure)
            && let Err(error) = self.tell(network)
        {
            outcome.untold(&error);
        }
        // Names are none of that. Their connection may have ended meanwhile, or was not to be had.
        if let Err(error) = self.mirror.serve_names(&[self.stopped.as_fd(), self.hold.as_fd()]) {
            outcome.untold(&error);
        }
        outcome
    }

    /// Tells the guest what it is to have. What the agent cannot do it tries again when it is told again.
    fn tell(&mut self, network: Network) -> Result<(), AgentError> {
        let watch = &[self.stopped.as_fd(), self.hold.as_fd()];
        self.unsure = true;
        let mut agent = AgentClient::connect(Path::new(VSOCK_SOCKET), watch)?;
        let container = self.mirror.container().to_owned();
        let request = Request::Network { container, network: Box::new(network.clone()) };
        let answer = agent.call(request, CHANGE, watch);
        if let Ok(_) | Err(AgentError::Refused(_)) = &answer {
            self.unsure = answer.is_err();
            self.mirror.told(network);
        }
        answer.map(drop)
    }

    /// Logs what has not been said before.
    fn complain(&mut self, complaints: Vec<String>) {
        let new: Vec<_> = complaints.iter().filter(|one| !self.complained.contains(one)).cloned().collect();
        // There is nobody left to tell when it is not writable.
        if !new.is_empty() && crate::monitor::open_log(&self.log).is_ok() {
            log::warn(&new.join("; "));
        }
        self.complained = complaints;
    }
}

/// The next order that is due, or that to look again at what has failed.
fn next(orders: &Receiver<Order>, retries: &Retries, hold: &Hold) -> Option<Order> {
    loop {
        let left = retries.left(Instant::now()).filter(|_| !hold.is_on());
        let order = match left {
            None => orders.recv().ok()?,
            Some(left) => match orders.recv_timeout(left) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => Order::Look,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        if order.is_due(retries.left(Instant::now()), hold.is_on()) {
            return Some(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::own_taps::{Taps, news_of_a_failed_look};
    use super::*;

    fn given(given: &[Order]) -> Receiver<Order> {
        let (sender, orders) = mpsc::channel();
        given.iter().for_each(|order| sender.send(*order).unwrap());
        orders
    }

    /// That is tried again in so many seconds.
    fn failed(seconds: u64) -> Retries {
        let mut retries = Retries::default();
        retries.note(true, Instant::now() + Duration::from_secs(seconds));
        retries
    }

    #[test]
    fn news_of_queues_alone_do_not_end_the_pause_after_a_failure() {
        let (of_clean_up, running) = ([Order::Mend; 3], Hold::new().unwrap());
        assert_eq!(next(&given(&of_clean_up), &Retries::default(), &running), Some(Order::Mend));
        assert_eq!(next(&given(&of_clean_up), &failed(100_000), &running), None);
        for order in [Order::Look, Order::Settle(7)] {
            assert_eq!(next(&given(&[Order::Mend, order]), &failed(100_000), &running), Some(order));
        }
    }

    #[test]
    fn what_has_failed_is_tried_again_without_an_order_but_not_while_the_guest_is_held() {
        let mut due = Retries::default();
        let begun = Instant::now();
        due.note(true, begun.checked_sub(Duration::from_secs(2)).unwrap_or(begun));
        let hold = Hold::new().unwrap();
        let (_sender, silent) = mpsc::channel();
        assert_eq!(next(&silent, &due, &hold), Some(Order::Look));
        hold.begin().unwrap();
        assert_eq!(next(&given(&[Order::Look, Order::Mend]), &due, &hold), None);
        assert_eq!(next(&given(&[Order::Look, Order::Settle(7)]), &due, &hold), Some(Order::Settle(7)));
        hold.end().unwrap();
        assert_eq!(next(&given(&[Order::Look]), &due, &hold), Some(Order::Look));
    }

    #[test]
    fn what_fails_for_an_hour_is_looked_at_each_minute_whatever_news_the_failed_looks_make() {
        let begun = Instant::now();
        let (mut taps, mut retries, mut looks) = (Taps::default(), Retries::default(), 0);
        let mut orders = VecDeque::from([Order::Look]);
        let mut now = begun;
        while now < begun + Duration::from_secs(3600) && looks < 1000 {
            let left = retries.left(now);
            match orders.pop_front() {
                Some(order) if order.is_due(left, false) => {
                    looks += 1;
                    retries.note(true, now);
                    let heard = news_of_a_failed_look(100 + looks);
                    orders.extend(heard.iter().filter_map(|heard| Order::of(taps.leave_news(heard))));
                }
                Some(_) => {}
                // Nothing is heard any more.
                None => {
                    now += left.unwrap();
                    orders.push_back(Order::Look);
                }
            }
        }
        // After 0, 1, 3, 7, 15, 31 and 63 s, and from 127 s on each 64 s.
        assert_eq!(looks, 62);
    }
}
