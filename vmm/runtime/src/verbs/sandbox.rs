//! What a whole sandbox takes of the host: the monitor, the machine's process, and whatever they have started.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};

use crate::error::Error;
use crate::status::Act;
use crate::store::Store;

/// Figures of all processes of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SandboxFigures {
    /// CPU time, that of the guest in it, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory that is no file's: what the guest has touched and not given back, and the processes' own.
    pub memory_bytes: u64,
}

/// What the container's sandbox takes of the host.
///
/// # Errors
/// There is no such container, or it has ended.
pub fn sandbox_figures(store: &Store, id: &str) -> Result<SandboxFigures, Error> {
    let (_, state) = super::find_for(store, id, Act::Look)?;
    // Seconds are counted in this many parts.
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    Ok(of_family(&Path::new("/proc").join(state.monitor.pid.to_string()), ticks.unwrap_or(100)))
}

/// What a process has, and what it has started. One that has just ended has nothing.
fn of_family(process: &Path, ticks: u64) -> SandboxFigures {
    let text = |name: &str| fs::read_to_string(process.join(name)).unwrap_or_default();
    let mut sum = SandboxFigures {
        cpu_ns: ticks_of(&text("stat")).saturating_mul(1_000_000_000 / ticks.max(1)),
        memory_bytes: anonymous_of(&text("status")),
    };
    for child in children(process) {
        let SandboxFigures { cpu_ns, memory_bytes } = of_family(&child, ticks);
        sum.cpu_ns = sum.cpu_ns.saturating_add(cpu_ns);
        sum.memory_bytes = sum.memory_bytes.saturating_add(memory_bytes);
    }
    sum
}

/// Each is a child of the thread that has started it.
fn children(process: &Path) -> Vec<PathBuf> {
    let (Ok(threads), Some(processes)) = (fs::read_dir(process.join("task")), process.parent()) else {
        return Vec::new();
    };
    let lists =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().map(|pid| processes.join(pid)).collect::<Vec<_>>())
        .collect()
}

/// The times of a process, and of those whose end it has seen: fields 14 to 17 of proc_pid_stat(5). The second is a name
/// with any letters.
fn ticks_of(stat: &str) -> u64 {
    let behind_the_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = behind_the_name.split_ascii_whitespace().skip(11).take(4);
    times.filter_map(|time| time.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

/// A line of proc_pid_status(5), which others may read, too.
fn anonymous_of(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: &str, kib: u64, children: &str) {
        let thread = proc.join(pid).join("task").join(pid);
        fs::create_dir_all(&thread).unwrap();
        let stat = format!("{pid} (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 10 20 3 4 20 0 1 0 7 8 9");
        fs::write(proc.join(pid).join("stat"), stat).unwrap();
        let status = format!("Name:\tx\nVmRSS:\t 99 kB\nRssAnon:\t  {kib} kB\nRssFile:\t 5 kB\n");
        fs::write(proc.join(pid).join("status"), status).unwrap();
        fs::write(thread.join("children"), children).unwrap();
    }

    #[test]
    fn sandbox_is_the_monitor_and_all_that_come_from_it() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), "10", 4, "11 12 ");
        process(proc.path(), "11", 100, "");
        process(proc.path(), "12", 7, "13 14 ");
        process(proc.path(), "13", 1, "");
        process(proc.path(), "99", 1000, "");
        let figures = of_family(&proc.path().join("10"), 100);
        assert_eq!(figures, SandboxFigures { cpu_ns: 4 * 370_000_000, memory_bytes: 112 << 10 });
        assert_eq!(of_family(&proc.path().join("14"), 100), SandboxFigures::default());
    }

    #[test]
    fn this_process_has_figures() {
        let figures = of_family(Path::new("/proc/self"), 100);
        assert!(figures.memory_bytes > 0, "{figures:?}");
    }
}
