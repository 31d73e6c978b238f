//! Errors on standard error and in the engine's log.
//!
//! `vmrun: error: cannot run "web": rootfs /x: No such file or directory; unpack …`:
//! level, act, object, cause and next step on one line, then the guest's last console
//! lines where they may explain it.

use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;

use vmrun_runtime::{Error, Log, chain, log};

use crate::args::Args;

pub(crate) struct Report {
    log: Log,
    debug: bool,
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self { log: args.globals.log(), debug: args.globals.debug }
    }

    /// Opens the log, which is there from then on whether anything goes wrong or not.
    pub(crate) fn open(&self) -> Result<(), ExitCode> {
        self.log.open("vmrun").map_err(|error| {
            let name = self.log.path.as_deref().unwrap_or_else(|| Path::new("on standard error"));
            eprintln!(
                "vmrun: error: cannot open the log {}: {error}; name another with --log",
                name.display()
            );
            ExitCode::FAILURE
        })
    }

    /// Tells an error everywhere and gives the exit code.
    pub(crate) fn fail(&self, act: &str, error: &Error, code: u8) -> ExitCode {
        let line = line(act, error);
        if !self.write_log(&line, error) {
            self.show(&line, error);
        }
        ExitCode::from(code)
    }

    fn show(&self, line: &str, error: &Error) {
        eprintln!("vmrun: error: {line}");
        for console in error.console() {
            eprintln!("  | {console}");
        }
        if self.debug {
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  caused by: {error}");
                cause = error.source();
            }
        }
    }

    /// True when the log is on standard error and the error is told with it.
    fn write_log(&self, line: &str, error: &Error) -> bool {
        log::error(line, error.console()).unwrap_or_else(|error| {
            eprintln!("vmrun: error: cannot write the log: {error}");
            false
        })
    }
}

/// What was typed.
pub(crate) fn command_line() -> String {
    let words: Vec<_> = std::env::args_os().map(|word| format!("{word:?}")).collect();
    words.join(" ")
}

fn line(act: &str, error: &Error) -> String {
    let cause = chain(error);
    match error.next_step() {
        Some(step) => format!("{act}: {cause}; {step}"),
        None => format!("{act}: {cause}"),
    }
}
