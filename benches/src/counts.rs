//! What a load costs: exits, interrupts, system calls. They do not depend on the machine's speed.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::ops::Sub;
use std::path::{Path, PathBuf};

use crate::process::call;

const TRACING: &str = "/sys/kernel/tracing";

/// What is counted, by the thread that does it.
const EVENTS: [&str; 3] = ["kvm/kvm_exit", "kvm/kvm_inj_virq", "raw_syscalls/sys_enter"];

const TRIGGER: &str = "hist:keys=common_pid:size=4096";

/// How often something was done by a process that runs a machine, or by everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Times that the guest was left.
    pub(crate) exits: u64,
    /// Interrupts that the guest got, its own timer's among them.
    pub(crate) interrupts: u64,
    /// System calls, those that enter the guest among them.
    pub(crate) calls: u64,
}

/// Counts while it lives, by the kernel's histograms. What is counted is slower, so nothing is timed meanwhile.
pub(crate) struct Tracer {
    events: [PathBuf; 3],
}

impl Tracer {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        if !Path::new(TRACING).join("events").exists() {
            call(&format!("mount -t tracefs tracefs {TRACING}"))?;
        }
        let events = EVENTS.map(|event| Path::new(TRACING).join("events").join(event));
        for event in &events {
            fs::write(event.join("trigger"), TRIGGER).map_err(|error| {
                format!("cannot count {}: {error}; the kernel needs CONFIG_HIST_TRIGGERS", event.display())
            })?;
        }
        Ok(Self { events })
    }

    /// What the threads of process `pid` have done.
    pub(crate) fn counts(&self, pid: u32) -> Result<Counts, Box<dyn Error>> {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
        let threads = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
        let threads: HashSet<u32> = threads.collect();
        self.of(|thread| threads.contains(&thread))
    }

    /// What all have done but this process.
    pub(crate) fn counts_of_others(&self) -> Result<Counts, Box<dyn Error>> {
        let own = std::process::id();
        self.of(|thread| thread != own)
    }

    fn of(&self, wanted: impl Fn(u32) -> bool) -> Result<Counts, Box<dyn Error>> {
        let mut hits = [0; 3];
        for (event, hits) in self.events.iter().zip(&mut hits) {
            let histogram = fs::read_to_string(event.join("hist"))?;
            *hits = histogram
                .lines()
                .filter_map(entry)
                .filter(|(thread, _)| wanted(*thread))
                .map(|(_, hits)| hits)
                .sum();
        }
        let [exits, interrupts, calls] = hits;
        Ok(Counts { exits, interrupts, calls })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        for event in &self.events {
            let _ = fs::write(event.join("trigger"), format!("!{TRIGGER}"));
        }
    }
}

/// `{ common_pid:        123 } hitcount:         45`
fn entry(line: &str) -> Option<(u32, u64)> {
    let (key, count) = line.trim().strip_prefix("{ common_pid:")?.split_once('}')?;
    Some((key.trim().parse().ok()?, count.trim().strip_prefix("hitcount:")?.trim().parse().ok()?))
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            exits: self.exits.saturating_sub(before.exits),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            calls: self.calls.saturating_sub(before.calls),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_a_histogram_is_read_and_others_are_not() {
        assert_eq!(entry("{ common_pid:        123 } hitcount:         45"), Some((123, 45)));
        assert_eq!(entry("Totals:"), None);
        assert_eq!(entry("    Hits: 7"), None);
    }
}
