//! What a `proc` of the container would hold, for those who look for its processes from outside.
//!
//! Files are numbered by pid and kind, so nothing has to be remembered of what was looked up. The
//! guest's words go through here: what must be a number is one, and lines stay lines.

use std::collections::BTreeMap;

use vmrun_proto::ProcessInfo;

/// Number of the root directory in FUSE.
pub(super) const ROOT: u64 = 1;

const STAT: u64 = 2;
const UPTIME: u64 = 3;

/// A process's files by the low bits of their numbers.
const KIND_BITS: u32 = 8;

/// The unit of times in `stat` on x86.
const TICKS_PER_SECOND: u64 = 100;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Directory = 1,
    Stat,
    Status,
    CmdLine,
    Comm,
    Namespaces,
    PidNamespace,
}

const PARTS: &[(Part, &str)] = &[
    (Part::Stat, "stat"),
    (Part::Status, "status"),
    (Part::CmdLine, "cmdline"),
    (Part::Comm, "comm"),
    (Part::Namespaces, "ns"),
];

/// The host's clock, by which times are told: who looks has read it elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// Seconds of the epoch at which the host has booted.
    pub(super) booted: u64,
    pub(super) uptime_ms: u64,
}

/// The processes at one moment, by pid in the container.
#[derive(Debug, Default)]
pub(super) struct Files {
    processes: BTreeMap<i32, ProcessInfo>,
    /// Pids in the container by pids in the guest.
    inner: BTreeMap<i64, i32>,
    clock: Clock,
}

impl Files {
    pub(super) fn new(processes: Vec<ProcessInfo>, clock: Clock) -> Self {
        // What an older agent tells, or of too many processes, is not enough for these files.
        let known = processes.into_iter().filter(|process| process.inner_pid > 0 && !process.stat.is_empty());
        let processes: BTreeMap<_, _> = known.map(|process| (process.inner_pid, process)).collect();
        let inner = processes.values().map(|process| (process.pid.into(), process.inner_pid)).collect();
        Self { processes, inner, clock }
    }

    pub(super) fn kind(&self, number: u64) -> Option<Kind> {
        match number {
            ROOT => Some(Kind::Directory),
            STAT | UPTIME => Some(Kind::File),
            _ => self.part(number).map(|(_, part)| match part {
                Part::Directory | Part::Namespaces => Kind::Directory,
                Part::PidNamespace => Kind::Link,
                _ => Kind::File,
            }),
        }
    }

    /// The number of a file in a directory.
    pub(super) fn lookup(&self, directory: u64, name: &str) -> Option<u64> {
        self.list(directory)?.into_iter().find(|(_, found)| found == name).map(|(number, _)| number)
    }

    /// Numbers and names in a directory.
    pub(super) fn list(&self, directory: u64) -> Option<Vec<(u64, String)>> {
        if directory == ROOT {
            let own = [(STAT, "stat".to_owned()), (UPTIME, "uptime".to_owned())];
            let processes = self.processes.keys().map(|pid| (number(*pid, Part::Directory), pid.to_string()));
            return Some(own.into_iter().chain(processes).collect());
        }
        match self.part(directory)? {
            (process, Part::Directory) => {
                let name =
                    |(part, name): &(Part, &str)| (number(process.inner_pid, *part), (*name).to_owned());
                Some(PARTS.iter().map(name).collect())
            }
            (process, Part::Namespaces) => {
                Some(vec![(number(process.inner_pid, Part::PidNamespace), "pid".to_owned())])
            }
            _ => None,
        }
    }

    /// What a file holds, or where a link leads.
    pub(super) fn content(&self, file: u64) -> Option<String> {
        let clock = self.clock;
        match file {
            STAT => return Some(format!("btime {}\n", clock.booted)),
            UPTIME => {
                return Some(format!("{}.{:02} 0.00\n", clock.uptime_ms / 1000, clock.uptime_ms / 10 % 100));
            }
            _ => {}
        }
        let (process, part) = self.part(file)?;
        match part {
            Part::Stat => Some(self.stat(process)),
            Part::Status => Some(self.status(process)),
            // Arguments are told with spaces between them.
            Part::CmdLine if process.command.starts_with('[') => Some(String::new()),
            Part::CmdLine => Some(plain(&process.command).replace(' ', "\0") + "\0"),
            Part::Comm => Some(plain(&process.name) + "\n"),
            // The guest's namespaces have no number on the host.
            Part::PidNamespace => Some("pid:[0]".to_owned()),
            Part::Directory | Part::Namespaces => None,
        }
    }

    fn part(&self, number: u64) -> Option<(&ProcessInfo, Part)> {
        let pid = i32::try_from(number >> KIND_BITS).ok()?;
        let low = number & ((1 << KIND_BITS) - 1);
        let rest = [Part::Directory, Part::PidNamespace];
        let part = PARTS.iter().map(|(part, _)| *part).chain(rest).find(|part| *part as u64 == low)?;
        Some((self.processes.get(&pid)?, part))
    }

    /// The line of `stat` as the container sees it, but that the times are the host's.
    fn stat(&self, process: &ProcessInfo) -> String {
        let mut fields = process.stat.split_ascii_whitespace();
        let state = fields.next().filter(|text| text.len() == 1).unwrap_or("?");
        let mut numbers: Vec<i128> = fields.map(|text| text.parse().unwrap_or(0)).collect();
        // proc(5) counts them from the fourth on.
        for (number, _) in numbers.iter_mut().zip(4..).filter(|(_, field)| matches!(field, 4..=6 | 8)) {
            *number = self.pid_inside(*number).into();
        }
        if let Some(began) = numbers.get_mut(22 - 4) {
            let ms = self.clock.uptime_ms.saturating_sub(process.elapsed_ms);
            *began = (ms * TICKS_PER_SECOND / 1000).into();
        }
        let numbers: Vec<_> = numbers.iter().map(i128::to_string).collect();
        format!("{} ({}) {state} {}\n", process.inner_pid, plain(&process.name), numbers.join(" "))
    }

    /// 0 for a process that is none of the container's, as the kernel says it.
    fn pid_inside(&self, pid: i128) -> i32 {
        let pid = i64::try_from(pid).unwrap_or_default();
        self.inner.get(&pid).copied().unwrap_or(0)
    }

    fn status(&self, process: &ProcessInfo) -> String {
        let (pid, parent) = (process.inner_pid, self.pid_inside(process.parent.into()));
        let state = process.stat.get(..1).unwrap_or("?");
        let mut text = format!(
            "Name:\t{}\nState:\t{state}\nTgid:\t{pid}\nPid:\t{pid}\nPPid:\t{parent}\nTracerPid:\t0\nNSpid:\t{pid}\n",
            plain(&process.name)
        );
        let others = process.status.iter().filter(|(name, _)| !name.starts_with("NS"));
        for (name, value) in others {
            text += &format!("{}:\t{}\n", plain(name), plain_list(value));
        }
        text
    }
}

fn number(pid: i32, part: Part) -> u64 {
    u64::try_from(pid).unwrap_or_default() << KIND_BITS | part as u64
}

/// The guest wrote it: a line stays one.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

fn plain_list(text: &str) -> String {
    text.split_ascii_whitespace().map(plain).collect::<Vec<_>>().join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let process = |pid, inner_pid, parent: i32, command: &str| ProcessInfo {
            pid,
            inner_pid,
            parent,
            elapsed_ms: 5000,
            name: "sh".to_owned(),
            command: command.to_owned(),
            stat: format!("S {parent} 40 40 34816 40 0 1 2 3 4 5 6 7 8 20 0 1 0 77 4096 1"),
            status: [("Uid".to_owned(), "0\t0\t0\t0".to_owned()), ("NSpid".to_owned(), "40\t1".to_owned())]
                .into(),
            ..ProcessInfo::default()
        };
        let clock = Clock { booted: 1000, uptime_ms: 65_432 };
        let unknown = ProcessInfo { pid: 9, ..ProcessInfo::default() };
        Files::new(vec![process(40, 1, 3, "sh -c x\n"), process(41, 7, 40, "[kernel]"), unknown], clock)
    }

    fn read(path: &str) -> Option<String> {
        let files = files();
        let mut number = ROOT;
        for name in path.split('/') {
            number = files.lookup(number, name)?;
        }
        files.content(number)
    }

    #[test]
    fn processes_are_listed_by_their_pids_in_the_container() {
        let names: Vec<_> = files().list(ROOT).unwrap().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["stat", "uptime", "1", "7"]);
        assert_eq!(read("9/stat"), None);
        assert_eq!(files().kind(number(7, Part::PidNamespace)), Some(Kind::Link));
        assert_eq!(files().kind(number(8, Part::Stat)), None);
    }

    #[test]
    fn pids_in_a_line_are_the_containers_and_times_the_hosts() {
        let line = read("7/stat").unwrap();
        assert!(line.starts_with("7 (sh) S 1 1 1 34816 1 0 1 2 3 4 5 6 7 8 20 0 1 0 6043 4096 1"), "{line}");
        assert!(read("1/stat").unwrap().starts_with("1 (sh) S 0 1 1 "));
        assert_eq!(read("stat").unwrap(), "btime 1000\n");
        assert_eq!(read("uptime").unwrap(), "65.43 0.00\n");
    }

    #[test]
    fn words_of_the_guest_stay_on_their_line() {
        assert_eq!(read("1/cmdline").unwrap(), "sh\0-c\0x?\0");
        assert_eq!(read("7/cmdline").unwrap(), "");
        let status = read("7/status").unwrap();
        assert!(status.contains("PPid:\t1\n") && status.contains("Uid:\t0\t0\t0\t0\n"), "{status}");
        assert!(status.lines().filter(|line| line.starts_with("NSpid")).eq(["NSpid:\t7"]), "{status}");
    }
}
