//! What is run: a command, or `vmrun run` with its timeline.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tempfile::NamedTempFile;
use vmrun_spec::{Phase, Timeline};

use crate::command::CommandLine;
use crate::error::MeasureError;

/// A command that takes its turn.
#[derive(Debug)]
pub struct Side {
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Command(CommandLine),
    Starts(OfVmrun),
}

/// `vmrun run`, each time with an id of its own.
#[derive(Clone, Debug)]
pub struct OfVmrun {
    /// The program.
    pub program: PathBuf,
    /// What stands before the verb.
    pub globals: Vec<String>,
    /// What stands between the verb and the id.
    pub options: Vec<String>,
}

/// What one run showed.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) time: Duration,
    pub(crate) phases: Vec<Phase>,
}

impl Side {
    /// Any command.
    pub fn command(name: impl Into<String>, line: CommandLine) -> Self {
        Self { name: name.into(), kind: Kind::Command(line) }
    }

    /// A start of ours.
    pub fn starts(name: impl Into<String>, vmrun: OfVmrun) -> Self {
        Self { name: name.into(), kind: Kind::Starts(vmrun) }
    }

    /// Its words, for a reader who wants to run it.
    pub(crate) fn line(&self) -> String {
        match &self.kind {
            Kind::Command(line) => line.to_string(),
            Kind::Starts(vmrun) => vmrun.line(&[], "ID").to_string(),
        }
    }

    /// Runs it for the `number`th time.
    pub(crate) fn run(&self, number: usize, limit: Duration) -> Result<Shown, MeasureError> {
        match &self.kind {
            Kind::Command(line) => Ok(Shown { time: line.run(limit)?, phases: Vec::new() }),
            Kind::Starts(vmrun) => vmrun.run(number, limit),
        }
    }
}

impl OfVmrun {
    fn run(&self, number: usize, limit: Duration) -> Result<Shown, MeasureError> {
        let file =
            NamedTempFile::new().map_err(MeasureError::file("make a file in", std::env::temp_dir()))?;
        let path = file.path().to_string_lossy().into_owned();
        let id = format!("bench-{}-{number}", std::process::id());
        let time = self.line(&["--timeline", &path], &id).run(limit)?;
        #[derive(Deserialize)]
        struct Document {
            timeline: Timeline,
        }
        let read = File::open(file.path()).map_err(MeasureError::file("open", file.path()))?;
        let document: Document = serde_json::from_reader(read)
            .map_err(|error| MeasureError::file("read", file.path())(error.into()))?;
        Ok(Shown { time, phases: document.timeline.phases })
    }

    fn line(&self, more: &[&str], id: &str) -> CommandLine {
        let options = self.options.iter().map(String::as_str);
        let words = std::iter::once("run").chain(options).chain(more.iter().copied()).chain([id]);
        self.verb(&words.collect::<Vec<_>>())
    }

    /// A verb of it, with what stands before each.
    pub(crate) fn verb(&self, words: &[&str]) -> CommandLine {
        let program = self.program.to_string_lossy().into_owned();
        let words = words.iter().map(|word| (*word).to_owned());
        CommandLine::of(std::iter::once(program).chain(self.globals.iter().cloned()).chain(words).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_a_start_can_be_typed() {
        let vmrun = OfVmrun {
            program: PathBuf::from("/usr/bin/vmrun"),
            globals: vec!["--root".to_owned(), "/r s".to_owned()],
            options: vec!["--bundle".to_owned(), "/b".to_owned()],
        };
        let side = Side::starts("vmrun", vmrun);
        assert_eq!(side.line(), "/usr/bin/vmrun --root '/r s' run --bundle /b ID");
    }

    #[test]
    fn start_without_a_timeline_is_told() {
        let vmrun = OfVmrun { program: "/bin/true".into(), globals: Vec::new(), options: Vec::new() };
        let error = Side::starts("x", vmrun).run(0, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().starts_with("cannot read "), "{error}");
    }
}
