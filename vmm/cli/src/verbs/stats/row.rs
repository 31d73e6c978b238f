//! One container, from two looks at it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use vmrun_runtime::{Figures, PacketFigures, SandboxFigures};

/// What a container had come to at some time.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) sandbox: SandboxFigures,
    pub(super) figures: Figures,
}

/// What is shown of a container.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Line<'a> {
    Row(Row<'a>),
    /// It does not answer.
    Silent {
        id: String,
        error: String,
    },
}

impl Line<'_> {
    /// As JSON, on one line.
    pub(super) fn json(&self) -> String {
        // Numbers and names always have a form in JSON.
        serde_json::to_string(self).map(|text| text + "\n").unwrap_or_default()
    }
}

/// What is shown of one that answers. Bytes and nanoseconds; what there is no limit of has none.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row<'a> {
    pub(super) id: &'a str,
    /// Of one CPU, since the look before; none for a container that has just come.
    pub(super) cpu_percent: Option<f64>,
    cpu_ns: u64,
    pub(super) memory_bytes: u64,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) memory_percent: Option<f64>,
    pub(super) network_received_bytes: u64,
    pub(super) network_sent_bytes: u64,
    pub(super) block_read_bytes: u64,
    pub(super) block_written_bytes: u64,
    pub(super) pids: u64,
    pids_limit: Option<u64>,
    pub(super) sandbox: SandboxRow,
}

/// Of the whole sandbox, as the host counts it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct SandboxRow {
    pub(super) cpu_percent: Option<f64>,
    cpu_ns: u64,
    pub(super) memory_bytes: u64,
}

impl<'a> Row<'a> {
    pub(super) fn of(id: &'a str, now: &Look, before: Option<&Look>) -> Self {
        let figures = &now.figures.container;
        let network = |bytes: fn(&(PacketFigures, PacketFigures)) -> u64| {
            let interfaces = figures.interfaces.iter().map(|interface| (interface.received, interface.sent));
            interfaces.map(|both| bytes(&both)).fold(0, u64::saturating_add)
        };
        let block = |name: &str| {
            figures.io.iter().map(|device| count(&device.counts, name)).fold(0, u64::saturating_add)
        };
        let share = |now_ns, before_ns: fn(&Look) -> u64| {
            let before = before?;
            percent(before_ns(before), now_ns, now.at.saturating_duration_since(before.at).as_secs_f64())
        };
        Self {
            id,
            cpu_percent: share(cpu_ns(now), cpu_ns),
            cpu_ns: cpu_ns(now),
            memory_bytes: figures.memory_bytes,
            memory_limit_bytes: figures.memory_limit_bytes,
            memory_percent: figures
                .memory_limit_bytes
                .filter(|limit| *limit > 0)
                .map(|limit| number(figures.memory_bytes) * 100.0 / number(limit)),
            network_received_bytes: network(|(received, _)| received.bytes),
            network_sent_bytes: network(|(_, sent)| sent.bytes),
            block_read_bytes: block("rbytes"),
            block_written_bytes: block("wbytes"),
            pids: figures.pids,
            pids_limit: figures.pids_limit,
            sandbox: SandboxRow {
                cpu_percent: share(now.sandbox.cpu_ns, |look| look.sandbox.cpu_ns),
                cpu_ns: now.sandbox.cpu_ns,
                memory_bytes: now.sandbox.memory_bytes,
            },
        }
    }
}

fn cpu_ns(look: &Look) -> u64 {
    count(&look.figures.container.cpu, "usage_usec").saturating_mul(1000)
}

fn count(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// Of the time between; a container of the same name may have begun anew.
fn percent(before_ns: u64, now_ns: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| number(now_ns.saturating_sub(before_ns)) / 1e9 / seconds * 100.0)
}

#[allow(clippy::cast_precision_loss, reason = "for a human")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::json;
    use vmrun_runtime::{ContainerFigures, DeviceFigures, InterfaceFigures};

    use super::*;

    /// A look at a container that has used so much CPU time.
    pub(in super::super) fn look(at: Instant, usec: u64, limit: Option<u64>) -> Look {
        let packets = |bytes| PacketFigures { bytes, ..PacketFigures::default() };
        let interface = InterfaceFigures { name: "eth0".to_owned(), received: packets(5), sent: packets(7) };
        let device =
            |rbytes| DeviceFigures { major: 8, minor: 0, counts: [("rbytes".to_owned(), rbytes)].into() };
        let container = ContainerFigures {
            cpu: [("usage_usec".to_owned(), usec)].into(),
            memory_bytes: 50 << 20,
            memory_limit_bytes: limit,
            pids: 3,
            io: vec![device(1), device(2)],
            interfaces: vec![interface.clone(), interface],
            ..ContainerFigures::default()
        };
        let sandbox = SandboxFigures { cpu_ns: usec * 2000, memory_bytes: 90 << 20 };
        Look { at, sandbox, figures: Figures { container, ..Figures::default() } }
    }

    #[test]
    fn cpu_time_is_a_share_of_the_time_between_two_looks() {
        let begin = Instant::now();
        let before = look(begin, 1_000_000, None);
        let now = look(begin + Duration::from_secs(2), 1_500_000, None);
        let row = Row::of("web", &now, Some(&before));
        assert_eq!((row.cpu_percent, row.sandbox.cpu_percent), (Some(25.0), Some(50.0)));
        // There is nothing to compare with, no time between, or another of that name.
        assert_eq!(Row::of("web", &now, None).cpu_percent, None);
        assert_eq!(Row::of("web", &now, Some(&now)).cpu_percent, None);
        let earlier = Look { at: begin - Duration::from_secs(1), ..look(begin, 9_000_000, None) };
        assert_eq!(Row::of("web", &now, Some(&earlier)).cpu_percent, Some(0.0));
    }

    #[test]
    fn sums_and_limits_are_the_containers_and_the_sandbox_is_apart() {
        let now = look(Instant::now(), 5, Some(200 << 20));
        let row: serde_json::Value =
            serde_json::from_str(&Line::Row(Row::of("web", &now, None)).json()).unwrap();
        let expected = json!({
            "id": "web", "cpu_percent": null, "cpu_ns": 5000,
            "memory_bytes": 50 << 20, "memory_limit_bytes": 200 << 20, "memory_percent": 25.0,
            "network_received_bytes": 10, "network_sent_bytes": 14,
            "block_read_bytes": 3, "block_written_bytes": 0,
            "pids": 3, "pids_limit": null,
            "sandbox": { "cpu_percent": null, "cpu_ns": 10000, "memory_bytes": 90 << 20 },
        });
        assert_eq!(row, expected);
        let silent = Line::Silent { id: "web".to_owned(), error: "why".to_owned() };
        assert_eq!(silent.json(), "{\"id\":\"web\",\"error\":\"why\"}\n");
        assert_eq!(Row::of("web", &look(now.at, 5, None), None).memory_percent, None);
    }
}
