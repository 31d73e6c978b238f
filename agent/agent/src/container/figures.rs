//! A container's figures, from the files of its cgroup and of its network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use vmrun_proto::{
    ContainerFigures, DeviceFigures, InterfaceFigures, PacketFigures, PressureFigures, PressureLine,
};

/// Reads the figures of the cgroup at `directory`, and of the network of the process `init`. A file
/// that is not there counts nothing.
pub(crate) fn figures(directory: &Path, init: Option<i32>) -> ContainerFigures {
    let table = init.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
    let interfaces = table.iter().flat_map(|table| table.lines().filter_map(interface)).collect();
    ContainerFigures { interfaces, ..of_cgroup(directory) }
}

fn of_cgroup(directory: &Path) -> ContainerFigures {
    let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let number = |name: &str| text(name).trim().parse().ok();
    ContainerFigures {
        cpu: pairs(&text("cpu.stat")),
        memory: pairs(&text("memory.stat")),
        memory_events: pairs(&text("memory.events")),
        memory_bytes: number("memory.current").unwrap_or(0),
        memory_peak_bytes: number("memory.peak").unwrap_or(0),
        // `max` is no number, and no limit.
        memory_limit_bytes: number("memory.max"),
        swap_bytes: number("memory.swap.current").unwrap_or(0),
        swap_limit_bytes: number("memory.swap.max"),
        pids: number("pids.current").unwrap_or(0),
        pids_limit: number("pids.max"),
        huge_pages: huge_pages(directory),
        io: text("io.stat").lines().filter_map(device).collect(),
        pressure: PRESSURES
            .iter()
            .filter_map(|kind| Some(((*kind).to_owned(), pressure(&text(&format!("{kind}.pressure")))?)))
            .collect(),
        interfaces: Vec::new(),
    }
}

/// A line of `proc_net_dev(5)`: the name, eight figures of what was received, eight of what was sent.
fn interface(line: &str) -> Option<InterfaceFigures> {
    let (name, figures) = line.split_once(':')?;
    let figures: Vec<u64> =
        figures.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let direction = |from: usize| {
        let [bytes, packets, errors, dropped] = figures.get(from..)?.first_chunk().copied()?;
        Some(PacketFigures { bytes, packets, errors, dropped })
    };
    let name = name.trim().to_owned();
    (name != "lo").then_some(InterfaceFigures { name, received: direction(0)?, sent: direction(8)? })
}

/// What tasks may have to wait for.
const PRESSURES: [&str; 3] = ["cpu", "memory", "io"];

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`, which not all have.
fn pressure(text: &str) -> Option<PressureFigures> {
    let mut figures = PressureFigures::default();
    let mut is_there = false;
    for (kind, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
        let words: BTreeMap<_, _> =
            rest.split_ascii_whitespace().filter_map(|word| word.split_once('=')).collect();
        let average = |name| words.get(name).and_then(|text| hundredths(text)).unwrap_or(0);
        let line = PressureLine {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: words.get("total").and_then(|text| text.parse().ok()).unwrap_or(0),
        };
        match kind {
            "some" => figures.some = line,
            "full" => figures.full = line,
            _ => continue,
        }
        is_there = true;
    }
    is_there.then_some(figures)
}

/// `12.34`
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    let part: u32 = (part.len() == 2).then(|| part.parse().ok()).flatten()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

/// The sizes of which the kernel has pages for this cgroup.
fn huge_pages(directory: &Path) -> BTreeMap<String, BTreeMap<String, u64>> {
    let of = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
        // What is reserved is not what is used.
        let size = (!size.contains('.')).then(|| size.to_owned())?;
        let text = |file: &str| {
            fs::read_to_string(directory.join(format!("hugetlb.{size}.{file}"))).unwrap_or_default()
        };
        let mut counts = pairs(&text("events"));
        counts.insert("current".to_owned(), text("current").trim().parse().unwrap_or(0));
        Some((size, counts))
    };
    fs::read_dir(directory).into_iter().flatten().flatten().filter_map(of).collect()
}

/// `name value` a line.
fn pairs(text: &str) -> BTreeMap<String, u64> {
    text.lines().filter_map(|line| pair(line, ' ')).collect()
}

fn pair(text: &str, separator: char) -> Option<(String, u64)> {
    let (name, value) = text.split_once(separator)?;
    Some((name.to_owned(), value.trim().parse().ok()?))
}

/// `MAJOR:MINOR name=value name=value …`
fn device(line: &str) -> Option<DeviceFigures> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let counts = words.filter_map(|word| pair(word, '=')).collect();
    Some(DeviceFigures { major: major.parse().ok()?, minor: minor.parse().ok()?, counts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_what_is_missing_counts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpu.stat", "usage_usec 5\nuser_usec 3\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("pids.max", "50\n"),
            ("hugetlb.2MB.current", "4194304\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
            ("hugetlb.2MB.events", "max 3\n"),
            ("io.stat", "254:0 rbytes=1 wbytes=2\nbroken\n"),
            ("memory.pressure", "some avg10=1.05 avg60=0.50 avg300=100.00 total=7\nfull avg10=x total=3\n"),
            ("cpu.pressure", ""),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let figures = figures(directory.path(), None);
        assert_eq!((figures.cpu["usage_usec"], figures.memory_bytes), (5, 4096));
        assert_eq!((figures.memory_limit_bytes, figures.pids_limit, figures.pids), (None, Some(50), 0));
        assert_eq!(figures.huge_pages.len(), 1);
        assert_eq!((figures.huge_pages["2MB"]["current"], figures.huge_pages["2MB"]["max"]), (4_194_304, 3));
        let some = PressureLine { avg10: 105, avg60: 50, avg300: 10_000, total: 7 };
        let full = PressureLine { total: 3, ..PressureLine::default() };
        assert_eq!(figures.pressure, [("memory".to_owned(), PressureFigures { some, full })].into());
        assert_eq!(figures.io.len(), 1);
        assert_eq!((figures.io[0].major, figures.io[0].counts["wbytes"]), (254, 2));
    }

    #[test]
    fn interfaces_have_figures_both_ways() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets errs\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
            eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let found: Vec<_> = table.lines().filter_map(interface).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(found[0].received, PacketFigures { bytes: 1, packets: 2, errors: 3, dropped: 4 });
        assert_eq!(found[0].sent, PacketFigures { bytes: 5, packets: 6, errors: 7, dropped: 8 });
    }
}
