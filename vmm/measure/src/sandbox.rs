//! A sandbox that runs while something is measured in it.

use std::time::Duration;

use crate::command::CommandLine;
use crate::error::MeasureError;
use crate::side::OfVmrun;

/// It is ended with this value.
#[derive(Debug)]
pub struct Sandbox {
    vmrun: OfVmrun,
    id: String,
    limit: Duration,
    ended: bool,
}

impl Sandbox {
    /// Starts it, detached, with the limit for this and for its end.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(vmrun: OfVmrun, limit: Duration) -> Result<Self, MeasureError> {
        Self::named(vmrun, limit, "e", &[])
    }

    /// Likewise, one of several, with further options.
    pub(crate) fn named(
        vmrun: OfVmrun,
        limit: Duration,
        name: &str,
        more: &[&str],
    ) -> Result<Self, MeasureError> {
        let id = format!("bench-{}-{name}", std::process::id());
        let options = vmrun.options.iter().map(String::as_str);
        let words: Vec<&str> = ["run", "--detach"]
            .into_iter()
            .chain(more.iter().copied())
            .chain(options)
            .chain([id.as_str()])
            .collect();
        vmrun.verb(&words).run(limit)?;
        Ok(Self { vmrun, id, limit, ended: false })
    }

    /// A command that runs another in it.
    pub fn exec(&self, command: &CommandLine) -> CommandLine {
        let words = ["exec", self.id.as_str()].into_iter().chain(command.words());
        self.vmrun.verb(&words.collect::<Vec<_>>())
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(mut self) -> Result<(), MeasureError> {
        self.delete()
    }

    fn delete(&mut self) -> Result<(), MeasureError> {
        self.ended = true;
        self.vmrun.verb(&["delete", "--force", &self.id]).run(self.limit).map(drop)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.ended {
            // Something else has failed, which is told.
            let _ = self.delete();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn sandbox_is_ended_whatever_happens() {
        let place = tempfile::tempdir().unwrap();
        let (program, log) = (place.path().join("vmrun"), place.path().join("log"));
        fs::write(&program, format!("#!/bin/sh\necho \"$*\" >>{}\n", log.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let vmrun =
            OfVmrun { program, globals: vec!["--root=/r".to_owned()], options: vec!["--x".to_owned()] };
        let limit = Duration::from_secs(600);
        let sandbox = Sandbox::start(vmrun, limit).unwrap();
        let id = sandbox.id.clone();
        sandbox.exec(&CommandLine::parse("a b").unwrap()).run(limit).unwrap();
        drop(sandbox);
        let said = fs::read_to_string(&log).unwrap();
        let lines = format!(
            "--root=/r run --detach --x {id}\n--root=/r exec {id} a b\n--root=/r delete --force {id}\n"
        );
        assert_eq!(said, lines);
    }
}
