//! A container's figures as runc's `events` writes them: its fields in its order, its units.

use std::collections::BTreeMap;

use serde::Serialize;
use vmrun_runtime::{
    CardFigures, ContainerFigures, DeviceFigures, Figures, InterfaceFigures, PressureFigures, PressureLine,
};

/// One line of `events`.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats<'a>>,
}

impl<'a> Event<'a> {
    pub(crate) fn stats(id: &'a str, figures: &'a Figures) -> Self {
        Self { kind: "stats", id, data: Some(Stats::of(figures)) }
    }

    pub(crate) fn out_of_memory(id: &'a str) -> Self {
        Self { kind: "oom", id, data: None }
    }
}

#[derive(Debug, Serialize)]
struct Stats<'a> {
    cpu: Cpu,
    cpuset: CpuSet,
    memory: Memory<'a>,
    pids: Pids,
    blkio: BlockIo,
    hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: IntelRdt,
    network_interfaces: Option<Vec<NetworkInterface<'a>>>,
    /// What runc has no name for.
    #[serde(rename = "dev.vmrun.network_devices", skip_serializing_if = "<[_]>::is_empty")]
    network_devices: &'a [CardFigures],
    #[serde(rename = "dev.vmrun.file_server", skip_serializing_if = "BTreeMap::is_empty")]
    file_server: &'a BTreeMap<String, u64>,
}

/// Named as runc's are: after the fields of its own structure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkInterface<'a> {
    name: &'a str,
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_dropped: u64,
}

impl<'a> NetworkInterface<'a> {
    fn of(figures: &'a InterfaceFigures) -> Self {
        let InterfaceFigures { name, received, sent } = figures;
        Self {
            name,
            rx_bytes: received.bytes,
            rx_packets: received.packets,
            rx_errors: received.errors,
            rx_dropped: received.dropped,
            tx_bytes: sent.bytes,
            tx_packets: sent.packets,
            tx_errors: sent.errors,
            tx_dropped: sent.dropped,
        }
    }
}

#[derive(Debug, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

/// How tasks have waited; runc has it from version 1.2 on.
#[derive(Debug, Serialize)]
struct Pressure {
    some: PressureShares,
    full: PressureShares,
}

/// Percents, and microseconds.
#[derive(Debug, Serialize)]
struct PressureShares {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

impl Pressure {
    fn of(figures: &ContainerFigures, kind: &str) -> Option<Self> {
        let percent = |hundredths: u32| f64::from(hundredths) / 100.0;
        let shares = |PressureLine { avg10, avg60, avg300, total }| PressureShares {
            avg10: percent(avg10),
            avg60: percent(avg60),
            avg300: percent(avg300),
            total,
        };
        let &PressureFigures { some, full } = figures.pressure.get(kind)?;
        Some(Self { some: shares(some), full: shares(full) })
    }
}

/// Nanoseconds.
#[derive(Debug, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

/// cgroup v2 has none of these, and runc writes them nevertheless.
#[derive(Debug, Default, Serialize)]
struct CpuSet {
    cpu_exclusive: u64,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Serialize)]
struct Memory<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: &'a BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Debug, Default, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_service_bytes_recursive: Vec<Operation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    io_serviced_recursive: Vec<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Pressure>,
}

#[derive(Debug, Serialize)]
struct Operation {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    op: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Serialize)]
struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct IntelRdt {}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> Stats<'a> {
    fn of(Figures { container: figures, cards, files }: &'a Figures) -> Self {
        let cpu = |name: &str| count(&figures.cpu, name);
        let nanoseconds = |name: &str| cpu(name).saturating_mul(1000);
        Self {
            cpu: Cpu {
                usage: CpuUsage {
                    total: nanoseconds("usage_usec"),
                    kernel: nanoseconds("system_usec"),
                    user: nanoseconds("user_usec"),
                },
                throttling: Throttling {
                    periods: cpu("nr_periods"),
                    throttled_periods: cpu("nr_throttled"),
                    throttled_time: nanoseconds("throttled_usec"),
                },
                psi: Pressure::of(figures, "cpu"),
            },
            cpuset: CpuSet::default(),
            memory: Memory::of(figures),
            pids: Pids { current: figures.pids, limit: figures.pids_limit.unwrap_or(0) },
            blkio: BlockIo {
                io_service_bytes_recursive: operations(figures, [("Read", "rbytes"), ("Write", "wbytes")]),
                io_serviced_recursive: operations(figures, [("Read", "rios"), ("Write", "wios")]),
                psi: Pressure::of(figures, "io"),
            },
            hugetlb: figures
                .huge_pages
                .iter()
                .map(|(size, pages)| (size.clone(), huge_pages(pages)))
                .collect(),
            intel_rdt: IntelRdt {},
            network_interfaces: (!figures.interfaces.is_empty())
                .then(|| figures.interfaces.iter().map(NetworkInterface::of).collect()),
            network_devices: cards,
            file_server: files,
        }
    }
}

impl<'a> Memory<'a> {
    fn of(figures: &'a ContainerFigures) -> Self {
        let memory = |name: &str| count(&figures.memory, name);
        // No limit is the largest number.
        let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Self {
            cache: memory("file"),
            usage: MemoryEntry {
                limit: limit(figures.memory_limit_bytes),
                usage: figures.memory_bytes,
                max: figures.memory_peak_bytes,
                failcnt: count(&figures.memory_events, "max"),
            },
            // Memory and swap together, as they are in cgroup v1.
            swap: MemoryEntry {
                limit: figures
                    .swap_limit_bytes
                    .map_or(u64::MAX, |swap| limit(figures.memory_limit_bytes).saturating_add(swap)),
                usage: figures.memory_bytes.saturating_add(figures.swap_bytes),
                max: 0,
                failcnt: 0,
            },
            kernel: MemoryEntry::default(),
            kernel_tcp: MemoryEntry::default(),
            raw: &figures.memory,
            psi: Pressure::of(figures, "memory"),
        }
    }
}

fn huge_pages(pages: &BTreeMap<String, u64>) -> HugePages {
    HugePages { usage: count(pages, "current"), failcnt: count(pages, "max") }
}

fn count(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

fn operations(figures: &ContainerFigures, names: [(&'static str, &str); 2]) -> Vec<Operation> {
    let of = |device: &DeviceFigures| {
        let (major, minor) = (device.major, device.minor);
        names.map(|(op, name)| Operation { major, minor, op, value: count(&device.counts, name) })
    };
    figures.io.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(container: ContainerFigures) -> String {
        shown_with(&Figures { container, ..Figures::default() })
    }

    fn shown_with(figures: &Figures) -> String {
        serde_json::to_string(&Event::stats("web", figures)).unwrap()
    }

    #[test]
    fn fields_are_in_runcs_order() {
        let text = shown(ContainerFigures::default());
        let mut rest = text.as_str();
        for name in [
            "type",
            "id",
            "data",
            "cpu",
            "usage",
            "kernel",
            "user",
            "throttling",
            "cpuset",
            "cpu_exclusive",
            "memory",
            "usage",
            "limit",
            "failcnt",
            "swap",
            "kernel",
            "kernelTCP",
            "pids",
            "blkio",
            "hugetlb",
            "intel_rdt",
            "network_interfaces",
        ] {
            let quoted = format!("{name:?}:");
            let at = rest.find(&quoted).unwrap_or_else(|| panic!("{name} is not after the others: {text}"));
            rest = &rest[at + quoted.len()..];
        }
        assert_eq!(rest, "null}}");
    }

    #[test]
    fn figures_have_runcs_units_and_zeros_are_left_out_where_it_does() {
        let figures = ContainerFigures {
            cpu: [("usage_usec".to_owned(), 5)].into(),
            memory_bytes: 4096,
            pids: 3,
            io: vec![DeviceFigures { major: 8, minor: 0, counts: [("rbytes".to_owned(), 7)].into() }],
            huge_pages: [("2MB".to_owned(), [("current".to_owned(), 9)].into())].into(),
            ..ContainerFigures::default()
        };
        let text = shown(figures);
        for part in [
            r#""usage":{"total":5000,"kernel":0,"user":0},"throttling":{}"#,
            r#""usage":{"limit":18446744073709551615,"usage":4096,"failcnt":0}"#,
            r#""pids":{"current":3},"#,
            r#""ioServiceBytesRecursive":[{"major":8,"op":"Read","value":7},{"major":8,"op":"Write"}]"#,
            r#""hugetlb":{"2MB":{"usage":9,"failcnt":0}},"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn pressure_is_in_percents_behind_what_it_is_of() {
        let some = PressureLine { avg10: 105, avg60: 50, avg300: 0, total: 7 };
        let figures = PressureFigures { some, ..PressureFigures::default() };
        let pressure = ["cpu", "memory", "io"].map(|kind| (kind.to_owned(), figures)).into();
        let text = shown(ContainerFigures { pressure, ..ContainerFigures::default() });
        let psi = r#""psi":{"some":{"avg10":1.05,"avg60":0.5,"avg300":0.0,"total":7},"full":{"avg10":0.0,"avg60":0.0,"avg300":0.0,"total":0}}"#;
        assert_eq!(text.matches(psi).count(), 3, "{text}");
        assert!(text.contains(&format!(r#""throttling":{{}},{psi}}},"cpuset""#)), "{text}");
        assert!(text.contains(&format!(r#""blkio":{{{psi}}}"#)), "{text}");
    }

    #[test]
    fn network_devices_come_behind_runcs_fields() {
        let counters = [("rx_limited".to_owned(), 3)].into();
        let cards = vec![CardFigures { name: "eth0".to_owned(), slot: 0, counters }];
        let text = shown_with(&Figures { cards, ..Figures::default() });
        let end = r#","dev.vmrun.network_devices":[{"name":"eth0","slot":0,"counters":{"rx_limited":3}}]}}"#;
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn counts_of_the_file_server_come_last() {
        let files = [("lookup".to_owned(), 2), ("open".to_owned(), 1)].into();
        let text = shown_with(&Figures { files, ..Figures::default() });
        assert!(text.ends_with(r#","dev.vmrun.file_server":{"lookup":2,"open":1}}}"#), "{text}");
    }

    #[test]
    fn out_of_memory_has_no_data() {
        let text = serde_json::to_string(&Event::out_of_memory("web")).unwrap();
        assert_eq!(text, r#"{"type":"oom","id":"web"}"#);
    }
}
