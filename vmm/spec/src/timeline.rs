//! Where the time of a start goes: marks by one clock, of the host's processes and of the guest.

use serde::{Deserialize, Serialize};

/// Who has come to a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The verb that was typed.
    Launcher,
    /// The process that stands for the container.
    Monitor,
    /// The guest, whose writes the monitor has stamped.
    Guest,
}

/// A point of a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What had been come to.
    pub name: String,
    /// Who had.
    pub lane: Lane,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// What was done from one mark to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What it was.
    pub name: String,
    /// Who did it.
    pub lane: Lane,
    /// Its begin, in nanoseconds from the first mark.
    pub begin_ns: u64,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
}

/// A whole start, to its end. The phases follow one another without gap or overlap, so that
/// they sum up to the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// [`Timeline::SCHEMA`] of who wrote it.
    pub schema: u32,
    /// What was run.
    pub id: String,
    /// In the order of time.
    pub marks: Vec<Mark>,
    /// Likewise.
    pub phases: Vec<Phase>,
}

impl Timeline {
    /// Grows when a reader of an older one would misunderstand it.
    pub const SCHEMA: u32 = 1;
}
