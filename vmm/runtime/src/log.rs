//! The log: what `--log`, `--log-format` and `--debug` ask for, as runc writes it.
//!
//! Engines read the last line for the reason of a failure, so one error is one line. With
//! `--debug` each step of the launcher, of the monitor and of a relay is a line besides; without
//! it a step costs a look at one flag.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::timestamp;

/// How the lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// Where a command and the processes that it leaves behind tell what they do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// A file, made if it is missing; without one it is standard error.
    pub path: Option<PathBuf>,
    /// The format of its lines.
    pub format: LogFormat,
    /// Tell each step.
    pub debug: bool,
}

/// This process's log once it is open.
static OPEN: Mutex<Option<Sink>> = Mutex::new(None);

/// Looked at before a step is put into words.
static DEBUG: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Sink {
    /// Which process of vmrun's this is.
    who: &'static str,
    format: LogFormat,
    file: File,
    is_standard_error: bool,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Debug,
    Warning,
    Error,
}

/// Tells a step, in the words of `format!`, where somebody wants to know.
#[macro_export]
macro_rules! step {
    ($($words:tt)*) => {
        if $crate::log::tells_steps() {
            $crate::log::tell_step(format_args!($($words)*));
        }
    };
}

impl Log {
    /// Opens the log for this process, which is called `who` in it.
    ///
    /// # Errors
    /// The file cannot be opened or made.
    pub fn open(&self, who: &'static str) -> io::Result<()> {
        let file = match &self.path {
            Some(path) => OpenOptions::new().create(true).append(true).open(path)?,
            None if self.debug || self.format == LogFormat::Json => {
                io::stderr().as_fd().try_clone_to_owned()?.into()
            }
            // Errors are on standard error anyway, in words for people.
            None => return Ok(()),
        };
        let sink = Sink { who, format: self.format, file, is_standard_error: self.path.is_none() };
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
        DEBUG.store(self.debug, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether steps are told.
#[must_use]
pub fn tells_steps() -> bool {
    DEBUG.load(Ordering::Relaxed)
}

/// Tells a step: see [`step!`](crate::step).
pub fn tell_step(words: fmt::Arguments<'_>) {
    // A step that cannot be told must not stop what is done.
    let _ = with_sink(|sink| sink.write(Level::Debug, &format!("{}: {words}", sink.who), &[]));
}

/// Tells of something that went wrong and changes nothing: on standard error, and in the log.
pub fn warn(message: &str) {
    let in_file = with_sink(|sink| {
        let written = sink.write(Level::Warning, message, &[]);
        written.map(|()| sink.is_standard_error)
    });
    // Once is enough for whoever reads standard error.
    if !matches!(in_file, Some(Ok(true))) {
        eprintln!("vmrun: warning: {message}");
    }
}

/// Tells of names that are no capabilities, in runc's words.
pub(crate) fn warn_of_capabilities(unknown: &[String]) {
    if !unknown.is_empty() {
        warn(&format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
    }
}

/// Appends an error: a line with stage, object and cause, and what the guest's
/// console said last. True when that was on standard error.
///
/// # Errors
/// The log cannot be written.
pub fn error(message: &str, console: &[String]) -> io::Result<bool> {
    let written = with_sink(|sink| {
        if sink.is_standard_error && sink.format == LogFormat::Text {
            return Ok(false);
        }
        sink.write(Level::Error, message, console).map(|()| sink.is_standard_error)
    });
    written.unwrap_or(Ok(false))
}

/// Ends what is told on standard error, so that whoever reads it finds its end.
pub(crate) fn leave_standard_error() {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if open.as_ref().is_some_and(|sink| sink.is_standard_error) {
        *open = None;
        DEBUG.store(false, Ordering::Relaxed);
    }
}

fn with_sink<T>(act: impl FnOnce(&Sink) -> T) -> Option<T> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
}

impl Sink {
    /// One write, so that lines of several processes do not mix.
    fn write(&self, level: Level, message: &str, console: &[String]) -> io::Result<()> {
        let line = line(self.format, level, message, console, &timestamp::now());
        (&self.file).write_all(line.as_bytes())
    }
}

fn line(format: LogFormat, level: Level, message: &str, console: &[String], time: &str) -> String {
    match format {
        LogFormat::Json => {
            let level = level.to_string();
            let mut entry = serde_json::json!({ "level": level, "msg": message, "time": time });
            if !console.is_empty() {
                entry["console"] = console.into();
            }
            format!("{entry}\n")
        }
        LogFormat::Text => {
            let console =
                if console.is_empty() { String::new() } else { format!(" console={:?}", console.join("\n")) };
            format!("time={time:?} level={level} msg={message:?}{console}\n")
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A list of paths, names or arguments in a step's words.
pub(crate) struct Listed<'l, T>(pub(crate) &'l [T]);

impl<T: fmt::Debug> fmt::Display for Listed<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            formatter.write_str(if index == 0 { "" } else { " " })?;
            item.fmt(formatter)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_is_one_line_in_either_format() {
        let console = ["first".to_owned(), "last \"word\"".to_owned()];
        let line = |format, console: &[String]| line(format, Level::Error, "a \"b\"", console, "T");
        assert_eq!(line(LogFormat::Text, &[]), "time=\"T\" level=error msg=\"a \\\"b\\\"\"\n");
        assert_eq!(
            line(LogFormat::Text, &console),
            "time=\"T\" level=error msg=\"a \\\"b\\\"\" console=\"first\\nlast \\\"word\\\"\"\n"
        );
        assert_eq!(
            line(LogFormat::Json, &[]),
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\",\"time\":\"T\"}\n"
        );
        assert_eq!(line(LogFormat::Json, &console).lines().count(), 1);
        assert_eq!(
            super::line(LogFormat::Text, Level::Debug, "x", &[], "T"),
            "time=\"T\" level=debug msg=\"x\"\n"
        );
    }

    #[test]
    fn log_is_made_before_anything_goes_wrong_and_gets_the_steps() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = Log { path: Some(path.clone()), format: LogFormat::Json, debug: true };
        log.open("test").unwrap();
        assert!(path.exists());
        step!("{} things done", 2);
        error("it failed", &[]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"level\":\"debug\",\"msg\":\"test: 2 things done\""), "{text}");
        assert!(text.contains("\"level\":\"error\",\"msg\":\"it failed\""), "{text}");
        let missing = Log { path: Some(directory.path().join("no/log")), ..log };
        assert!(missing.open("test").is_err());
    }

    #[test]
    fn list_is_quoted_word_by_word() {
        assert_eq!(Listed(&["a", "b c"]).to_string(), "\"a\" \"b c\"");
    }
}
