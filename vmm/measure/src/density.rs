//! How many sandboxes fit side by side, and what each costs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::MeasureError;
use crate::pss::{self, Memory};
use crate::report::Host;
use crate::rounds::Progress;
use crate::sandbox::Sandbox;
use crate::side::OfVmrun;
use crate::stats::Summary;

/// What is to be started.
#[derive(Debug)]
pub struct DensityRequest {
    /// Starts a sandbox, detached.
    pub vmrun: OfVmrun,
    /// How many.
    pub sandboxes: usize,
    /// The longest that a start may take.
    pub limit: Duration,
}

/// What came of it. Memory is in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Density {
    /// Grows when a reader of an older one would misunderstand it.
    pub schema: u32,
    /// `density`.
    pub kind: String,
    /// Where.
    pub host: Host,
    /// How many were asked for.
    pub asked: usize,
    /// What each that ran had of its own and with others, when all of them ran.
    pub sandboxes: Vec<Memory>,
    /// What one had in the middle.
    pub private: Option<Summary>,
    /// What others have, too.
    pub shared: Option<Summary>,
    /// Its own, with its share of what others have, too.
    pub proportional: Option<Summary>,
    /// Seconds of a start.
    pub starts: Option<Summary>,
    /// Starts in a second, one after another.
    pub rate: f64,
    /// By so much what the host could give out became less with each.
    pub taken_each: i64,
    /// Why there are no more.
    pub limited_by: Option<String>,
}

/// Starts sandboxes one after another and leaves them alone; ends them all.
///
/// # Errors
/// The first could not be started, or what it holds could not be read.
pub fn density(
    request: &DensityRequest,
    mut progress: impl FnMut(Progress),
) -> Result<Density, MeasureError> {
    let place =
        tempfile::tempdir().map_err(MeasureError::file("make a directory in", std::env::temp_dir()))?;
    let before = pss::available()?;
    let (mut running, mut seconds, mut limited_by) = (Vec::new(), Vec::new(), None);
    for number in 0..request.sandboxes {
        match one_more(request, place.path(), number) {
            Ok((sandbox, time)) => {
                running.push(sandbox);
                seconds.push(time.as_secs_f64());
            }
            Err(error) if running.is_empty() => return Err(error),
            Err(error) => {
                limited_by = Some(error.to_string());
                break;
            }
        }
        progress(Progress { done: number + 1, all: request.sandboxes });
    }
    let sandboxes = running.iter().map(|running| family(running.pid)).collect::<Result<Vec<_>, _>>()?;
    let after = pss::available()?;
    running.into_iter().try_for_each(|running| running.sandbox.end())?;
    let of = |part: fn(&Memory) -> u64| {
        Summary::of(&sandboxes.iter().map(|memory| bytes(part(memory))).collect::<Vec<_>>())
    };
    let total: f64 = seconds.iter().sum();
    let count = i64::try_from(sandboxes.len()).unwrap_or(i64::MAX).max(1);
    Ok(Density {
        schema: 1,
        kind: "density".to_owned(),
        host: Host::here(),
        asked: request.sandboxes,
        private: of(|memory| memory.private),
        shared: of(|memory| memory.shared),
        proportional: of(|memory| memory.proportional),
        starts: Summary::of(&seconds),
        rate: if total > 0.0 { bytes(u64::try_from(seconds.len()).unwrap_or(0)) / total } else { 0.0 },
        taken_each: (i64::try_from(before).unwrap_or(0) - i64::try_from(after).unwrap_or(0)) / count,
        limited_by,
        sandboxes,
    })
}

#[allow(clippy::cast_precision_loss, reason = "a size for a human")]
fn bytes(number: u64) -> f64 {
    number as f64
}

/// One that runs.
struct Running {
    sandbox: Sandbox,
    pid: u32,
}

fn one_more(
    request: &DensityRequest,
    place: &Path,
    number: usize,
) -> Result<(Running, Duration), MeasureError> {
    let pid_file = place.join(number.to_string());
    let begin = Instant::now();
    let options = ["--pid-file", &pid_file.to_string_lossy()];
    let sandbox = Sandbox::named(request.vmrun.clone(), request.limit, &format!("d{number}"), &options)?;
    let time = begin.elapsed();
    let text = fs::read_to_string(&pid_file).map_err(MeasureError::file("read", &pid_file))?;
    let pid =
        text.trim().parse().map_err(|_| MeasureError::Number("the pid file does not contain a number"))?;
    Ok((Running { sandbox, pid }, time))
}

/// What a process and all that it has started hold.
fn family(pid: u32) -> Result<Memory, MeasureError> {
    let mut sum = Memory::of(pid)?;
    let children = fs::read_to_string(Path::new("/proc").join(format!("{pid}/task/{pid}/children")));
    for child in children.unwrap_or_default().split_whitespace().filter_map(|text| text.parse().ok()) {
        // One that has just ended has nothing.
        let Ok(memory) = family(child) else { continue };
        sum.proportional += memory.proportional;
        sum.private += memory.private;
        sum.shared += memory.shared;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sandbox_that_cannot_be_started_is_the_error() {
        let vmrun = OfVmrun { program: "/bin/false".into(), globals: Vec::new(), options: Vec::new() };
        let request = DensityRequest { vmrun, sandboxes: 3, limit: Duration::from_secs(600) };
        assert!(density(&request, |_| {}).is_err());
    }

    #[test]
    fn family_is_a_process_and_its_children() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let own = Memory::of(std::process::id()).unwrap();
        assert!(family(child.id()).unwrap().private > 0);
        assert!(family(std::process::id()).unwrap().proportional > 0 && own.proportional > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
