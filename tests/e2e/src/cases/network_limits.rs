//! Limits of a network's rate.

use std::cell::Cell;
use std::time::Instant;

use serde_json::{Value, json};

use super::network::{Background, Net, end};
use crate::support::{Detached, Run, place};

/// Several packets, of which one burst is the first.
const DATA: &str = "seq 3000";
const DATA_BYTES: u64 = 13_893;

/// What `key` has in `events --stats`.
#[track_caller]
fn counted(container: &Detached, key: &str) -> Vec<Value> {
    let event: Value = serde_json::from_str(&container.verb("events", &["--stats"]).ok()).unwrap();
    event["data"][key].as_array().unwrap().clone()
}

/// Bytes that have come through the queues of what the far end receives, and of what it sends.
#[track_caller]
fn queued(net: &Net) -> [u64; 2] {
    ["bwp", "eth0"].map(|device| {
        let seen = net.far_shell(&format!("tc -s qdisc show dev {device} root")).output().unwrap();
        let seen = String::from_utf8(seen.stdout).unwrap();
        let bytes = seen.split_once("Sent ").and_then(|(_, rest)| rest.split(' ').next());
        bytes.unwrap_or_else(|| panic!("{seen}")).parse().unwrap()
    })
}

#[test]
fn rates_hold_frames_back_and_lose_nothing() {
    let net = Net::with_eth0();
    net.add("eth1");
    let busybox = format!("{}/bin/busybox", place().busybox.display());
    let server = format!("exec {busybox} nc -ll -p 81 -e {busybox} md5sum");
    let server = Background::start(&mut net.far_shell(&server));
    let bundle =
        net.bundle(&format!("{DATA} | nc 10.88.0.1 81; echo ready; exec nc -ll -p 80 -e md5sum")).set(
            "/annotations",
            json!({
                "dev.vmrun.network.rx-rate": "1MB/s,10pps",
                "dev.vmrun.network.tx-rate": "10pps, 8Mbit/s",
            }),
        );
    let begun = Instant::now();
    let container = Run::of(&bundle).detach();
    let end_of_first = container.started.stdout.await_text(0, "ready\n");
    let sent = String::from_utf8(container.started.stdout.so_far()[..end_of_first].to_vec()).unwrap();
    let sum = net.far_shell(&format!("{DATA} | {busybox} md5sum")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(sent, format!("{sum}ready\n"));
    crate::support::wait::until_or("the container's service", || {
        let answer = net.far_shell(&format!("{DATA} | {busybox} nc 10.88.0.2 80")).output().unwrap();
        if answer.stdout == sum.as_bytes() { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let devices = counted(&container, "dev.vmrun.network_devices");
    let elapsed = begun.elapsed();
    assert_eq!(devices.iter().map(|device| &device["name"]).collect::<Vec<_>>(), ["eth0", "eth1"]);
    let counter = |name: &str| devices[0]["counters"][name].as_u64().unwrap();
    for direction in ["rx", "tx"] {
        assert!(counter(&format!("{direction}_limited")) > 0, "{devices:?}");
        assert!(counter(&format!("{direction}_bytes")) > DATA_BYTES, "{devices:?}");
        // However slow the machine is: no more than ten a second, and one second's at once.
        let packets = counter(&format!("{direction}_packets"));
        assert!(packets > 0 && packets <= 10 * (elapsed.as_secs() + 2), "{elapsed:?}: {devices:?}");
        assert_eq!(counter(&format!("{direction}_errors")), 0, "{devices:?}");
    }
    assert!(counter("kicks") > 0 && counter("interrupts") > 0, "{devices:?}");
    // What the guest's interfaces have counted, where runc tells of the host's.
    let interfaces = counted(&container, "network_interfaces");
    assert_eq!(interfaces.iter().map(|one| &one["Name"]).collect::<Vec<_>>(), ["eth0", "eth1"]);
    for key in ["RxBytes", "TxBytes"] {
        assert!(interfaces[0][key].as_u64().unwrap() > DATA_BYTES, "{interfaces:?}");
    }
    end(&container);
    drop(server);
    assert_eq!(net.traces(), "");
}

/// About what the queues below let through in a second, and eight times their burst.
const LONG_DATA: &str = "seq 90000";
const LONG_DATA_BYTES: u64 = 528_894;

/// The rate of the queues, 4 Mbit/s, in bytes a second, and what they let through at once.
const RATE: u64 = 500_000;
const BURST: u64 = 64 << 10;

/// Prints, after the command's own output, how many hundredths of a second it took by the container's clock.
const TIMED: &str = "clock() { read now _ </proc/uptime; echo $(( ${now%.*} * 100 + 1${now#*.} - 100 )); }
    timed() { before=$(clock); \"$@\"; echo $(( $(clock) - before )); }";

#[test]
fn queue_and_redirection_at_the_hosts_end_of_the_cable_hold_the_sandbox_to_their_rate_as_any_container() {
    let net = Net::with_eth0();
    // What CNI's bandwidth plugin makes.
    let shape = "set -e; modprobe -a ifb sch_tbf act_mirred || :
        tc qdisc add dev eth0 root tbf rate 4mbit burst 64kb latency 25ms
        ip link add bwp type ifb; ip link set bwp up
        tc qdisc add dev eth0 ingress
        tc filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev bwp
        tc qdisc add dev bwp root tbf rate 4mbit burst 64kb latency 25ms";
    let made = net.far_shell(shape).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let busybox = format!("{}/bin/busybox", place().busybox.display());
    let servers =
        format!("{busybox} nc -ll -p 82 -e {LONG_DATA} & exec {busybox} nc -ll -p 81 -e {busybox} md5sum");
    let servers = Background::start(&mut net.far_shell(&servers));
    let sum = net.far_shell(&format!("{LONG_DATA} | {busybox} md5sum")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let before = Cell::new(queued(&net));
    let script = format!(
        "{TIMED}
        send() {{ {LONG_DATA} | nc 10.88.0.1 81; }}
        receive() {{ nc 10.88.0.1 82 </dev/null | md5sum; }}
        timed send; timed receive"
    );
    // However slow the machine is, it is no faster than the queues.
    let least = (LONG_DATA_BYTES - BURST) * 100 / RATE;
    net.bundle(&script).on_both(|outcome| {
        outcome.exits(0);
        let said = outcome.out();
        let [sent, sending, received, receiving] = said.lines().collect::<Vec<_>>()[..] else {
            panic!("{outcome:?}")
        };
        assert_eq!([sent, received], [sum.trim_end(); 2]);
        let took = [sending, receiving].map(|took| took.parse::<u64>().unwrap());
        assert!(took.iter().all(|took| *took >= least), "{took:?}, and {least} is the least");
        let (before, now) = (before.replace(queued(&net)), queued(&net));
        for (before, now) in before.into_iter().zip(now) {
            assert!(now >= before + LONG_DATA_BYTES, "{before} {now}");
        }
    });
    drop(servers);
    assert_eq!(net.traces(), "");
}
