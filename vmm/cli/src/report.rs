//! Errors on standard error and in the engine's log.
//!
//! `vmrun: cannot run "web": rootfs /x: No such file or directory; unpack …`:
//! act, object, cause and next step on one line, then the guest's last console
//! lines where they may explain it.

use std::error::Error as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use vmrun_runtime::{Error, chain, timestamp};

use crate::args::{Args, LogFormat};

pub(crate) struct Report {
    log: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self { log: args.log.clone(), format: args.log_format, debug: args.debug }
    }

    /// Tells an error everywhere and gives the exit code for it.
    pub(crate) fn fail(&self, act: &str, error: &Error) -> ExitCode {
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
        ExitCode::from(error.exit_code())
    }

    fn write_log(&self, line: &str, error: &Error) {
        let Some(path) = &self.log else { return };
        let time = timestamp();
        let entry = match self.format {
            LogFormat::Json => {
                let mut entry = serde_json::json!({ "level": "error", "msg": line, "time": time });
                if !error.console().is_empty() {
                    entry["console"] = error.console().into();
                }
                entry.to_string()
            }
            LogFormat::Text => {
                let console: String = error.console().iter().map(|line| format!("\n  | {line}")).collect();
                format!("time={time:?} level=error msg={line:?}{console}")
            }
        };
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| writeln!(file, "{entry}"));
        if let Err(error) = written {
            eprintln!("vmrun: cannot write the log {}: {error}", path.display());
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
