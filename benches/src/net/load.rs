//! What is carried, and how much of it.

use std::error::Error;

use serde_json::Value;

use super::lab::Lab;
use crate::process::output;
use crate::stats;

/// Bytes of a datagram.
const SMALL: u32 = 64;

/// Datagrams a second that are sent first, and at most.
const LEAST_RATE: u32 = 1000;
const MOST_RATE: u32 = LEAST_RATE << 12;

/// Echoes of one measurement.
const ECHOES: u32 = 200;

/// Connections of the web client.
const CONNECTIONS: u32 = 8;

/// One row of the table. More of its rate is better.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// What is counted for each of: a megabyte, a packet, a request.
    pub(super) work: &'static str,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp { streams: u32, reverse: bool },
    Udp { reverse: bool },
    Echo,
    Web,
}

const fn tcp(name: &'static str, streams: u32, reverse: bool) -> Load {
    Load { name, unit: "Mbit/s", work: "MB", kind: Kind::Tcp { streams, reverse } }
}

const fn udp(name: &'static str, reverse: bool) -> Load {
    Load { name, unit: "packets/s", work: "packet", kind: Kind::Udp { reverse } }
}

/// "in" is towards the sandbox, "out" from it.
pub(super) const LOADS: [Load; 8] = [
    tcp("tcp_in_1", 1, false),
    tcp("tcp_in_8", 8, false),
    tcp("tcp_out_1", 1, true),
    tcp("tcp_out_8", 8, true),
    udp("udp64_in", false),
    udp("udp64_out", true),
    Load { name: "ping", unit: "round trips/s", work: "round trip", kind: Kind::Echo },
    Load { name: "http", unit: "requests/s", work: "request", kind: Kind::Web },
];

/// What a run has carried.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) rate: f64,
    pub(super) work: f64,
}

impl Load {
    pub(super) fn run(&self, lab: &Lab, address: &str, seconds: u32) -> Result<Figure, Box<dyn Error>> {
        let run = |words: String| output(&mut lab.far(&words));
        match self.kind {
            Kind::Tcp { streams, reverse } => {
                let received = iperf(&run(format!(
                    "iperf3 --client {address} --json --time {seconds} --parallel {streams}{}",
                    backwards(reverse)
                ))?)?;
                Ok(Figure { rate: received.per_second * 8.0 / 1e6, work: received.bytes / 1e6 })
            }
            Kind::Udp { reverse } => flood(|rate| {
                let bits = rate * 8 * SMALL;
                let report = run(format!(
                    "iperf3 --client {address} --json --time {seconds} --udp --bitrate {bits} --length {SMALL}{}",
                    backwards(reverse)
                ))?;
                iperf(&report)
            }),
            Kind::Echo => {
                let said = run(format!("ping -A -c {ECHOES} {address}"))?;
                Ok(Figure { rate: 1e3 / stats::median(&times(&said)?), work: f64::from(ECHOES) })
            }
            Kind::Web => {
                let said = run(format!(
                    "wrk --threads 1 --connections {CONNECTIONS} --duration {seconds} http://{address}:8080/"
                ))?;
                let requests =
                    field(&said, |line| line.trim().split_once(" requests in ").map(|(count, _)| count))?;
                let rate = field(&said, |line| line.strip_prefix("Requests/sec:"))?;
                if said.contains("Socket errors") || said.contains("Non-2xx") {
                    return Err(format!("wrk: {said}").into());
                }
                Ok(Figure { rate, work: requests })
            }
        }
    }
}

/// The most datagrams that arrive, at whatever rate they are sent: more of them than a receiver can take
/// keep it from its work, and where there is one processor the sender's work, too.
fn flood(send: impl Fn(u32) -> Result<Received, Box<dyn Error>>) -> Result<Figure, Box<dyn Error>> {
    let small = f64::from(SMALL);
    let (mut best, mut work) = (0.0, 0.0);
    let mut rate = LEAST_RATE;
    while rate <= MOST_RATE {
        let received = send(rate)?;
        let arrived = received.per_second / small;
        work += received.bytes / small;
        if arrived < best {
            break;
        }
        best = arrived;
        rate *= 2;
    }
    Ok(Figure { rate: best, work })
}

fn backwards(reverse: bool) -> &'static str {
    if reverse { " --reverse" } else { "" }
}

struct Received {
    bytes: f64,
    per_second: f64,
}

/// What the receiver says that it got.
fn iperf(report: &str) -> Result<Received, Box<dyn Error>> {
    let report: Value = serde_json::from_str(report)?;
    let received = &report["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().ok_or_else(|| format!("iperf3 does not say {name}"));
    Ok(Received { bytes: number("bytes")?, per_second: number("bits_per_second")? / 8.0 })
}

/// Milliseconds of each: `64 bytes from 10.77.1.2: icmp_seq=1 ttl=64 time=2.57 ms`.
fn times(said: &str) -> Result<Vec<f64>, Box<dyn Error>> {
    let times = said.lines().filter_map(|line| line.split_once(" time=")?.1.split(' ').next());
    let times = times.map(str::parse).collect::<Result<Vec<_>, _>>()?;
    if times.is_empty() { Err(format!("no echo came: {said}").into()) } else { Ok(times) }
}

fn field(said: &str, find: impl Fn(&str) -> Option<&str>) -> Result<f64, Box<dyn Error>> {
    let found = said.lines().find_map(find).ok_or_else(|| format!("a figure is missing in: {said}"))?;
    Ok(found.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_programs_say() {
        let ping =
            "PING 10.0.0.1\n64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=2.57 ms\n\nrtt min/avg = 2/3 ms\n";
        assert_eq!(times(ping).unwrap().len(), 1);
        let received =
            iperf(r#"{"end": {"sum_received": {"bytes": 640, "bits_per_second": 80.0}}}"#).unwrap();
        assert!((received.bytes - 640.0).abs() < 1e-9 && (received.per_second - 10.0).abs() < 1e-9);
        assert!(iperf("{}").is_err() && times("nothing").is_err());
    }
}
