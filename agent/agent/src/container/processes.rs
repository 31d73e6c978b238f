//! A container's processes, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};
use vmrun_proto::ProcessInfo;

/// Longest command that is told.
const MAX_COMMAND_BYTES: usize = 4096;

/// All commands together: a reply must fit a frame, however many processes there are.
const MAX_COMMANDS_BYTES: usize = 512 << 10;

/// All details together, for the same reason: what comes later goes without.
const MAX_DETAILS_BYTES: usize = 2 << 20;

/// The lines of `/proc/PID/status` that are told.
const STATUS: &[&str] = &[
    "Uid",
    "Gid",
    "Groups",
    "NSpid",
    "NSpgid",
    "NSsid",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
];

/// Tells about the processes with these pids. One that ends meanwhile is left out.
pub(crate) fn describe(mut pids: Vec<i32>) -> Vec<ProcessInfo> {
    pids.sort_unstable();
    let clock = Clock::now();
    let memory_kib = memory_kib();
    let (mut left, mut left_for_details) = (MAX_COMMANDS_BYTES, MAX_DETAILS_BYTES);
    let mut told = Vec::with_capacity(pids.len());
    for pid in pids {
        let proc = Path::new("/proc");
        let Some(mut info) = process(proc, pid, &clock, MAX_COMMAND_BYTES.min(left)) else {
            continue;
        };
        left = left.saturating_sub(info.command.len());
        add_status(&mut info, proc, memory_kib);
        let size = details_bytes(&info);
        if size > left_for_details {
            (info.stat, info.status) = (String::new(), BTreeMap::new());
        } else {
            left_for_details -= size;
        }
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
        name: name.to_owned(),
        stat: fields.join(" "),
        ..ProcessInfo::default()
    })
}

/// What `/proc/PID/status` tells besides. Of a process that has just ended there is nothing more.
fn add_status(info: &mut ProcessInfo, proc: &Path, memory_kib: u64) {
    let text = fs::read_to_string(proc.join(info.pid.to_string()).join("status")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    for (name, value) in lines.map(|(name, value)| (name, value.trim())) {
        match name {
            "NSpid" => info.inner_pid = pid_inside(value).unwrap_or(0),
            "VmRSS" => info.memory_permille = permille(value, memory_kib),
            _ => {}
        }
        if STATUS.contains(&name) {
            info.status.insert(name.to_owned(), value.to_owned());
        }
    }
}

/// The guest's pid, the container's, and those in namespaces that the container has made. Without a
/// namespace of its own the guest's is the container's.
fn pid_inside(list: &str) -> Option<i32> {
    let mut pids = list.split_ascii_whitespace();
    let outer = pids.next()?;
    pids.next().unwrap_or(outer).parse().ok()
}

/// `KIB kB` in thousandths of the whole.
fn permille(size: &str, whole_kib: u64) -> u32 {
    let kib: u64 = size.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
    u32::try_from(kib.saturating_mul(1000) / whole_kib.max(1)).unwrap_or(u32::MAX)
}

/// The machine's memory.
fn memory_kib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What the details take on the wire, more or less.
fn details_bytes(info: &ProcessInfo) -> usize {
    /// Quotes, colon and comma.
    const MARKS: usize = 6;
    let status = info.status.iter().map(|(name, value)| name.len() + value.len() + MARKS).sum::<usize>();
    info.stat.len() + info.name.len() + status
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
    fn details_come_from_the_status() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("42")).unwrap();
        let text = "Name:\tsleep\nUid:\t1\t2\t3\t4\nNSpid:\t42\t7\t1\nVmRSS:\t  512 kB\n";
        fs::write(directory.path().join("42/status"), text).unwrap();
        let mut info = ProcessInfo { pid: 42, ..ProcessInfo::default() };
        add_status(&mut info, directory.path(), 1024);
        assert_eq!((info.inner_pid, info.memory_permille), (7, 500));
        assert_eq!(info.status["Uid"], "1\t2\t3\t4");
        assert!(!info.status.contains_key("Name"));
        assert!(details_bytes(&info) > 20);
    }

    #[test]
    fn uptime_is_read_in_milliseconds() {
        assert_eq!(milliseconds("12.34 56.78\n"), Some(12_340));
        assert_eq!(milliseconds("x"), None);
    }
}
