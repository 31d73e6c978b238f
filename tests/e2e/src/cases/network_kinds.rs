//! Each kind of interface that engines put into a namespace, and namespaces of others.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use super::network::{Net, end, exec, ip, sleeping};
use crate::support::{BOTH, Bundle, Run, Runtime, place, wait};

/// Makes `kind1` to `kind7` in the namespace `$near`, and what is at their other ends, which has the same
/// number, here. The seventh has no other end.
const KINDS: &str = "set -e
    for n in 1 2 3; do ip link add lower$n type dummy; ip link set lower$n up; done
    ip link add link lower1 name peer1 type macvlan mode bridge
    ip link add link lower1 name kind1 netns $near type macvlan mode bridge
    ip link add link lower2 name peer2 type ipvlan mode l2
    ip link add link lower2 name kind2 netns $near type ipvlan mode l2
    ip link add link lower3 name peer3 type ipvlan mode l3
    ip link add link lower3 name kind3 netns $near type ipvlan mode l3
    ip link add lower4 type veth peer name lower5
    ip link set lower4 up; ip link set lower5 up
    ip link add link lower4 name peer4 type vlan id 5
    ip link add link lower5 name kind4 netns $near type vlan id 5
    ip link add peer5 type veth peer name kind5 netns $near
    ip link add link peer5 name peer6 type vlan id 7
    ip -n $near link add link kind5 name kind6 type vlan id 7
    ip -n $near link add kind7 type dummy
    for n in 1 2 3 4 5 6 7; do
        ip -n $near addr add 10.$n.0.2/24 dev kind$n
        ip -n $near addr add fd00:$n::2/64 dev kind$n nodad
        ip -n $near link set kind$n up
        [ $n != 7 ] || break
        ip addr add 10.$n.0.1/24 dev peer$n
        ip addr add fd00:$n::1/64 dev peer$n nodad
        ip link set peer$n up
    done";

/// Half a megabyte is more than fits into one segment, or into the queues on the way.
const BULK: &str = "head -c 500000 /dev/zero";

#[test]
fn every_kind_of_interface_carries_frames_both_ways() {
    let net = Net::new();
    let made = net.far_shell(KINDS).env("near", &net.name).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let busybox = format!("{}/bin/busybox", place().busybox.display());
    let serve = format!("{busybox} nc -ll -p 81 -e {busybox} {BULK}");
    let mut server = net.far_shell(&format!("exec {serve}")).stdin(Stdio::null()).spawn().unwrap();
    let look = "cat /sys/class/net/kind7/address | wc -c
        for n in 1 2 3 4 5 6; do
            ping -c 1 -W 30 10.$n.0.1 >&2 && ping -6 -c 1 -W 30 fd00:$n::1 >&2 && echo $n reached
            nc 10.$n.0.1 81 </dev/null | wc -c
        done
        ping -c 1 -W 30 10.7.0.2 >&2 && echo ready
        nc -ll -p 80 -e";
    let bundle = net.bundle(&format!("{look} {BULK}"));
    for runtime in BOTH {
        let container = Run::of(&bundle).on(runtime).detach();
        container.started.stdout.await_text(0, "ready\n");
        let reached: String = (1..=6).map(|n| format!("{n} reached\n500000\n")).collect();
        let seen = String::from_utf8(container.started.stdout.so_far()).unwrap();
        assert_eq!(seen, format!("18\n{reached}ready\n"), "{runtime:?}");
        let ask = format!("for n in 1 2 3 4 5 6; do {busybox} nc 10.$n.0.2 80 </dev/null | wc -c; done");
        wait::until_or("the container's service", || {
            let answer = net.far_shell(&ask).output().unwrap();
            if answer.stdout == b"500000\n".repeat(6) { Ok(()) } else { Err(format!("{answer:?}")) }
        });
        container.end().exits(0);
        assert_eq!(net.traces(), "", "{runtime:?}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
}

/// A network namespace that belongs to a user namespace of its own, whose root is the host's.
fn owned() -> Net {
    let net = Net::new();
    ip(&["netns", "delete", &net.name]);
    let mut holder = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    ip(&["netns", "attach", &net.name, &holder.id().to_string()]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    net
}

/// The container has a user namespace, too.
fn in_a_user_namespace(bundle: Bundle) -> Bundle {
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    bundle
        .push("/linux/namespaces", json!({ "type": "user" }))
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping)
}

#[test]
fn namespaces_of_users_and_of_others_have_their_network_in_the_guest() {
    let look = "ip -o -4 addr show dev eth0 | grep -o '10.88.0.2/16'
        ping -c 1 -W 30 10.88.0.1 >/dev/null && ping -6 -c 1 -W 30 fd00:88::1 >/dev/null && echo reached";
    let seen = "10.88.0.2/16\nreached\n";
    let ours = Net::new();
    ours.connect();
    in_a_user_namespace(ours.bundle(look)).run().prints(seen);
    assert_eq!(ours.traces(), "");
    let theirs = owned();
    theirs.connect();
    theirs.bundle(look).run_on(Runtime::Crun).prints(seen);
    theirs.bundle(look).run().prints(seen);
    // Root of the container's user namespace is root of its network there.
    let change = format!("{look}; ip addr add 10.1.0.1/24 dev eth0 && echo changed");
    in_a_user_namespace(theirs.bundle(&change)).run().prints(&format!("{seen}changed\n"));
    assert_eq!(theirs.traces(), "");
}

#[test]
fn namespace_that_is_made_for_a_container_with_users_of_its_own_is_filled_before_the_start() {
    let net = Net::with_eth0();
    let shell = Bundle::shell("ping -c 1 -W 30 10.88.0.1 >/dev/null && echo reached; echo ready; sleep 1000");
    let bundle = in_a_user_namespace(shell.capabilities(&["CAP_NET_RAW", "CAP_KILL"]));
    let container = Run::of(&bundle).create();
    let pid = container.started.monitor().to_string();
    // As podman does it for `--userns`: its namespace is the one that the runtime has made.
    net.inside(&["link", "set", "eth0", "netns", &pid]);
    for words in [&["addr", "add", "10.88.0.2/16", "dev", "eth0"][..], &["link", "set", "eth0", "up"]] {
        let mut command = Command::new("nsenter");
        let status = command.args(["-t", &pid, "-n", "ip"]).args(words).status().unwrap();
        assert!(status.success(), "{words:?}");
    }
    container.verb("start", &[]).prints("");
    container.started.stdout.await_text(0, "reached\nready\n");
    assert_eq!(exec(&container, "ls /sys/class/net"), "eth0\nlo\n");
    end(&container);
}

#[test]
fn two_interfaces_carry_what_the_routes_send_to_each() {
    let net = Net::with_eth0();
    net.add("eth1");
    net.inside(&["addr", "add", "10.55.0.2/24", "dev", "eth1"]);
    net.outside(&["addr", "add", "10.55.0.1/24", "dev", "eth1"]);
    net.outside(&["addr", "add", "10.44.0.1/32", "dev", "lo"]);
    net.inside(&["route", "add", "10.44.0.1", "via", "10.55.0.1", "src", "10.55.0.2"]);
    let script = "ip route get 10.44.0.1 | grep -o 'dev eth1'; ip route get 10.99.0.1 | grep -o 'dev eth0'
        ping -c 1 -W 30 10.44.0.1 >&2 && ping -c 1 -W 30 10.88.0.1 >&2 && echo reached
        cat /sys/class/net/eth*/address | sort -u | wc -l";
    net.bundle(script).on_both(|outcome| {
        outcome.exits(0);
        assert_eq!(outcome.out(), "dev eth1\ndev eth0\nreached\n2\n", "{outcome:?}");
    });
    assert_eq!(net.traces(), "");
}

#[test]
fn namespace_that_is_deleted_takes_its_cable_along_and_leaves_the_sandbox() {
    let net = Net::with_eth0();
    let bundle = net.bundle("echo ready; sleep 1000");
    let container = sleeping(&bundle);
    // Its name goes; it stays for as long as somebody is in it.
    ip(&["netns", "delete", &net.name]);
    assert_eq!(exec(&container, "ping -c 1 -W 30 10.88.0.1 >/dev/null && echo reached"), "reached\n");
    // With the other end goes the cable, and the interface with it, as on any host.
    ip(&["netns", "delete", &net.far()]);
    super::network::until_exec_says(&container, "ls /sys/class/net", "lo\n");
    assert_eq!(container.state()["status"], "running");
    end(&container);
}
