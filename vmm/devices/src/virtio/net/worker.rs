//! One activation of the device: frames between the queues and the tap.
//!
//! ```text
//!   kick of tx ─▶ send until the queue is empty │ the tap is full: wait for it │ the limit: wait for the alarm
//!   tap ────────▶ receive until it is empty     │ no buffers: wait for a kick  │ the limit: wait for the alarm
//! ```
//!
//! Either direction has a turn of so many frames at most; then the other one has, and whoever wants
//! this thread to stop.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::timerfd::TimerFd;
use vmm_sys_util::eventfd::EventFd;

use super::control;
use super::features::Features;
use super::limits::Limits;
use super::rx::{ReceiveError, Received, Receiver};
use super::tap::Tap;
use super::tx::{Sender, Sent, is_gone};
use super::watch::{Event, Source, Watch};
use super::{HEADER_BYTES, NetQueues, Shared};
use crate::virtio::alarm::Alarm;
use crate::virtio::queue::{ActiveQueue, QueueError};
use crate::virtio::rate::Limit;

/// Frames of one direction in one turn.
const TURN: usize = 64;

/// Why the device cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("cannot wait for the tap and the guest: {0}")]
    Wait(#[from] io::Error),
    #[error("cannot set the tap's offloads: {0}")]
    Offload(#[source] io::Error),
}

/// Serves `queues` until `stop` is readable, and leaves them where it was then.
pub(super) fn serve(
    shared: &Shared,
    tap: &impl Tap,
    timer: &TimerFd,
    limits: &mut Limits,
    queues: &mut Option<NetQueues>,
    stop: &EventFd,
) -> Result<(), WorkerError> {
    let Some(NetQueues { rx, tx, control, features }) = queues.take() else { return Ok(()) };
    let mut worker = Worker {
        shared,
        tap,
        rx: Receiver::new(rx, features.mergeable()),
        tx: Sender::new(tx),
        control,
        limits,
        alarm: Alarm::new(timer),
        rx_wait: Wait::Ready,
        tx_wait: Wait::Ready,
        lost: false,
    };
    let served = worker.begin(features).and_then(|()| worker.run(stop));
    let Worker { rx, tx, control, .. } = worker;
    *queues = Some(NetQueues { rx: rx.into_queue(), tx: tx.into_queue(), control, features });
    served
}

/// What a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// For its turn.
    Ready,
    /// For the tap to have frames, or room for them.
    Tap,
    /// For the limit.
    Alarm,
    /// For the driver's kick.
    Driver,
}

struct Worker<'s, T> {
    shared: &'s Shared,
    tap: &'s T,
    rx: Receiver,
    tx: Sender,
    control: Option<ActiveQueue>,
    limits: &'s mut Limits,
    alarm: Alarm<'s>,
    rx_wait: Wait,
    tx_wait: Wait,
    /// The tap is gone.
    lost: bool,
}

impl<T: Tap> Worker<'_, T> {
    fn begin(&mut self, features: Features) -> Result<(), WorkerError> {
        self.rx.queue_mut().disarm()?;
        match self.tap.set_offload(features.offload()) {
            Err(error) if is_gone(&error) => {
                self.lose();
                Ok(())
            }
            result => result.map_err(WorkerError::Offload),
        }
    }

    fn run(&mut self, stop: &EventFd) -> Result<(), WorkerError> {
        let mut watch = self.watch(stop)?;
        loop {
            let [readable, writable] =
                [self.rx_wait, self.tx_wait].map(|wait| wait == Wait::Tap && !self.lost);
            watch.tap(&self.tap.as_fd(), readable, writable)?;
            let busy = [self.rx_wait, self.tx_wait].contains(&Wait::Ready);
            for event in watch.wait(busy)? {
                if event.source == Source::Stop {
                    return Ok(());
                }
                self.wake(event)?;
            }
            if self.tx_wait == Wait::Ready {
                self.tx_wait = self.transmit()?;
            }
            if self.rx_wait == Wait::Ready {
                self.rx_wait = self.receive()?;
            }
        }
    }

    fn watch(&self, stop: &EventFd) -> io::Result<Watch> {
        let watch = Watch::new()?;
        watch.add(Source::Stop, stop)?;
        watch.add(Source::Receive, self.rx.queue().kick())?;
        watch.add(Source::Transmit, self.tx.queue().kick())?;
        watch.add(Source::Timer, &self.alarm.timer().as_fd())?;
        if let Some(control) = &self.control {
            watch.add(Source::Control, control.kick())?;
        }
        Ok(watch)
    }

    /// Somebody has something to say.
    fn wake(&mut self, event: Event) -> Result<(), WorkerError> {
        match event.source {
            Source::Receive => {
                self.rx.queue().clear_kick();
                self.rx.queue_mut().disarm()?;
                self.rx_wait.ends(Wait::Driver);
            }
            Source::Transmit => {
                self.tx.queue().clear_kick();
                self.tx_wait.ends(Wait::Driver);
            }
            Source::Control => {
                if let Some(control) = &mut self.control {
                    control.clear_kick();
                    control::serve(control, &self.shared.link)?;
                }
            }
            Source::Tap if event.broken => self.lose(),
            Source::Tap => {
                if event.readable {
                    self.rx_wait.ends(Wait::Tap);
                }
                if event.writable {
                    self.tx_wait.ends(Wait::Tap);
                }
            }
            Source::Timer => {
                self.alarm.clear()?;
                self.rx_wait.ends(Wait::Alarm);
                self.tx_wait.ends(Wait::Alarm);
            }
            Source::Stop => {}
        }
        Ok(())
    }

    /// The tap is gone: nothing comes any more, and what the guest sends goes nowhere.
    fn lose(&mut self) {
        self.lost = true;
        self.rx_wait = Wait::Driver;
        self.tx_wait = Wait::Ready;
        self.shared.link.lose();
    }

    /// A turn of what the guest sends; what is waited for after it.
    fn transmit(&mut self) -> Result<Wait, WorkerError> {
        self.tx.queue_mut().disarm()?;
        let wait = self.transmit_some()?;
        self.tx.give_back()?;
        // Whoever has filled the queue meanwhile does not kick.
        if wait == Wait::Driver && self.tx.queue_mut().rearm()? { Ok(Wait::Ready) } else { Ok(wait) }
    }

    fn transmit_some(&mut self) -> Result<Wait, WorkerError> {
        let counters = &self.shared.counters.tx;
        let linked = self.shared.link.is_up();
        for _ in 0..TURN {
            if let Some(wait) = held_back(&mut self.limits.tx, self.limits.start) {
                counters.limited.count();
                self.alarm.set(self.limits.start.elapsed(), wait)?;
                return Ok(Wait::Alarm);
            }
            match self.tx.send(self.tap, linked && !self.lost)? {
                Sent::Frame(bytes) => {
                    counters.passed(bytes);
                    self.limits.tx.charge(without_header(bytes));
                }
                Sent::Unlinked => counters.dropped.count(),
                Sent::Nonsense => counters.errors.count(),
                Sent::Blocked => return Ok(Wait::Tap),
                Sent::Lost => {
                    counters.dropped.count();
                    self.lose();
                    return Ok(Wait::Ready);
                }
                Sent::Nothing => return Ok(self.flush()),
            }
        }
        Ok(Wait::Ready)
    }

    /// The tap may have taken more than it has sent.
    fn flush(&mut self) -> Wait {
        match self.tap.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Wait::Tap,
            Err(_) if !self.lost => {
                self.lose();
                Wait::Ready
            }
            _ => Wait::Driver,
        }
    }

    /// A turn of what the tap has; what is waited for after it.
    fn receive(&mut self) -> Result<Wait, WorkerError> {
        let wait = self.receive_some()?;
        self.shared.counters.rx.errors.add(self.rx.take_nonsense());
        self.rx.queue_mut().notify()?;
        Ok(wait)
    }

    fn receive_some(&mut self) -> Result<Wait, WorkerError> {
        let counters = &self.shared.counters.rx;
        let linked = self.shared.link.is_up();
        if self.lost {
            return Ok(Wait::Driver);
        }
        for _ in 0..TURN {
            if let Some(wait) = held_back(&mut self.limits.rx, self.limits.start) {
                counters.limited.count();
                self.alarm.set(self.limits.start.elapsed(), wait)?;
                return Ok(Wait::Alarm);
            }
            let received = if linked { self.rx.receive(self.tap) } else { self.rx.discard(self.tap) };
            match received {
                Ok(Received::Frame(bytes)) => {
                    counters.passed(bytes);
                    self.limits.rx.charge(without_header(bytes));
                }
                Ok(Received::TooLong) => counters.dropped.count(),
                Ok(Received::Nonsense) => counters.errors.count(),
                Ok(Received::NoBuffers) => return Ok(Wait::Driver),
                Ok(Received::Nothing) => return Ok(Wait::Tap),
                Err(ReceiveError::Queue(error)) => return Err(error.into()),
                Err(ReceiveError::Tap(_)) => {
                    self.lose();
                    return Ok(Wait::Driver);
                }
            }
        }
        Ok(Wait::Ready)
    }
}

impl Wait {
    /// What was waited for is there.
    fn ends(&mut self, what: Self) {
        if *self == what {
            *self = Self::Ready;
        }
    }
}

/// The bytes of a frame that others see.
fn without_header(bytes: usize) -> usize {
    bytes.saturating_sub(HEADER_BYTES)
}

/// How long the next frame has to wait for the limit. Without one nobody looks at the clock.
fn held_back(limit: &mut Limit, start: Instant) -> Option<Duration> {
    if limit.applies() { limit.wait(start.elapsed()) } else { None }
}

#[cfg(test)]
#[path = "real_tap_tests.rs"]
mod real_tap_tests;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
#[path = "hostile_tests.rs"]
mod tests;
#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
