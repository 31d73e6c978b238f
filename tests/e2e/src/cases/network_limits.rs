//! Limits of a network's rate.

use std::process::Stdio;

use serde_json::{Value, json};

use super::network::{Net, end};
use crate::support::{Detached, Run, place};

/// Several packets, of which one burst is the first.
const DATA: &str = "seq 3000";
const DATA_BYTES: u64 = 13_893;

/// What the sandbox's network devices have counted.
#[track_caller]
fn counted(container: &Detached) -> Vec<Value> {
    let event: Value = serde_json::from_str(&container.verb("events", &["--stats"]).ok()).unwrap();
    event["data"]["dev.vmrun.network_devices"].as_array().unwrap().clone()
}

#[test]
fn rates_hold_frames_back_and_lose_nothing() {
    let net = Net::with_eth0();
    net.add("eth1");
    let busybox = format!("{}/bin/busybox", place().busybox.display());
    let mut server = net.far_shell(&format!("exec {busybox} nc -ll -p 81 -e {busybox} md5sum"));
    let mut server = server.stdin(Stdio::null()).spawn().unwrap();
    let bundle =
        net.bundle(&format!("{DATA} | nc 10.88.0.1 81; echo ready; exec nc -ll -p 80 -e md5sum")).set(
            "/annotations",
            json!({
                "dev.vmrun.network.rx-rate": "1MB/s,10pps",
                "dev.vmrun.network.tx-rate": "10pps, 8Mbit/s",
            }),
        );
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
    let devices = counted(&container);
    assert_eq!(devices.iter().map(|device| &device["name"]).collect::<Vec<_>>(), ["eth0", "eth1"]);
    let counter = |name: &str| devices[0]["counters"][name].as_u64().unwrap();
    for direction in ["rx", "tx"] {
        assert!(counter(&format!("{direction}_limited")) > 0, "{devices:?}");
        assert!(counter(&format!("{direction}_bytes")) > DATA_BYTES, "{devices:?}");
        assert!(counter(&format!("{direction}_packets")) > 0, "{devices:?}");
        assert_eq!(counter(&format!("{direction}_errors")), 0, "{devices:?}");
    }
    assert!(counter("kicks") > 0 && counter("interrupts") > 0, "{devices:?}");
    end(&container);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(net.traces(), "");
}

#[test]
fn queue_and_redirection_at_the_hosts_end_of_the_cable_shape_the_sandbox_as_any_container() {
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
    let mut server = net.far_shell(&format!("exec {busybox} nc -ll -p 81 -e {busybox} md5sum"));
    let mut server = server.stdin(Stdio::null()).spawn().unwrap();
    let sum = net.far_shell(&format!("{DATA} | {busybox} md5sum")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    net.bundle(&format!("{DATA} | nc 10.88.0.1 81")).on_both(|outcome| {
        outcome.prints(&sum);
    });
    server.kill().unwrap();
    server.wait().unwrap();
    // Both queues have seen it.
    let seen = net.far_shell("tc -s qdisc show dev bwp; tc -s qdisc show dev eth0").output().unwrap();
    let seen = String::from_utf8(seen.stdout).unwrap();
    assert!(!seen.contains("Sent 0 bytes"), "{seen}");
    assert_eq!(net.traces(), "");
}
