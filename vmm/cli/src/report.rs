//! Errors on standard error and in the engine's log.
//!
//! `vmrun: cannot run "web": rootfs /x: No such file or directory; unpack …`:
//! act, object, cause and next step on one line, then the guest's last console
//! lines where they may explain it.

use std::error::Error as _;
use std::process::ExitCode;

use vmrun_runtime::{Error, Log, chain};

use crate::args::Args;

pub(crate) struct Report {
    log: Option<Log>,
    debug: bool,
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self { log: args.globals.log(), debug: args.globals.debug }
    }

    /// Tells an error everywhere and gives the exit code.
    pub(crate) fn fail(&self, act: &str, error: &Error, code: u8) -> ExitCode {
        let line = line(act, error);
        eprintln!("vmrun: {line}");
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
        self.write_log(&line, error);
        ExitCode::from(code)
    }

    fn write_log(&self, line: &str, error: &Error) {
        let Some(log) = &self.log else { return };
        let written = log.error(line, error.console());
        if let Err(error) = written {
            eprintln!("vmrun: cannot write the log {}: {error}", log.path.display());
        }
    }
}

fn line(act: &str, error: &Error) -> String {
    let cause = chain(error);
    match error.next_step() {
        Some(step) => format!("{act}: {cause}; {step}"),
        None => format!("{act}: {cause}"),
    }
}
