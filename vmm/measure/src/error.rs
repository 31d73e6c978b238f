//! Why nothing could be measured.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What went wrong: object and cause; the command line adds the act.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A file of ours.
    #[error("cannot {act} {}", .path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A command has no words, or quotes that do not end.
    #[error("{text:?} is not a command: {why}")]
    Command {
        /// As typed.
        text: String,
        /// Why.
        why: &'static str,
    },
    /// It could not be started.
    #[error("cannot start {command}")]
    Start {
        /// Its program.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It did what it should not.
    #[error("{command} {how}{}", tail(.said))]
    Failed {
        /// Its words.
        command: String,
        /// How it ended.
        how: String,
        /// The last that it said.
        said: String,
    },
    /// It did not end.
    #[error("timed out after {} s waiting for {command} to end{}", .limit.as_secs(), tail(.said))]
    Late {
        /// Its words.
        command: String,
        /// For how long it was waited.
        limit: Duration,
        /// The last that it said.
        said: String,
    },
    /// A report of another time that cannot be compared with.
    #[error("the baseline {}: {why}", .path.display())]
    Baseline {
        /// Its path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The kernel's counters.
    #[error("cannot read what the kernel counts")]
    Count(#[from] io::Error),
    /// A number that makes no sense.
    #[error("{0}")]
    Number(&'static str),
}

impl MeasureError {
    pub(crate) fn file(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { act, path, source }
    }
}

fn tail(said: &str) -> String {
    if said.trim().is_empty() {
        String::new()
    } else {
        format!("; it said: {}", said.trim().replace('\n', " | "))
    }
}
