//! What the monitor asks the machine's process, and what that tells.
//!
//! Append-only, as the agent's messages: `schema/` has one of each as it is on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmrun_machine::PageRun;
use vmrun_spec::{DiskSlot, DiskSpec, NetSpec, NicSlot};

/// Of the conversation. The monitor talks to a process of another version about nothing.
pub(super) const VERSION: u32 = 1;

/// No message is longer.
pub(super) const MOST_BYTES: usize = 64 << 10;

/// So much text of the console, or of an error, is in a message.
pub(super) const MOST_TEXT: usize = 16 << 10;

/// A message with the number of the order that it is, or answers; what answers none has 0.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Numbered<M> {
    pub(super) number: u64,
    pub(super) message: M,
}

/// What the machine is to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Order {
    /// Its vCPUs stand still.
    Hold,
    /// They go on.
    Release,
    /// When the guest is at its checkpoint all of it is written to the files that came with the process.
    Save,
    /// The guest goes on behind the checkpoint, or does not stop there at all.
    PassCheckpoint,
    /// A network interface comes, on the descriptor beside the message.
    Plug { slot: NicSlot, device: NetSpec, frames: FramesKind },
    /// It goes.
    Unplug { slot: NicSlot },
    /// Its link goes up or down.
    SetLink { slot: NicSlot, up: bool },
    /// What all devices have counted.
    Counters,
    /// How far the guest was when.
    Stamps,
    /// What the guest has printed last.
    Tail { lines: u8 },
    /// The balloon comes, by which the guest gives memory back.
    PlugBalloon,
    /// Which of the template's pages the guest has written by now; once, where that is to be recorded.
    WorkingSet,
    /// A disk comes, on the descriptor beside the message.
    PlugDisk { slot: DiskSlot, device: DiskSpec },
}

/// What [`vmrun_spec::Frames`] the descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FramesKind {
    Tap,
    Stream,
}

/// What the process tells.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Report {
    /// Unasked: it is there.
    Hello {
        version: u32,
    },
    /// Unasked: the guest runs.
    Started,
    /// Unasked: it never will.
    NotStarted {
        cause: String,
        fault: Fault,
    },
    /// Unasked, the last word: it has ended by itself, and the guest has printed that last.
    Ended {
        how: Ending,
        console: Vec<String>,
    },
    /// It is done.
    Done,
    /// It is not, since …
    Refused {
        cause: String,
    },
    /// The machine is not saved; what is full is the file system.
    NotSaved {
        cause: String,
        full: bool,
    },
    Counters(Vec<Counted>),
    Stamps(Vec<Stamped>),
    Tail(Vec<String>),
    WorkingSet(Vec<PageRun>),
}

/// Whose fault it is that a machine does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// The template's: a boot may do.
    Template,
    /// Another's.
    Other,
}

/// How a machine has ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ending {
    Reset,
    Panicked,
    Device(String),
    Failed(String),
}

/// What a device has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counted {
    pub(crate) device: String,
    /// The slot that it was plugged into, of those of its kind, if it was not there from the start.
    pub(crate) slot: Option<u8>,
    pub(crate) figures: BTreeMap<String, u64>,
}

/// The guest has come to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamped {
    /// What it wrote to its mark port; none for its entry.
    pub(crate) code: Option<u8>,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) at_ns: i64,
}

impl Report {
    /// As it may be shown: whoever has the process's memory wrote it.
    pub(super) fn cleaned(self) -> Self {
        match self {
            Self::NotStarted { cause, fault } => Self::NotStarted { cause: single_line(&cause), fault },
            Self::Refused { cause } => Self::Refused { cause: single_line(&cause) },
            Self::NotSaved { cause, full } => Self::NotSaved { cause: single_line(&cause), full },
            Self::Tail(lines) => Self::Tail(clean_lines(&lines)),
            Self::Ended { how, console } => Self::Ended {
                how: match how {
                    Ending::Device(why) => Ending::Device(single_line(&why)),
                    Ending::Failed(why) => Ending::Failed(single_line(&why)),
                    how @ (Ending::Reset | Ending::Panicked) => how,
                },
                console: clean_lines(&console),
            },
            other => other,
        }
    }
}

fn clean_lines(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| single_line(line)).collect()
}

/// Nothing in it moves a reader's cursor.
fn single_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// The beginning of `text` that has room in a message, whatever its characters become there.
pub(super) fn short(mut text: String) -> String {
    let most = MOST_TEXT / 4;
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

/// The last of `lines` that have room in one.
pub(super) fn last_ones(lines: Vec<String>) -> Vec<String> {
    let mut room = MOST_TEXT;
    let mut kept: Vec<_> = lines
        .into_iter()
        .rev()
        .take_while(|line| {
            // JSON has six characters for some.
            let fits = line.len() <= room;
            room = room.saturating_sub(line.len());
            fits
        })
        .collect();
    kept.reverse();
    kept
}
