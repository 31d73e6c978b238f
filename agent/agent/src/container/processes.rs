//! A container's processes, from `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};
use vmrun_proto::ProcessInfo;

/// Longest command that is told.
const MAX_COMMAND_BYTES: usize = 4096;

/// All commands together: a reply must fit a frame, however many processes there are.
const MAX_COMMANDS_BYTES: usize = 512 << 10;

/// Tells about the processes with these pids. One that ends meanwhile is left out.
pub(crate) fn describe(mut pids: Vec<i32>) -> Vec<ProcessInfo> {
    pids.sort_unstable();
    let clock = Clock::now();
    let mut left = MAX_COMMANDS_BYTES;
    let mut told = Vec::with_capacity(pids.len());
    for pid in pids {
        let Some(info) = process(Path::new("/proc"), pid, &clock, MAX_COMMAND_BYTES.min(left)) else {
            continue;
        };
        left = left.saturating_sub(info.command.len());
        told.push(info);
    }
    told
}

/// What times are counted in.
struct Clock {
    ticks_per_second: u64,
    uptime_ms: u64,
}

impl Clock {
    fn now() -> Self {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        Self { ticks_per_second: ticks.unwrap_or(100).max(1), uptime_ms: milliseconds(&uptime).unwrap_or(0) }
    }

    fn ms(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(1000) / self.ticks_per_second
    }
}

/// `SECONDS.HUNDREDTHS …`
fn milliseconds(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_once('.')?;
    let hundredths: u64 = rest.get(..2)?.parse().ok()?;
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(hundredths * 10)
}

fn process(proc: &Path, pid: i32, clock: &Clock, longest: usize) -> Option<ProcessInfo> {
    let directory = proc.join(pid.to_string());
    let text = fs::read_to_string(directory.join("stat")).ok()?;
    // The name in field 2 may hold anything, parentheses and spaces too.
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // proc(5) counts from 1, and two fields are gone.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Some(ProcessInfo {
        pid,
        parent: i32::try_from(field(4)).unwrap_or(0),
        uid: fs::metadata(&directory).ok()?.uid(),
        cpu_ms: clock.ms(field(14).saturating_add(field(15))),
        elapsed_ms: clock.uptime_ms.saturating_sub(clock.ms(field(22))),
        terminal: terminal(field(7)),
        command: command(&directory, name, longest),
    })
}

/// The number of a terminal's device, as `ps` names it.
fn terminal(number: u64) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

fn command(directory: &Path, name: &str, longest: usize) -> String {
    let line = fs::read(directory.join("cmdline")).unwrap_or_default();
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    let mut text =
        if line.is_empty() { format!("[{name}]") } else { String::from_utf8_lossy(line).replace('\0', " ") };
    let end = (0..=longest.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_described_whatever_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("42");
        fs::create_dir(&at).unwrap();
        fs::write(at.join("stat"), "42 (a) b) S 7 1 1 34817 1 0 0 0 0 0 150 50 0 0 20 0 1 0 1000 0\n")
            .unwrap();
        fs::write(at.join("cmdline"), b"sleep\x001\0").unwrap();
        let clock = Clock { ticks_per_second: 100, uptime_ms: 15_000 };
        let info = process(directory.path(), 42, &clock, 100).unwrap();
        assert_eq!((info.pid, info.parent, info.cpu_ms, info.elapsed_ms), (42, 7, 2000, 5000));
        assert_eq!((info.terminal.as_str(), info.command.as_str()), ("pts/1", "sleep 1"));
        fs::write(at.join("cmdline"), "").unwrap();
        assert_eq!(process(directory.path(), 42, &clock, 100).unwrap().command, "[a) b]");
        assert_eq!(process(directory.path(), 42, &clock, 2).unwrap().command, "[a");
        assert!(process(directory.path(), 43, &clock, 2).is_none());
    }

    #[test]
    fn uptime_is_read_in_milliseconds() {
        assert_eq!(milliseconds("12.34 56.78\n"), Some(12_340));
        assert_eq!(milliseconds("x"), None);
    }
}
