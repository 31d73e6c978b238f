//! Doing what the monitor orders.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use vmrun_machine::{
    DeviceCounters, MappedPages, OWNER, PlugError, RECORDER, Running, SAVER, SavedPages, SnapshotError,
    Stamp, ThreadClass, confine_this_thread,
};
use vmrun_spec::{DeviceSpec, Frames, Handles, NetSpec, NicSlot, Slot};

use super::message::{Counted, FramesKind, Numbered, Order, Report, Stamped, last_ones, short};
use crate::error::chain;

/// How long vCPUs may take to leave the guest that is to be saved.
const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// An order's number, and what came of it.
pub(super) type Answer = (u64, Report);

/// What is known of orders between two of them.
#[derive(Default)]
pub(super) struct Orders {
    saver: Option<Saver>,
    recorder: Option<Recorder>,
    /// The order to save that waits for the guest.
    waiting: Option<u64>,
}

/// Of a machine that is to be saved.
struct Saver {
    memory: File,
    state: File,
    kernel: &'static [MappedPages],
    /// Which pages there are; or why the machine does not stop.
    pagemap: Result<File, String>,
}

/// Of a machine whose working set is to be recorded.
pub(super) struct Recorder {
    /// Which pages there are.
    pub(super) pagemap: File,
    /// Which of them were saved, in guest physical addresses.
    pub(super) saved: Vec<Range<u64>>,
}

impl Orders {
    pub(super) fn of_recorder(recorder: Option<Recorder>) -> Self {
        Self { recorder, ..Self::default() }
    }

    pub(super) fn of_saver(
        memory: File,
        state: File,
        kernel: &'static [MappedPages],
        pagemap: Result<File, String>,
    ) -> Self {
        Self { saver: Some(Saver { memory, state, kernel, pagemap }), ..Self::default() }
    }

    /// What the thread needs that obeys.
    pub(super) fn class(&self) -> ThreadClass {
        match (&self.saver, &self.recorder) {
            (Some(_), _) => SAVER,
            (None, Some(_)) => RECORDER,
            (None, None) => OWNER,
        }
    }

    pub(super) fn awaits_checkpoint(&self) -> bool {
        self.waiting.is_some()
    }

    /// The guest is at its checkpoint.
    pub(super) fn checkpoint(&mut self, running: &mut Running) -> Option<Answer> {
        let number = self.waiting.take()?;
        let saved = self.saver.as_ref().map(|saver| saver.save(running));
        Some((number, saved.unwrap_or_else(|| not_saved(&"it was not to be saved"))))
    }

    /// Does one; gives what is to be answered.
    pub(super) fn obey(
        &mut self,
        running: &mut Running,
        Numbered { number, message: order }: Numbered<Order>,
        beside: Option<OwnedFd>,
    ) -> Vec<Answer> {
        let report = match order {
            Order::Hold => {
                running.hold();
                Report::Done
            }
            Order::Release => {
                running.release();
                Report::Done
            }
            Order::Save => match self.saver.as_ref().map(|saver| saver.pagemap.as_ref()) {
                Some(Ok(_)) => {
                    self.waiting = Some(number);
                    return Vec::new();
                }
                Some(Err(why)) => not_saved(why),
                None => not_saved(&"it was not to be saved"),
            },
            Order::PassCheckpoint => return self.pass(running, number),
            Order::Plug { slot, device, frames } => plug(running, slot, device, frames, beside),
            Order::PlugBalloon => said(running.plug(Slot::Balloon, &DeviceSpec::Balloon, Handles::default())),
            Order::PlugDisk { slot, device } => {
                let handles = Handles { disk: beside, ..Handles::default() };
                said(running.plug(Slot::Disk(slot), &DeviceSpec::Disk(device), handles))
            }
            Order::Unplug { slot } => said(running.unplug(Slot::Interface(slot))),
            Order::SetLink { slot, up } => said(running.set_link(slot, up)),
            Order::Counters => Report::Counters(running.counters().into_iter().map(counted).collect()),
            Order::Stamps => Report::Stamps(running.stamps().iter().map(stamped).collect()),
            Order::Tail { lines } => Report::Tail(last_ones(running.console().tail(lines.into()))),
            Order::WorkingSet => self.working_set(running),
        };
        vec![(number, report)]
    }

    /// From here on nothing is recorded, and the thread needs less.
    fn working_set(&mut self, running: &Running) -> Report {
        let Some(Recorder { pagemap, saved }) = self.recorder.take() else {
            return Report::Refused { cause: "it has nothing to record".to_owned() };
        };
        let recorded = running.working_set(&saved, &pagemap);
        drop(pagemap);
        if let Err(error) = confine_this_thread(OWNER) {
            return refused(&error);
        }
        recorded.map_or_else(|error| refused(&error), Report::WorkingSet)
    }

    /// From here on nothing is saved, and the thread needs less.
    fn pass(&mut self, running: &mut Running, number: u64) -> Vec<Answer> {
        let given_up = self.waiting.take().map(|waiting| (waiting, not_saved(&"nobody waits for it")));
        let confined = match self.saver.take() {
            Some(_) => confine_this_thread(OWNER),
            None => Ok(()),
        };
        let report = match confined {
            Ok(()) => {
                running.pass_checkpoint();
                Report::Done
            }
            Err(error) => refused(&error),
        };
        given_up.into_iter().chain([(number, report)]).collect()
    }
}

impl Saver {
    fn save(&self, running: &mut Running) -> Report {
        let pagemap = match &self.pagemap {
            Ok(pagemap) => pagemap,
            Err(why) => return not_saved(why),
        };
        let pages = SavedPages { file: &self.memory, kernel: self.kernel, pagemap };
        let state = match running.save(&pages, HOLD_LIMIT) {
            Ok(state) => state,
            Err(error) => {
                let full = matches!(&error, SnapshotError::Memory { source, .. } if is_full(source));
                return Report::NotSaved { cause: short(chain(&error)), full };
            }
        };
        let mut file = &self.state;
        let written = postcard::to_stdvec(&state).map_err(io::Error::other);
        match written.and_then(|bytes| file.write_all(&bytes)) {
            Ok(()) => Report::Done,
            Err(error) => Report::NotSaved { cause: short(error.to_string()), full: is_full(&error) },
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn plug(
    running: &Running,
    slot: NicSlot,
    device: NetSpec,
    frames: FramesKind,
    beside: Option<OwnedFd>,
) -> Report {
    let frames = beside.map(|descriptor| match frames {
        FramesKind::Tap => Frames::Tap(descriptor),
        FramesKind::Stream => Frames::Stream(descriptor),
    });
    // Without a descriptor the device says that it needs one.
    let handles = Handles { frames, ..Handles::default() };
    said(running.plug(Slot::Interface(slot), &DeviceSpec::Net(device), handles))
}

fn said(result: Result<(), PlugError>) -> Report {
    result.map_or_else(|error| refused(&error), |()| Report::Done)
}

fn refused(error: &dyn std::error::Error) -> Report {
    Report::Refused { cause: short(chain(error)) }
}

fn not_saved(why: &dyn std::fmt::Display) -> Report {
    Report::NotSaved { cause: short(why.to_string()), full: false }
}

fn counted(DeviceCounters { device, slot, figures }: DeviceCounters) -> Counted {
    let figures = figures.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    Counted { device: device.to_owned(), slot, figures }
}

/// `Instant` has the clock's number and does not tell.
fn stamped(Stamp { code, at }: &Stamp) -> Stamped {
    let now =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() * 1_000_000_000 + now.tv_nsec());
    Stamped { code: *code, at_ns: now - i64::try_from(at.elapsed().as_nanos()).unwrap_or(now) }
}
