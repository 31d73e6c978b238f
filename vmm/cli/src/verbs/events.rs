//! `vmrun events`.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use vmrun_runtime::{ContainerFigures, Error, Store};

/// Show a container's figures and how often it ran out of memory, as runc's JSON
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Name of the container
    id: String,

    /// Once, and no more
    #[arg(long)]
    stats: bool,

    /// Time between two figures, like 500ms, 5s or 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
}

impl EventsArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot tell the figures of {:?}", self.id)
    }
}

/// A number with a unit, or of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1000));
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time like 500ms, 5s or 1m"))?;
    match number.saturating_mul(factor) {
        0 => Err("the interval must be more than 0".to_owned()),
        milliseconds => Ok(Duration::from_millis(milliseconds)),
    }
}

pub(crate) fn events(store: &Store, args: &EventsArgs) -> Result<u8, Error> {
    let mut figures = vmrun_runtime::figures(store, &args.id)?;
    loop {
        super::print(&line("stats", &args.id, Some(stats(&figures))));
        if args.stats {
            return Ok(0);
        }
        thread::sleep(args.interval);
        let kills = out_of_memory(&figures);
        figures = match vmrun_runtime::figures(store, &args.id) {
            Ok(figures) => figures,
            // The end of the container is the end of its events.
            Err(error) if error.is_about_the_end() => return Ok(0),
            Err(error) => return Err(error),
        };
        for _ in kills..out_of_memory(&figures) {
            super::print(&line("oom", &args.id, None));
        }
    }
}

fn out_of_memory(figures: &ContainerFigures) -> u64 {
    count(&figures.memory_events, "oom_kill")
}

fn line(kind: &str, id: &str, data: Option<Value>) -> String {
    let mut event = json!({ "type": kind, "id": id });
    if let Some(data) = data {
        event["data"] = data;
    }
    format!("{event}\n")
}

fn count(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// In runc's form: times in nanoseconds, and no limit is the largest number.
fn stats(figures: &ContainerFigures) -> Value {
    let cpu = |name: &str| count(&figures.cpu, name);
    let nanoseconds = |name: &str| cpu(name).saturating_mul(1000);
    let memory = |name: &str| count(&figures.memory, name);
    let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds("usage_usec"),
                "kernel": nanoseconds("system_usec"),
                "user": nanoseconds("user_usec"),
            },
            "throttling": {
                "periods": cpu("nr_periods"),
                "throttledPeriods": cpu("nr_throttled"),
                "throttledTime": nanoseconds("throttled_usec"),
            },
        },
        "memory": {
            "cache": memory("file"),
            "usage": {
                "limit": limit(figures.memory_limit_bytes),
                "usage": figures.memory_bytes,
                "max": figures.memory_peak_bytes,
                "failcnt": count(&figures.memory_events, "max"),
            },
            "swap": { "limit": limit(figures.swap_limit_bytes), "usage": figures.swap_bytes, "failcnt": 0 },
            "kernel": { "limit": limit(None), "usage": memory("kernel"), "failcnt": 0 },
            "raw": figures.memory,
        },
        "pids": { "current": figures.pids, "limit": figures.pids_limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": operations(figures, [("Read", "rbytes"), ("Write", "wbytes")]),
            "ioServicedRecursive": operations(figures, [("Read", "rios"), ("Write", "wios")]),
        },
    })
}

fn operations(figures: &ContainerFigures, names: [(&str, &str); 2]) -> Vec<Value> {
    let of = |device: &vmrun_runtime::DeviceFigures| {
        names.map(|(op, name)| {
            json!({ "major": device.major, "minor": device.minor, "op": op, "value": count(&device.counts, name) })
        })
    };
    figures.io.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_with_their_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "0s", "-1s", "1x"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn figures_have_runcs_names_and_units() {
        let figures = ContainerFigures {
            cpu: [("usage_usec".to_owned(), 5)].into(),
            memory_bytes: 4096,
            pids: 3,
            ..ContainerFigures::default()
        };
        let stats = stats(&figures);
        assert_eq!(stats["cpu"]["usage"]["total"], 5000);
        assert_eq!(
            stats["memory"]["usage"],
            json!({ "limit": u64::MAX, "usage": 4096, "max": 0, "failcnt": 0 })
        );
        assert_eq!(stats["pids"], json!({ "current": 3, "limit": 0 }));
    }
}
