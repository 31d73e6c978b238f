//! The engine's log: what `--log` and `--log-format` ask for, as runc writes it.
//!
//! Engines read the last line for the reason of a failure, so one error is one line.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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

/// A log file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Where it is; made if it is missing.
    pub path: PathBuf,
    /// Its format.
    pub format: LogFormat,
}

impl Log {
    /// Appends an error: a line with stage, object and cause, and what the guest's
    /// console said last.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn error(&self, message: &str, console: &[String]) -> io::Result<()> {
        let line = self.line(message, console, &crate::timestamp::now());
        // One write, so that lines of several processes do not mix.
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(line.as_bytes())
    }

    fn line(&self, message: &str, console: &[String], time: &str) -> String {
        match self.format {
            LogFormat::Json => {
                let mut entry = serde_json::json!({ "level": "error", "msg": message, "time": time });
                if !console.is_empty() {
                    entry["console"] = console.into();
                }
                format!("{entry}\n")
            }
            LogFormat::Text => {
                let console = if console.is_empty() {
                    String::new()
                } else {
                    format!(" console={:?}", console.join("\n"))
                };
                format!("time={time:?} level=error msg={message:?}{console}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_is_one_line_in_either_format() {
        let console = ["first".to_owned(), "last \"word\"".to_owned()];
        let line =
            |format, console: &[String]| Log { path: "x".into(), format }.line("a \"b\"", console, "T");
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
    }
}
